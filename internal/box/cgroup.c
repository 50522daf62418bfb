// What a container was in is removed before liblxc makes it anew, as at a reboot: liblxc
// can't do that while there are processes in it, such as one that was about to enter the
// container, which don't end with its init.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "helper.h"

// How long that may take, in seconds: the reboot fails then, and who watches hears of it.
#define EMPTY_TIME 5

static time_t end_of_time;

static bool too_late(void)
{
	struct timespec now;
	return clock_gettime(CLOCK_MONOTONIC, &now) < 0 || now.tv_sec > end_of_time;
}

static void kill_in(const char *dir)
{
	char path[PATH_MAX];
	int pid;

	if (snprintf(path, sizeof path, "%s/cgroup.procs", dir) >= (int)sizeof path)
		return;
	FILE *procs = fopen(path, "re");
	if (!procs)
		return;
	while (fscanf(procs, "%d", &pid) == 1)
		if (pid > 1)
			kill(pid, SIGKILL);
	fclose(procs);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)at;
	if (type == FTW_DP) {
		kill_in(path);
		rmdir(path);
	}
	return too_late();
}

// remove_cgroup kills what is in a cgroup, and in those below, until it can be removed: who
// comes late finds it gone.
static bool remove_cgroup(const char *dir)
{
	while (access(dir, F_OK) == 0) {
		nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
		if (access(dir, F_OK) < 0)
			break;
		if (too_late())
			return false;
		usleep(1000);
	}
	return true;
}

int remove_cgroups(const char *id)
{
	static const char root[] = "/sys/fs/cgroup";
	struct timespec now;
	struct dirent *e;
	char path[PATH_MAX];
	bool gone;

	if (strchr(id, '/') || id[0] == '.' || clock_gettime(CLOCK_MONOTONIC, &now) < 0)
		return 1;
	end_of_time = now.tv_sec + EMPTY_TIME;
	snprintf(path, sizeof path, "%s/" PAYLOAD_CGROUP "/%.255s", root, id);
	gone = remove_cgroup(path);
	DIR *all = opendir(root); // of cgroup v1, or with both
	while (all && (e = readdir(all))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s/" PAYLOAD_CGROUP "/%.255s", root, e->d_name, id);
		gone = remove_cgroup(path) && gone;
	}
	if (all)
		closedir(all);
	return !gone;
}
