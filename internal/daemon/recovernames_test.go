package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestRecoverSameNames brings back instances whose records have the same name: the oldest
// keeps it, whatever its UUID, and a name that is made up and taken is made up again.
func TestRecoverSameNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	const many = 4
	var uuids []string
	for n := range many {
		name := fmt.Sprint("c", n)
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
		i, err := d.Instance(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		uuids = append(uuids, i.Options[instance.UUIDKey])
	}
	if err := errors.Join(d.instances.SaveRecords(t.Context()), d.Close()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(uuids) // as a directory is read
	pool := unswept(t, dir)
	for n, uuid := range uuids {
		r, err := instance.Recorded(pool, uuid)
		if err != nil {
			t.Fatal(err)
		}
		r.Instance.Name = "web"
		if n == many-1 {
			r.Instance.Name = madeUpFor(uuids[0])
		}
		r.Instance.CreatedAt = time.Now().Add(-time.Duration(n) * time.Hour)
		b, err := r.Encode()
		if err := errors.Join(err, pool.SetNote(uuid, b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	loseDatabase(t, dir)
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Remarks) != 2 || len(r.Left) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	rows, err := db.Open(t.Context(), filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	want := map[string]string{uuids[3]: madeUpFor(uuids[0]), uuids[2]: "web", uuids[1]: madeUpFor(uuids[1]),
		uuids[0]: "recovered-" + uuids[0]}
	for uuid, name := range want {
		if i, err := rows.Instance(t.Context(), name); err != nil || i.Config[instance.UUIDKey] != uuid {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

// TestRecoverUnusable has a volume of which nothing says any more what it stands on: no
// instance is made of it, and it stays for good.
func TestRecoverUnusable(t *testing.T) {
	dir, before := populated(t)
	loseDatabase(t, dir)
	uuid := before.Instances[1].Options[instance.UUIDKey]
	vol := filepath.Join(dir, "volumes/volumes", uuid)
	if err := errors.Join(os.Remove(filepath.Join(vol, "volume.json")),
		unix.Removexattr(vol, "trusted.kiln.record")); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Instances) != 1 || len(r.Left) != 1 || !strings.Contains(r.Left[0], uuid) {
		t.Fatalf("%+v, %v", r, err)
	}
	lost, err := ListLost(t.Context(), dir)
	if err != nil || len(lost) != 1 || lost[0].Kind != "volume" || !lost[0].GoesAt.IsZero() {
		t.Errorf("%+v, %v", lost, err)
	}
}
