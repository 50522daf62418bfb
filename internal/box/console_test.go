package box

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// A screen collects what a console shows.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *screen) wait(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(s.text(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q wasn't shown: %q", want, s.text())
		}
	}
}

// attach shows a console until the test ends.
func attach(t *testing.T, b *Box) (*Console, *screen) {
	t.Helper()
	c, err := b.Console()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, done := &screen{}, make(chan error)
	go func() { done <- c.Follow(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.Close()
	})
	return c, s
}

func typeInto(t *testing.T, c *Console, text string) {
	t.Helper()
	if err := c.Type(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// shell is the init script of a container that obeys its console.
const shell = `echo booted
while read line; do
	case $line in
	size) stty size;;
	reboot) reboot -f;;
	much) yes 0123456789abcdef | head -c 5000000; echo; echo enough;;
	*) echo got $line;;
	esac
done </dev/console >/dev/console 2>&1 &`

func TestConsole(t *testing.T) {
	b := start(t, spec(t, busybox(t, shell)))
	fds := openFiles(t)
	c, s := attach(t, b)
	typeInto(t, c, "one\n")
	s.wait(t, "got one\r\n")
	if err := c.Resize(101, 33); err != nil {
		t.Fatal(err)
	}
	typeInto(t, c, "size\n")
	s.wait(t, "33 101\r\n")
	for _, size := range [][2]int{{0, 1}, {-1, 5}, {70000, 5}} {
		if err := c.Resize(size[0], size[1]); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%v: %v", size, err)
		}
	}
	// Others may look, and all see what was typed.
	c2, s2 := attach(t, b)
	typeInto(t, c2, "two\n")
	s.wait(t, "got two\r\n")
	s2.wait(t, "got two\r\n")
	if strings.Contains(s2.text(), "got one") {
		t.Errorf("what came before was shown: %q", s2.text())
	}
	// The log begins anew when it is full, which nobody notices who looks on.
	typeInto(t, c, "much\n")
	s.wait(t, "enough\r\n")
	typeInto(t, c, "three\n")
	s.wait(t, "got three\r\n")
	var kept int64
	for _, suffix := range []string{"", ".1", ".2"} {
		kept += fileSize(b.ConsoleLog() + suffix)
	}
	if kept == 0 || kept > 3<<20 {
		t.Errorf("%d bytes of log were kept", kept)
	}
	// A reboot, which those who are attached see, too.
	before := b.InitPID()
	typeInto(t, c, "reboot\n")
	if e, err := b.Next(t.Context()); err != nil || e.Kind != Rebooted || b.InitPID() == before {
		t.Fatalf("after reboot: %v, %v", e, err)
	}
	s.wait(t, "booted")
	for !strings.Contains(s.text(), "got four") {
		typeInto(t, c, "four\n") // lost as long as the container reboots
		time.Sleep(50 * time.Millisecond)
	}
	if n := openFiles(t); n > fds+2 { // two logs
		t.Errorf("%d files are open, %d were", n, fds)
	}
}

// A container that doesn't read what is typed, and a client that doesn't read what is
// shown, hold up nobody else.
func TestConsoleStalled(t *testing.T) {
	b := start(t, spec(t, busybox(t, "(while :; do echo 0123456789abcdef; done) >/dev/console &\n"+
		"stty raw -echo </dev/console")))
	c, err := b.Console()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stalled, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Follow(ctx, writer) }()
	typing, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	// As long as the console isn't raw, the kernel throws away what is too much for a line.
	if err := c.Type(typing, bytes.Repeat([]byte("x"), 1<<20)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("typing what nobody reads: %v", err)
	}
	if code, out := run(t, b, sh("echo alive")); code != 0 || !strings.Contains(out, "alive") {
		t.Errorf("exec: %d %q", code, out)
	}
	cancel()
	writer.Close()
	<-done
}

// logIn uses the getty that a distribution has on its console, and leaves it.
func logIn(t *testing.T, b *Box) {
	t.Helper()
	run(t, b, sh("echo root:secret | chpasswd"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := b.Console()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := &screen{}
	done := make(chan error)
	go func() { done <- c.Follow(ctx, s) }()
	for !strings.Contains(s.text(), "login: ") {
		typeInto(t, c, "\n")
		time.Sleep(200 * time.Millisecond)
	}
	typeInto(t, c, "root\n")
	s.wait(t, "assword:")
	typeInto(t, c, "secret\n")
	s.wait(t, "# ")
	typeInto(t, c, "tty; echo $((40+2)) is shown\n")
	s.wait(t, "42 is shown")
	if !strings.Contains(s.text(), "/dev/console") || strings.Contains(s.text(), "secret\r") {
		t.Errorf("on the console: %q", s.text())
	}
	typeInto(t, c, "exit\n")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
