/*
 * wisp-resolve NAME: the addresses of a host, one a line, best first. wisp itself is a static
 * executable, in which the C library cannot look up names: how is this system's to say
 * (nsswitch.conf), by libraries that are loaded for it.
 */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	const struct addrinfo want = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *all = NULL;
	char text[NI_MAXHOST];
	int r;

	if (argc != 2) {
		fputs("wisp-resolve: is started by wisp\n", stderr);
		return 2;
	}
	r = getaddrinfo(argv[1], NULL, &want, &all);
	if (r) {
		fprintf(stderr, "wisp-resolve: %s: %s\n", argv[1], gai_strerror(r));
		return 1;
	}
	for (const struct addrinfo *a = all; a; a = a->ai_next)
		if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0,
				NI_NUMERICHOST) == 0 && !strchr(text, '%'))
			puts(text);
	freeaddrinfo(all);
	return 0;
}
