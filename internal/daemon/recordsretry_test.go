package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/db"
)

// TestRecordsAreTriedAgain: what could not be written is written the next time, though
// its row hasn't changed since.
func TestRecordsAreTriedAgain(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "1")
	dir, aside := filepath.Join(d.cfg.Dir, imagesDir), filepath.Join(d.cfg.Dir, "aside")
	path := filepath.Join(dir, fp.String()+".json")
	there(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// With notes of its own, so that who writes beside it has nothing to do with that.
	own := &Daemon{cfg: d.cfg, db: d.db, Images: d.Images, instances: d.instances, stale: stale{images: map[db.Image]bool{
		{Project: "default", Fingerprint: fp}: true}}}
	if err := own.saveRecords(t.Context()); err == nil {
		t.Error("a record is written into a file")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	if err := own.saveRecords(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestRecordsComeBack: records that are gone are there again after a start.
func TestRecordsComeBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	defer func() { end(t, d) }()
	fp := cached(t, d, "1")
	create(t, d, "c1", fp)
	image := filepath.Join(dir, imagesDir, fp.String()+".json")
	there(t, image)
	var notes []string
	for deadline := time.Now().Add(30 * time.Second); len(notes) == 0; time.Sleep(5 * time.Millisecond) {
		if notes, _ = filepath.Glob(filepath.Join(dir, "volumes", "notes", "*.json")); time.Now().After(deadline) {
			t.Fatal("the instance has no record")
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{image, notes[0]} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	d = open(t, dir)
	there(t, image)
	there(t, notes[0])
}

// there waits for a file that appears soon.
func there(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestAsideNameWithLog: the log of a database that was set aside, which is left alone,
// isn't taken for that of another.
func TestAsideNameWithLog(t *testing.T) {
	dir, _ := closed(t, "a")
	path := filepath.Join(dir, databaseFile)
	logs := map[string]bool{} // of each second in which it may happen
	for n := range 20 {
		at := time.Now().UTC().Add(time.Duration(n) * time.Second).Format("20060102T150405")
		log := path + ".damaged-" + at + "-wal"
		logs[log] = true
		if err := os.WriteFile(log, []byte("foreign"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := setDatabaseAside(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range aside(t, dir) {
		if !logs[name] && logs[name+"-wal"] {
			t.Errorf("%s has the log of another", name)
		}
	}
	if len(aside(t, dir)) <= len(logs) {
		t.Error("the database isn't there")
	}
}
