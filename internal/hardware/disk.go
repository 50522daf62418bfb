package hardware

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// A File is where a file is, as statx(2) says it.
type File struct {
	Major, Minor uint32 // of the device that its file system has
	Mount        uint64 // id of the mount that it was found in
}

// DisksOf gives the block devices that a file of this process's mounts is on, as
// "MAJOR:MINOR". They are whole disks, since cgroups bound nothing smaller. The error is
// Unsupported when the file is on none.
func (r Root) DisksOf(f File) ([]string, error) {
	if f.Major != 0 {
		return []string{r.wholeDisk(fmt.Sprintf("%d:%d", f.Major, f.Minor))}, nil
	}
	// File systems on several devices have a number that is of none.
	kind, source := r.mount(f.Mount)
	if kind == "btrfs" {
		for _, id := range r.entries("sys/fs/btrfs") {
			var disks []string
			devices := r.entries("sys/fs/btrfs/" + id + "/devices")
			for _, name := range devices {
				if number := r.text("sys/fs/btrfs", id, "devices", name, "dev"); number != "" {
					disks = append(disks, r.wholeDisk(number))
				}
			}
			if slices.Contains(devices, filepath.Base(source)) && len(disks) > 0 {
				slices.Sort(disks)
				return slices.Compact(disks), nil
			}
		}
	}
	return nil, kiln.Errorf(kiln.Unsupported, "a file system of type %s isn't on a disk of this host",
		cmp.Or(kind, "unknown"))
}

// wholeDisk gives the disk that a partition is of; what isn't a partition is one.
func (r Root) wholeDisk(number string) string {
	dir, err := filepath.EvalSymlinks(r.path("sys/dev/block", number))
	if err != nil || Root(dir).text("partition") == "" {
		return number
	}
	return cmp.Or(Root(filepath.Dir(dir)).text("dev"), number)
}

// mount gives the type of the file system that is mounted, and the device, as
// proc_pid_mountinfo(5) has them.
func (r Root) mount(id uint64) (kind, source string) {
	for line := range strings.Lines(r.text("proc/self/mountinfo")) {
		words := strings.Fields(line)
		at := slices.Index(words, "-")
		if words[0] == strconv.FormatUint(id, 10) && at > 0 && len(words) > at+2 {
			return words[at+1], words[at+2]
		}
	}
	return "", ""
}

// DeviceName gives the name of a block device, "sda1", by its numbers, "8:1"; without one, the
// numbers.
func (r Root) DeviceName(numbers string) string {
	return cmp.Or(r.link("sys/dev/block", numbers), numbers)
}

// FileSystem gives the type of the file system that a file is on, and the device of that.
func (r Root) FileSystem(f File) (kind, source string) { return r.mount(f.Mount) }
