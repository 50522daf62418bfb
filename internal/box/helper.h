// What the programs in C have in common.
#include <stdbool.h>
#include <stdint.h>

#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif

// The descriptors that the programs are started with: kiln-monitor has ROOTFS and
// MOUNTS, kiln-mount has PROCESS and MOUNTS, kiln-attach PROCESS and TERMINAL, kiln-init
// PROCESS.
enum { REQUEST = 3, STATUS = 4, ROOTFS = 5, PROCESS = 5, MOUNTS = 6, TERMINAL = 6 };

// say writes an answer, of one line.
void say(const char *format, ...);

// A request is NUL-terminated strings; field gives the next one, NULL after the last.
extern char *next, *end;
bool read_request(void);
char *field(void);

// attach_tree mounts a detached tree, and closes it.
bool attach_tree(int fd, const char *target);
// stage_mounts mounts trees below a directory; see liblxc.c.
bool stage_mounts(const char *dir, const char *kinds);

// open_below opens a path with O_PATH, as whoever has that root directory sees it. It may
// take for ever: file systems of a container can be served by the container.
int open_below(int root, const char *path, int flags, uint64_t resolve);
// open_root opens the root directory of the process that PROCESS holds, which has a number.
int open_root(const char *pid);

bool make_terminal(const char *pid, uint32_t owner, int width, int height);
int change_mount(void);

// PAYLOAD_CGROUP is cgroup.go's payloadCgroup. remove_cgroups removes what a container has
// there; not 0: it couldn't.
#define PAYLOAD_CGROUP "kiln.payload"
int remove_cgroups(const char *id);
int ask_init(void);
