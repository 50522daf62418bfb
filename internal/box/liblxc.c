// Small programs inside the kiln binary, in C from start to end: the constructor
// below runs before the Go runtime starts and never returns when the binary was
// started as one of them, so a container's monitor is a few hundred kilobytes of
// touched memory, and nothing forks from a process that has many threads.
//
//   kiln-monitor: mounts a root filesystem in a mount namespace of its own and
//   starts a container; liblxc's daemon, which stays, is its grandchild.
//   kiln-attach: runs one command in a container and waits for it.
//   kiln-mount (mount.c): mounts something in a container that runs, or unmounts it.
//   kiln-init (inside.c): finds out which init a container has, or asks it to halt.
//   kiln-cgroup: writes a setting of a container's cgroup by way of its monitor.
//   /proc/<pid of a monitor>/exe (cgroup.c): removes the cgroups of a container that has ended.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <lxc/attach_options.h>
#include <lxc/lxccontainer.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"

void say(const char *format, ...)
{
	char line[1024];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line, sizeof line, format, args);
	va_end(args);
	if (n >= (int)sizeof line)
		n = sizeof line - 1;
	if (n > 0 && write(STATUS, line, n) < 0)
		_exit(1);
}

// A request is NUL-terminated strings, read to the end.
char *next, *end;
static char *request;

bool read_request(void)
{
	size_t used = 0, size = 65536;
	request = malloc(size);
	for (;;) {
		if (used == size && !(request = realloc(request, size *= 2)))
			return false;
		ssize_t n = read(REQUEST, request + used, size - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		if (n == 0)
			break;
		used += n;
	}
	close(REQUEST);
	next = request;
	end = request + used;
	return used > 0 && end[-1] == 0;
}

char *field(void)
{
	if (next >= end)
		return NULL;
	char *f = next;
	next += strlen(f) + 1;
	return f;
}

static char **fields(int count)
{
	char **list = calloc(count + 1, sizeof *list);
	for (int i = 0; list && i < count; i++)
		list[i] = field();
	return list;
}

static struct lxc_container *container(void)
{
	char *lxcpath = field(), *name = field(), *config = field();
	if (!config)
		return NULL;
	struct lxc_container *c = lxc_container_new(name, lxcpath);
	if (c && c->load_config(c, config))
		return c;
	return NULL;
}

bool attach_tree(int fd, const char *target)
{
	bool ok = syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) == 0;
	close(fd);
	return ok;
}

