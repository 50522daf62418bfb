package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

func TestSnapshots(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	ctx := t.Context()
	now := time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC)
	s0 := Snapshot{
		Project:  "default",
		Instance: "c1", Name: "s0", Files: "f0", CreatedAt: now, ExpiresAt: now.Add(time.Hour), LastUsedAt: now,
		Architecture: "x86_64",
		Description:  "text", Ephemeral: true, Base: kiln.Fingerprint{1}, Config: map[string]string{"a": "b"},
		Devices: map[string]map[string]string{"root": {"type": "disk"}}, Profiles: []string{"p", "q"},
	}
	if err := d.CreateSnapshot(ctx, s0); err == nil {
		t.Error("a snapshot of nothing")
	}
	if err := errors.Join(
		d.CreateProfile(ctx, Profile{Name: "p"}), d.CreateProfile(ctx, Profile{Name: "q"}),
		d.CreateInstance(ctx, Instance{Name: "c1"}, s0),
		d.CreateInstance(ctx, Instance{Name: "c2"}),
		d.CreateSnapshot(ctx, Snapshot{Instance: "c2", Name: "s0", Files: "f1", CreatedAt: now}),
		d.CreateSnapshot(ctx, Snapshot{Instance: "c1", Name: "a", Files: "f2", CreatedAt: now.Add(time.Second)}),
	); err != nil {
		t.Fatal(err)
	}
	got, err := d.Snapshot(ctx, "c1", "s0")
	if diff := cmp.Diff(s0, got); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	if err := d.CreateSnapshot(ctx, s0); !errors.Is(err, kiln.Conflict) {
		t.Errorf("twice: %v", err)
	}
	if list, err := d.Snapshots(ctx, "c1"); len(list) != 2 || list[1].Name != "a" || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := allSnapshots(ctx, d); len(list) != 3 || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := d.AllSnapshotFiles(ctx); len(list) != 3 || err != nil ||
		list[0] != (SnapshotFiles{Project: "default", Instance: "c1", Name: "s0", Files: "f0"}) {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := d.SnapshotFiles(ctx, "c1"); len(list) != 2 || list[1].Name != "a" || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	const text = len(`text`) + len(`{"a":"b"}`) + len(`{"root":{"type":"disk"}}`) + len(`{}`) + len(`{}`)
	if n, bytes, err := d.SnapshotText(ctx, "c1"); n != 2 || bytes != int64(text) || err != nil {
		t.Errorf("%d snapshots of %d bytes, not %d: %v", n, bytes, text, err)
	}
	for after, n := range map[time.Duration]int{0: 0, time.Hour: 1, 2 * time.Hour: 1} {
		if list, err := d.ExpiredSnapshots(ctx, now.Add(after)); len(list) != n || err != nil {
			t.Errorf("after %v: %+v, %v", after, list, err)
		}
	}
	if err := d.RenameSnapshot(ctx, "c1", "a", "s0"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("onto another: %v", err)
	}
	if err := errors.Join(d.RenameSnapshot(ctx, "c1", "a", "b"), d.SetSnapshotExpiry(ctx, "c1", "s0", at(time.Time{})),
		d.RenameInstance(ctx, "c1", "c3"), d.RenameProfile(ctx, "p", "r"), d.DeleteProfile(ctx, "q")); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Snapshot(ctx, "c3", "s0"); !s.ExpiresAt.IsZero() || cmp.Diff([]string{"r"}, s.Profiles) != "" ||
		err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	for _, err := range []error{
		d.DeleteSnapshot(ctx, "c3", "a"), d.RenameSnapshot(ctx, "c3", "a", "c"), d.SetSnapshotExpiry(ctx, "c3", "a", at(now)),
	} {
		if !errors.Is(err, kiln.NotFound) {
			t.Errorf("what isn't there: %v", err)
		}
	}
	if err := errors.Join(d.DeleteSnapshot(ctx, "c3", "b"), d.DeleteInstance(ctx, "c3")); err != nil {
		t.Fatal(err)
	}
	if list, err := allSnapshots(ctx, d); len(list) != 1 || err != nil {
		t.Errorf("they went with their instance: %+v, %v", list, err)
	}
}

// at gives a change to a time, whatever it was.
func at(t time.Time) func(time.Time) (time.Time, error) {
	return func(time.Time) (time.Time, error) { return t, nil }
}

// allSnapshots gives the snapshots of every instance.
func allSnapshots(ctx context.Context, d *DB) (list []Snapshot, err error) {
	refs, err := d.SnapshotRefs(ctx, "")
	if err != nil {
		return nil, err
	}
	at, err := d.SnapshotsAt(ctx, append(refs, SnapshotRef{ID: 1 << 40})) // and one that is gone
	for _, r := range refs {
		s := at[r.ID]
		if s.Project != r.Project || s.Instance != r.Instance || s.Name != r.Name || !s.CreatedAt.Equal(r.CreatedAt) {
			return nil, fmt.Errorf("%+v is at %+v", s, r)
		}
		list = append(list, s)
	}
	if len(at) != len(refs) {
		err = errors.Join(err, fmt.Errorf("%d at %d", len(at), len(refs)))
	}
	return list, err
}

// TestMeantSnapshot: who means a snapshot doesn't get another that has its name by now, nor one of
// another instance.
func TestMeantSnapshot(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	ctx := t.Context()
	if err := d.CreateInstance(ctx, Instance{Name: "c"}, Snapshot{Project: "default", Instance: "c", Name: "s",
		Files: "f1"}); err != nil {
		t.Fatal(err)
	}
	s, err := d.Snapshot(ctx, "c", "s")
	if err != nil {
		t.Fatal(err)
	}
	meant := MeaningSnapshot(ctx, s)
	if _, err := d.Snapshot(meant, "c", "s"); err != nil {
		t.Error(err)
	}
	other := Meaning(ctx, "c", func(Instance) bool { return false })
	if _, err := d.Snapshot(other, "c", "s"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("of another instance: %v", err)
	}
	if err := errors.Join(d.DeleteSnapshot(ctx, "c", "s"), d.CreateSnapshot(ctx, Snapshot{Instance: "c", Name: "s",
		Files: "f2"})); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Snapshot(meant, "c", "s"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("another one: %v", err)
	}
	if err := d.DeleteSnapshot(meant, "c", "s"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("another one is deleted: %v", err)
	}
}

// TestDamagedIsNotExpired: the time of a snapshot whose row is damaged is never over.
func TestDamagedIsNotExpired(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	now := time.Now()
	past := Snapshot{Instance: "c", Name: "s", Files: "f", ExpiresAt: now.Add(-time.Hour)}
	if err := d.CreateInstance(t.Context(), Instance{Name: "c"}, past); err != nil {
		t.Fatal(err)
	}
	for _, damaged := range []bool{false, true} {
		if damaged {
			execute(t, d, `UPDATE instance_snapshots SET config = '{'`)
		}
		list, err := d.ExpiredSnapshots(t.Context(), now)
		if err != nil || (len(list) == 0) != damaged {
			t.Errorf("damaged %v: %+v, %v", damaged, list, err)
		}
	}
}
