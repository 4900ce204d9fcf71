/* `wisp run`. */
#include "vmm/cli/cli.h"
#include "vmm/config/config_file.h"
#include "vmm/default_guest.h"
#include "vmm/launch.h"
#include "vmm/outputs.h"

int run_main(int argc, char **argv)
{
	struct config_words words = { 0 };
	struct machine_config config;
	struct error err = { 0 };
	int status;

	config_init(&config);
	if (config_words_expand(&words, argc, argv, &err) < 0 ||
	    config_parse_run(&config, words.argc, words.argv, &err) < 0 ||
	    config_validate(&config, &err) < 0 ||
	    outputs_check(&config, words.save, &err) < 0 || config_words_save(&words, &err) < 0 ||
	    default_guest_find(&config, &err) < 0 ||
	    launch_open_log(&config, &err) < 0) {
		error_print(&err);
		status = error_status(&err);
	} else {
		status = config.dry_run ? launch_dry_run(&config) : launch_run(&config);
	}
	config_done(&config);
	config_words_free(&words);
	return status;
}
