package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/rootfd"
	"github.com/kiln-containers/kiln/internal/thread"
)

// dialTime is how long the other side may take to take a connection.
const dialTime = 10 * time.Second

// A side is where sockets are made: on the host, or in a container.
type side struct {
	box string // the directory of the container's box; "": the host
}

// enter runs f on a thread that is in the side's network, with the root directory of its
// files, -1 for the host's, and its ids. A socket that is made there can be used anywhere.
func (s side) enter(f func(root int, ids idMap) error) error {
	if s.box == "" {
		return thread.Run(func() error { return f(-1, idMap{}) })
	}
	init, pid, err := box.Peek(s.box)
	if err != nil {
		return err
	}
	defer init.Close()
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("look into the instance: %w", err)
	}
	defer unix.Close(root)
	ids, err := readIDMap(pid)
	if err != nil {
		return err
	}
	return thread.Run(func() error {
		// By its descriptor, so that no other process can have taken its number meanwhile.
		if err := unix.Setns(int(init.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network of the instance: %w", err)
		}
		return f(root, ids)
	})
}

// An idMap says what the ids of a container are on the host, see user_namespaces(7). The
// zero value is the host's.
type idMap struct{ uid, gid [][3]uint32 }

func readIDMap(pid int) (m idMap, err error) {
	for file, to := range map[string]*[][3]uint32{"uid_map": &m.uid, "gid_map": &m.gid} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return m, fmt.Errorf("ids of the instance: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			var r [3]uint32
			if _, err := fmt.Sscan(line, &r[0], &r[1], &r[2]); err != nil {
				return m, fmt.Errorf("ids of the instance: %w", err)
			}
			*to = append(*to, r)
		}
	}
	return m, nil
}

func mapped(ranges [][3]uint32, id uint32) (int, error) {
	for _, r := range ranges {
		if id >= r[0] && uint64(id) < uint64(r[0])+uint64(r[2]) {
			return int(r[1] + id - r[0]), nil
		}
	}
	if ranges == nil {
		return int(id), nil
	}
	return 0, fmt.Errorf("the instance has no user or group %d", id)
}

// has reports whether a file's owner is one of a container's users: what root in there has
// rights over.
func (m idMap) has(fd int) bool {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false
	}
	in := func(ranges [][3]uint32, id uint32) bool {
		for _, r := range ranges {
			if id >= r[1] && uint64(id) < uint64(r[1])+uint64(r[2]) {
				return true
			}
		}
		return ranges == nil
	}
	return in(m.uid, st.Uid) && in(m.gid, st.Gid)
}

// become makes the thread a user, for good: the thread ends afterwards. Root keeps the
// right to files of others, and nobody any other.
func (m idMap) become(uid, gid uint32) error {
	u, err := mapped(m.uid, uid)
	if err != nil {
		return err
	}
	g, err := mapped(m.gid, gid)
	if err != nil {
		return err
	}
	// The library's functions are about all threads of the process.
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(g), uintptr(g), uintptr(g)); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(u), uintptr(u), uintptr(u)); e != 0 {
		return e
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var rights [2]unix.CapUserData
	if uid == 0 {
		rights[0].Effective, rights[0].Permitted = 1<<unix.CAP_DAC_OVERRIDE, 1<<unix.CAP_DAC_OVERRIDE
	}
	return unix.Capset(&head, &rights[0])
}

// listen listens at the i-th port of an address. mine says how a socket at a path is to be.
func (s side) listen(d Device, i int) (l net.Listener, p net.PacketConn, err error) {
	a := d.Listen
	err = s.enter(func(root int, ids idMap) (err error) {
		switch {
		case a.Protocol == "udp":
			p, err = net.ListenPacket("udp", a.one(i))
		case a.Protocol == "tcp" || a.Path[0] == '@':
			l, err = net.Listen(a.Protocol, a.one(i))
		default:
			l, err = listenPath(root, ids, d)
		}
		return err
	})
	if errors.Is(err, unix.EADDRINUSE) {
		err = kiln.Errorf(kiln.Busy, "the address %s is in use; another program, or another device, listens there",
			a.Shown(i))
	} else if err != nil {
		err = fmt.Errorf("listen at %s: %w", a.Shown(i), err)
	}
	return l, p, err
}

// inRoot resolves names as a process does whose root directory that is.
var inRoot = unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
	Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}

