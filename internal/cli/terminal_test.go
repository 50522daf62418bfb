package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/api"
)

// A pty is a terminal whose other end the test holds.
type pty struct {
	user, program *os.File

	mu    sync.Mutex
	shown bytes.Buffer
	done  chan struct{}
}

// newPTY makes a terminal of some width that collects what it is shown.
func newPTY(t *testing.T, columns uint16) *pty {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(user.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	p := &pty{user: user, program: program, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		b := make([]byte, 4096)
		for {
			n, err := user.Read(b)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.shown.Write(b[:n])
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() { program.Close(); user.Close(); <-p.done })
	return p
}

// text is what was shown so far.
func (p *pty) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown.String()
}

// wait waits until something was shown.
func (p *pty) wait(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(p.text(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q wasn't shown: %q", want, p.text())
		}
	}
}

// tty runs a command line with a terminal.
func (s *session) tty(p *pty, words string) int {
	return Main(s.t.Context(), fields(words), Streams{In: p.program, Out: p.program, Err: p.program}, Deps{})
}

func TestNarrowTerminal(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one 'description=A description that is quite a bit longer than the terminal is wide'")
	for _, columns := range []uint16{40, 80} {
		p := newPTY(t, columns)
		if code := s.tty(p, "image list -c lfds"); code != 0 {
			t.Fatal(code)
		}
		p.wait(t, "one")
		p.wait(t, "…")
		for line := range strings.SplitSeq(strings.ReplaceAll(p.text(), "\r", ""), "\n") {
			if n := len([]rune(line)); n > int(columns) {
				t.Errorf("%d characters on %d: %q", n, columns, line)
			}
		}
	}
	// What isn't a terminal gets all of it.
	s.says("image list -c d", "longer than the terminal is wide")
	p := newPTY(t, 80)
	if code := s.tty(p, "image export one -"); code != 2 {
		t.Error("an image was written to the terminal:", code)
	}
	p.wait(t, "redirect the output")
}

// In an editor, mistakes can be corrected, and what nobody else may overwrite isn't.
func TestEditor(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one os=debian")
	turn := filepath.Join(s.dir, "turn")
	// The first time it leaves a mistake, then it corrects that.
	editor := s.write("editor", "#!/bin/sh\ncp $1 "+turn+".$$\nif [ -e "+turn+" ]; then sed -i s/publik/public/ $1; "+
		"else touch "+turn+"; sed -i 's/public: false/publik: true/' $1; fi\n")
	if err := os.Chmod(editor, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VISUAL", "")
	t.Setenv("EDITOR", editor)
	p := newPTY(t, 80)
	code := make(chan int)
	go func() { code <- s.tty(p, "image edit one") }()
	p.wait(t, `did you mean "public"`)
	p.wait(t, "Press enter")
	if _, err := p.user.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 0 {
		t.Error(got, p.text())
	}
	s.says("image show one", "public: true", "os: debian")
	if seen, err := filepath.Glob(turn + ".*"); len(seen) == 0 || err != nil {
		t.Error("no editor ran", err)
	} else if b, err := os.ReadFile(seen[0]); err != nil || !strings.HasPrefix(string(b), "### ") {
		t.Error("the editor's file doesn't say what it is:", string(b), err)
	}

	t.Setenv("EDITOR", "/nowhere/vi")
	p = newPTY(t, 80)
	if got := s.tty(p, "image edit one"); got == 0 {
		t.Error("an editor that isn't there worked")
	}
	p.wait(t, `run the editor "/nowhere/vi"`)
}

// A bar moves on a terminal, and is gone in the end.
func TestBar(t *testing.T) {
	p := newPTY(t, 100)
	a := &app{Streams: Streams{Out: p.program, Err: p.program}}
	t.Setenv("TERM", "xterm")
	wrap, done := a.progress("Importing x", 1<<20)
	if _, err := io.Copy(io.Discard, wrap(io.LimitReader(zeros{}, 1<<19))); err != nil {
		t.Fatal(err)
	}
	p.wait(t, "Importing x")
	done()
	var b bytes.Buffer
	a = &app{Streams: Streams{Out: &b, Err: &b}}
	wrap, done = a.progress("Importing x", 2_000_000)
	if _, err := io.Copy(io.Discard, wrap(strings.NewReader("x"))); err != nil {
		t.Fatal(err)
	}
	done()
	if b.String() != "Importing x (2.0 MB)\n" {
		t.Errorf("%q", b.String())
	}
	a.quiet = true
	_, done = a.progress("Importing x", -1)
	done()
	if strings.Count(b.String(), "\n") != 1 {
		t.Errorf("--quiet says %q", b.String())
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// On a terminal, values of servers are escaped; in a pipe they are exact.
func TestValues(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("init one c1")
	s.ok("config set c1 'user.x=a\u001b[2Jb'")
	s.says("config get c1 user.x", "a\u001b[2Jb\n")
	for _, words := range []string{"config get c1 user.x", "config show c1", "list c1 -f csv -c n,user.x", "query /1.0/instances/c1",
		"info c1 -f json", "list c1 -c n,user.x"} {
		p := newPTY(t, 200)
		if code := s.tty(p, words); code != 0 {
			t.Fatal(words, code)
		}
		p.wait(t, "[2Jb")
		if strings.Contains(p.text(), "\x1b[2J") {
			t.Errorf("%s: %q", words, p.text())
		}
	}
}

// Monitor shows events until it is interrupted, which is how it ends.
func TestMonitor(t *testing.T) {
	s := newSession(t)
	for at, words := range []string{"monitor --type lifecycle -f json", "monitor --type lifecycle -f yaml",
		"monitor --type lifecycle --pretty --all-projects --loglevel info"} {
		p := newPTY(t, 200)
		ctx, cancel := context.WithCancel(t.Context())
		code := make(chan int)
		go func() {
			code <- Main(ctx, fields(words), Streams{In: p.program, Out: p.program, Err: p.program}, Deps{})
		}()
		for i := 0; !strings.Contains(p.text(), "image-created"); i++ { // it may not listen yet
			s.image(fmt.Sprintf("%d-%d", at, i), "")
			if i > 1000 {
				t.Fatal("no event", p.text())
			}
		}
		cancel()
		if got := <-code; got != 0 {
			t.Error(words, got)
		}
	}
	s.fails("monitor -f csv", 2, "yaml, json or pretty")
}

// TestPrettyEvents has a line of each type of event, of whichever server.
func TestPrettyEvents(t *testing.T) {
	for in, want := range map[string]string{
		`{"type": "lifecycle", "project": "web", "metadata": {"action": "instance-created", "source": "/1.0/instances/c1",
		  "requestor": {"username": "root", "protocol": "unix", "address": "@"}}}`: "lifecycle project=web instance-created " +
			"/1.0/instances/c1 by unix/root (@)",
		`{"type": "operation", "metadata": {"id": "x", "description": "Creating", "status": "Failure", "err": "no"}}`: "operation x " +
			`"Creating" Failure no`,
		`{"type": "logging", "metadata": {"message": "hello", "level": "info", "context": {"b": "2", "a": "1"}}}`: "logging info " +
			"hello a=1 b=2",
		`{"type": "other", "metadata": [1]}`: "other",
	} {
		var e api.Event
		if err := json.Unmarshal([]byte(in), &e); err != nil {
			t.Fatal(err)
		}
		if got, _ := prettyEvent(e); got != "0001-01-01T00:00:00Z "+want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestPromptsEnd presses ctrl-c at each question: nothing is done, the terminal is as it
// was, and the exit code is that of a program that SIGINT ends.
func TestPromptsEnd(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	port := freePort(t)
	s.ok("config set core.https_address 127.0.0.1:" + port)
	s.ok("init one c1")
	s.ok("remote switch b")
	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nprintf nonsense >\"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("EDITOR", editor)
	t.Setenv("VISUAL", "")
	for words, question := range map[string]string{
		"remote add srv 127.0.0.1:" + port:                           "ok (y/n/[fingerprint])? ",
		"remote add srv 127.0.0.1:" + port + " --accept-certificate": "Trust token or password for srv: ",
		"shutdown":                    "which is the default remote (yes/no)? ",
		"config edit local:c1":        "Press enter to edit again",
		"delete -i local:c1 local:c1": "Delete local:c1 (yes/no)? ",
	} {
		p := newPTY(t, 80)
		before, err := unix.IoctlGetTermios(int(p.program.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		code := make(chan int)
		go func() {
			code <- Main(ctx, fields(words), Streams{In: p.program, Out: p.program, Err: p.program}, Deps{})
		}()
		p.wait(t, question)
		cancel() // as the signal does
		if got := <-code; got != 130 || strings.Count(p.text(), question) != 1 {
			t.Errorf("%s: exit %d, %q", words, got, p.text())
		}
		if after, err := unix.IoctlGetTermios(int(p.program.Fd()), unix.TCGETS); err != nil || *after != *before {
			t.Errorf("%s: the terminal is another, %v", words, err)
		}
		p.user.WriteString("\n") // for the read that is left
	}
	s.says("list local: -f csv -c n", "c1\n")
	if list := s.ok("remote list -f csv"); strings.Contains(list, "srv") {
		t.Errorf("the remote is there: %s", list)
	}
}