// The host's files that are bound into the container are mounted where the
// container's root can reach them, under numbers. kinds has a letter for each:
// 'd' for a directory, 'f' for a file.
bool stage_mounts(const char *dir, const char *kinds)
{
	char path[64];

	if (kinds[0] && mount("kiln", dir, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m") < 0)
		return false;
	for (int i = 0; kinds[i]; i++) {
		snprintf(path, sizeof path, "%s/%d", dir, i);
		if (kinds[i] == 'd' ? mkdir(path, 0755) < 0 : mknod(path, S_IFREG | 0644, 0) < 0)
			return false;
		if (!attach_tree(MOUNTS + i, path))
			return false;
	}
	return true;
}

static int monitor(void)
{
	struct lxc_container *c;

	if (!read_request()) {
		say("error reading the request\n");
		return 1;
	}
	char *target = field(), *stage = field(), *kinds = field();
	if (!kinds) {
		say("error reading the request\n");
		return 1;
	}
	setsid();
	if (chdir("/") < 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
		say("error making a mount namespace: %s\n", strerror(errno));
		return 1;
	}
	if (!attach_tree(ROOTFS, target)) {
		say("error mounting the root filesystem: %s\n", strerror(errno));
		return 1;
	}
	if (!stage_mounts(stage, kinds)) {
		say("error mounting the host's files: %s\n", strerror(errno));
		return 1;
	}
	fcntl(STATUS, F_SETFD, FD_CLOEXEC);
	c = container();
	if (!c) {
		say("error loading the configuration\n");
		return 1;
	}
	c->want_daemonize(c, true);
	c->want_close_all_fds(c, true);
	if (!c->start(c, false, NULL)) {
		say("error starting\n");
		return 1;
	}
	// Without a daemon that hears of it nobody would know of the container.
	signal(SIGPIPE, SIG_IGN);
	char line[32];
	int n = snprintf(line, sizeof line, "pid %d\n", (int)c->init_pid(c));
	if (write(STATUS, line, n) != n) {
		c->stop(c);
		return 1;
	}
	return 0;
}

struct command {
	bool tty;
	char *cwd;
	char **argv;
};

// run is in the container already, under the ids asked for.
static int run(void *payload)
{
	struct command *c = payload;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	if (setsid() < 0 && errno != EPERM)
		return 126;
	if (c->tty && ioctl(0, TIOCSCTTY, 0) < 0) {
		fprintf(stderr, "kiln: controlling terminal: %s\n", strerror(errno));
		return 126;
	}
	if (c->cwd[0]) {
		if (chdir(c->cwd) < 0) {
			fprintf(stderr, "kiln: working directory \"%s\": %s\n", c->cwd, strerror(errno));
			return 126;
		}
	} else if (!getenv("HOME") || chdir(getenv("HOME")) < 0) {
		if (chdir("/") < 0)
			return 126;
	}
	// Nothing that the daemon or this process has open is the command's business.
	syscall(SYS_close_range, 3, ~0U, 0);
	execvp(c->argv[0], c->argv);
	int code = errno == ENOENT || errno == ENOTDIR ? 127 : 126;
	fprintf(stderr, "kiln: %s: %s\n", c->argv[0], strerror(errno));
	return code;
}

static int attach(void)
{
	lxc_attach_options_t options = LXC_ATTACH_OPTIONS_DEFAULT;
	struct lxc_container *c;
	struct command command;
	int status;
	pid_t pid;

	if (!read_request() || !(c = container())) {
		say("error loading the configuration\n");
		return 1;
	}
	fcntl(STATUS, F_SETFD, FD_CLOEXEC);
	char *uid = field(), *gid = field(), *cwd = field();
	char *tty = field(), *init = field(), *owner = field(), *width = field(), *height = field(), *envs = field();
	if (!envs) {
		say("error reading the request\n");
		return 1;
	}
	if (tty[0] == '1' && !make_terminal(init, strtoul(owner, NULL, 10), atoi(width), atoi(height))) {
		say("error making a terminal in its /dev/pts: %s\n", strerror(errno));
		return 1;
	}
	options.uid = strtoul(uid, NULL, 10);
	options.gid = strtoul(gid, NULL, 10);
	options.env_policy = LXC_ATTACH_CLEAR_ENV;
	options.extra_env_vars = fields(atoi(envs));
	options.stdin_fd = 0;
	options.stdout_fd = 1;
	options.stderr_fd = 2;
	int count = 0;
	for (char *p = next; p < end; p += strlen(p) + 1)
		count++;
	command.tty = tty[0] == '1';
	command.cwd = cwd;
	command.argv = fields(count);
	if (count == 0) {
		say("error: no command\n");
		return 1;
	}
	if (c->attach(c, run, &command, &options, &pid) < 0) {
		say("error attaching\n");
		return 1;
	}
	say("pid %d\n", (int)pid);
	// What the command reads and writes is not held open by this process.
	close(0);
	close(1);
	close(2);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	say("exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}

// set_cgroup has the monitor of a container change a setting: of cgroup v2 it has the
// program that says which devices may be used.
static int set_cgroup(void)
{
	struct lxc_container *c;

	if (!read_request() || !(c = container())) {
		say("error loading the configuration\n");
		return 1;
	}
	char *key = field(), *value = field();
	if (!value || !c->set_cgroup_item(c, key, value)) {
		say("error setting %s of the cgroup\n", key ? key : "nothing");
		return 1;
	}
	say("ok\n");
	return 0;
}

__attribute__((constructor)) static void become(int argc, char **argv)
{
	// liblxc runs it so when a container has ended: with its name, "lxc" and what it is for.
	if (argc >= 4 && strncmp(argv[0], "/proc/", 6) == 0 && strcmp(argv[2], "lxc") == 0 && strcmp(argv[3], "stop") == 0)
		_exit(remove_cgroups(argv[1]));
	if (argc != 1)
		return;
	if (strcmp(argv[0], "kiln-monitor") == 0)
		_exit(monitor());
	if (strcmp(argv[0], "kiln-attach") == 0)
		_exit(attach());
	if (strcmp(argv[0], "kiln-mount") == 0)
		_exit(change_mount());
	if (strcmp(argv[0], "kiln-init") == 0)
		_exit(ask_init());
	if (strcmp(argv[0], "kiln-cgroup") == 0)
		_exit(set_cgroup());
}
