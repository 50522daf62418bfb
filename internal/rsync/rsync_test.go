package rsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// end is one end of a stream in memory.
type end struct {
	io.Reader
	io.WriteCloser
}

// halting stops for a while once some has been written.
type halting struct {
	io.WriteCloser
	n int
}

func (h *halting) Write(b []byte) (int, error) {
	const enough = 500_000
	if h.n < enough && h.n+len(b) >= enough {
		time.Sleep(time.Second)
	}
	h.n += len(b)
	return h.WriteCloser.Write(b)
}

func (e end) CloseWrite() error { return e.WriteCloser.Close() }

// fastDir gives a directory in memory, if attributes can be kept there.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kiln-rsync-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if unix.Setxattr(dir, "user.a", nil, 0) != nil {
		return t.TempDir()
	}
	return dir
}

func opened(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// userNS gives a user namespace whose ids begin at a million.
func userNS(t *testing.T) *os.File {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1_000_000, Size: 65536}}
	cmd := exec.Command("/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	return opened(t, fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
}

// capability is cap_net_raw+ep.
var capability = []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")

// TestCopy sends files of every type from one confined process to another.
func TestCopy(t *testing.T) {
	base, tree, to, temp := t.TempDir(), fastDir(t), fastDir(t), t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(base, "rootfs"), 0o755),
		os.WriteFile(filepath.Join(base, "metadata.yaml"), []byte("x"), 0o644),
		os.WriteFile(filepath.Join(tree, "secret"), []byte("text"), 0),
		os.Chown(filepath.Join(tree, "secret"), 5, 6),
		os.Link(filepath.Join(tree, "secret"), filepath.Join(tree, "link")),
		os.Symlink("/etc/passwd", filepath.Join(tree, "symlink")),
		unix.Mknod(filepath.Join(tree, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		os.WriteFile(filepath.Join(tree, "can"), nil, 0o755),
		unix.Setxattr(filepath.Join(tree, "can"), "security.capability", capability, 0),
		unix.Setxattr(filepath.Join(tree, "secret"), "user.a", []byte("b"), 0),
		unix.Setxattr(filepath.Join(tree, "secret"), "user.rsync.security.capability", capability, 0),
		os.Chown(to, Nobody, Nobody),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// So much that what the sender is asked for piles up while it is held up.
	for i := range 20_000 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint("many", i)), bytes.Repeat([]byte("x"), 500), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ids := userNS(t)
	mount, err := private(opened(t, tree), ids, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	o := Options{Xattrs: true, Delete: true, Links: true} // Compress would leave nothing to pile up
	sent := make(chan error, 1)
	go func() {
		sent <- Send(ctx, end{r1, &halting{WriteCloser: w2}}, Files{Dir: opened(t, base), Tree: mount, IDs: ids}, temp, o,
			Bounds{})
	}()
	var has, most int64
	count := func(more int64) error {
		has += more
		most = max(most, has)
		return nil
	}
	if err := Receive(ctx, end{r2, w1}, opened(t, to), temp, o, Bounds{Memory: count}); err != nil {
		t.Error("receive:", err)
	}
	if err := <-sent; err != nil {
		t.Error("send:", err)
	}
	const names = 20_000 * 30 // that the receiver had to know of at least
	if t.Logf("%d bytes of memory", most); has != 0 || most < names {
		t.Errorf("it had %d bytes of memory at most, and has %d", most, has)
	}
	for name, want := range map[string]string{"metadata.yaml": "x", "rootfs/secret": "text", "rootfs/link": "text",
		"rootfs/null": "", "rootfs/symlink": "/etc/passwd"} {
		path := filepath.Join(to, name)
		b, err := os.ReadFile(path)
		if err != nil || string(b) != want {
			t.Errorf("%s has %q, %v; want %q", name, b, err, want)
		}
		buf := make([]byte, 200)
		n, err := unix.Lgetxattr(path, "user.rsync.%stat", buf)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Uid != Nobody || st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("%s: %+v, %v; want a file of nobody", name, st, err)
		}
		t.Log(name, st.Nlink, string(buf[:max(n, 0)]), err)
	}
	// What a user says isn't taken for what root has set.
	for path, want := range map[string]string{"can/user.rsync.security.capability": string(capability),
		"secret/user.a": "b", "secret/user.rsync.security.capability": ""} {
		file, name := filepath.Split(path)
		buf := make([]byte, 200)
		n, err := unix.Lgetxattr(filepath.Join(to, "rootfs", file), name, buf)
		if got := string(buf[:max(n, 0)]); got != want || want == "" && err != unix.ENODATA {
			t.Errorf("%s is %q, %v; want %q", path, got, err, want)
		}
	}
	left, err := os.ReadDir(temp)
	if len(left) > 0 || err != nil {
		t.Error("left behind:", left, err)
	}
}

