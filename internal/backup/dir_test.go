package backup_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/disk"
)

func TestDir(t *testing.T) {
	root := filepath.Join(t.TempDir(), "exports")
	d, err := backup.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	a, b := uuid.NewString(), uuid.NewString()
	begin := time.Unix(1e9, 0).UTC()
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
	}
	names := func(of string) (list []string) {
		t.Helper()
		all, err := d.List(of)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			list = append(list, b.Name)
		}
		return list
	}
	same := func(of string, want ...string) {
		t.Helper()
		if got := names(of); !slices.Equal(got, want) {
			t.Errorf("backups %q, want %q", got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(err error, k kiln.Kind) {
		t.Helper()
		if !errors.Is(err, k) {
			t.Errorf("error %v, want %s", err, k)
		}
	}

	must(d.Create(a, backup.Stored{Name: "later", CreatedAt: begin.Add(time.Hour), ExpiresAt: begin.Add(2 * time.Hour)},
		text("one")))
	must(d.Create(a, backup.Stored{Name: "first", CreatedAt: begin, Only: true}, text("three")))
	must(d.Create(b, backup.Stored{Name: "first", CreatedAt: begin}, text("x")))
	is(d.Create(a, backup.Stored{Name: "first"}, text("y")), kiln.Conflict)
	broken := errors.New("broken")
	if err := d.Create(a, backup.Stored{Name: "half"}, func(w io.Writer) error {
		return errors.Join(text("half")(w), broken)
	}); !errors.Is(err, broken) {
		t.Error(err)
	}
	same(a, "first", "later")
	if got, err := d.Get(a, "first"); err != nil || got.Size != 5 || !got.Only || !got.CreatedAt.Equal(begin) {
		t.Errorf("%+v %v", got, err)
	}
	for _, name := range []string{"none", "..", "a/b", ""} {
		_, err := d.Open(a, name)
		is(err, kiln.NotFound)
		is(d.Delete(a, name), kiln.NotFound)
	}
	is(d.Delete("..", "exports"), kiln.NotFound)
	is(d.Rename(a, "later", "first"), kiln.Conflict)
	is(d.Rename(a, "none", "other"), kiln.NotFound)
	must(d.Rename(a, "later", "last"))
	same(a, "first", "last")

	// Who died in the middle leaves nothing that is seen.
	must(os.MkdirAll(filepath.Join(root, ".new-1", "it"), 0o700))
	d, err = backup.OpenDir(root)
	must(err)
	if _, err := os.Stat(filepath.Join(root, ".new-1")); !errors.Is(err, os.ErrNotExist) {
		t.Error("what wasn't finished stays")
	}

	// What has expired goes; and what nobody knows, after a while.
	week := 7 * 24 * time.Hour
	only := func(who string) func(string) bool { return func(of string) bool { return of == who } }
	must(d.Sweep(begin.Add(90*time.Minute), only(a), week))
	same(a, "first", "last")
	must(d.Sweep(begin.Add(2*time.Hour), only(a), week))
	same(a, "first")
	same(b, "first")
	// The while begins when nobody is known any more, and again after somebody was.
	must(d.Sweep(begin.Add(week), func(string) bool { return true }, week))
	must(d.Sweep(begin.Add(4*week), only(a), week))
	must(d.Sweep(begin.Add(5*week), only(a), week))
	same(a, "first")
	same(b, "first")
	must(d.Sweep(begin.Add(5*week+time.Second), only(a), week))
	same(a, "first")
	same(b)
	// Of a mark from when the clock wasn't set, the while begins when it is.
	must(d.Create(b, backup.Stored{Name: "first"}, func(io.Writer) error { return nil }))
	must(d.Sweep(time.Unix(5, 0), only(a), week))
	set := time.Now()
	must(d.Sweep(set, only(a), week))
	must(d.Sweep(set.Add(week), only(a), week))
	same(b, "first")
	must(d.Sweep(set.Add(week+time.Second), only(a), week))
	same(b)
	for _, odd := range []string{"", ".", a + "/first/.."} {
		must(d.DeleteAll(odd))
		same(a, "first")
	}
	// Of who has none, no directory stays, and nobody is waited for.
	must(d.Create(b, backup.Stored{Name: "last"}, func(io.Writer) error { return nil }))
	must(d.Sweep(begin.Add(6*week), only(a), week))
	same(b, "last")
	must(d.Delete(b, "last"))
	must(d.Sweep(begin.Add(6*week), only(a), week))
	if _, err := os.Stat(filepath.Join(root, b)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty directory stays: %v", err)
	}
	must(d.DeleteAll(a))
	must(d.DeleteAll(a))
	all, err := d.All()
	if len(all) != 0 || err != nil {
		t.Errorf("%v %v", all, err)
	}
}

// TestOddEntries has something else than a directory where somebody's backups are: it hides
// nobody else's, and nothing waits for it.
func TestOddEntries(t *testing.T) {
	root := filepath.Join(t.TempDir(), "exports")
	d, err := backup.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	good, file, pipe, loop := uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()
	if err := errors.Join(
		d.Create(good, backup.Stored{Name: "one"}, func(w io.Writer) error { _, err := io.WriteString(w, "x"); return err }),
		os.WriteFile(filepath.Join(root, file), nil, 0o600), unix.Mkfifo(filepath.Join(root, pipe), 0o600),
		os.Symlink(loop, filepath.Join(root, loop))); err != nil {
		t.Fatal(err)
	}
	all, err := d.All()
	if err != nil || len(all) != 1 || len(all[good]) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := d.List(pipe); err == nil {
		t.Error("what is wrong isn't said")
	}
	if err := d.Sweep(time.Now(), func(string) bool { return true }, time.Hour); err != nil {
		t.Error(err)
	}
	for _, of := range []string{file, pipe, loop} {
		if _, err := os.Lstat(filepath.Join(root, of)); err != nil {
			t.Errorf("it isn't ours: %v", err)
		}
	}
}

// TestCreateWhileSwept has a sweep remove the empty directory of a backup that is about to get
// its name there.
func TestCreateWhileSwept(t *testing.T) {
	root := filepath.Join(t.TempDir(), "exports")
	d, err := backup.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	of, swept := uuid.NewString(), 0
	stop := disk.Record(func(s disk.Step) {
		if s.Kind == disk.SyncedDir && s.Path == root && swept < 2 && os.Remove(filepath.Join(root, of)) == nil {
			swept++
		}
	})
	defer stop()
	err = d.Create(of, backup.Stored{Name: "b"}, func(w io.Writer) error { return nil })
	if list, lerr := d.List(of); err != nil || lerr != nil || len(list) != 1 || swept != 2 {
		t.Errorf("%v, %v, %v after %d", list, err, lerr, swept)
	}
}
