package instance

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

func testRecord() Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	root := map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"}}
	return Record{
		Instance: db.Instance{Project: "default", Name: "c1", Type: "container", Architecture: "x86_64", Description: "web", Ephemeral: true,
			CreatedAt: at, Base: kiln.Fingerprint{1}, Config: map[string]string{UUIDKey: "u", "user.x": "1"}, Devices: root,
			Profiles: []string{"default", "web"}},
		Snapshots: []db.Snapshot{{Name: "s0", Files: "f0", CreatedAt: at, ExpiresAt: at.AddDate(0, 0, 1), LastUsedAt: at,
			Architecture: "x86_64", Base: kiln.Fingerprint{1}, Config: map[string]string{"user.x": "0"}, Devices: root,
			Profiles: []string{"default"}}},
		Profiles: []Profile{{Name: "web", Description: "x", Config: map[string]string{"limits.cpu": "1"}, Devices: root}},
	}
}

// TestRecord writes a record and reads the same, and none that can't be one.
func TestRecord(t *testing.T) {
	want := testRecord()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for from, to := range map[string]string{
		`"version": 1`: `"version": 2`, `"type": "container"`: `"type": "virtual-machine"`, `"name": "c1"`: `"name": "../c1"`,
		`"name": "s0"`: `"name": "s/0"`, `"files": "f0"`: `"files": ""`, `"architecture": "x86_64"`: `"architecture": "z80"`,
		`"name": "web"`: `"name": ""`, "}": "]",
	} {
		bad := strings.Replace(string(b), from, to, 1)
		if bad == string(b) {
			t.Errorf("%q is not in the record", from)
		}
		if _, err := ParseRecord([]byte(bad)); !errors.Is(err, kiln.Integrity) && !errors.Is(err, kiln.Unsupported) {
			t.Errorf("%s: %v", to, err)
		}
	}
	if _, err := ParseRecord(append(b, "{}"...)); !errors.Is(err, kiln.Integrity) {
		t.Errorf("two in one: %v", err)
	}
}