// openPath opens what a path of a side is. root -1 is the host.
func openPath(root int, name string) (int, error) {
	if root < 0 {
		return unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	return rootfd.Openat2(root, name, inRoot)
}

// listenPath makes a socket at a path. What is in the way is removed if it is a socket
// that nobody listens at any more.
func listenPath(root int, ids idMap, d Device) (net.Listener, error) {
	parent, err := openPath(root, path.Dir(d.Listen.Path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path.Dir(d.Listen.Path), err)
	}
	defer unix.Close(parent)
	if !ids.has(parent) {
		return nil, fmt.Errorf("%s is none of the instance's own directories", path.Dir(d.Listen.Path))
	}
	uid, err := mapped(ids.uid, d.UID)
	if err != nil {
		return nil, err
	}
	gid, err := mapped(ids.gid, d.GID)
	if err != nil {
		return nil, err
	}
	name := path.Base(d.Listen.Path)
	short := fmt.Sprintf("/proc/self/fd/%d/%s", parent, name)
	var file *os.File
	err = thread.Run(func() error { // which has the rights of the side's root, and no others
		if err := ids.become(0, 0); err != nil {
			return err
		}
		if err := removeStale(parent, name, short); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), d.Listen.Path)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: short}); err != nil {
			return err
		}
		return unix.Listen(fd, unix.SOMAXCONN)
	})
	if file != nil {
		defer file.Close()
	}
	if err != nil {
		return nil, err
	}
	if err := ownSocket(parent, name, ids, uid, gid, d.Mode); err != nil {
		return nil, errors.Join(err, unix.Unlinkat(parent, name, 0))
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	keep, err := unix.FcntlInt(uintptr(parent), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return &pathListener{Listener: l, parent: keep, name: name}, nil
}

func removeStale(parent int, name, short string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // there is none, or binding says what is wrong
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.New("there is something else at that path; remove it, or take another path")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: short}); !errors.Is(err, unix.ECONNREFUSED) {
		return unix.EADDRINUSE
	}
	return unix.Unlinkat(parent, name, 0)
}

// ownSocket gives a socket that was just made its owner and its mode. It isn't one that the
// side has meanwhile mounted over it, nor one that wasn't the side's before.
func ownSocket(parent int, name string, ids idMap, uid, gid int, mode uint32) error {
	fd, err := rootfd.Openat2(parent, name, unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_BENEATH})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK || !ids.has(fd) {
		return errors.Join(err, errors.New("somebody has put something else in the place of the socket"))
	}
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// A pathListener removes its socket when it is closed.
type pathListener struct {
	net.Listener
	parent int
	name   string
}

func (l *pathListener) Close() error {
	var err error
	var st unix.Stat_t
	// While it listens nobody else has taken its place.
	if serr := unix.Fstatat(l.parent, l.name, &st, unix.AT_SYMLINK_NOFOLLOW); serr == nil &&
		st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		err = unix.Unlinkat(l.parent, l.name, 0)
	}
	return errors.Join(err, l.Listener.Close(), unix.Close(l.parent))
}

// dial connects to the i-th port of an address, or its only one. It gives up when ctx ends.
func (s side) dial(ctx context.Context, d Device, i int) (net.Conn, error) {
	a := d.Connect
	if a.count() == 1 {
		i = 0
	}
	fd := -1
	err := s.enter(func(root int, ids idMap) (err error) {
		if a.Protocol == "unix" {
			fd, err = connectPath(root, ids, d)
			return err
		}
		family, kind := unix.AF_INET, unix.SOCK_STREAM
		if a.Host.Is6() {
			family = unix.AF_INET6
		}
		if a.Protocol == "udp" {
			kind = unix.SOCK_DGRAM
		}
		// It connects elsewhere: a thread that waits would be one for each connection.
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), a.one(i))
	defer file.Close()
	if a.Protocol != "unix" {
		if err := connect(ctx, file, netip.AddrPortFrom(a.Host, a.Ports[i])); err != nil {
			return nil, err
		}
	}
	return net.FileConn(file)
}

// connect connects a socket that doesn't block.
func connect(ctx context.Context, file *os.File, to netip.AddrPort) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if err := file.SetWriteDeadline(time.Now().Add(dialTime)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })()
	begun := false
	var result error
	err = raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			result = unix.Connect(int(fd), sa)
			return !errors.Is(result, unix.EINPROGRESS)
		}
		var n int
		if n, result = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); result == nil && n != 0 {
			result = unix.Errno(n)
		}
		if result == nil { // it can be woken too early
			if _, err := unix.Getpeername(int(fd)); err != nil {
				return false
			}
		}
		return true
	})
	runtime.KeepAlive(file)
	return errors.Join(err, result)
}

// connectPath connects to a socket at a path, or an abstract one, with the rights of the
// user that the device says.
func connectPath(root int, ids idMap, d Device) (int, error) {
	if err := ids.become(d.AsUID, d.AsGID); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	name := d.Connect.Path
	if name[0] != '@' {
		at, err := openPath(root, name)
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		defer unix.Close(at)
		if !ids.has(at) {
			unix.Close(fd)
			return -1, unix.EACCES
		}
		name = fmt.Sprintf("/proc/self/fd/%d", at)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
