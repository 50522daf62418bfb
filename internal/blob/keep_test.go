package blob

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestKeep puts a blob away for good: no sweep removes it, until somebody does.
func TestKeep(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fp, err := d.Put(strings.NewReader("content"), kiln.Fingerprint{})
	if err := errors.Join(err, d.Keep(fp)); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * LostTime)
	if err := errors.Join(os.Chtimes(filepath.Join(d.path, "lost", fp.String()), old, old), d.SweepLost()); err != nil {
		t.Fatal(err)
	}
	if _, size, kept, err := d.StatLost(fp); err != nil || size != 7 || !kept {
		t.Errorf("%d bytes, kept %v, %v", size, kept, err)
	}
	if err := d.Find(fp); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(d.path, "lost")); err != nil || len(left) != 0 {
		t.Errorf("after it came back: %v, %v", left, err)
	}
	if err := errors.Join(d.Keep(fp), d.DropLost(fp)); err != nil {
		t.Error(err)
	}
	if err := d.DropLost(fp); !errors.Is(err, kiln.NotFound) {
		t.Errorf("twice: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(d.path, "lost")); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestMarkGoes: a blob that was kept once, is imported again and is put away by itself
// goes some day, whatever was left of the mark.
func TestMarkGoes(t *testing.T) {
	for what, before := range map[string]func(*Dir, kiln.Fingerprint) error{
		"kept":      (*Dir).Keep,
		"only mark": func(d *Dir, fp kiln.Fingerprint) error { return errors.Join(d.Keep(fp), d.Find(fp), d.mark(fp)) },
	} {
		d, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		fp, err := d.Put(strings.NewReader("content"), kiln.Fingerprint{})
		if err := errors.Join(err, before(d, fp)); err != nil {
			t.Fatal(err)
		}
		_, err = d.Put(strings.NewReader("content"), kiln.Fingerprint{})
		if err := errors.Join(err, d.lose(fp)); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-2 * LostTime)
		err = os.Chtimes(filepath.Join(d.path, "lost", fp.String()), old, old)
		if err := errors.Join(err, d.SweepLost()); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Join(d.path, "lost")); err != nil || len(left) != 0 {
			t.Errorf("%s: %v, %v", what, left, err)
		}
	}
}

// mark has the mark of a blob in lost/ without the blob.
func (d *Dir) mark(fp kiln.Fingerprint) error {
	return os.WriteFile(filepath.Join(d.path, "lost", fp.String()+keepMark), nil, 0o600)
}

// TestKeepNeedsMark: a blob whose mark can't be written stays where it is, or it would be
// swept.
func TestKeepNeedsMark(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fp, err := d.Put(strings.NewReader("content"), kiln.Fingerprint{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(d.path, "lost", fp.String()+keepMark, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Keep(fp); err == nil {
		t.Error("it is kept without a mark")
	}
	if _, err := d.Stat(fp); err != nil {
		t.Errorf("it was put away: %v", err)
	}
}
