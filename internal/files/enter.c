// The helper's way into a container, in C that runs before the Go runtime starts:
// user and mount namespaces are joined by a process, and Go's has many threads. When
// all is done, Go starts, as root of the container with no right but over its files.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif

// The descriptors that the helper is started with. IDS is a process, or the user
// namespace that a tree's ids are mapped by.
enum { CONTROL = 3, IDS = 4, TREE = 5 };

// The files that one helper may have open.
enum { MOST_FILES = 4096 };

static void fail(const char *what)
{
	char line[256];
	int n = snprintf(line, sizeof line, "error %s: %s", what, strerror(errno));
	if (write(CONTROL, line, n) != n)
		_exit(2);
	_exit(1);
}

// enter_tree makes a mount the root of a mount namespace that has nothing else.
static void enter_tree(const char *place)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("make a mount namespace");
	if (syscall(SYS_move_mount, TREE, "", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		fail("mount the files");
	close(TREE);
	// The old root is put over the new one, and taken away.
	if (chdir(place) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
		fail("change the root directory");
}

// keep_rights leaves what root needs for files, and makes that all it can ever get.
static void keep_rights(void)
{
	const unsigned kept[] = { CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID };
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0 } };
	unsigned long mask = 0;

	for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
		mask |= 1UL << kept[i];
	for (unsigned c = 0; c < 64; c++)
		if (!(mask & 1UL << c) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0 && errno != EINVAL)
			fail("give up rights");
	data[0].effective = data[0].permitted = (__u32)mask;
	if (syscall(SYS_capset, &head, data) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("give up rights");
}

__attribute__((constructor)) static void enter(int argc, char **argv)
{
	struct rlimit none = { 0, 0 }, files = { MOST_FILES, MOST_FILES };

	if (argc != 5 || strcmp(argv[0], "kiln-files") != 0)
		return;
	// While this is the host's root: a user namespace may forbid it.
	if (setgroups(0, NULL) < 0)
		fail("leave the groups");
	int users = strcmp(argv[2], "mapped") == 0 ? CLONE_NEWUSER : 0;
	if (strcmp(argv[1], "join") == 0) {
		if (setns(IDS, users | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC) < 0)
			fail("join the container");
	} else {
		enter_tree(argv[1]);
		if (users && setns(IDS, users) < 0)
			fail("join the user namespace");
	}
	close(IDS);
	if (chdir("/") < 0)
		fail("go to the root directory");
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		fail("become root of the container");
	setrlimit(RLIMIT_CORE, &none);
	setrlimit(RLIMIT_NOFILE, &files);
	umask(0);
	keep_rights();
}
