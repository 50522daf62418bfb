package daemon

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/volume"
)

// backedUp makes a backup of an instance, which stays, and gives what is in its file.
func backedUp(t *testing.T, d *Daemon, instance, compression string) []byte {
	t.Helper()
	b, err := d.InstanceBackups(t.Context(), instance)
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.Create(t.Context(), NewBackup{Name: "b", Compression: compression})
	wait(t, o, err)
	f, err := b.Open(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

// TestBackupIsWholeOrNothing makes an instance of a backup that is cut or changed at many
// places: it fails and leaves nothing, or the change was of no byte that matters.
func TestBackupIsWholeOrNothing(t *testing.T) {
	d := fresh(t)
	create := func(name string) {
		t.Helper()
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
	}
	create("c1")
	whole := backedUp(t, d, "c1", "gzip")
	restore := func(b []byte) error {
		return d.RestoreBackup(t.Context(), CreateSpec{Name: "c2"}, bytes.NewReader(b)).Wait(t.Context()).Err
	}
	before := countFiles(t, d)
	for n := 0; n < len(whole); n += max(1, len(whole)/40) {
		changed := slices.Clone(whole)
		changed[n] ^= 0x55
		for _, b := range [][]byte{whole[:n], changed} {
			err := restore(b)
			if err == nil { // as in the name that gzip has
				o, err := d.DeleteInstance(t.Context(), "c2")
				wait(t, o, err)
				if len(b) < len(whole) {
					t.Errorf("%d of %d bytes make an instance", len(b), len(whole))
				}
			} else if k := kiln.KindOf(err); k == kiln.Internal {
				t.Errorf("byte %d: an error without a kind: %v", n, err)
			}
			if _, err := d.Instance(t.Context(), "c2"); !errors.Is(err, kiln.NotFound) {
				t.Fatalf("byte %d: there is an instance: %v", n, err)
			}
		}
	}
	if after := countFiles(t, d); after != before {
		t.Errorf("%d directories are left, there were %d", after, before)
	}
	if err := restore(whole); err != nil {
		t.Fatal(err)
	}
	if err := restore(whole); !errors.Is(err, kiln.Conflict) {
		t.Errorf("a second one of the name: %v", err)
	}

	// The backups go with the instance.
	o, err := d.DeleteInstance(t.Context(), "c1")
	wait(t, o, err)
	left, err := os.ReadDir(filepath.Join(d.cfg.Dir, exportsDir))
	if len(left) > 0 || err != nil {
		t.Errorf("%v %v are left", left, err)
	}
}

// TestBackupsStay has backups outlive a rebuild, also one while another is written, and a
// row that can't be read: they go when their instance does, or long after it was known.
func TestBackupsStay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb"}})
	wait(t, o, err)
	backups := func() Backups {
		t.Helper()
		b, err := d.InstanceBackups(t.Context(), "c1")
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	backUp := func(name string) {
		t.Helper()
		o, err := backups().Create(t.Context(), NewBackup{Name: name, Compression: "none"})
		wait(t, o, err)
	}
	rebuild := func() {
		t.Helper()
		o, err := d.RebuildInstance(t.Context(), "c1", Source{Type: "image", Alias: "bb"}, false)
		wait(t, o, err)
	}
	const week = volume.LostTime
	has := func(want ...string) {
		t.Helper()
		for _, later := range []time.Duration{0, 2 * week, 4 * week} { // with what it does once a minute
			if err := d.sweepBackups(t.Context(), time.Now().Add(later)); err != nil {
				t.Fatal(err)
			}
		}
		list, err := backups().List()
		var got []string
		for _, b := range list {
			got = append(got, b.Name)
		}
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("backups %q, %v, want %q", got, err, want)
		}
	}
	backUp("first")
	rebuild()
	backUp("second")
	rebuild()
	has("first", "second")

	// One that is being written while the instance is rebuilt: the owner was looked up before.
	of := backups()
	rebuild()
	o = of.op(t.Context(), "", "third", func(ctx context.Context, o *op.Operation) error {
		return of.write(ctx, o, NewBackup{Name: "third"}, archive.Compression{})
	})
	wait(t, o, nil)
	has("first", "second", "third")

	end(t, d)
	config := configOf(t, dir)
	execute(t, dir, `UPDATE instances SET config = '{damaged' WHERE name = 'c1'`)
	d = open(t, dir)
	for _, later := range []time.Duration{0, 2 * week} {
		if err := d.sweepBackups(t.Context(), time.Now().Add(later)); err != nil {
			t.Fatal(err)
		}
	}
	end(t, d)
	execute(t, dir, `UPDATE instances SET config = '`+config+`' WHERE name = 'c1'`)
	d = open(t, dir)
	has("first", "second", "third")
	o, err = d.DeleteInstance(t.Context(), "c1")
	wait(t, o, err)
	left, err := os.ReadDir(filepath.Join(dir, exportsDir))
	if len(left) > 0 || err != nil {
		t.Errorf("%v %v are left", left, err)
	}
	end(t, d)
}

// configOf reads the configuration of the only instance from the database of a daemon that
// doesn't run.
func configOf(t *testing.T, dir string) (config string) {
	t.Helper()
	rows, err := sql.Open("sqlite3", filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	if err := rows.QueryRow(`SELECT config FROM instances`).Scan(&config); err != nil {
		t.Fatal(err)
	}
	return config
}

// TestBackupOwners: what is backed up is gone only when all that there is can be read, and
// backups that may be of a damaged volume aren't swept.
func TestBackupOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d, ctx := open(t, dir), t.Context()
	defer func() { end(t, d) }()
	for _, name := range []string{"c", "other"} {
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
	}
	b, err := d.InstanceBackups(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := b.gone(ctx); gone || err != nil {
		t.Error("it is there:", gone, err)
	}
	o, err := d.DeleteInstance(ctx, "c")
	wait(t, o, err)
	if gone, err := b.gone(ctx); !gone || err != nil {
		t.Error("it is deleted:", gone, err)
	}
	if err := d.CreateVolume(ctx, "data", volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	was, err := d.VolumeBackups(ctx, "data")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.DeleteVolume(ctx, "data"), d.CreateVolume(ctx, "data", volume.CustomState{})); err != nil {
		t.Fatal(err)
	}
	if _, err := was.Create(ctx, NewBackup{}); !errors.Is(err, kiln.Conflict) {
		t.Error("another volume of the name is backed up:", err)
	}
	v, err := d.VolumeBackups(ctx, "data")
	if err != nil {
		t.Fatal(err)
	}
	o, err = v.Create(ctx, NewBackup{Compression: "none"})
	wait(t, o, err)
	if err := os.WriteFile(filepath.Join(dir, "volumes/custom/default/data/custom.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, later := range []time.Duration{0, 2 * volume.LostTime, 4 * volume.LostTime} {
		if err := d.sweepBackups(ctx, time.Now().Add(later)); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := d.backups.All(); len(left) != 1 || err != nil {
		t.Errorf("of the backup of a volume that can't be read there is %v, %v", left, err)
	}
}

// TestBackupOfHostDevice leaves out what would give an instance of a backup access to this host,
// and refuses all of it to a restricted client.
func TestBackupOfHostDevice(t *testing.T) {
	d := fresh(t)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "none"}, Config: instance.Config{
		Devices: map[string]map[string]string{"host": {"type": "disk", "source": t.TempDir(), "path": "/x"}}}})
	wait(t, o, err)
	b, err := d.InstanceBackups(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	o, err = b.Create(t.Context(), NewBackup{Name: "b"})
	wait(t, o, err)
	restore := func(ctx context.Context, name string) error {
		f, err := b.Open(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return d.RestoreBackup(ctx, CreateSpec{Name: name}, f).Wait(t.Context()).Err
	}
	if err := restore(instance.Restricted(t.Context(), "default"), "c2"); !errors.Is(err, kiln.Denied) {
		t.Errorf("by a restricted client: %v", err)
	}
	if _, err := d.Instance(t.Context(), "c2"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("it is there: %v", err)
	}
	if err := restore(t.Context(), "c3"); err != nil {
		t.Fatal(err)
	}
	i, err := d.Instance(t.Context(), "c3")
	if _, there := i.Devices["host"]; err != nil || there {
		t.Errorf("%v, %v", i.Devices, err)
	}
}
