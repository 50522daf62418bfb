package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestLostVolumeRecord loses the records of a volume and of its snapshot: a warning says
// so, and what is withheld, until they are made again.
func TestLostVolumeRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	ctx := t.Context()
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c1", Source: Source{Type: "none"}})
	wait(t, o, err)
	if err := d.instances.CreateSnapshot(ctx, "c1", instance.NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	i, err := d.Instance(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	warned := func(d *Daemon) (w Warning) {
		t.Helper()
		list, err := d.Warnings(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, is := range list {
			if is.Type == recordDamaged {
				w = is
			}
		}
		return w
	}
	if w := warned(d); w.ID != "" {
		t.Errorf("nothing is wrong: %+v", w)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(dir, "volumes/volumes", i.Options[instance.UUIDKey], "volume.json")
	of, err := filepath.Glob(filepath.Join(dir, "volumes/snapshots/*/snapshot.json"))
	if err != nil || len(of) != 1 {
		t.Fatal(of, err)
	}
	was := read(t, record)
	if err := errors.Join(os.Remove(record), os.Truncate(of[0], 3)); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	if w := warned(d); w.Status != db.WarningNew || !strings.Contains(w.Message, "not removed") ||
		!strings.Contains(w.Message, filepath.Dir(of[0])) {
		t.Errorf("%+v", w)
	}
	if err := d.instances.CreateSnapshot(ctx, "c1", instance.NewSnapshot{Name: "s1"}); !errors.Is(err, kiln.Integrity) ||
		!strings.Contains(err.Error(), `"c1"`) || !strings.Contains(err.Error(), "kiln admin recover") {
		t.Errorf("a snapshot: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Left) > 0 || len(r.Remarks) != 2 || !strings.Contains(r.Remarks[0], "instance c1") ||
		!strings.Contains(r.Remarks[1], "snapshot c1/s0") {
		t.Errorf("%+v, %v", r, err)
	}
	if is := read(t, record); is != was {
		t.Errorf("the record was %s, is %s", was, is)
	}
	d = open(t, dir)
	defer end(t, d)
	if w := warned(d); w.Status != db.WarningResolved {
		t.Errorf("%+v", w)
	}
	if err := d.instances.Restore(ctx, "c1", "s0"); err != nil {
		t.Error(err)
	}
}

// TestRowWithoutFiles damages a row that says which files are its own: nobody knows then what
// those stand on, so nothing is removed, and a warning says so.
func TestRowWithoutFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "none"}})
	wait(t, o, err)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, dir, "UPDATE instances SET config = "+noJSON)
	d = open(t, dir)
	defer end(t, d)
	if _, _, err := d.owned(); !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), `"c1"`) {
		t.Errorf("what rows have: %v", err)
	}
	list, err := d.Warnings(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].Type != recordDamaged || !strings.Contains(list[0].Message, "not removed") {
		t.Errorf("%+v, %v", list, err)
	}
}
