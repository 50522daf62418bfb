package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain runs the process of a device.
func TestMain(m *testing.M) {
	if os.Args[0] == DeviceProgram {
		if err := DeviceMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// trap starts a process that serves the file system of a directory, in a mount namespace of
// its own, and doesn't answer, and writes it down as the init of a box.
func trap(t *testing.T) (box, dir string, cmd *exec.Cmd) {
	t.Helper()
	work := t.TempDir()
	program, dir := work+"/trap", work+"/at"
	build := exec.Command("go", "build", "-o", program, "../box/testdata/trap")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(program, "/dev/fuse", work+"/traps", dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "the trap is set", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root%s/traps/set", cmd.Process.Pid, work))
		return err == nil
	})
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[22-3]
	record := fmt.Sprintf(`{"ID":"trap","Init":{"PID":%d,"Start":%s}}`, cmd.Process.Pid, start)
	if err := os.WriteFile(work+"/box.json", []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	return work, dir, cmd
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

// deaf gives an address that doesn't answer who connects: its queue is full.
func deaf(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err := errors.Join(err, unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	for { // the kernel takes one more than was asked for
		c, err := net.DialTimeout("tcp", at.String(), 300*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
}

// TestBeside has a device whose instance doesn't answer a look-up, and one whose other end
// doesn't answer: others come, go, and take their addresses meanwhile.
func TestBeside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("namespaces are joined by root: run the tests as root")
	}
	box, dir, cmd := trap(t)
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0") // for its number
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	proxy := func(serial string, listen string, connect string, inside bool) Proxy {
		p := Proxy{Box: box, Serial: serial, Device: Device{Inside: inside, Mode: 0o644}}
		var err, cerr error
		p.Listen, err = ParseAddress(listen)
		p.Connect, cerr = ParseAddress(connect)
		if err := errors.Join(err, cerr); err != nil {
			t.Fatal(err)
		}
		return p
	}
	d := proxyd{devices: map[string]*device{}, leaving: map[*device]bool{}, said: map[string]string{}}
	answer := func(name, serial string) (text string) {
		eventually(t, name+" "+serial+" is answered", func() bool {
			var st status
			b, err := root.ReadFile(name + statusEx)
			text = ""
			if err != nil || json.Unmarshal(b, &st) != nil || st.Serial != serial {
				return false
			}
			text = st.Error
			return true
		})
		return text
	}
	stuck := proxy("1", "unix:"+dir+"/x/s", "tcp:127.0.0.1:1", true)
	silent := proxy("2", "tcp:"+at, "tcp:"+deaf(t).String(), false)
	d.update(root, map[string]Proxy{"stuck": stuck, "silent": silent})
	if text := answer("silent", "2"); text != "" {
		t.Fatal(text)
	}
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	// The address is another's now, of the one whose connection is under way.
	d.update(root, map[string]Proxy{"stuck": stuck, "next": proxy("3", "tcp:"+at, "unix:/nowhere", false)})
	if text := answer("next", "3"); text != "" {
		t.Error(text)
	}
	_ = c.SetReadDeadline(time.Now().Add(dialTime / 2)) // before the kernel would give up
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("the connection of a device that was removed: %v", err)
	}
	if text := answer("stuck", "1"); !strings.Contains(text, "did not answer") {
		t.Errorf("of a path that nobody can look up: %q", text)
	}
	if err := root.Mkdir("full"+statusEx+".new", 0o700); err != nil { // it can't be written
		t.Fatal(err)
	}
	full := map[string]Proxy{"stuck": stuck, "full": proxy("4", "tcp:192.0.2.1:1", "unix:/nowhere", false)}
	d.update(root, full)
	d.mu.Lock()
	tried := d.devices["full"]
	d.mu.Unlock()
	eventually(t, "it can't listen", tried.ended)
	if err := root.Remove("full" + statusEx + ".new"); err != nil {
		t.Fatal(err)
	}
	d.update(root, full)
	if text := answer("full", "4"); text == "" {
		t.Error("it listens at an address that isn't of this host")
	}
	before := d.devices["stuck"]
	d.update(root, map[string]Proxy{"stuck": stuck})
	if d.devices["stuck"] != before {
		t.Error("it is tried again while its process waits in the kernel")
	}
	d.end()
	if c, err := net.Dial("tcp", at); err == nil {
		c.Close()
		t.Error("it listens after the end")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process of the device is gone", before.ended)
}

// TestApartIsKilled has a device's process that doesn't end when it is asked to: it is made to.
func TestApartIsKilled(t *testing.T) {
	box, _, _ := trap(t)
	p := Proxy{Box: box, Device: Device{Inside: true, Mode: 0o600}}
	p.Listen, _ = ParseAddress("unix:" + filepath.Join(t.TempDir(), "socket"))
	p.Connect, _ = ParseAddress("tcp:127.0.0.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listens := make(chan struct{})
	type end struct {
		gone <-chan struct{}
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		gone, err := carryApart(ctx, p, func() { close(listens) })
		ended <- end{gone, err}
	}()
	select {
	case <-listens:
	case e := <-ended:
		t.Fatal(e.err)
	}
	stopped := 0
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for word := range strings.FieldsSeq(string(b)) {
			if b, _ := os.ReadFile("/proc/" + word + "/cmdline"); !strings.HasPrefix(string(b), DeviceProgram) {
				continue
			}
			pid, err := strconv.Atoi(word)
			if err == nil {
				err = unix.Kill(pid, unix.SIGSTOP)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Kill(pid, unix.SIGKILL)
			stopped++
		}
	}
	if stopped != 1 {
		t.Fatalf("%d processes of the device", stopped)
	}
	cancel()
	e := <-ended
	if e.err != nil {
		t.Error(e.err)
	}
	select {
	case <-e.gone:
	case <-time.After(30 * time.Second):
		t.Error("it is there yet")
	}
}

// TestApart has a device with a process of its own carry something, at a path in the instance.
func TestApart(t *testing.T) {
	box, _, _ := trap(t)
	path := filepath.Join(t.TempDir(), "socket")
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	p := Proxy{Box: box, Device: Device{Inside: true, Mode: 0o600}}
	p.Listen, _ = ParseAddress("unix:" + path)
	p.Connect, _ = ParseAddress("tcp:" + echo.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listens := make(chan struct{})
	var gone <-chan struct{}
	done := make(chan error)
	go func() {
		var err error
		gone, err = carryApart(ctx, p, func() { close(listens) })
		done <- err
	}()
	select {
	case <-listens:
	case err := <-done:
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.UnixConn).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := carryApart(ctx, p, func() {}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second one at the same path: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-gone
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
}

// TestRefused has proxyd not start: the device isn't there then, for whoever asks next.
func TestRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "proxies")
	if err := os.MkdirAll(filepath.Join(dir, "proxyd.log"), 0o755); err != nil { // it can't write that
		t.Fatal(err)
	}
	d := Directory{Path: dir, Version: "1"}
	for _, nat := range []bool{false, true} {
		p := Proxy{Instance: "7a9e9ee8-1111-4444-8888-000000000000", Name: "web", Box: t.TempDir()}
		p.NAT = nat
		err := d.Open(t.Context(), p)
		if left := d.Proxies(); err == nil || len(left) > 0 {
			t.Errorf("NAT %v: %v; left: %v", nat, err, left)
		}
	}
}

// TestUpdate has a proxy wait for the address of one that leaves, and begin anew when it is
// another one, or its container is. What nftables carry isn't carried here.
func TestUpdate(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	box := t.TempDir()
	boot := func() { // of its container
		t.Helper()
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		start := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[22-3]
		record := fmt.Sprintf(`{"ID":"c","Init":{"PID":%d,"Start":%s}}`, cmd.Process.Pid, start)
		if err := os.WriteFile(box+"/box.json", []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	boot()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := Proxy{Box: box, Serial: "1"}
	p.Listen, _ = ParseAddress("tcp:" + l.Addr().String())
	p.Connect, _ = ParseAddress("unix:/nowhere")
	nat := p
	nat.NAT = true

	leaves := &device{done: make(chan struct{})} // it has the address, still
	d := proxyd{devices: map[string]*device{}, leaving: map[*device]bool{leaves: true}, said: map[string]string{}}
	update := func(p Proxy) *device {
		d.update(root, map[string]Proxy{"web": p, "nat": nat})
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.devices["nat"] != nil {
			t.Error("one with nat=true has sockets")
		}
		return d.devices["web"]
	}
	first := update(p)
	defer d.end()
	time.Sleep(50 * time.Millisecond) // it has tried, unless this is slow
	l.Close()
	listens := func(serial string) {
		t.Helper()
		eventually(t, "it listens", func() bool {
			b, err := root.ReadFile("web" + statusEx)
			return err == nil && string(b) == `{"Serial":"`+serial+`","Error":""}`
		})
	}
	listens("1")
	close(leaves.done)
	if update(p) != first {
		t.Error("it began anew without a reason")
	}
	p.Serial = "2"
	second := update(p)
	if second == first || !eventuallyEnded(first) {
		t.Error("another one didn't take its place")
	}
	listens("2")
	boot()
	if third := update(p); third == second || !eventuallyEnded(second) {
		t.Error("it didn't begin anew when its container did")
	}
}

// eventuallyEnded waits until a device listens no more.
func eventuallyEnded(d *device) bool {
	select {
	case <-d.done:
		return true
	case <-time.After(30 * time.Second):
		return false
	}
}
