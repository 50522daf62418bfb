package box

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestRecordLost has the record of a container that runs damaged in every way: who opens
// it next finds the same container, as it was.
func TestRecordLost(t *testing.T) {
	s := spec(t, busybox(t, ""))
	s.Dir = filepath.Join(filepath.Dir(s.Dir), s.ID)
	b := start(t, s)
	path := filepath.Join(b.dir, stateFile)
	for name, damage := range map[string]func() error{
		"gone":      func() error { return os.Remove(path) },
		"empty":     func() error { return os.Truncate(path, 0) },
		"random":    func() error { return os.WriteFile(path, []byte("\x00\xff{"), 0o600) },
		"policy":    func() error { return os.Truncate(filepath.Join(b.dir, seccompFile), 0) },
		"no policy": func() error { return os.Remove(filepath.Join(b.dir, seccompFile)) },
		"directory": func() error { return errors.Join(os.Remove(path), os.MkdirAll(path+"/x", 0o700)) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		next, err := Open(b.dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(next.state, b.state) {
			t.Errorf("%s: %+v, want %+v", name, next.state, b.state)
		}
		if code, out := run(t, next, sh("hostname")); code != 0 || out != "guest\n" {
			t.Errorf("%s: %d %q", name, code, out)
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCopiedDirectory: the container is the original's, and who opens a copy of its box
// neither has it nor ends it. A box that was moved is the same one.
func TestCopiedDirectory(t *testing.T) {
	s := spec(t, busybox(t, ""))
	b, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	for _, lost := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), s.ID)
		if out, err := exec.Command("cp", "-a", s.Dir, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if lost {
			if err := os.Remove(filepath.Join(dir, stateFile)); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := Open(dir); !errors.Is(err, kiln.NotFound) {
			t.Errorf("a copy, its record lost: %v: %+v, %v", lost, c, err)
		}
		two := s
		two.Dir = dir
		if _, err := Start(t.Context(), two); !errors.Is(err, kiln.Conflict) {
			t.Errorf("start of a copy: %v", err)
		}
	}
	moved := filepath.Join(filepath.Dir(s.Dir), s.ID)
	if err := os.Rename(s.Dir, moved); err != nil {
		t.Fatal(err)
	}
	again, err := Open(moved)
	if err != nil {
		t.Fatal(err)
	}
	if code, out := run(t, again, sh("hostname")); code != 0 || out != "guest\n" {
		t.Errorf("in a box that was moved: %d %q", code, out)
	}
	run(t, again, sh("reboot -f & sleep 10"))
	if e, err := again.Next(t.Context()); err != nil || e.Kind != Rebooted {
		t.Errorf("a reboot in a box that was moved: %v, %v", e, err)
	}
	eventually(t, "init runs its table",
		func() bool { _, out := run(t, again, sh("ps")); return strings.Contains(out, "sleep 100000") })
	if err := errors.Join(again.Close(), os.Remove(filepath.Join(moved, stateFile))); err != nil {
		t.Fatal(err)
	}
	if again, err = Open(moved); err != nil { // found by its cgroups
		t.Fatal(err)
	}
	end(t, again)
}

// TestLinkInTheWay: what a monitor made in the place of the link doesn't keep a container
// from being started.
func TestLinkInTheWay(t *testing.T) {
	s := spec(t, busybox(t, ""))
	link := linkTo(s.ID)
	if err := errors.Join(os.MkdirAll(link, 0o700), os.WriteFile(link+"/lxc.log", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	start(t, s)
}

// TestPipeInTheWay has named pipes where a box's directory and its record are: nobody waits
// for them.
func TestPipeInTheWay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if err := unix.Mkfifo(dir, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, kiln.NotFound) {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700),
		unix.Mkfifo(filepath.Join(dir, stateFile), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, kiln.NotFound) {
		t.Error(err)
	}
}

// TestPipesForLogs has named pipes where liblxc writes its log and the console's: a start
// makes files of them.
func TestPipesForLogs(t *testing.T) {
	s := spec(t, busybox(t, ""))
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{logFile, consoleFile} {
		if err := unix.Mkfifo(filepath.Join(s.Dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, s)
	for _, name := range []string{logFile, consoleFile} {
		if fi, err := os.Stat(filepath.Join(s.Dir, name)); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
}
