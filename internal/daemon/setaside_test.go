package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// closed is the directory of a daemon that ended, with one image under an alias, and a
// copy of its database.
func closed(t *testing.T, alias string) (dir, saved string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	fp := cached(t, d, alias)
	if err := d.CreateAlias(t.Context(), kiln.Alias{Name: alias, Target: fp}); err != nil {
		t.Fatal(err)
	}
	saved = filepath.Join(t.TempDir(), "saved.db")
	if err := d.db.Backup(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, saved
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// aside gives the databases that were set aside.
func aside(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, databaseFile+".damaged-*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestRestoreItself names the database itself as the copy to restore, in the ways there
// are: it stays in its place.
func TestRestoreItself(t *testing.T) {
	dir, _ := closed(t, "a")
	path := filepath.Join(dir, databaseFile)
	before, link := read(t, path), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, filepath.Join(dir, "blobs", "..", databaseFile), link} {
		if _, err := RestoreDatabase(t.Context(), dir, name); !errors.Is(err, kiln.Invalid) ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if read(t, path) != before || len(aside(t, dir)) > 0 {
		t.Errorf("the database was touched; aside: %v", aside(t, dir))
	}
}

// TestRestoreTwice restores again and again within a second: every database that was
// there is kept, and one of them can be restored, with what is only in its log.
func TestRestoreTwice(t *testing.T) {
	dir, saved := closed(t, "a")
	path := filepath.Join(dir, databaseFile)
	d, err := db.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.EditConfig(t.Context(), func(map[string]string) (map[string]string, error) {
		return map[string]string{"user.newest": "yes"}, nil
	}); err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{"": read(t, path), "-wal": read(t, path+"-wal")} // as if it were killed
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for part, content := range parts {
		if err := os.WriteFile(path+part, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const times = 3
	for range times {
		if _, err := RestoreDatabase(t.Context(), dir, saved); err != nil {
			t.Fatal(err)
		}
	}
	first := ""
	count := 0
	for _, name := range aside(t, dir) {
		if log, ok := strings.CutSuffix(name, "-wal"); ok {
			first = log
		} else if !strings.HasSuffix(name, "-shm") {
			count++
		}
	}
	if count != times || first == "" || read(t, first) != parts[""] || read(t, first+"-wal") != parts["-wal"] {
		t.Fatalf("kept of %d: %v", times, aside(t, dir))
	}
	if _, err := RestoreDatabase(t.Context(), dir, first); err != nil {
		t.Fatal(err)
	}
	if d, err = db.Open(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if c, err := d.Config(t.Context()); err != nil || c["user.newest"] != "yes" {
		t.Errorf("%v, %v", c, err)
	}
}

// TestRestoreFails names what is no copy: nothing is set aside.
func TestRestoreFails(t *testing.T) {
	dir, _ := closed(t, "a")
	path := filepath.Join(dir, databaseFile)
	before, text := read(t, path), filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("text ", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]kiln.Kind{text: kiln.Integrity, text + ".none": kiln.NotFound, dir: kiln.Integrity} {
		if _, err := RestoreDatabase(t.Context(), dir, name); err == nil || kiln.KindOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if read(t, path) != before || len(aside(t, dir)) > 0 {
		t.Errorf("the database was touched; aside: %v", aside(t, dir))
	}
}

// TestRecoverLooksOnly has the look at the database fail for reasons that say nothing of
// the database: it isn't set aside for that.
func TestRecoverLooksOnly(t *testing.T) {
	dir, _ := closed(t, "a")
	path := filepath.Join(dir, databaseFile)
	before := read(t, path)
	cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Recover(ctx, cfg); kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
	if read(t, path) != before || len(aside(t, dir)) > 0 {
		t.Errorf("cancelled: the database was touched; aside: %v", aside(t, dir))
	}
	// Where a path leads nowhere, nobody can say what is there.
	if err := errors.Join(os.Rename(path, path+".away"), os.Symlink(path, path)); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(t.Context(), cfg); err == nil {
		t.Error("it recovers without a look at the database")
	}
	if len(aside(t, dir)) > 0 {
		t.Errorf("aside: %v", aside(t, dir))
	}
	// And a copy that nobody can read may be the newest all the same.
	if err := errors.Join(os.Remove(path), os.RemoveAll(filepath.Join(dir, backupsDir)),
		os.MkdirAll(filepath.Join(dir, backupsDir), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("kiln-20260102.db", filepath.Join(dir, backupsDir, "kiln-20260102.db")); err != nil {
		t.Fatal(err)
	}
	if r, err := Recover(t.Context(), cfg); err == nil {
		t.Errorf("it recovers without a look at the copy: %+v", r)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a database: %v", err)
	}
}

// TestNoDatabaseWithVolumes has nothing in a directory without a database but one thing
// that a database has named: that is enough not to begin anew.
func TestNoDatabaseWithVolumes(t *testing.T) {
	for sub, named := range map[string]string{"blobs/sha256/ab/x": "blobs/sha256", "volumes/volumes/x": "volumes/volumes",
		"volumes/snapshots/x": "volumes/snapshots"} {
		dir := filepath.Join(t.TempDir(), "kiln")
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
		d, err := Open(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"})
		if err == nil {
			d.Close()
		}
		if !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), "(1 in "+filepath.Join(dir, named)) {
			t.Errorf("%s: %v", sub, err)
		}
		if _, err := os.Stat(filepath.Join(dir, sub)); err != nil {
			t.Error(err)
		}
	}
}
