/*
 * vsock_peer MODE : the ends of a socket in the guest tests, inside the guest and on the host.
 *
 *   echo PORT           in the guest: give back what each connection sends, one after the other
 *   connect PORT        in the guest: standard input to the host's port, what comes to output
 *   unix-listen PATH    on the host: one connection, what comes to output, standard input back
 *   unix-connect PATH PORT   on the host, as "CONNECT PORT" says
 *
 * With "slow" behind it, output is read in small pieces with pauses between them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define HOST_CID 2

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void write_all(int fd, const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0)
			die("write");
		buf += n;
		len -= n;
	}
}

static int vm_socket(struct sockaddr_vm *addr, unsigned cid, const char *port)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0)
		die("vsock");
	*addr = (struct sockaddr_vm){
		.svm_family = AF_VSOCK,
		.svm_cid = cid,
		.svm_port = strtoul(port, NULL, 10),
	};
	return fd;
}

static void echo(const char *port)
{
	static char buf[65536];
	struct sockaddr_vm addr;
	int fd = vm_socket(&addr, VMADDR_CID_ANY, port);

	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 8) < 0)
		die("listen");
	puts("echo is ready");
	fflush(stdout);
	for (;;) {
		int c = accept(fd, NULL, NULL);
		ssize_t n;

		if (c < 0)
			die("accept");
		while ((n = read(c, buf, sizeof(buf))) > 0)
			write_all(c, buf, n);
		close(c);
	}
}

static int unix_socket(const char *path, struct sockaddr_un *addr)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(addr->sun_path, sizeof(addr->sun_path), "%s", path);
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int unix_listen(const char *path)
{
	struct sockaddr_un addr;
	int fd = unix_socket(path, &addr), c;

	unlink(path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 8) < 0)
		die("listen");
	c = accept(fd, NULL, NULL);
	if (c < 0)
		die("accept");
	return c;
}

static int unix_connect(const char *path, const char *port)
{
	struct sockaddr_un addr;
	int fd = unix_socket(path, &addr);
	char c;

	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die(path);
	dprintf(fd, "CONNECT %s\n", port);
	do
		if (read(fd, &c, 1) != 1)
			die("no answer");
	while (c != '\n');
	return fd;
}

/* Standard input to @fd and @fd to standard output, until both have ended. */
static void copy(int fd, int slow)
{
	static char buf[65536];
	ssize_t n;

	/* Each by a process of its own: neither may wait for the other. */
	if (fork() == 0) {
		while ((n = read(0, buf, sizeof(buf))) > 0)
			write_all(fd, buf, n);
		shutdown(fd, SHUT_WR);
		exit(0);
	}
	while ((n = read(fd, buf, slow ? 4096 : sizeof(buf))) > 0) {
		write_all(1, buf, n);
		if (slow)
			usleep(500);
	}
	if (n < 0)
		die("read");
	wait(NULL);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[1] : "";
	int slow = argc > 3 && !strcmp(argv[argc - 1], "slow");
	struct sockaddr_vm addr;
	int fd;

	if (!strcmp(mode, "echo")) {
		echo(argv[2]);
	} else if (!strcmp(mode, "connect")) {
		fd = vm_socket(&addr, HOST_CID, argv[2]);
		if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
			die("connect");
		copy(fd, slow);
	} else if (!strcmp(mode, "unix-listen")) {
		copy(unix_listen(argv[2]), slow);
	} else if (!strcmp(mode, "unix-connect") && argc > 3) {
		copy(unix_connect(argv[2], argv[3]), slow);
	} else {
		fputs("usage: vsock_peer MODE ARGUMENT...\n", stderr);
		return 2;
	}
	return 0;
}
