// The way of rsync out of the host, in C that runs before the Go runtime starts. What it
// is sent comes from another server, and it has parsers of its own: whoever finds a fault in
// them is in a root directory with nothing but the programs of the host, which can't be
// written, and the files that are copied; without a network, other processes, or a right but
// over these files.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
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

// The descriptors it is started with, besides the three of each process. FILES is what is
// copied, a mount; TREE one more below it, and IDS the user namespace that its ids are mapped
// by, each if it is used. FROM and TO are the other server, for the shell that rsync calls.
enum { FILES = 3, TREE = 4, IDS = 5, FROM = 7, TO = 8 };

enum { NOBODY = 65534 };

// What an attacker may take of the host's memory at once, before it is counted what it has:
// rsync needs some hundred bytes for each file of a directory.
static const rlim_t most_memory = 1UL << 30;

static void fail(const char *what)
{
	dprintf(2, "rsync can't be confined: %s: %s\n", what, strerror(errno));
	_exit(125);
}

// show binds a directory of the host into the new root directory, to be read only.
static void show(const char *from, const char *to)
{
	if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0 ||
	    mount(NULL, to, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0)
		fail("show the programs");
}

// programs makes the directories that programs need to run: /usr, and what leads there.
static void programs(void)
{
	static const char *const names[] = { "usr", "bin", "sbin", "lib", "lib64", "lib32", "libx32" };

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char path[32], target[256];
		struct stat st;

		snprintf(path, sizeof path, "/%s", names[i]);
		if (lstat(path, &st) < 0)
			continue;
		if (S_ISLNK(st.st_mode)) {
			ssize_t n = readlink(path, target, sizeof target - 1);
			if (n < 0)
				fail(path);
			target[n] = 0;
			if (symlink(target, names[i]) < 0)
				fail(path);
		} else {
			if (mkdir(names[i], 0755) < 0)
				fail(path);
			show(path, names[i]);
		}
	}
}

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static void attach(int fd, const char *to)
{
	if (syscall(SYS_move_mount, fd, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		fail("show the files");
	close(fd);
}

// leave_host makes a root directory on place, which stays empty in everybody's sight.
static void leave_host(const char *place, int tree)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("kiln", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m") < 0 || chdir(place) < 0)
		fail("make a root directory");
	programs();
	if (mkdir("dev", 0755) < 0 || mkdir("tmp", 0755) < 0 || mkdir("files", 0755) < 0)
		fail("make directories");
	int null = open("dev/null", O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
	if (null < 0 || close(null) < 0 || mount("/dev/null", "dev/null", NULL, MS_BIND, NULL) < 0)
		fail("show /dev/null");
	attach(FILES, "files");
	if (tree)
		attach(TREE, "files/rootfs");
	if (mount(NULL, place, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL) < 0)
		fail("seal the root directory");
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		fail("change the root directory");
}

// become makes the process root or nobody, with no rights but those of mask, for ever.
static void become(uid_t id, unsigned long mask)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	for (unsigned c = 0; c < 64; c++)
		if (!(mask & 1UL << c) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0 && errno != EINVAL)
			fail("give up rights");
	if (setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0)
		fail("become somebody else");
	data[0].effective = data[0].permitted = (__u32)mask;
	if (syscall(SYS_capset, &head, data) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("give up rights");
}

__attribute__((constructor)) static void confine(int argc, char **argv)
{
	struct rlimit none = { 0, 0 }, open_files = { 256, 256 }, memory = { most_memory, most_memory };
	static char *const environment[] = { "PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=/", NULL };

	if (argc < 5 || strcmp(argv[0], "kiln-rsync") != 0)
		return;
	const char *place = argv[1], *how = argv[2];
	int sends = strcmp(how, "send") == 0;

	if (setgroups(0, NULL) < 0)
		fail("leave the groups");
	leave_host(place, sends);
	if (sends && (setns(IDS, CLONE_NEWUSER) < 0 || close(IDS) < 0))
		fail("join the user namespace");
	setrlimit(RLIMIT_CORE, &none);
	setrlimit(RLIMIT_NOFILE, &open_files);
	setrlimit(RLIMIT_AS, &memory);
	umask(0);
	if (sends) // root of the instance, who reads what is in it, and changes nothing
		become(0, 1UL << CAP_DAC_READ_SEARCH);
	else
		become(NOBODY, 0);
	// It ends with the daemon, and has no file of it: also none that somebody else has left open.
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || syscall(SYS_close_range, 6, 6, 0) < 0 ||
	    syscall(SYS_close_range, TO + 1, ~0U, 0) < 0)
		fail("close files");
	execve(argv[3], argv + 3, environment);
	fail(argv[3]);
}
