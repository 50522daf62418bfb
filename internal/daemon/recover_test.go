package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestLostDatabase opens a directory whose database is gone, empty or damaged:
// nothing may be removed, and the copy of the day brings all of it back.
func TestLostDatabase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	path, saved := filepath.Join(dir, databaseFile), filepath.Join(dir, backupsDir, "kiln-20260102.db")
	if err := os.MkdirAll(filepath.Dir(saved), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.db.Backup(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*/*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	torn := append([]byte(nil), whole...)
	for i := 4096; i < len(torn); i += 7 {
		torn[i] ^= 0x55
	}
	for name, content := range map[string][]byte{"missing": nil, "empty": {}, "damaged": torn, "not a database": []byte(
		strings.Repeat("text ", 2000))} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if content != nil {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d, err := Open(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"})
		if err == nil {
			d.Close()
		}
		if !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "kiln admin restore-database") {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "blobs/sha256/*/*")); len(left) != len(blobs) {
			t.Fatalf("%s: %d of %d blobs are left", name, len(left), len(blobs))
		}
	}
	if got, err := RestoreDatabase(t.Context(), dir, saved); err != nil || got != saved {
		t.Fatal(got, err)
	}
	d = open(t, dir)
	defer end(t, d)
	if _, err := d.Images.Find(t.Context(), "bb"); err != nil {
		t.Error(err)
	}
}

