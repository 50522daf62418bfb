package rsync

import (
	"bytes"
	"context"
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
		sent <- Send(ctx, end{r1, &halting{WriteCloser: w2}}, Files{Dir: opened(t, base), Tree: mount, IDs: ids}, temp, o)
	}()
	if err := Receive(ctx, end{r2, w1}, opened(t, to), temp, o, func() error { return nil }); err != nil {
		t.Error("receive:", err)
	}
	if err := <-sent; err != nil {
		t.Error("send:", err)
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
