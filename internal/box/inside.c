// What is done with the files of a container that runs, by the host's rights. A look-up
// among them may lead to a file system that the container serves itself, and doesn't: whoever
// waits for that can't be ended, not even by SIGKILL, until the container is. So it is never
// the daemon.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "helper.h"

#ifndef DEVPTS_SUPER_MAGIC
#define DEVPTS_SUPER_MAGIC 0x1cd1
#endif
#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

int open_root(const char *pid)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%s/root", pid);
	int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	// If it is gone, its number may be another process's now.
	if (root >= 0 && syscall(SYS_pidfd_send_signal, PROCESS, 0, NULL, 0) < 0)
		return -1;
	return root;
}

// open_again opens what an O_PATH descriptor is of.
static int open_again(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

static bool hand_over(int fd)
{
	char control[CMSG_SPACE(sizeof fd)] = { 0 }, byte = 0;
	struct iovec data = { &byte, 1 };
	struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	return sendmsg(TERMINAL, &m, MSG_NOSIGNAL) == 1;
}

// make_terminal makes a terminal in the devpts of a container, so that tty(1) works inside.
// Its inner end becomes this process's standard input and outputs, its outer end goes to
// TERMINAL. Nothing is opened there that isn't of a devpts.
bool make_terminal(const char *pid, uint32_t owner, int width, int height)
{
	struct winsize size = { .ws_col = width, .ws_row = height };
	struct statfs fs;
	int unlocked = 0;

	int root = open_root(pid);
	int found = root < 0 ? -1 : open_below(root, "dev/pts/ptmx", 0, RESOLVE_NO_SYMLINKS);
	if (found < 0 || fstatfs(found, &fs) < 0)
		return false;
	if (fs.f_type != DEVPTS_SUPER_MAGIC) {
		errno = ENOTTY;
		return false;
	}
	int outer = open_again(found, O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (outer < 0 || ioctl(outer, TIOCSPTLCK, &unlocked) < 0)
		return false;
	int inner = ioctl(outer, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (inner < 0 || fchown(inner, owner, -1) < 0)
		return false;
	if (width > 0 && height > 0 && ioctl(outer, TIOCSWINSZ, &size) < 0)
		return false;
	if (!hand_over(outer))
		return false;
	for (int i = 0; i < 3; i++)
		if (dup2(inner, i) < 0)
			return false;
	// The command would else keep its own terminal open.
	return close(outer) == 0 && close(inner) == 0 && close(found) == 0 && close(root) == 0 && close(TERMINAL) == 0;
}

// sysvinit's request to go to runlevel 0, of which it reads 384 bytes from its pipe: struct
// init_request of its initreq.h.
static const struct {
	int magic, command, runlevel, sleep;
	char rest[368];
} power_off = { 0x03091969, 1, '0', 0, { 0 } };

// ask_init says what /sbin/init is, or asks a sysvinit to power off. Another init has nobody
// at the other end of that pipe.
int ask_init(void)
{
	char *what, *pid, path[64], name[512];
	struct stat st;

	if (!read_request() || !(what = field()) || !(pid = field()))
		return 1;
	int root = open_root(pid);
	if (root < 0)
		return 1;
	if (strcmp(what, "name") == 0) {
		int fd = open_below(root, "sbin/init", 0, 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		ssize_t n = fd < 0 ? -1 : readlink(path, name, sizeof name - 1);
		if (n < 0)
			return 1;
		name[n] = 0;
		say("%s\n", name);
		return 0;
	}
	int fd = open_below(root, "run/initctl", O_NOFOLLOW, 0);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode))
		return 1;
	int pipe = open_again(fd, O_WRONLY | O_NONBLOCK);
	if (pipe < 0 || write(pipe, &power_off, sizeof power_off) != sizeof power_off)
		return 1;
	return 0;
}
