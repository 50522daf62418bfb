package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/server"
)

// A session is a user with daemons of their own in this process: "local", and "b" on
// another socket. Instances aren't started.
type session struct {
	t     *testing.T
	dir   string
	there *daemon.Daemon // of the remote "b"
	stdin string         // of the next command
	asked func()         // is called when the next command reads it, if it isn't nil
}

// newSession starts the daemons.
func newSession(t *testing.T) *session {
	t.Helper()
	dir, err := os.MkdirTemp("", "kiln-cli-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	serve(t, a)
	there := serve(t, b)
	for k, v := range map[string]string{"KILN_DIR": a, "KILN_SOCKET": "", "KILN_CONF": filepath.Join(dir, "conf"),
		"XDG_CACHE_HOME": filepath.Join(dir, "cache"), "KILN_REMOTE": "", "KILN_PROJECT": ""} {
		t.Setenv(k, v)
	}
	s := &session{t: t, dir: dir, there: there}
	s.ok("remote add b unix://" + filepath.Join(b, "unix.socket"))
	return s
}

// serve runs a daemon in a directory until the test ends.
func serve(t *testing.T, dir string) *daemon.Daemon {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	d, err := daemon.Open(t.Context(), daemon.Config{Dir: dir, Log: log, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "unix.socket"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := server.New(d, log, cancel)
	network := s.Listeners(ctx)
	if err := d.Listen(ctx, "", network.Listen); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		network.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// run runs a command line: words, in which quotes ' keep spaces together.
func (s *session) run(words string) (out, err string, code int) {
	s.t.Helper()
	var o, e bytes.Buffer
	in := &answers{strings.NewReader(s.stdin), s.asked}
	s.stdin, s.asked = "", nil
	code = Main(s.t.Context(), fields(words), Streams{In: in, Out: &o, Err: &e}, Deps{Version: "1.2"})
	return o.String(), e.String(), code
}

// answers is what a user types.
type answers struct {
	io.Reader
	before func() // is called once, before anything is typed
}

func (a *answers) Read(b []byte) (int, error) {
	if f := a.before; f != nil {
		a.before = nil
		f()
	}
	return a.Reader.Read(b)
}

// fields splits words as a shell does, with quotes ' alone.
func fields(s string) []string {
	var words []string
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

// ok runs a command line that has to work, and gives its output.
func (s *session) ok(words string) string {
	s.t.Helper()
	out, err, code := s.run(words)
	if code != 0 {
		s.t.Fatalf("%s: exit %d\n%s%s", words, code, out, err)
	}
	return out
}

// says runs a command line that has to work and say something.
func (s *session) says(words string, want ...string) {
	s.t.Helper()
	out := s.ok(words)
	for _, w := range want {
		if !strings.Contains(out, w) {
			s.t.Errorf("%s: no %q in %q", words, w, out)
		}
	}
}

// fails runs a command line that has to fail, with an exit code and an error.
func (s *session) fails(words string, code int, want ...string) {
	s.t.Helper()
	out, err, got := s.run(words)
	if got != code || !strings.HasPrefix(err, "kiln: ") && !strings.Contains(err, "\nkiln: ") {
		s.t.Errorf("%s: exit %d, want %d; %q %q", words, got, code, out, err)
	}
	for _, w := range want {
		if !strings.Contains(err, w) {
			s.t.Errorf("%s: no %q in %q", words, w, err)
		}
	}
}

// image imports a small image and gives its fingerprint.
func (s *session) image(seed, flags string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, seed+".tar")
	if err := os.WriteFile(path, formattest.Tiny(s.t, seed), 0o600); err != nil {
		s.t.Fatal(err)
	}
	_, fp, _ := strings.Cut(s.ok("image import "+path+" "+flags), ": ")
	return strings.TrimSpace(fp)
}
