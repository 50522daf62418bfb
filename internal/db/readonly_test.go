package db

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

// contents gives the files of a directory, except for what is only in memory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(e.Name(), "-shm") {
			all[e.Name()] = string(b)
		}
	}
	return all
}

// TestCheckChangesNothing looks at a database as a daemon that was killed leaves it, with
// rows that are in the log only, as one that ended leaves it, and at a copy: nothing is
// written, and a copy of each has the rows.
func TestCheckChangesNothing(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	if err := setConfig(t.Context(), d, map[string]string{"key": "value"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	left := filepath.Join(dir, "left ?#%")
	for _, part := range []string{"", "-wal"} {
		b, err := os.ReadFile(filepath.Join(d.dir, "db") + part)
		if err != nil || len(b) == 0 {
			t.Fatal(len(b), err)
		}
		if err := os.WriteFile(left+part, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole := filepath.Join(dir, "whole")
	if err := d.Backup(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	ended := filepath.Join(dir, "ended")
	b, err := os.ReadFile(filepath.Join(d.dir, "db"))
	if err := errors.Join(err, os.WriteFile(ended, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(dir, "closed") // with its log, which is empty
	log, err := os.ReadFile(filepath.Join(d.dir, "db-wal"))
	if err := errors.Join(err, os.WriteFile(closed, b, 0o600), os.WriteFile(closed+"-wal", log, 0o600)); err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	for _, path := range []string{left, whole, ended, closed} {
		if err := Check(t.Context(), path); err != nil {
			t.Error(err)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		if err := Copy(t.Context(), path, copied); err != nil {
			t.Fatal(err)
		}
		if c, err := open(t, copied).Config(t.Context()); err != nil || c["key"] != "value" {
			t.Errorf("the copy of %s: %v, %v", path, c, err)
		}
	}
	if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
		t.Errorf("it has changed: %.2000s", diff)
	}
}

// TestCheckFails tells what is wrong with a file from what is wrong with looking at it.
func TestCheckFails(t *testing.T) {
	dir := t.TempDir()
	whole, empty, torn := filepath.Join(dir, "whole"), filepath.Join(dir, "empty"), filepath.Join(dir, "torn")
	open(t, whole).Close()
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(b); i += 7 {
		b[i] ^= 0x55
	}
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(torn, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		path string
		want kiln.Kind
	}{
		{t.Context(), empty, kiln.Integrity}, {t.Context(), torn, kiln.Integrity},
		{t.Context(), filepath.Join(dir, "none"), kiln.NotFound}, {cancelled, whole, kiln.Cancelled},
		{t.Context(), dir, kiln.Integrity},
	} {
		if err := Check(c.ctx, c.path); err == nil || kiln.KindOf(err) != c.want {
			t.Errorf("%s: %v, want %v", c.path, err, c.want)
		}
	}
}
