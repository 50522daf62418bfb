package box

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"errors"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/rootfd"
)

// A Mount is what of the host is seen in the container, or a file system of its own that
// is in memory.
type Mount struct {
	Name           string // of what wants it: in errors, and unique among the mounts of a container
	Source, Target string // absolute, of the host and of the container
	ReadOnly       bool
	Optional       bool     // no error when the source is absent
	Recursive      bool     // with what is mounted below the source
	Flags          int      // more of unix.MOUNT_ATTR_*
	IDs            *os.File // namespace of users whose ids stand for the files' owners; nil: as they are
	Memory         *Memory  // instead of a source
	Device         bool     // the source is a device node
}

// Memory is a file system in memory (tmpfs).
type Memory struct {
	Bytes int64  // the most that it has; 0: half of the host's
	Owner uint32 // of its root directory, on the host
}

// what names a mount in errors.
func (m Mount) what() string {
	if m.Name == "" {
		return "mount on " + m.Target
	}
	return m.Name
}

// sourceTime is how long the source of a mount is waited for: it may be on a network.
const sourceTime = 10 * time.Second

// A tree is what a mount shows, attached nowhere yet.
type tree struct {
	*os.File
	kind string // "d" for a directory, "f" for a file, as kiln-monitor wants it
}

// open makes the tree of a mount. Errors: NotFound, Unsupported, Timeout when the
// source doesn't answer.
func (m Mount) open(ctx context.Context) (tree, error) {
	type result struct {
		t   tree
		err error
	}
	done := make(chan result, 1)
	go func() { // it can't be interrupted
		t, err := m.openTree()
		done <- result{t, err}
	}()
	late := time.NewTimer(sourceTime)
	defer late.Stop()
	var err error
	select {
	case r := <-done:
		return r.t, r.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-late.C:
		err = kiln.Errorf(kiln.Timeout, "%s: source %s didn't answer within %v; is it on a server that can't be reached?",
			m.what(), m.Source, sourceTime)
	}
	go func() {
		if r := <-done; r.err == nil {
			r.t.Close()
		}
	}()
	return tree{}, err
}

func (m Mount) openTree() (tree, error) {
	var fd int
	var err error
	if m.Memory != nil {
		fd, err = m.Memory.open()
	} else {
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
		if m.Recursive {
			flags |= unix.AT_RECURSIVE
		}
		fd, err = unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return tree{}, kiln.Errorf(kiln.NotFound, "%s: source: %s: %w; make it, name another, or say that it may be "+
			"missing: optional=true", m.what(), m.Source, err)
	}
	if err != nil {
		return tree{}, fmt.Errorf("%s: mount %s: %w", m.what(), m.Source, err)
	}
	t := tree{os.NewFile(uintptr(fd), m.Source), "f"}
	if err := m.prepare(&t); err != nil {
		return tree{}, errors.Join(err, t.Close())
	}
	return t, nil
}

// prepare sets what a tree is, and how it is seen.
func (m Mount) prepare(t *tree) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.Fd()), &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		t.kind = "d"
	case unix.S_IFBLK:
		if !m.Device {
			return kiln.Errorf(kiln.Unsupported, "%s: source %s is a block device; mount it on this host and use the "+
				"directory as the source", m.what(), m.Source)
		}
	}
	// What the container mounts on it must not be seen by the host.
	a := unix.MountAttr{Attr_set: uint64(m.Flags), Propagation: unix.MS_PRIVATE}
	if m.ReadOnly {
		a.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if a.Attr_set&(unix.MOUNT_ATTR_NOATIME|unix.MOUNT_ATTR_STRICTATIME) != 0 {
		a.Attr_clr = unix.MOUNT_ATTR__ATIME
	}
	const all = unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	if err := unix.MountSetattr(int(t.Fd()), "", all, &a); err != nil {
		return fmt.Errorf("%s: set the options of the mount: %w", m.what(), err)
	}
	if m.IDs == nil {
		return nil
	}
	a = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(m.IDs.Fd())}
	err := unix.MountSetattr(int(t.Fd()), "", all, &a)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		return kiln.Errorf(kiln.Unsupported, "%s: the owners of the files of %s can't be shifted: it is of a %s file "+
			"system, and this kernel can't do it for that; leave out shift, and give the files ids of the container instead",
			m.what(), m.Source, fsType(t.File))
	}
	if err != nil {
		return fmt.Errorf("%s: shift the owners of the files of %s: %w", m.what(), m.Source, err)
	}
	return nil
}

func (m *Memory) open() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	options := map[string]string{"mode": "0755", "uid": fmt.Sprint(m.Owner), "gid": fmt.Sprint(m.Owner)}
	if m.Bytes > 0 {
		options["size"] = fmt.Sprint(m.Bytes)
	}
	for k, v := range options {
		if err := unix.FsconfigSetString(fs, k, v); err != nil {
			return 0, fmt.Errorf("%s=%s: %w", k, v, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

// fsType names the type of the file system that an open file is of.
func fsType(f *os.File) string {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, 0, &st); err != nil {
		return "strange"
	}
	name := "strange"
	_ = eachMount("/proc/self/mountinfo", func(m mountLine) bool {
		if m.major == st.Dev_major && m.minor == st.Dev_minor {
			name = m.fsType
		}
		return name == "strange"
	})
	return name
}

// A mountLine is a line of proc_pid_mountinfo(5).
type mountLine struct {
	id           uint64
	major, minor uint32
	point        string
	fsType       string
}

// eachMount calls f for each line of a file of mounts, in the order in which they were
// mounted at one place, until it returns false.
func eachMount(path string, f func(mountLine) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		if len(w) < 7 {
			continue
		}
		m := mountLine{point: unescape(w[4])}
		m.id, _ = strconv.ParseUint(w[0], 10, 64)
		if _, err := fmt.Sscanf(w[2], "%d:%d", &m.major, &m.minor); err != nil {
			continue
		}
		for i, word := range w {
			if word == "-" && i+1 < len(w) {
				m.fsType = w[i+1]
			}
		}
		if !f(m) {
			return nil
		}
	}
	return lines.Err()
}

// unescape undoes what the kernel does to blanks and backslashes of paths.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// resolve gives the place of a path in a root filesystem without the symbolic links of
// it that are there: liblxc takes none. What isn't there will be made.
func resolve(rootfs *os.File, path string) (string, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	top, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", rootfs.Fd()))
	if err != nil {
		return "", err
	}
	for at, rest := path, ""; ; {
		fd, err := rootfd.Openat2(int(rootfs.Fd()), at, how)
		if err == nil {
			found, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			unix.Close(fd)
			return "/" + strings.Trim(strings.TrimPrefix(found, top)+rest, "/"), err
		}
		i := strings.LastIndexByte(at, '/')
		if !errors.Is(err, unix.ENOENT) || i < 0 || at == "/" {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		var st unix.Stat_t
		if unix.Fstatat(int(rootfs.Fd()), strings.TrimPrefix(at, "/"), &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return "", fmt.Errorf("%s: %s is a link to nothing", path, at)
		}
		at, rest = at[:max(i, 1)], at[i:]+rest
		if i == 0 {
			at = "/"
		}
	}
}