// TestLostAlone opens a directory without its database, in which are only copies of that, or
// only a storage volume.
func TestLostAlone(t *testing.T) {
	for name, copied := range map[string]bool{"a copy": true, "a volume": false} {
		dir := filepath.Join(t.TempDir(), "kiln")
		d := open(t, dir)
		if !copied {
			if err := d.CreateVolume(t.Context(), "data", volume.CustomState{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(d.Close(), os.RemoveAll(filepath.Join(dir, backupsDir))); err != nil {
			t.Fatal(err)
		}
		if copied {
			at := filepath.Join(dir, backupsDir, "kiln-20260102.db")
			if err := errors.Join(os.Mkdir(filepath.Dir(at), 0o700), db.Copy(t.Context(), filepath.Join(dir, databaseFile),
				at)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Join(dir, databaseFile)); err != nil {
			t.Fatal(err)
		}
		cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"}
		if d, err := Open(t.Context(), cfg); !errors.Is(err, kiln.Integrity) {
			t.Errorf("%s is left: %v", name, err)
			if err == nil {
				end(t, d)
			}
		}
	}
}

// TestBackups makes sure that there is one copy for each day, and not for ever.
func TestBackups(t *testing.T) {
	d := &Daemon{cfg: Config{Dir: t.TempDir()}, ctx: t.Context()} // without the housekeeping, which makes copies too
	var err error
	if d.db, err = db.Open(t.Context(), filepath.Join(d.cfg.Dir, databaseFile)); err != nil {
		t.Fatal(err)
	}
	defer d.db.Close()
	dir := filepath.Join(d.cfg.Dir, backupsDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, day := range []string{"01", "02", "03", "04", "05", "06", "07", "08", "09"} {
		if err := os.WriteFile(filepath.Join(dir, "kiln-200101"+day+".db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.backUp(t.Context()), d.backUp(t.Context())); err != nil {
		t.Fatal(err)
	}
	list, err := backups(d.cfg.Dir)
	if err != nil || len(list) != backupsKept {
		t.Fatal(list, err)
	}
	fi, err := os.Stat(list[0])
	if err != nil || fi.Size() == 0 || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
}

// TestLockRemoved opens a directory twice, with what other daemons locked removed.
func TestLockRemoved(t *testing.T) {
	d := fresh(t)
	os.Remove(filepath.Join(d.cfg.Dir, "lock"))
	second, err := Open(t.Context(), Config{Dir: d.cfg.Dir, Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err == nil {
		second.Close()
	}
	if !errors.Is(err, kiln.Conflict) {
		t.Errorf("a second daemon: %v", err)
	}
}

// TestRecoverNames makes the rows of instances anew: they have their names and
// configuration again, and what is wrong with a record costs no instance.
func TestRecoverNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	if err := d.CreateProfile(t.Context(), db.Profile{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	uuids := map[string]string{}
	for _, name := range []string{"sound", "torn", "strange", "none", "deleted"} {
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "none"},
			Config: instance.Config{Options: map[string]string{"user.a": name}, Profiles: []string{defaultProfile, "web"}}})
		wait(t, o, err)
		i, err := d.Instance(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		uuids[name] = i.Options[instance.UUIDKey]
	}
	if err := d.instances.Rename(t.Context(), "sound", "renamed"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.instances.Update(t.Context(), "renamed", func(i instance.Instance) (instance.Config, error) {
		i.Options["user.b"] = "edited"
		i.Description = "mine"
		return i.Config, nil
	}); err != nil {
		t.Fatal(err)
	}
	o, err := d.DeleteInstance(t.Context(), "deleted")
	wait(t, o, err)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, "volumes/notes", uuids[name]+".json") }
	if _, err := os.Stat(path("deleted")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record of an instance that was deleted: %v", err)
	}
	sound, err := os.ReadFile(path("sound"))
	if err := errors.Join(err, os.WriteFile(path("torn"), sound[:len(sound)/2], 0o600), os.WriteFile(path("strange"), sound,
		0o600), os.Remove(path("none")), os.Remove(filepath.Join(dir, databaseFile))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, backupsDir)); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Instances) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	left := strings.Join(r.Remarks, "\n")
	for _, want := range []string{uuids["torn"] + ".json is damaged", "the record is of the volume", "are not known"} {
		if !strings.Contains(left, want) {
			t.Errorf("nobody says %q:\n%s", want, left)
		}
	}
	d = open(t, dir)
	defer end(t, d)
	list, err := d.Instances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if i.Status != instance.Stopped || i.Name != "renamed" && !strings.HasPrefix(i.Name, "recovered-") {
			t.Errorf("%s is %s: %s", i.Name, i.Status, i.Problem)
		}
		if i.Name == "renamed" && (i.Options["user.a"] != "sound" || i.Options["user.b"] != "edited" ||
			i.Description != "mine" || i.Options[instance.UUIDKey] != uuids["sound"]) {
			t.Errorf("%+v", i)
		}
	}
	// The records are whole again, for the next time.
	if err := d.instances.SaveRecords(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, uuid := range uuids {
		if _, err := instance.Recorded(d.pool, uuid); name != "deleted" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := filepath.Glob(filepath.Join(dir, "volumes/notes/*.json")); err != nil || len(list) != 4 {
		t.Errorf("records: %v, %v", list, err)
	}
}

// TestRecoverTakenName brings back an instance whose name another one has.
func TestRecoverTakenName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	var uuid string
	for _, name := range []string{"one", "two"} {
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
		i, err := d.Instance(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		uuid = i.Options[instance.UUIDKey]
	}
	if err := errors.Join(d.instances.SaveRecords(t.Context()),
		d.db.DeleteInstance(t.Context(), "two"), d.db.RenameInstance(t.Context(), "one", "two"),
		d.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Instances) != 1 || r.Instances[0] != "recovered-"+uuid[:8] ||
		!strings.Contains(strings.Join(r.Remarks, "\n"), `the name "two" is that of another instance`) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestWrongDirectory repairs what no daemon ever used: the error says so, and nothing is
// made there.
func TestWrongDirectory(t *testing.T) {
	for name, dir := range map[string]string{"empty": t.TempDir(), "missing": filepath.Join(t.TempDir(), "x")} {
		_, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		_, rerr := RestoreDatabase(t.Context(), dir, "")
		_, lerr := ListLost(t.Context(), dir)
		_, derr := DropLost(t.Context(), dir, "something")
		for _, err := range []error{err, rerr, lerr, derr} {
			if !errors.Is(err, kiln.NotFound) || !strings.Contains(err.Error(), "no kiln directory") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if list, err := os.ReadDir(dir); len(list) > 0 {
			t.Errorf("%s: %v %v", name, list, err)
		}
	}
}

// TestOddDirectory has a data directory whose name is a pattern: its files are found all
// the same, so a database that is missing is noticed, and a copy of it found.
func TestOddDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[a-z] *?{x}")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	for day := range backupsKept + 2 {
		if err := d.copyDatabase(t.Context(), fmt.Sprintf("209901%02d", day+1)); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := backups(dir); err != nil || len(list) != backupsKept {
		t.Errorf("%q, %v", list, err)
	}
	end(t, d)
	for _, name := range []string{databaseFile, databaseFile + "-wal", databaseFile + "-shm"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"}
	if d, err := Open(t.Context(), cfg); !errors.Is(err, kiln.Integrity) {
		t.Errorf("without its database: %v", err)
		if err == nil {
			end(t, d)
		}
	}
	if _, err := RestoreDatabase(t.Context(), dir, ""); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	if _, err := d.Images.Alias(t.Context(), "bb"); err != nil {
		t.Error(err)
	}
	end(t, d)
}

// TestRecoverKeepsWhatItCantRead: a database that can't be read now isn't taken for a damaged one.
func TestRecoverKeepsWhatItCantRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	end(t, open(t, dir))
	v := &recoverer{Daemon: &Daemon{cfg: Config{Dir: dir}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if path, err := v.database(ctx); !errors.Is(err, context.Canceled) || v.overrule ||
		path != filepath.Join(dir, databaseFile) {
		t.Errorf("%q, %v, and records count more: %v", path, err, v.overrule)
	}
	if _, err := os.Lstat(filepath.Join(dir, databaseFile+"-reserve")); err != nil {
		t.Error(err)
	}
}
