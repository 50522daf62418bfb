package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/db"
)

// silent mounts a file system at a directory that never answers, until end lets all go
// that wait for it: syncs of the whole machine among them.
func silent(t *testing.T, dir string) (end func()) {
	t.Helper()
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("silent", dir, "fuse", 0,
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.Fd())); err != nil {
		t.Fatal(err)
	}
	return func() {
		fuse.Close() // who waits gets an error
		unix.Unmount(dir, unix.MNT_DETACH)
	}
}

// TestCopiesOnDeadMount has the copies of the database on a file system that doesn't
// answer: the daemon works, and ends, without it.
func TestCopiesOnDeadMount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	end(t, open(t, dir)) // a database that is missing is looked for among the copies
	copies := filepath.Join(dir, backupsDir)
	if err := os.MkdirAll(copies, 0o700); err != nil {
		t.Fatal(err)
	}
	let := silent(t, copies)
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
	for at, most := range map[string]int{dir: 1, d.cfg.Dir: 4} { // the database with its log and reserve, and dir
		left, err := os.ReadDir(at)
		if err != nil || len(left) != most {
			t.Errorf("%s has %v (%v)", at, left, err)
		}
	}
}
