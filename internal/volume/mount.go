package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/thread"
)

// IDMap says that Size ids of the tree from Container on are the host's from Host
// on, of users and of groups.
type IDMap struct{ Container, Host, Size uint32 }

// workID owns the files that overlayfs keeps for itself in an upper layer: the
// mounter, who is the host's root, has no id of its own in a layer with mapped
// ids. Package archive refuses entries with it.
const workID = 1<<32 - 2

// A namespace is a mount namespace without processes, where layers are mounted:
// the host's own never shows them, and the kernel removes them with the last
// user. What is in it lives on a tmpfs over an empty directory.
type namespace struct {
	fd  *os.File
	dir string

	mountFile func(fstype, file string) (int, error) // tests have another
	bound     time.Duration                          // is mountBound; tests have less

	mu    sync.Mutex
	bases map[string]*base    // trees of images, by name
	users map[string]*os.File // user namespaces that map ids, by the map
	next  int
}

// A base is the tree of an image, which is mounted or not. What one image has to wait for is
// nothing to others.
type base struct {
	turn    chan struct{} // full while it is mounted, unmounted or replaced
	mounted bool          // changes with the turn and the lock of the namespace
	flight  *mounting     // nil: nobody mounts it
}

// A mounting is on its way, and all who want the same tree wait for it.
type mounting struct {
	done chan struct{}
	err  error
}

// mountBound is how long somebody waits for the tree of an image to be mounted. The kernel reads
// it for that, and waits for the disk as long as that takes.
const mountBound = time.Minute

// forgetBound is how long who replaces or removes a tree waits for that: whoever is about to use
// another one waits for them.
const forgetBound = 5 * time.Second

// newNamespace makes the namespace with a tmpfs on dir.
func newNamespace(dir string) (*namespace, error) {
	n := &namespace{dir: dir, mountFile: mountFile, bound: mountBound, bases: map[string]*base{},
		users: map[string]*os.File{}}
	err := thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return err
		}
		if err := unix.Mount("kiln", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700,size=1m"); err != nil {
			return err
		}
		for _, sub := range []string{"base", "layer", noLayer} {
			if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
				return err
			}
		}
		f, err := os.Open("/proc/thread-self/ns/mnt")
		n.fd = f
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a mount namespace: %w", err)
	}
	return n, nil
}

// run runs f in the namespace, in its directory.
func (n *namespace) run(f func() error) error {
	return thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		// A mount that nobody waits for may come here when the namespace is closed.
		c, err := n.fd.SyscallConn()
		if err != nil {
			return err
		}
		var entered error
		if err := c.Control(func(fd uintptr) { entered = unix.Setns(int(fd), unix.CLONE_NEWNS) }); err != nil {
			return err
		}
		if entered != nil {
			return entered
		}
		if err := unix.Chdir(n.dir); err != nil {
			return err
		}
		return f()
	})
}

// Close lets go of the namespace, and with it of what nobody else uses.
func (n *namespace) Close() error {
	errs := []error{n.fd.Close()}
	for _, u := range n.users {
		errs = append(errs, u.Close())
	}
	return errors.Join(errs...)
}

// baseOf gives the tree of an image. It is called with the lock.
func (n *namespace) baseOf(name string) *base {
	b := n.bases[name]
	if b == nil {
		b = &base{turn: make(chan struct{}, 1)}
		n.bases[name] = b
	}
	return b
}

// forget unmounts the tree of an image, and calls then before anybody can mount it again. The
// error is Timeout when one that is being mounted takes too long.
func (n *namespace) forget(name string, then func() error) error {
	n.mu.Lock()
	b := n.baseOf(name)
	n.mu.Unlock()
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-time.After(forgetBound):
		return errSlow(name, forgetBound)
	}
	n.mu.Lock()
	was := b.mounted
	b.mounted = false
	n.mu.Unlock()
	if was {
		err := n.run(func() error {
			if err := unix.Unmount("base/"+name, unix.MNT_DETACH); err != nil {
				return err
			}
			_ = os.Remove("base/" + name) // the next mount takes it as it is
			return nil
		})
		if err != nil {
			n.mu.Lock()
			b.mounted = true
			n.mu.Unlock()
			return fmt.Errorf("unmount the tree of an image: %w", err)
		}
	}
	return then()
}

// errSlow is the error of who has waited long enough for a tree to be mounted.
func errSlow(name string, after time.Duration) error {
	return kiln.Errorf(kiln.Timeout, "the tree of image %.12s isn't mounted after %v, which goes on: the disk may not "+
		"answer; see dmesg, then try again", name, after)
}

