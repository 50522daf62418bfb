package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk/disktest"
)

// TestCopiesOnDeadMount has the copies of the database on a file system that doesn't
// answer: the daemon works, and ends, without it.
func TestCopiesOnDeadMount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	end(t, open(t, dir)) // a database that is missing is looked for among the copies
	copies := filepath.Join(dir, backupsDir)
	if err := os.MkdirAll(copies, 0o700); err != nil {
		t.Fatal(err)
	}
	let := disktest.Silent(t, copies)
	defer let()
	d, err := Open(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test",
		Stall: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CreateProfile(t.Context(), db.Profile{Name: "web"}); err != nil {
		t.Error(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the end of the daemon waits for the file system")
	}
	let()
	d.apart.Wait()
}

// TestCopiesElsewhere has the copies of the database on another file system than the
// database, with what a kill left there.
func TestCopiesElsewhere(t *testing.T) {
	d := &Daemon{cfg: Config{Dir: t.TempDir()}, ctx: t.Context()}
	var err error
	if d.db, err = db.Open(t.Context(), filepath.Join(d.cfg.Dir, databaseFile)); err != nil {
		t.Fatal(err)
	}
	defer d.db.Close()
	dir := filepath.Join(d.cfg.Dir, backupsDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("copies", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(dir, ".new-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.backUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := backups(d.cfg.Dir)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := db.Check(t.Context(), list[0]); err != nil {
		t.Error(err)
	}
	for at, most := range map[string]int{dir: 1, d.cfg.Dir: 5} { // the database, its log, two parts of a reserve, dir
		left, err := os.ReadDir(at)
		if err != nil || len(left) != most {
			t.Errorf("%s has %v (%v)", at, left, err)
		}
	}
}
