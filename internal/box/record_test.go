package box

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
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
