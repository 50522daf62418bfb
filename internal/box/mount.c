// kiln-mount, which changes the mounts of a container that runs: it joins the container's
// namespaces of users and mounts and is its root there, so that every path is looked up,
// and every file made or removed, by the container's own rules.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "helper.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MOVE_MOUNT_T_EMPTY_PATH
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif
#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x00001000U
#endif

// The most directories that a target may be below of.
enum { DEEPEST = 64 };

static int fail(const char *what, const char *of)
{
	say("error %d %s%s: %s\n", errno, what, of, strerror(errno));
	return 1;
}

int open_below(int root, const char *path, int flags, uint64_t resolve)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC | flags, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve };
	int fd = -1;

	for (int i = 0; i < 1000; i++) { // somebody renames, see package rootfd
		fd = syscall(SYS_openat2, root, path, &how, sizeof how);
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
	}
	return fd;
}

// What was made for a target, to be taken away if nothing comes there.
static struct made { int parent; char *name; bool dir; } made[DEEPEST];
static int made_count;

static void unmake(void)
{
	int code = errno;
	while (made_count > 0) {
		struct made *m = &made[--made_count];
		m->name[strcspn(m->name, "/")] = 0;
		unlinkat(m->parent, m->name, m->dir ? AT_REMOVEDIR : 0);
	}
	errno = code;
}

// open_target opens a path of the container, and makes what is missing of it.
static int open_target(char *path, bool dir)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), parent = root;
	if (root < 0)
		return -1;
	for (char *at = path;;) {
		while (*at == '/')
			at++;
		char *rest = strchr(at, '/');
		if (rest)
			*rest = 0;
		int fd = open_below(root, path, 0, 0);
		if (fd < 0 && errno == ENOENT && made_count < DEEPEST) {
			bool d = rest || dir;
			if (d ? mkdirat(parent, at, 0755) < 0 : mknodat(parent, at, S_IFREG | 0644, 0) < 0) {
				if (errno == EEXIST)
					errno = ENOENT; // a link to nothing
				return -1;
			}
			made[made_count++] = (struct made){ parent, at, d };
			fd = open_below(root, path, 0, 0);
		}
		if (!rest || fd < 0)
			return fd;
		parent = fd;
		*rest = '/';
		at = rest + 1;
	}
}

static bool join(int namespaces) { return setns(PROCESS, namespaces) == 0; }

// become_root makes this process root of the namespace of users that it is in.
static bool become_root(void)
{
	return setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0;
}

static bool mount_id(int fd, const char *name, uint64_t *id)
{
	struct statx st;
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (name[0] ? 0 : AT_EMPTY_PATH);

	if (syscall(SYS_statx, fd, name, flags, STATX_MNT_ID, &st) < 0)
		return false;
	// stx_mnt_id follows the two device numbers, at byte 0x90; older headers call it spare.
	memcpy(id, (char *)&st + 0x90, sizeof *id);
	return true;
}

// attach mounts the tree at a path of the container. On the way the tree is in a mount
// namespace of the container's namespace of users: the kernel then keeps the
// container's root from taking flags such as "read-only" off it.
static int attach(bool mapped)
{
	char *stage = field(), *kind = field(), *target = field(), place[64], shown[512];
	uint64_t id;

	if (!target)
		return fail("reading the request", "");
	snprintf(shown, sizeof shown, "%s", target);
	snprintf(place, sizeof place, "%s/0", stage);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fail("making a mount namespace", "");
	if (!stage_mounts(stage, kind))
		return fail("mounting the source", "");
	if (setgroups(0, NULL) < 0)
		return fail("leaving the groups", "");
	if (mapped && (!join(CLONE_NEWUSER) || unshare(CLONE_NEWNS) < 0))
		return fail("joining the container's ids", "");
	int tree = syscall(SYS_open_tree, AT_FDCWD, place, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0)
		return fail("mounting the source again", "");
	if (!join(CLONE_NEWNS))
		return fail("joining the container's mounts", "");
	if (mapped && !become_root())
		return fail("becoming the container's root", "");
	umask(0);
	struct stat st;
	int at = open_target(target, kind[0] == 'd');
	if (at >= 0 && fstat(at, &st) == 0 && S_ISDIR(st.st_mode) != (kind[0] == 'd')) {
		errno = S_ISDIR(st.st_mode) ? EISDIR : ENOTDIR;
		at = -1;
	}
	if (at < 0) {
		unmake();
		return fail("opening ", shown);
	}
	if (syscall(SYS_move_mount, tree, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
		unmake();
		return fail("mounting on ", shown);
	}
	if (!mount_id(tree, "", &id))
		return fail("looking at the mount", "");
	say("mount %llu\n", (unsigned long long)id);
	return 0;
}

// detach unmounts what is at a path of the container, if that is the mount with an id. An
// empty file that was only there to be mounted on goes, too, if that is asked for.
static int detach(bool mapped)
{
	char *want = field(), *path = field(), *tidy = field(), *name, shown[512];
	bool busy = false;
	struct stat st;
	uint64_t id;

	if (!tidy || !(name = strrchr(path, '/')))
		return fail("reading the request", "");
	snprintf(shown, sizeof shown, "%s", path);
	*name++ = 0;
	// Unmounted by the host's right to: the container's root may have none to a directory.
	if (!join(CLONE_NEWNS))
		return fail("joining the container's mounts", "");
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int parent = root < 0 ? -1 : open_below(root, path[0] ? path : "/", O_DIRECTORY, RESOLVE_NO_SYMLINKS);
	if (parent < 0 || fchdir(parent) < 0)
		return fail("opening ", shown);
	if (!mount_id(AT_FDCWD, name, &id))
		return fail("looking at ", shown);
	if (id != strtoull(want, NULL, 10)) {
		errno = EBUSY;
		return fail("something else is mounted over ", shown);
	}
	if (umount2(name, UMOUNT_NOFOLLOW) < 0) {
		busy = true;
		if (errno != EBUSY || umount2(name, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
			return fail("unmounting ", shown);
	}
	// The mount may have been moved over a file that isn't the container's to remove: whether
	// it is, is asked as the container's root.
	if (tidy[0] == '1' && setgroups(0, NULL) == 0 && (!mapped || (join(CLONE_NEWUSER) && become_root())) &&
	    fstatat(AT_FDCWD, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
		unlinkat(AT_FDCWD, name, 0);
	say(busy ? "busy\n" : "ok\n");
	return 0;
}

int change_mount(void)
{
	char *what, *mapped;

	if (!read_request() || !(what = field()) || !(mapped = field())) {
		say("error 0 reading the request\n");
		return 1;
	}
	if (strcmp(what, "attach") == 0)
		return attach(mapped[0] == '1');
	return detach(mapped[0] == '1');
}
