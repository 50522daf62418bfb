package daemon

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestRecoverLeases has a copy of the database which knows an instance by another name: it has the
// addresses again that it had.
func TestRecoverLeases(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "kiln"), t.Context()
	d := open(t, dir)
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c1", Source: Source{Type: "none"}})
	wait(t, o, err)
	i, err := d.Instance(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	want := db.Lease{Project: project.Default, Instance: "c1", Device: "eth0", IPv4: netip.MustParseAddr("10.98.7.77"),
		MAC: instance.Address(i.Options, "eth0", nil).String()}
	_, err = d.db.SetLease(ctx, defaultNetwork, want, func(_ []db.Lease, l *db.Lease) error { *l = want; return nil })
	at := filepath.Join(dir, backupsDir, "kiln-29990101.db")
	if err := errors.Join(err, os.MkdirAll(filepath.Dir(at), 0o700), d.db.Backup(ctx, at),
		d.instances.Rename(ctx, "c1", "c2"), d.saveRecords(ctx)); err != nil {
		t.Fatal(err)
	}
	end(t, d)
	err = os.Remove(filepath.Join(dir, databaseFile))
	r, rerr := Recover(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err := errors.Join(err, rerr); err != nil || len(r.Left)+len(r.Remarks) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	d = open(t, dir)
	defer end(t, d)
	now, err := d.Instance(ctx, "c2")
	list, lerr := d.db.Leases(ctx, defaultNetwork)
	want.Instance = "c2"
	if err := errors.Join(err, lerr); err != nil || len(list) != 1 || list[0] != want ||
		instance.Address(now.Options, "eth0", nil).String() != want.MAC {
		t.Errorf("%+v, %v, %v", list, now.Options, err)
	}
}
