// What the programs in C have in common.
#include <stdbool.h>

#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif

// The descriptors that the programs are started with: kiln-monitor has ROOTFS and
// MOUNTS, kiln-mount has PROCESS and MOUNTS.
enum { REQUEST = 3, STATUS = 4, ROOTFS = 5, PROCESS = 5, MOUNTS = 6 };

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

int change_mount(void);