// base mounts a file with the tree of an image, once: all volumes of it share the
// kernel's cache. It is there as base/<name> then. Errors: errDamaged when what is in the file
// is to blame; Timeout, or that of ctx, when the mount goes on without the caller.
func (n *namespace) base(ctx context.Context, name, fstype, file string) error {
	n.mu.Lock()
	b := n.baseOf(name)
	if b.mounted {
		n.mu.Unlock()
		return nil
	}
	m := b.flight
	if m == nil {
		m = &mounting{done: make(chan struct{})}
		b.flight = m
		go n.mountBase(b, m, name, fstype, file) // nobody can end it, so nobody waits for it without a bound
	}
	n.mu.Unlock()
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(n.bound):
		return errSlow(name, n.bound)
	}
}

// mountBase is base for all who wait.
func (n *namespace) mountBase(b *base, m *mounting, name, fstype, file string) {
	b.turn <- struct{}{}
	err := n.run(func() error {
		fd, err := n.mountFile(fstype, file)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := os.Mkdir("base/"+name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return unix.MoveMount(fd, "", unix.AT_FDCWD, "base/"+name, unix.MOVE_MOUNT_F_EMPTY_PATH)
	})
	if err != nil {
		m.err = fmt.Errorf("mount %s: %w", file, err)
	}
	n.mu.Lock()
	b.mounted, b.flight = err == nil, nil
	n.mu.Unlock()
	<-b.turn
	close(m.done)
}

// errDamaged says of a tree that it isn't what was made, whatever the moment.
var errDamaged = errors.New("the tree of the image is damaged")

// mountFile mounts a file system that is in a file: by itself where the kernel
// can (EROFS from Linux 6.12 on), else through a loop device that goes with the
// mount. The error is errDamaged when the file is to blame.
func mountFile(fstype, file string) (int, error) {
	f, err := disk.Open(file) // the kernel would wait for who writes to a named pipe
	if lasting(err) {
		return -1, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil {
		return -1, err
	}
	defer f.Close()
	if fstype == kindErofs {
		if fd, err := fsMount(fstype, map[string]string{"source": file},
			unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV, true); err == nil {
			return fd, nil
		}
	}
	loop, err := attachLoop(f)
	if err != nil {
		return -1, err
	}
	defer loop.Close()
	fd, err := fsMount(fstype, map[string]string{"source": loop.Name()}, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV,
		true)
	// A superblock that isn't one, or whose checksum is wrong.
	if errors.Is(err, unix.EINVAL) || lasting(err) {
		err = fmt.Errorf("%w: %w", errDamaged, err)
	}
	return fd, err
}

// lasting reports whether something can't be read because of what is on the disk: it will
// be so the next time. All else may be over in a moment, such as a lack of descriptors, of
// memory or of room, or a disk that doesn't answer.
func lasting(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.EUCLEAN, unix.EBADMSG,
		kiln.Integrity}, // something else is in the place of a file
		func(no error) bool { return errors.Is(err, no) })
}

// fsMount makes a mount that isn't attached anywhere.
func fsMount(fstype string, options map[string]string, attr int, readOnly bool) (int, error) {
	fsfd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fsfd)
	if readOnly {
		if err := unix.FsconfigSetFlag(fsfd, "ro"); err != nil {
			return -1, err
		}
	}
	for key, value := range options {
		if err := unix.FsconfigSetString(fsfd, key, value); err != nil {
			return -1, fmt.Errorf("%s option %s=%s: %w", fstype, key, value, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, errors.Join(err, fsMessages(fsfd))
	}
	return unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attr)
}

// fsMessages gives what the kernel says about a mount that failed.
func fsMessages(fsfd int) error {
	buf := make([]byte, 1024)
	n, err := unix.Read(fsfd, buf)
	if err != nil || n < 2 {
		return nil
	}
	return errors.New(strings.TrimSpace(string(buf[2:n])))
}

// attachLoop gives a read-only loop device of a file, which the kernel frees with
// its last user.
func attachLoop(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 64 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		name := "/dev/loop" + strconv.Itoa(n)
		// Where nobody makes device nodes, like in some containers.
		_ = unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n))))
		loop, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()),
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if err != unix.EBUSY {
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

// userNS gives a user namespace that maps ids, for mounts. upper ones map the
// mounter as well.
func (n *namespace) userNS(ctx context.Context, ids []IDMap, upper bool) (*os.File, error) {
	key := fmt.Sprint(ids, upper)
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.users[key]; f != nil {
		return f, nil
	}
	var maps []syscall.SysProcIDMap
	for _, m := range ids {
		maps = append(maps, syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Size)})
	}
	if upper {
		maps = append(maps, syscall.SysProcIDMap{ContainerID: workID, HostID: 0, Size: 1})
	}
	// A process has to be born into the namespace; it waits to be looked at.
	cmd := exec.CommandContext(ctx, "/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	in.Close()
	_ = cmd.Wait() // it ends with its input
	if err != nil {
		return nil, err
	}
	n.users[key] = f
	return f, nil
}