// TestSaveRecords finds what verbs have changed beside the volume, and leaves alone what
// is as it was.
func TestSaveRecords(t *testing.T) {
	s, d, p := set(t)
	create(t, s, p, "a", Config{Options: map[string]string{"user.x": "1"}})
	read := func() Record {
		t.Helper()
		if err := s.SaveRecords(t.Context()); err != nil {
			t.Fatal(err)
		}
		b, err := p.Note("uuid-a")
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := read(); r.Instance.Name != "a" || r.Instance.Config["user.x"] != "1" || len(r.Profiles) != 1 ||
		r.Profiles[0].Name != "default" || len(r.Profiles[0].Devices) == 0 {
		t.Errorf("%+v", r)
	}
	if err := errors.Join(s.CreateSnapshot(t.Context(), "a", NewSnapshot{Name: "s"}), s.Rename(t.Context(), "a", "b"),
		d.RenameProfile(t.Context(), "default", "other")); err != nil {
		t.Fatal(err)
	}
	if r := read(); r.Instance.Name != "b" || len(r.Snapshots) != 1 || r.Snapshots[0].Name != "s" ||
		r.Profiles[0].Name != "other" || r.Snapshots[0].Profiles[0] != "other" {
		t.Errorf("%+v", r)
	}
	if err := p.SetNote("uuid-a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveRecords(t.Context(), db.Name{Project: "default", Name: "b"}, db.Name{Project: "none", Name: "nothing"}); err != nil {
		t.Fatal(err)
	}
	read()
}

// TestDamagedRecordStays: what damaged rows say doesn't take the place of what the record
// of the instance says from before.
func TestDamagedRecordStays(t *testing.T) {
	s, _, p := set(t)
	create(t, s, p, "a", Config{})
	r := testRecord()
	r.Instance.Config[UUIDKey] = "uuid-a"
	damage := map[string]func(*db.Instance, *db.Snapshot, *Profile){
		"nothing":            func(*db.Instance, *db.Snapshot, *Profile) {},
		"instance":           func(i *db.Instance, _ *db.Snapshot, _ *Profile) { i.Damage = "x" },
		"snapshot":           func(_ *db.Instance, s *db.Snapshot, _ *Profile) { s.Damage = "x" },
		"snapshot's profile": func(_ *db.Instance, _ *db.Snapshot, p *Profile) { p.Damage = "x" },
	}
	for what, harm := range damage {
		if err := p.SetNote("uuid-a", []byte("before")); err != nil {
			t.Fatal(err)
		}
		i, snap, web := r.Instance, r.Snapshots[0], r.Profiles[0]
		i.Profiles, snap.Profiles = nil, []string{"web"}
		harm(&i, &snap, &web)
		if err := s.saveRecord(i, theseSnapshots([]db.Snapshot{snap}), map[string]Profile{"web": web}); err != nil {
			t.Error(err)
		}
		b, err := p.Note("uuid-a")
		if stays := strings.TrimSpace(string(b)) == "before"; err != nil || stays != (what != "nothing") {
			t.Errorf("%s is damaged: the record stays: %v, %v", what, stays, err)
		}
	}
}

// TestRenamedAtOnce renames and moves an instance: that its files are to be told is in the same
// transaction.
func TestRenamedAtOnce(t *testing.T) {
	s, d, p := set(t)
	create(t, s, p, "a", Config{})
	here, there := project.InDefault(t.Context()), project.In(t.Context(), project.Alone("web"))
	root := map[string]map[string]string{"root": {"type": "disk", "path": "/"}}
	if err := d.CreateProject(here, db.Project{Name: "web"}, db.Profile{Name: "default", Devices: root}); err != nil {
		t.Fatal(err)
	}
	for verb, f := range map[string]func() error{
		"rename": func() error { return errors.Join(s.Rename(here, "a", "b"), s.Rename(here, "b", "a")) },
		"move": func() error {
			return errors.Join(s.Move(here, there, "a", "b", nil), s.Move(there, here, "b", "a", nil))
		},
	} {
		if err := d.EditInstance(here, "a", func(r *db.Instance) error {
			delete(r.Config, TemplateKey)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		before := d.Version()
		if err := f(); err != nil || d.Version() != before+2 {
			t.Errorf("%s there and back: %d transactions, %v", verb, d.Version()-before, err)
		}
		if r, err := d.Instance(here, "a"); err != nil || r.Config[TemplateKey] != "rename" {
			t.Errorf("%s: %q, %v", verb, r.Config, err)
		}
	}
}

// TestLargeRecord writes the record of an instance with many large snapshots: they are never in
// memory together, and the record is read again.
func TestLargeRecord(t *testing.T) {
	s, _, p := set(t)
	create(t, s, p, "a", Config{})
	r := testRecord()
	r.Instance.Config[UUIDKey] = "uuid-a"
	const many, each = 32, 256 << 10
	var most, before runtime.MemStats
	runtime.GC()
	runtime.GC() // pools give up what they have the second time
	runtime.ReadMemStats(&before)
	snapshots := func(add func(db.Snapshot) error) error {
		for n := range many {
			snap := r.Snapshots[0]
			snap.Name, snap.Files = fmt.Sprint("s", n), fmt.Sprint("files", n)
			snap.Config = map[string]string{"user.large": strings.Repeat("x", each)}
			if err := add(snap); err != nil {
				return err
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&most)
		return nil
	}
	for range 2 { // when it is written, and when it is compared with what is
		if err := s.saveRecord(r.Instance, snapshots, nil); err != nil {
			t.Fatal(err)
		}
		if grown := int64(most.HeapAlloc) - int64(before.HeapAlloc); grown > many*each/2 {
			t.Errorf("it has %d bytes in memory", grown)
		}
	}
	got, err := Recorded(p, "uuid-a")
	if err != nil || len(got.Snapshots) != many || len(got.Snapshots[many-1].Config["user.large"]) != each {
		t.Errorf("%d snapshots, %v", len(got.Snapshots), err)
	}
}

func FuzzParseRecord(f *testing.F) {
	b, err := testRecord().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"type":"container"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRecord(again); err != nil {
			t.Errorf("what was read can't be written: %v", err)
		}
	})
}
