package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// patience is how long a test waits for what happens in an instant on a quiet machine.
const patience = time.Minute

// helper serves a directory as the root directory of a container without mapped ids.
func helper(t testing.TB, dir string, o Options) *Helper {
	t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	mount := os.NewFile(uintptr(fd), "tree")
	defer mount.Close()
	h, err := Enter(t.Context(), mount, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(errIdle); err != nil {
			t.Error(err)
		}
	})
	return h
}

func tree(t testing.TB, h *Helper) *Tree {
	t.Helper()
	c, err := h.Dial()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := NewTree(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree
}

func (t *Tree) read(name string) (string, error) {
	f, err := t.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b bytes.Buffer
	_, err = f.WriteTo(&b)
	return b.String(), err
}

// TestTree writes, reads and changes files of every kind.
func TestTree(t *testing.T) {
	dir := t.TempDir()
	f := tree(t, helper(t, dir, Options{}))
	big := strings.Repeat("0123456789abcdef", 100_000) // many packets
	owner := Attributes{UID: new(uint32(5)), GID: new(uint32(6)), Mode: new(uint32(0o4750))}
	for _, err := range []error{
		f.Mkdir("/d", Attributes{Mode: new(uint32(0o1777))}, Attributes{}),
		f.Mkdir("/d", Attributes{Mode: new(uint32(0o700))}, Attributes{}), // it is there
		f.Write("/d/f", strings.NewReader(big), owner, Attributes{}, false),
		f.Write("/d/f", strings.NewReader("+"), Attributes{}, Attributes{}, true),
		f.Write("/plain", strings.NewReader("x"), Attributes{}, Attributes{}, false),
		f.Symlink("d/f", "/l"), f.Symlink("d/f", "/l"), f.Symlink("plain", "/l"),
		f.Write("/l", strings.NewReader("y"), owner, Attributes{}, false), // through it
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if s, err := f.read("/d/f"); err != nil || s != big+"+" {
		t.Errorf("read %d bytes, %v", len(s), err)
	}
	if s, err := f.read("/plain"); err != nil || s != "y" {
		t.Errorf("read %q, %v", s, err)
	}
	if s, err := f.Readlink("/l"); err != nil || s != "plain" {
		t.Errorf("link to %q, %v", s, err)
	}
	if names, err := f.List(t.Context(), "/"); err != nil || strings.Join(names, " ") != "d l plain" {
		t.Errorf("list %q, %v", names, err)
	}
	for name, want := range map[string]string{"/d": "directory 0 0 1777", "/d/f": "file 5 6 4750", "/l": "symlink 0 0 777",
		"/plain": "file 0 0 644"} {
		i, err := f.Lstat(name)
		if got := fmt.Sprintf("%s %d %d %o", i.Type, i.UID, i.GID, i.Mode); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	if err := f.Write("/plain", strings.NewReader("z"), Attributes{}, owner, false); err != nil {
		t.Error(err)
	}
	if i, err := f.Lstat("/plain"); err != nil || i.UID != 5 || i.Mode != 0o4750 {
		t.Errorf("%+v, %v", i, err)
	}
	for name, kind := range map[string]kiln.Kind{"/d": kiln.Conflict, "/nothing": kiln.NotFound, "/": kiln.Invalid,
		"/plain/x": kiln.Conflict} {
		if err := f.Remove(name); kiln.KindOf(err) != kind {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	for _, name := range []string{"/d/f", "/d", "/l", "/plain"} {
		if err := f.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestHostileTree has everything in it that somebody could put there to reach the host, or
// to keep the other side waiting.
func TestHostileTree(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(os.WriteFile(outside, []byte("secret"), 0o666),
		os.Symlink(outside, filepath.Join(dir, "absolute")),
		os.Symlink("../../../../../../.."+outside, filepath.Join(dir, "relative")),
		os.Symlink("/proc/self/root"+outside, filepath.Join(dir, "magic")), os.Symlink("loop", filepath.Join(dir, "loop")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666),
		unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))),
		unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0)))); err != nil {
		t.Fatal(err)
	}
	h := helper(t, dir, Options{})
	f := tree(t, h)
	write := func(name string) error {
		return f.Write(name, strings.NewReader("x"), Attributes{}, Attributes{}, false)
	}
	for name, kind := range map[string]kiln.Kind{"/absolute": kiln.NotFound, "/relative": kiln.NotFound,
		"/magic": kiln.NotFound, "/fifo": kiln.Invalid, "/zero": kiln.Invalid, "/disk": kiln.Invalid, "/loop": kiln.Invalid,
		"/../../.." + outside: kiln.NotFound} {
		if s, err := f.read(name); kiln.KindOf(err) != kind {
			t.Errorf("read %s: %q, %v", name, s, err)
		}
		if err := write(name); kiln.KindOf(err) != kind {
			t.Errorf("write %s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "secret" {
		t.Errorf("the file outside: %q, %v", b, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"CapEff:\t000000000000001b", "CapBnd:\t000000000000001b", "NoNewPrivs:\t1",
		"Groups:\t \n"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("the helper doesn't have %q:\n%s", line, status)
		}
	}
}

// container starts a process in a user and a mount namespace, where it first runs a script.
func container(t *testing.T, script string) *os.File {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script+"\necho ready; exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1_000_000, Size: 65536}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1_000_000, Size: 65536}},
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal("the script failed: ", err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// openDir is a directory that everybody can reach.
func openDir(t *testing.T) string {
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func join(t *testing.T, process *os.File, o Options) *Helper {
	t.Helper()
	h, err := Join(t.Context(), process, true, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(errIdle); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestJoin is root of the container there, and nobody on the host.
func TestJoin(t *testing.T) {
	place := openDir(t)
	f := tree(t, join(t, container(t, "mount -t tmpfs none "+place), Options{}))
	name := filepath.Join(place, "f")
	if err := f.Write(name, strings.NewReader("x"), Attributes{UID: new(uint32(7))}, Attributes{}, false); err != nil {
		t.Fatal(err)
	}
	if i, err := f.Lstat(name); err != nil || i.UID != 7 || i.GID != 0 {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := os.Lstat(name); !os.IsNotExist(err) {
		t.Errorf("it appeared on the host: %v", err)
	}
	err := f.Write("/proc/sys/kernel/hostname", strings.NewReader("x"), Attributes{}, Attributes{}, false)
	if kiln.KindOf(err) != kiln.Denied {
		t.Errorf("write the host name: %v", err)
	}
	unknown := Attributes{UID: new(uint32(70_000))}
	if f.Write(filepath.Join(place, "g"), strings.NewReader("x"), unknown, Attributes{}, false) == nil {
		t.Error("an id that the container doesn't have was taken")
	}
}

// TestStall: a file system of a container may never answer. Whoever asks is told, and the
// next one isn't kept.
func TestStall(t *testing.T) {
	place := openDir(t)
	node := filepath.Join(openDir(t), "fuse")
	if err := errors.Join(unix.Mknod(node, unix.S_IFCHR, int(unix.Mkdev(10, 229))), os.Chmod(node, 0o666)); err != nil {
		t.Fatal(err)
	}
	process := container(t, "exec 3<>"+node+"; mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none "+
		place)
	h := join(t, process, Options{Stall: 400 * time.Millisecond})
	f, other := tree(t, h), tree(t, h)
	_, err := f.Lstat(filepath.Join(place, "x"))
	if kiln.KindOf(err) != kiln.Timeout || !strings.Contains(err.Error(), place) {
		t.Errorf("stat in a file system that doesn't answer: %v", err)
	}
	if _, err := other.Lstat("/"); kiln.KindOf(err) != kiln.Timeout {
		t.Errorf("the other connection: %v", err)
	}
	gone(t, h)
	if _, err := tree(t, join(t, process, Options{})).Lstat("/"); err != nil {
		t.Errorf("the next helper: %v", err)
	}
}

func gone(t *testing.T, h *Helper) {
	t.Helper()
	select {
	case <-h.done:
	case <-time.After(patience):
		t.Fatal("the helper goes on")
	}
}

// TestIdle: nobody has to end a helper.
func TestIdle(t *testing.T) {
	h := helper(t, t.TempDir(), Options{Idle: 50 * time.Millisecond})
	gone(t, h)
	if _, err := h.Dial(); err == nil || !h.Ended() {
		t.Errorf("dial a helper that ended: %v", err)
	}
}

// TestStarterDies: a helper doesn't outlive who started it.
func TestStarterDies(t *testing.T) {
	h := helper(t, t.TempDir(), Options{})
	tree(t, h)
	if err := h.control.CloseWrite(); err != nil { // as the kernel does for one that died
		t.Fatal(err)
	}
	gone(t, h)
}

// TestClose ends what is under way, with the reason.
func TestClose(t *testing.T) {
	h := helper(t, t.TempDir(), Options{})
	f := tree(t, h)
	if err := h.Close(kiln.Errorf(kiln.Conflict, "the instance was started")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lstat("/"); kiln.KindOf(err) != kiln.Conflict || err.Error() != "the instance was started" {
		t.Errorf("%v", err)
	}
}

// TestConnections bounds them, and gives back what isn't used any more.
func TestConnections(t *testing.T) {
	h := helper(t, t.TempDir(), Options{})
	var all []io.Closer
	for range mostConnections {
		c, err := h.Dial()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if _, err := h.Dial(); kiln.KindOf(err) != kiln.Busy {
		t.Errorf("one more: %v", err)
	}
	for _, c := range all {
		c.Close()
	}
	if _, err := tree(t, h).Lstat("/"); err != nil {
		t.Error(err)
	}
}

// TestPause lets nothing change meanwhile.
func TestPause(t *testing.T) {
	h := helper(t, t.TempDir(), Options{Stall: 400 * time.Millisecond})
	f := tree(t, h)
	resume, err := h.Pause()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.Lstat("/")
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("it went on: %v", err)
	case <-time.After(600 * time.Millisecond): // which isn't a stall
	}
	resume()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzSFTP sends a helper what no client does. It may end the connection, and nothing else.
func FuzzSFTP(f *testing.F) {
	begin := []byte{0, 0, 0, 5, 1, 0, 0, 0, 3}
	f.Add(begin)
	f.Add(append(bytes.Clone(begin), 0, 0, 0, 10, 17, 0, 0, 0, 1, 0, 0, 0, 1, '/'))
	f.Add(append(bytes.Clone(begin), 0, 0, 0, 18, 3, 0, 0, 0, 1, 0, 0, 0, 1, 'f', 0, 0, 0, 26, 0, 0, 0, 0))
	f.Add(append(bytes.Clone(begin), 0, 0, 0, 14, 9, 0, 0, 0, 1, 0, 0, 0, 1, '/', 0xff, 0xff, 0xff, 0xff))
	h := helper(f, f.TempDir(), Options{Idle: time.Hour})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := h.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = c.Write(b)
			_ = c.(*conn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the connection doesn't end: %v", err)
		}
		if _, err := tree(t, h).Lstat("/"); err != nil {
			t.Errorf("the helper: %v", err)
		}
	})
}