// UserNS gives the user namespace whose ids are those of Mount with the same map. It
// stays the pool's.
func (p *Pool) UserNS(ctx context.Context, ids []IDMap) (*os.File, error) {
	return p.ns.userNS(ctx, ids, false)
}

// noLayer is the directory that stands for a lower layer that there isn't.
const noLayer = "empty"

// layer attaches a directory with mapped ids at a place in the namespace.
func layer(from, to string, userns *os.File) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("layer %s: %w", from, err)
	}
	defer unix.Close(fd)
	if userns != nil {
		a := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &a); err != nil {
			return fmt.Errorf("map the ids of %s: %w", from, err)
		}
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// scratch gives a name that no other mount uses.
func (n *namespace) scratch() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	return "layer/" + strconv.Itoa(n.next)
}

// A stack says what an overlay is made of.
type stack struct {
	lowers []string // read-only layers, top first: paths seen from the namespace's directory
	upper  string   // directory with upper/ and work/; "": the overlay is only read
	index  bool     // overlayfs can index the lowest layer
}

// overlay mounts layers over one another and gives the result, unattached.
func (n *namespace) overlay(ctx context.Context, s stack, ids []IDMap) (*os.File, error) {
	var lowerNS, upperNS *os.File
	if len(ids) > 0 {
		var err error
		if lowerNS, err = n.userNS(ctx, ids, false); err != nil {
			return nil, err
		}
		if upperNS, err = n.userNS(ctx, ids, true); err != nil {
			return nil, err
		}
	}
	if len(s.lowers) == 0 || s.upper == "" && len(s.lowers) == 1 {
		s.lowers = append(s.lowers[:len(s.lowers):len(s.lowers)], noLayer) // overlayfs wants two layers
	}
	dir := n.scratch()
	var out *os.File
	err := n.run(func() error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		defer dropLayers(dir) // the overlay has clones of its own
		options := map[string]string{"redirect_dir": "on", "metacopy": "on", "index": "off"}
		var names []string
		for i, from := range s.lowers {
			name, userns := strconv.Itoa(i), lowerNS
			if from == noLayer {
				userns = nil // nobody sees who it belongs to
			}
			if err := layer(from, filepath.Join(dir, name), userns); err != nil {
				return err
			}
			names = append(names, name)
		}
		// Short and plain names: no path of the host is in the options, and as
		// many as maxLayers fit into what the kernel takes.
		options["lowerdir"] = strings.Join(names, ":")
		attr := unix.MOUNT_ATTR_NODEV
		if s.upper == "" {
			attr |= unix.MOUNT_ATTR_RDONLY
		} else {
			if err := layer(s.upper, filepath.Join(dir, "d"), upperNS); err != nil {
				return err
			}
			options["upperdir"], options["workdir"] = "d/upper", "d/work"
			if s.index {
				options["index"] = "on"
			}
		}
		if err := unix.Chdir(dir); err != nil {
			return err
		}
		fd, err := overlayMount(ctx, options, attr)
		if err != nil {
			return fmt.Errorf("mount the overlay: %w", err)
		}
		out = os.NewFile(uintptr(fd), "overlay")
		return unix.Chdir(n.dir)
	})
	return out, err
}

// lingers is how long the last mount of a layer may go on after who used it.
const lingers = 5 * time.Second

// overlayMount is fsMount for layers that may have been mounted a moment ago. The kernel
// calls them busy until that mount is gone, which isn't when its file is closed: a
// process that is being forked has every file open until it runs its program.
func overlayMount(ctx context.Context, options map[string]string, attr int) (int, error) {
	for end := time.Now().Add(lingers); ; {
		fd, err := fsMount("overlay", options, attr, false)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fd, err
		}
		select {
		case <-ctx.Done():
			return -1, errors.Join(err, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// dropLayers unmounts the layers that are attached in a directory and removes it.
func dropLayers(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		_ = unix.Unmount(filepath.Join(dir, e.Name()), unix.MNT_DETACH)
		_ = os.Remove(filepath.Join(dir, e.Name()))
	}
	_ = os.Remove(dir)
}
