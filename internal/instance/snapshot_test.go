package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/volume"
)

// write puts a file into an instance that is stopped.
func write(t *testing.T, p *volume.Pool, name, file, text string) {
	t.Helper()
	tree(t, p, name, func(root string) {
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

func read(t *testing.T, p *volume.Pool, name, file string) (text string) {
	t.Helper()
	tree(t, p, name, func(root string) {
		b, _ := os.ReadFile(filepath.Join(root, file))
		text = string(b)
	})
	return text
}

func tree(t *testing.T, p *volume.Pool, name string, f func(root string)) {
	t.Helper()
	v, err := p.Get("uuid-" + name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.Mount(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	f(fmt.Sprintf("/proc/self/fd/%d", m.Fd()))
}

func TestSnapshotRows(t *testing.T) {
	s, d, p := set(t)
	ctx := t.Context()
	create(t, s, p, "a", Config{Options: map[string]string{"user.x": "1", "snapshots.expiry": "1d"}, Description: "first"})
	write(t, p, "a", "f", "one")
	never := time.Time{}
	if err := errors.Join(
		s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s0"}),
		s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s1", ExpiresAt: &never}),
	); err != nil {
		t.Fatal(err)
	}
	s0, err := s.Snapshot(ctx, "a", "s0")
	if err != nil || s0.Options["user.x"] != "1" || s0.Description != "first" ||
		s0.ExpandedDevices["root"]["path"] != "/" || s0.Size == 0 {
		t.Errorf("%+v, %v", s0, err)
	}
	if left := time.Until(s0.ExpiresAt); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("expires in %v", left)
	}
	i, err := s.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	c := i.Config
	c.Options = map[string]string{"user.x": "2"}
	c.Description = "second"
	_, err = s.Update(ctx, "a", to(c))
	if err := errors.Join(err, s.edit(ctx, "a", func(r *db.Instance) {
		r.Config["volatile.kept"] = "yes"
	})); err != nil {
		t.Fatal(err)
	}
	write(t, p, "a", "f", "two")
	if err := s.Restore(ctx, "a", "s0"); err != nil {
		t.Fatal(err)
	}
	i, err = s.Get(ctx, "a")
	if err != nil || i.Options["user.x"] != "1" || i.Description != "first" || i.Options[UUIDKey] != "uuid-a" ||
		i.Options["volatile.kept"] != "yes" ||
		i.Options[restoreKey] != "" || i.Options[TemplateKey] != "create" {
		t.Errorf("%+v, %v", i, err)
	}
	if got := read(t, p, "a", "f"); got != "one" {
		t.Errorf("restored %q", got)
	}
	if err := errors.Join(s.RenameSnapshot(ctx, "a", "s0", "s2"), s.SetSnapshotExpiry(ctx, "a", "s2",
		at(time.Now().Add(-time.Second)))); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		err  error
		kind kiln.Kind
	}{
		"taken":       {s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s1"}), kiln.Conflict},
		"onto":        {s.RenameSnapshot(ctx, "a", "s2", "s1"), kiln.Conflict},
		"bad name":    {s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "x/y"}), kiln.Invalid},
		"no instance": {s.CreateSnapshot(ctx, "b", NewSnapshot{Name: "x"}), kiln.NotFound},
		"not there":   {s.Restore(ctx, "a", "s0"), kiln.NotFound},
		"delete":      {s.DeleteSnapshot(ctx, "a", "s0"), kiln.NotFound},
		"expiry":      {s.SetSnapshotExpiry(ctx, "a", "s0", at(never)), kiln.NotFound},
	} {
		if !errors.Is(c.err, c.kind) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	if images, err := s.ExpireSnapshots(ctx, time.Now()); len(images) != 1 || err != nil {
		t.Errorf("%v, %v", images, err)
	}
	if list, err := s.Snapshots(ctx, "a"); len(list) != 1 || list[0].Name != "s1" || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	// The files of a snapshot that was never written down.
	if _, err := p.Snapshot(ctx, "uuid-a", "nobody's", nil); err != nil {
		t.Fatal(err)
	}
	again, err := Open(ctx, d, p, s.dir, "x86_64", func(context.Context, Change) {},
		func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if names, err := p.Snapshots(); len(names) != 1 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	if err := s.Delete(ctx, "a", ""); err != nil {
		t.Fatal(err)
	}
	if names, err := p.Snapshots(); len(names) != 0 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
}

// TestRestoreInterrupted is finished by the next daemon.
func TestRestoreInterrupted(t *testing.T) {
	s, d, p := set(t)
	ctx := t.Context()
	create(t, s, p, "a", Config{Options: map[string]string{"user.x": "1"}})
	create(t, s, p, "b", Config{})
	write(t, p, "a", "f", "one")
	if err := s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	write(t, p, "a", "f", "two")
	for name, snap := range map[string]string{"a": "s0", "b": "gone"} {
		err := d.EditInstance(ctx, name, func(r *db.Instance) error {
			r.Config["user.x"], r.Config[restoreKey] = "2", snap
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(ctx, d, p, s.dir, "x86_64", func(context.Context, Change) {},
		func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for name, x := range map[string]string{"a": "1", "b": "2"} {
		if i, err := again.Get(ctx, name); i.Options["user.x"] != x || i.Options[restoreKey] != "" || err != nil {
			t.Errorf("%+v, %v", i, err)
		}
	}
	if got := read(t, p, "a", "f"); got != "one" {
		t.Errorf("%q", got)
	}
}

// TestRestoreSettles has the row's last change fail after the files were exchanged. A start
// finishes that first; what runs when a daemon comes keeps its files.
func TestRestoreSettles(t *testing.T) {
	s, d, p := set(t)
	ctx := t.Context()
	create(t, s, p, "a", Config{Options: map[string]string{"user.x": "1"}})
	if err := s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	pending := func() {
		t.Helper()
		if err := s.edit(ctx, "a", func(r *db.Instance) { r.Config["user.x"], r.Config[restoreKey] = "2", "s0" }); err != nil {
			t.Fatal(err)
		}
		write(t, p, "a", "f", "since")
	}
	pending()
	_ = s.Start(ctx, "a") // there is no system in it
	if i, err := s.Get(ctx, "a"); i.Options["user.x"] != "1" || i.Options[restoreKey] != "" || err != nil {
		t.Errorf("after a start: %+v, %v", i, err)
	}
	pending()
	row, err := d.Instance(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.live["uuid-a"] = &live{}
	s.mu.Unlock()
	s.finishRestores(ctx, []db.Instance{row})
	s.mu.Lock()
	delete(s.live, "uuid-a")
	s.mu.Unlock()
	if i, err := s.Get(ctx, "a"); i.Options["user.x"] != "2" || i.Options[restoreKey] != "" || err != nil {
		t.Errorf("one that runs: %+v, %v", i, err)
	}
	if got := read(t, p, "a", "f"); got != "since" {
		t.Errorf("the files of one that runs: %q", got)
	}
}

// TestOtherFilesEndRestore has a restore unfinished, and then gives the instance other files:
// nothing of the snapshot comes over them. What isn't known to be gone isn't given up.
func TestOtherFilesEndRestore(t *testing.T) {
	s, _, p := set(t)
	ctx := t.Context()
	for name, exchange := range map[string]func(f *Files) error{
		"rebuilt":   func(f *Files) error { return s.Rebuild(ctx, "rebuilt", New{Architecture: "x86_64"}, f, false) },
		"refreshed": func(f *Files) error { return s.Refresh(ctx, "refreshed", "", f, nil) },
	} {
		create(t, s, p, name, Config{})
		write(t, p, name, "f", "old")
		if err := s.CreateSnapshot(ctx, name, NewSnapshot{Name: "s0"}); err != nil {
			t.Fatal(err)
		}
		if err := s.edit(ctx, name, func(r *db.Instance) { r.Config[restoreKey] = "s0" }); err != nil {
			t.Fatal(err)
		}
		f := s.NewFiles()
		f.UUID = "uuid-new-" + name
		if _, err := p.Empty(ctx, f.UUID); err != nil {
			t.Fatal(err)
		}
		write(t, p, "new-"+name, "f", "new")
		if err := exchange(f); err != nil {
			t.Fatal(err)
		}
		_ = s.Start(ctx, name) // there is no system in it
		if i, err := s.Get(ctx, name); i.Options[restoreKey] != "" || read(t, p, "new-"+name, "f") != "new" || err != nil {
			t.Errorf("%s: %q, %v, %v", name, read(t, p, "new-"+name, "f"), i.Options, err)
		}
	}
	if err := s.edit(ctx, "rebuilt", func(r *db.Instance) { r.Config[restoreKey] = "s0" }); err != nil {
		t.Fatal(err)
	}
	i, err := s.Get(ctx, "rebuilt")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.finishPending(gone, "rebuilt", i.Options); kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("a database that doesn't answer: %v", err)
	}
	if i, err := s.Get(ctx, "rebuilt"); i.Options[restoreKey] != "s0" || err != nil {
		t.Errorf("it is given up: %v, %v", i.Options, err)
	}
}

func TestSnapshotDue(t *testing.T) {
	s, _, p := set(t)
	ctx := t.Context()
	create(t, s, p, "a",
		Config{Options: map[string]string{"snapshots.schedule": "@hourly", "snapshots.schedule.stopped": "true",
			"snapshots.pattern": "auto%d"}})
	create(t, s, p, "b", Config{Options: map[string]string{"snapshots.schedule": "@hourly"}}) // stopped
	create(t, s, p, "c", Config{})
	from := time.Date(2024, 5, 1, 11, 59, 30, 0, time.Local)
	for range 2 {
		if err := errors.Join(s.SnapshotDue(ctx, from, from.Add(time.Minute)),
			s.SnapshotDue(ctx, from.Add(time.Minute), from.Add(2*time.Minute))); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.AllSnapshots(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"a": 2, "b": 0, "c": 0} {
		of, got := db.Name{Project: "default", Name: name}, 0
		if err := all.Each(ctx, of, func(s Snapshot) error {
			if s.Instance != name || s.Name != fmt.Sprintf("auto%d", got) {
				t.Errorf("%+v", s)
			}
			got++
			return nil
		}); err != nil || got != want || len(all.Refs(of)) != want {
			t.Errorf("%s: %d, %d, %v", name, got, len(all.Refs(of)), err)
		}
	}

	var failed []string
	s.Failed = func(what Unasked, i Instance, err error) {
		if what == ScheduledSnapshot && err != nil {
			failed = append(failed, i.Name)
		}
	}
	if err := s.edit(ctx, "a", func(r *db.Instance) { r.Config["snapshots.pattern"] = "a/b" }); err != nil {
		t.Fatal(err)
	}
	if err := s.SnapshotDue(ctx, from, from.Add(time.Minute)); err == nil || fmt.Sprint(failed) != "[a]" {
		t.Errorf("%v, failed: %v", err, failed)
	}
}

func TestCopyFiles(t *testing.T) {
	s, _, p := set(t)
	ctx := t.Context()
	create(t, s, p, "a", Config{})
	write(t, p, "a", "f", "one")
	if err := s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s0"}); err != nil {
		t.Fatal(err)
	}
	write(t, p, "a", "f", "two")
	for name, c := range map[string]struct {
		from      string
		snapshots bool
		text      string
		n         int
	}{"b": {"a", true, "two", 1}, "c": {"a", false, "two", 0}, "d": {"a/s0", true, "one", 0}} {
		n := New{Name: name, Architecture: "x86_64", Config: Config{Profiles: []string{"default"}}}
		f := s.NewFiles()
		f.UUID = "uuid-" + name
		if err := s.CopyFiles(ctx, c.from, f, c.snapshots); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Create(ctx, n, f); err != nil {
			t.Fatal(err)
		}
		list, err := s.Snapshots(ctx, name)
		if got := read(t, p, name, "f"); got != c.text || len(list) != c.n || err != nil {
			t.Errorf("%s: %q, %d snapshots, %v", name, got, len(list), err)
		}
	}
	if err := s.Restore(ctx, "b", "s0"); err != nil {
		t.Fatal(err)
	}
	if i, err := s.Get(ctx, "b"); i.Options[UUIDKey] != "uuid-b" || read(t, p, "b", "f") != "one" || err != nil {
		t.Errorf("%+v, %v", i, err)
	}
	f := s.NewFiles()
	if err := s.CopyFiles(ctx, "a", f, true); err != nil {
		t.Fatal(err)
	}
	before, _ := p.Snapshots()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if after, err := p.Snapshots(); len(after) != len(before)-1 || err != nil {
		t.Errorf("%v, %v", after, err)
	}
}

// at gives a change to a time, whatever it was.
func at(t time.Time) func(time.Time) (time.Time, error) {
	return func(time.Time) (time.Time, error) { return t, nil }
}
