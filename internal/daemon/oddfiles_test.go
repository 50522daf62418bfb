package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestPipes has named pipes in the place of the daemon's files, to which nobody writes:
// nothing waits for that, neither the start nor the end nor what is done between.
func TestPipes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "none"}})
	wait(t, o, err)
	i, err := d.Instance(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	cached(t, d, "a")
	end(t, d)
	var paths []string
	for _, pattern := range []string{"server.crt", "server.key", "server.ca", "ca.crl", databaseFile + "-reserve",
		databaseFile + "-reserve.d", networksFile,
		imagesDir + "/*.json", "volumes/notes/*.json", "volumes/images/*/image.json", "volumes/volumes/*/volume.json",
		"boxes/*/lxc.log", "networks/owner"} {
		list, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 && !strings.Contains(pattern, "*") {
			list = []string{filepath.Join(dir, pattern)}
		}
		paths = append(paths, list...)
	}
	if len(paths) < 9 {
		t.Fatal(paths)
	}
	for _, path := range paths {
		if err := errors.Join(os.RemoveAll(path), unix.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	d = open(t, dir)
	if d.noTLS == nil || !strings.Contains(d.noTLS.Error(), "server.crt") || !strings.Contains(d.noTLS.Error(), "named pipe") {
		t.Errorf("%v", d.noTLS)
	}
	if err := d.instances.Start(t.Context(), "c1"); !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("start: %v", err)
	}
	end(t, d)
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Open(t.Context(), filepath.Join(dir, databaseFile)); err != nil {
		t.Error(err)
	}
	d = open(t, dir)
	defer end(t, d)
	if i, err = d.Instance(t.Context(), "c1"); err != nil || i.Options[instance.UUIDKey] == "" {
		t.Errorf("%+v, %v, %+v", i, err, r)
	}
}

// TestDatabaseIsDirectory: a directory in the place of the database is damage like others,
// and what is in it is kept.
func TestDatabaseIsDirectory(t *testing.T) {
	dir, saved := closed(t, "a")
	path := filepath.Join(dir, databaseFile)
	if err := errors.Join(os.Remove(path), os.MkdirAll(path+"/in/it", 0o700)); err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err == nil {
		d.Close()
	}
	if !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), "kiln admin recover") {
		t.Errorf("start: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, backupsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(string) error{ // the newest two can't be used
		"kiln-29990101.db": func(path string) error { return os.WriteFile(path, []byte(read(t, saved)), 0o600) },
		"kiln-29990102.db": func(path string) error { return os.Mkdir(path, 0o700) },
		"kiln-29990103.db": func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		if err := make(filepath.Join(dir, backupsDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || filepath.Base(r.Backup) != "kiln-29990101.db" {
		t.Fatalf("%+v, %v", r, err)
	}
	list := slices.DeleteFunc(aside(t, dir), func(p string) bool { return strings.HasSuffix(p, "-wal") }) // which stays
	if len(list) != 1 {
		t.Errorf("%v", list)
	} else if _, err := os.Stat(list[0] + "/in/it"); err != nil {
		t.Error(err)
	}
	d = open(t, dir)
	defer end(t, d)
	if _, err := d.Images.Find(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

// TestPipesForDirectories has named pipes in the place of directories, and of what is in
// them: the daemon starts, says what is wrong when it is used, and ends.
func TestPipesForDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	fp := cached(t, d, "a")
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Fingerprint: fp.String()}})
	wait(t, o, err)
	i, err := d.Instance(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.pool.VerifyTree(t.Context(), fp); err != nil {
		t.Fatal(err)
	}
	end(t, d)
	replace := func(patterns ...string) {
		t.Helper()
		for _, pattern := range patterns {
			list, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(list) == 0 && strings.Contains(pattern, "*") {
				t.Fatal(pattern, err)
			}
			if len(list) == 0 {
				list = []string{filepath.Join(dir, pattern)}
			}
			for _, path := range list {
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.RemoveAll(path),
					unix.Mkfifo(path, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	replace("networks/x.json", "proxies/x.json", "boxes/"+i.Options[instance.UUIDKey], "volumes/images/*/meta", "volumes/images/*/rootfs.*")
	d = open(t, dir)
	if err := d.pool.VerifyTree(t.Context(), fp); !errors.Is(err, kiln.Integrity) {
		t.Errorf("verify: %v", err)
	}
	if err := d.instances.Start(t.Context(), "c1"); err == nil {
		t.Error("it starts")
	}
	end(t, d)
	replace("networks", "proxies")
	end(t, open(t, dir))
}
