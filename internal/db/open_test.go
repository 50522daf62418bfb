package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestPrivate is for the secrets in the configuration of instances, which every
// user of the host could read otherwise.
func TestPrivate(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	if err := setConfig(t.Context(), d, map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 { // with the log and both parts of the reserve
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if fi, err := f.Info(); err != nil || fi.Mode() != 0o600 && fi.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", f.Name(), fi.Mode(), err)
		}
	}
}

func TestOddPath(t *testing.T) {
	for _, name := range []string{"a?mode=memory", "a%20b", "a#b", "a b", "ä"} {
		path := filepath.Join(t.TempDir(), name)
		d := open(t, path)
		if err := setConfig(t.Context(), d, map[string]string{"a": "b"}); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Size() == 0 && fileSize(path+"-wal") == 0 {
			t.Errorf("%q is not the file: %v", name, err)
		}
	}
}

func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign")
	other, err := sql.Open("sqlite3", foreign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(`CREATE TABLE bookmarks (url TEXT)`); err != nil {
		t.Fatal(err)
	}
	other.Close()
	newer := filepath.Join(dir, "newer")
	d := open(t, newer)
	if _, err := d.write.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`); err != nil {
		t.Fatal(err)
	}
	d.Close()
	for _, c := range []struct {
		path, text string
		kind       kiln.Kind
	}{
		{garbage, "not a database", kiln.Integrity},
		{foreign, "another program", kiln.Integrity},
		{newer, "tables have version 9999, this kiln knows up to ", kiln.Unsupported},
		{filepath.Join(dir, "none", "db"), "no such file", kiln.NotFound},
		{dir, "is a directory", kiln.Integrity},
	} {
		d, err := Open(t.Context(), c.path)
		if err == nil {
			d.Close()
			t.Fatalf("%s opens", c.path)
		}
		if kiln.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %v (%s)", c.path, err, kiln.KindOf(err))
		}
	}
}

func TestTx(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	add := func(ctx context.Context, tx *Tx) error {
		return tx.CreateImage(ctx, kiln.Image{Fingerprint: kiln.Fingerprint{1}})
	}
	failed := errors.New("no")
	if err := d.Tx(t.Context(), func(tx *Tx) error {
		return errors.Join(add(t.Context(), tx), failed)
	}); !errors.Is(err, failed) {
		t.Errorf("an error of f: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Tx(ctx, func(tx *Tx) error {
		defer cancel()
		return add(ctx, tx)
	})
	if kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
	func() {
		defer func() { recover() }()
		d.Tx(t.Context(), func(tx *Tx) error {
			if err := add(t.Context(), tx); err != nil {
				t.Error(err)
			}
			panic("a bug")
		})
	}()
	if list, err := d.Images(t.Context(), ImageQuery{}); len(list) != 0 || err != nil {
		t.Errorf("left of what was undone: %v, %v", list, err)
	}
	// The writer is free again.
	if err := d.Tx(t.Context(), func(tx *Tx) error { return add(t.Context(), tx) }); err != nil {
		t.Error(err)
	}
	if _, err := d.Images(ctx, ImageQuery{}); kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("a read that was cancelled: %v", err)
	}
}

// TestPowerLoss opens what the disk would have after a loss of power at any
// moment: the log up to some byte. Transactions are there whole, in order, and
// all of them when the log is whole.
func TestPowerLoss(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	d := open(t, path)
	const count = 5
	var synced []int64 // length of the log after each
	for n := range count {
		err := d.Tx(t.Context(), func(tx *Tx) error { return createImage(t.Context(), tx, n) })
		if err != nil {
			t.Fatal(err)
		}
		synced = append(synced, fileSize(path+"-wal"))
	}
	main, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wal, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	start := synced[0] - 1
	for cut := start; cut <= int64(len(wal)); cut += min(1789, max(1, int64(len(wal))-cut)) {
		after := filepath.Join(t.TempDir(), "db")
		if err := errors.Join(os.WriteFile(after, main, 0o600), os.WriteFile(after+"-wal", wal[:cut], 0o600)); err != nil {
			t.Fatal(err)
		}
		d, err := Open(t.Context(), after)
		if err != nil {
			t.Fatalf("%d of %d bytes: %v", cut, len(wal), err)
		}
		list, err := d.Images(t.Context(), ImageQuery{Files: true})
		want := 0
		for _, s := range synced {
			if cut >= s {
				want++
			}
		}
		if err != nil || len(list) != want {
			t.Errorf("%d of %d bytes: %d images, want %d, %v", cut, len(wal), len(list), want, err)
		}
		for n, i := range list {
			checkImage(t, n, i)
		}
		d.Close()
	}
}

// TestCutLog cuts the log of a database that was closed at any place: no row comes back as it
// was before, and who opens it has the room for the log that there was.
func TestCutLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	const count = 20
	for n := range count {
		if err := setConfig(t.Context(), d, map[string]string{"n": fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	main, err := os.ReadFile(path)
	wal, werr := os.ReadFile(path + "-wal")
	if err := errors.Join(err, werr); err != nil || len(wal) == 0 || room(t, path+"-wal") < logged {
		t.Fatalf("%d bytes of the log in %d, %v", len(wal), room(t, path+"-wal"), err)
	}
	for percent := 0; percent <= 100; percent += 5 {
		if err := errors.Join(os.WriteFile(path, main, 0o600),
			os.WriteFile(path+"-wal", wal[:len(wal)*percent/100], 0o600)); err != nil {
			t.Fatal(err)
		}
		d := open(t, path)
		if c, err := d.Config(t.Context()); err != nil || c["n"] != fmt.Sprint(count-1) {
			t.Errorf("with %d%% of the log: %v, %v", percent, c, err)
		}
		if err := setConfig(t.Context(), d, map[string]string{"n": "new"}); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil || room(t, path+"-wal") < logged {
			t.Errorf("%d bytes for the log, %v", room(t, path+"-wal"), err)
		}
		if c, err := open(t, path).Config(t.Context()); err != nil || c["n"] != "new" {
			t.Errorf("after %d%% of the log: %v, %v", percent, c, err)
		}
	}
}

// room is how many bytes a file takes on the disk.
func room(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestCloseWhileRead closes a database of which somebody reads an older state:
// it ends, and what was written stays.
func TestCloseWhileRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	rows, err := d.read.QueryContext(t.Context(), `SELECT * FROM goose_db_version`)
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	if err := setConfig(t.Context(), d, map[string]string{"n": "new"}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	if c, err := open(t, path).Config(t.Context()); err != nil || c["n"] != "new" {
		t.Errorf("%v, %v", c, err)
	}
}

// createImage adds image n with everything that an image has.
func createImage(ctx context.Context, tx *Tx, n int) error {
	i := testImage(n)
	if err := tx.CreateImage(ctx, i); err != nil {
		return err
	}
	for _, a := range i.Aliases {
		if err := tx.SetAlias(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func testImage(n int) kiln.Image {
	fp := kiln.Fingerprint{0xa0, byte(n)}
	at := time.Date(2026, 1, 2, 3, 4, 5, 67_000, time.UTC)
	return kiln.Image{
		Project: "default", Fingerprint: fp, Type: "container", Architecture: "aarch64", Size: 1 << 40, Filename: "a b.tar.xz", Public: n%2 == 0,
		AutoUpdate: true, Cached: true,
		CreatedAt: at, ExpiresAt: at.AddDate(1000, 0, 0), LastUsedAt: at.Add(1), UploadedAt: at.Add(2),
		Properties: map[string]string{"os": "Debian", "n": fmt.Sprint(n), "quote'\"": "ä\n"}, Profiles: []string{"b", "a"},
		Aliases: []kiln.Alias{{Name: fmt.Sprintf("%d/a", n), Description: "it's", Target: fp},
			{Name: fmt.Sprintf("%d/b", n), Target: fp}},
		Files: []kiln.File{
			{Role: kiln.Metadata, Name: "meta.tar.xz", Size: 3, Hash: kiln.Fingerprint{1, byte(n)}, Ext: ".tar.xz"},
			{Role: kiln.Rootfs, Name: "rootfs.squashfs", Size: 1<<40 - 3, Hash: kiln.Fingerprint{2}, Ext: ".squashfs"},
		},
		Origin: &kiln.Origin{Remote: kiln.Remote{Protocol: "simplestreams", Server: "https://images.example",
			Mirrors: []string{"https://m"}}, Alias: fmt.Sprint("debian/", n)},
		Own: map[string]string{"os": ""},
	}
}

// TestDiskFull has a file system with little room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "kiln-test", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount needs root: %s", out)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	d := open(t, filepath.Join(dir, "db"))
	n := 0
	var err error
	for ; n < 2000 && err == nil; n++ {
		err = setConfig(t.Context(), d, map[string]string{fmt.Sprint("key", n): strings.Repeat("x", 4000)})
	}
	if !errors.Is(err, kiln.NoSpace) {
		t.Fatalf("after %d: %v", n, err)
	}
	if got, err := d.Config(t.Context()); err != nil || len(got) != n-1 {
		t.Errorf("%d settings of %d: %v", len(got), n-1, err)
	}
}

// TestDeleteOnFullDisk fills a file system to the last byte: what is deleted is still
// written down, also by the next daemon, and the room is kept again afterwards.
func TestDeleteOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=100m", "kiln-test", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount needs root: %s", out)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "db")
	d := open(t, path)
	for n := range 300 {
		if err := d.Tx(t.Context(), func(tx *Tx) error {
			return tx.CreateImage(t.Context(), kiln.Image{Fingerprint: kiln.Fingerprint{byte(n), byte(n >> 8), 1}})
		}); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(name string) {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := io.Copy(f, zeros{}); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	d.Close() // the log is gone, so that a transaction needs room
	fill("a")
	d = open(t, path)
	held := fileSize(path + "-reserve")
	var err error
	for n := 0; err == nil; n++ { // what makes no room doesn't get any
		err = setConfig(t.Context(), d, map[string]string{"a": strings.Repeat("x", 100_000+n)})
	}
	if !errors.Is(err, kiln.NoSpace) || held == 0 || fileSize(path+"-reserve") != held {
		t.Fatalf("%v; %d bytes are reserved, of %d", err, fileSize(path+"-reserve"), held)
	}
	for n := range 300 {
		if err := d.Tx(Freeing(t.Context()), func(tx *Tx) error {
			return tx.DeleteImage(t.Context(), kiln.Fingerprint{byte(n), byte(n >> 8), 1})
		}); err != nil {
			t.Fatalf("deletion %d: %v", n, err)
		}
	}
	os.Remove(filepath.Join(dir, "a"))
	if err := setConfig(t.Context(), d, map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if size := fileSize(path + "-reserve"); size < 100<<20/20 { // a sixteenth, nearly
		t.Errorf("the reserve is %d bytes afterwards", size)
	}
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// BenchmarkCommit is the cost of one change, which waits for the disk.
func BenchmarkCommit(b *testing.B) {
	d, err := Open(b.Context(), filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for n := 0; b.Loop(); n++ {
		if err := setConfig(b.Context(), d, map[string]string{"key": fmt.Sprint(n)}); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzColumns has rows that something else wrote: an error, never a panic.
func FuzzColumns(f *testing.F) {
	for _, s := range []string{"", "{}", `{"a":"b"}`, `["a"]`, "null", "2026-01-02T03:04:05.067Z",
		strings.Repeat("0a", 32), "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var at time.Time
		if err := (timeColumn{&at}).Scan(s); err == nil && s != "" {
			var again time.Time
			if err := (timeColumn{&again}).Scan(timeText(at)); err != nil || !again.Equal(at) {
				t.Errorf("%q is %v, and then %v, %v", s, at, again, err)
			}
		}
		var fp kiln.Fingerprint
		if err := (hashColumn{&fp}).Scan(s); err == nil && hashText(fp) != s && !fp.IsZero() {
			t.Errorf("%q is %v", s, fp)
		}
		var m map[string]string
		if err := (jsonColumn{&m}).Scan(s); err == nil {
			if err := (jsonColumn{&m}).Scan([]byte(toJSON(m))); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestForeignColumns(t *testing.T) {
	for _, c := range []interface{ Scan(any) error }{timeColumn{new(time.Time)}, hashColumn{new(kiln.Fingerprint)},
		jsonColumn{new(any)}} {
		for _, v := range []any{nil, 1, io.EOF} {
			if err := c.Scan(v); err == nil {
				t.Errorf("%T takes a %T", c, v)
			}
		}
	}
}