// copied sends what is in a tree to what receives it, and gives the errors of both.
func copied(t *testing.T, tree, to string, o Options, back func(end) Stream) (sent, received error) {
	t.Helper()
	temp, base := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(base, "rootfs"), 0o755), os.Chown(to, Nobody, Nobody)); err != nil {
		t.Fatal(err)
	}
	ids := userNS(t)
	mount, err := private(opened(t, tree), ids, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	sending := make(chan error, 1)
	go func() {
		sending <- Send(ctx, end{r1, w2}, Files{Dir: opened(t, base), Tree: mount, IDs: ids}, temp, o, Bounds{})
	}()
	received = Receive(ctx, back(end{r2, w1}), opened(t, to), temp, o, Bounds{})
	if received != nil {
		r1.Close() // as a connection that is given up
		w2.Close()
	}
	return <-sending, received
}

func asIs(e end) Stream { return e }

// failing can't end what it sends.
type failing struct{ end }

var errLate = errors.New("the connection is gone")

func (f failing) CloseWrite() error {
	_ = f.end.CloseWrite()
	time.Sleep(200 * time.Millisecond) // so all else has gone well by then
	return errLate
}

// TestCopyAgain sends a file that was written again in the same second with as many bytes, and
// says when a file couldn't be put there, or an end wasn't told.
func TestCopyAgain(t *testing.T) {
	tree, to := fastDir(t), fastDir(t)
	file := filepath.Join(tree, "file")
	o := Options{Xattrs: true}
	for n, text := range []string{"one", "two"} {
		at := time.Unix(1000, int64(n)*1_000_000)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o644), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
		if sent, received := copied(t, tree, to, o, asIs); sent != nil || received != nil {
			t.Fatal(sent, received)
		}
		if b, err := os.ReadFile(filepath.Join(to, "rootfs/file")); string(b) != text || err != nil {
			t.Errorf("%q, %v; want %q", b, err, text)
		}
	}
	if _, received := copied(t, tree, to, o, func(e end) Stream { return failing{e} }); !errors.Is(received, errLate) {
		t.Error(received)
	}
	name := filepath.Join(to, "rootfs/file")
	if err := errors.Join(os.Remove(name), os.MkdirAll(filepath.Join(name, "in the way"), 0o755),
		os.Chown(name, Nobody, Nobody)); err != nil {
		t.Fatal(err)
	}
	if sent, received := copied(t, tree, to, o, asIs); sent == nil && received == nil {
		t.Error("nobody says that a file isn't there")
	}
}

// TestNoRoom ends a copy that has no room, though nothing more comes.
func TestNoRoom(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	full := errors.New("no room")
	_, out := io.Pipe()
	defer out.Close()
	dir := fastDir(t)
	err := Receive(ctx, end{r, out}, opened(t, dir), t.TempDir(), Options{}, Bounds{Room: func() error { return full }})
	if !errors.Is(err, full) {
		t.Error(err)
	}
}

// TestNoMemory ends a copy whose processes have more memory than there is for it, at either end,
// though nothing more comes.
func TestNoMemory(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	much := errors.New("too much")
	for which, copy := range map[string]func(Stream, Bounds) error{
		"receiver": func(s Stream, b Bounds) error {
			return Receive(ctx, s, opened(t, fastDir(t)), t.TempDir(), Options{}, b)
		},
		"sender": func(s Stream, b Bounds) error {
			base, ids := t.TempDir(), userNS(t)
			if err := os.Mkdir(filepath.Join(base, "rootfs"), 0o755); err != nil {
				t.Fatal(err)
			}
			tree, err := private(opened(t, fastDir(t)), ids, unix.MOUNT_ATTR_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			return Send(ctx, s, Files{Dir: opened(t, base), Tree: tree, IDs: ids}, t.TempDir(), Options{}, b)
		},
	} {
		r, w := io.Pipe()
		_, out := io.Pipe()
		var has int64
		err := copy(end{r, out}, Bounds{Memory: func(more int64) error {
			if has += more; more > 0 {
				return much
			}
			return nil
		}})
		if !errors.Is(err, much) || has != 0 {
			t.Errorf("%s: %v, and it has %d bytes", which, err, has)
		}
		w.Close()
		out.Close()
	}
}

// TestPrivate: from a mount of rsync nothing is run, and no device opened.
func TestPrivate(t *testing.T) {
	m, err := private(opened(t, t.TempDir()), nil, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var st unix.Statfs_t
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if err := unix.Fstatfs(int(m.Fd()), &st); err != nil || st.Flags&want != want {
		t.Errorf("flags %#x, %v", st.Flags, err)
	}
}
