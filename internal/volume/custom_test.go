package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

func openCustoms(t *testing.T) (*volume.Pool, string) {
	t.Helper()
	dir := t.TempDir()
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p, dir
}

func isKind(t *testing.T, err error, k kiln.Kind) {
	t.Helper()
	if !errors.Is(err, k) {
		t.Errorf("error %v, want %s", err, k)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCustom(t *testing.T) {
	p, _ := openCustoms(t)
	defer p.Close()
	data := volume.CustomName{In: "default", Name: "data"}
	other := volume.CustomName{In: "default", Name: "other"}
	must(t, p.CreateCustom(data, volume.CustomState{Description: "x", Config: map[string]string{"user.a": "b"}}))
	isKind(t, p.CreateCustom(data, volume.CustomState{}), kiln.Conflict)
	for _, name := range []string{"", ".", "..", ".hidden", "a/b", "a b", "-f"} {
		bad := volume.CustomName{In: "default", Name: name}
		isKind(t, p.CreateCustom(bad, volume.CustomState{}), kiln.Invalid)
		isKind(t, p.RenameCustom(data, name, nil), kiln.Invalid)
		isKind(t, p.DeleteCustom(bad, nil), kiln.Invalid)
		isKind(t, p.CreateCustom(volume.CustomName{In: name, Name: "x"}, volume.CustomState{}), kiln.Invalid)
	}
	files, err := p.CustomFiles(data)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(files, "file"), []byte("text"), 0o600))
	must(t, p.EditCustom(data, func(s *volume.CustomState) error { s.Description = "y"; return nil }))
	refused := errors.New("refused")
	if err := p.EditCustom(data, func(s *volume.CustomState) error { s.Description = "z"; return refused }); err != refused {
		t.Error(err)
	}
	must(t, p.CreateCustom(other, volume.CustomState{}))
	isKind(t, p.RenameCustom(data, "other", nil), kiln.Conflict)
	isKind(t, p.RenameCustom(volume.CustomName{In: "default", Name: "none"}, "new", nil), kiln.NotFound)
	must(t, p.RenameCustom(data, "new", nil))
	_, err = p.CustomFiles(data)
	isKind(t, err, kiln.NotFound)
	data.Name = "new"
	c, err := p.Custom(data)
	if err != nil || c.Description != "y" || c.Config["user.a"] != "b" || c.Damage != "" {
		t.Errorf("%+v %v", c, err)
	}
	if n, err := p.CustomUsage(t.Context(), data); n < 4096 || err != nil {
		t.Errorf("%d bytes %v", n, err)
	}

	// One name in two projects is two volumes.
	elsewhere := volume.CustomName{In: "web", Name: "new"}
	must(t, p.CreateCustom(elsewhere, volume.CustomState{}))
	taken := func() error { // which may take its time: other volumes can be used, and this one can't
		must(t, p.EditCustom(elsewhere, func(*volume.CustomState) error { return nil }))
		_, err := p.UseCustom(data)
		isKind(t, err, kiln.Conflict)
		return kiln.Errorf(kiln.Conflict, "an instance has it now")
	}
	isKind(t, p.DeleteCustom(data, taken), kiln.Conflict)
	isKind(t, p.RenameCustom(data, "new", taken), kiln.Conflict)
	must(t, p.DeleteCustom(data, nil))
	isKind(t, p.DeleteCustom(data, nil), kiln.NotFound)
	if c, err := p.Custom(elsewhere); err != nil || c.Damage != "" {
		t.Errorf("%+v %v", c, err)
	}
	ins, err := p.CustomIns()
	if !slices.Equal(ins, []string{"default", "web"}) || err != nil {
		t.Errorf("%q %v", ins, err)
	}
}

// TestDamagedCustom damages volumes in each way: they are in the list with the reason, hide
// no other, aren't changed, and can be deleted.
func TestDamagedCustom(t *testing.T) {
	p, dir := openCustoms(t)
	defer p.Close()
	in := filepath.Join(dir, "custom", "default")
	for _, name := range []string{"good", "record", "norecord", "files", "link", "snapshots", "file"} {
		must(t, p.CreateCustom(volume.CustomName{In: "default", Name: name}, volume.CustomState{}))
	}
	must(t, os.WriteFile(filepath.Join(in, "record", "custom.json"), []byte("{"), 0o600))
	must(t, os.Remove(filepath.Join(in, "norecord", "custom.json")))
	must(t, os.Remove(filepath.Join(in, "files", "files")))
	must(t, os.Remove(filepath.Join(in, "link", "files")))
	target := t.TempDir()
	kept := filepath.Join(target, "kept")
	must(t, os.WriteFile(kept, nil, 0o600))
	must(t, os.Symlink(target, filepath.Join(in, "link", "files")))
	must(t, os.WriteFile(filepath.Join(in, ".stray"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(in, "snapshots", "snapshots"), nil, 0o600))
	must(t, os.RemoveAll(filepath.Join(in, "file")))
	must(t, os.WriteFile(filepath.Join(in, "file"), nil, 0o600))
	_, err := p.CustomSnapshots(volume.CustomName{In: "default", Name: "snapshots"})
	isKind(t, err, kiln.Integrity)
	all, err := p.Customs("default")
	if len(all) != 7 || err != nil {
		t.Fatalf("%+v %v", all, err)
	}
	if _, all, err := p.CustomBackups(); all || err != nil {
		t.Errorf("they all say what their backups are kept by: %v", err)
	}
	for _, c := range all {
		if (c.Damage == "") != (c.Name == "good") {
			t.Errorf("%s: damage %q", c.Name, c.Damage)
		}
		if c.Name == "good" {
			continue
		}
		isKind(t, p.EditCustom(c.CustomName, func(*volume.CustomState) error { return nil }), kiln.Integrity)
		must(t, p.DeleteCustom(c.CustomName, nil))
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if all, err := p.Customs("default"); len(all) != 1 || err != nil {
		t.Errorf("%+v %v", all, err)
	}
}

// TestCustomAtOnce lets many make, rename and delete the same volume: each step is done by
// one of them.
func TestCustomAtOnce(t *testing.T) {
	p, dir := openCustoms(t)
	defer p.Close()
	data := volume.CustomName{In: "default", Name: "data"}
	for _, step := range []func() error{
		func() error { return p.CreateCustom(data, volume.CustomState{}) },
		func() error { return p.RenameCustom(data, "next", nil) },
		func() error { return p.DeleteCustom(volume.CustomName{In: "default", Name: "next"}, nil) },
	} {
		var wg sync.WaitGroup
		done := make(chan error, 8)
		for range cap(done) {
			wg.Go(func() { done <- step() })
		}
		wg.Wait()
		close(done)
		good := 0
		for err := range done {
			if err == nil {
				good++
			} else if k := kiln.KindOf(err); k != kiln.Conflict && k != kiln.NotFound {
				t.Error(err)
			}
		}
		if good != 1 {
			t.Errorf("%d have done it", good)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "custom", "default")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// TestEditCustomAtOnce lets several change the same volume: none changes what another is
// changing.
func TestEditCustomAtOnce(t *testing.T) {
	p, _ := openCustoms(t)
	defer p.Close()
	data := volume.CustomName{In: "default", Name: "data"}
	must(t, p.CreateCustom(data, volume.CustomState{}))
	var wg sync.WaitGroup
	const who, times = 4, 5
	for range who {
		wg.Go(func() {
			for range times {
				if err := p.EditCustom(data, func(s *volume.CustomState) error { s.Description += "x"; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if c, err := p.Custom(data); len(c.Description) != who*times || err != nil {
		t.Errorf("of %d changes there are %d, %v", who*times, len(c.Description), err)
	}
}

// files reads a directory as names with what is in them.
func files(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all = append(all, rel+"="+string(b))
		return err
	}))
	return strings.Join(all, " ")
}

// TestManyCustomSnapshots has a volume with as many snapshots as it may, and one whose
// snapshots say as much as they may.
func TestManyCustomSnapshots(t *testing.T) {
	p, _ := openCustoms(t)
	defer p.Close()
	ctx, data := t.Context(), volume.CustomName{In: "default", Name: "data"}
	must(t, p.CreateCustom(data, volume.CustomState{}))
	must(t, p.SnapshotCustom(ctx, data, "first", time.Now(), time.Time{}, nil))
	files, err := p.CustomFiles(data)
	must(t, err)
	snapshots := filepath.Join(filepath.Dir(files), "snapshots")
	record := filepath.Join(snapshots, "first", "custom.json")
	fi, err := os.Stat(record)
	must(t, err)
	must(t, os.Truncate(record, 32<<20))
	isKind(t, p.SnapshotCustom(ctx, data, "next", time.Now(), time.Time{}, nil), kiln.TooLarge)
	must(t, os.Truncate(record, fi.Size()))
	for i := range 9_998 {
		must(t, os.Mkdir(filepath.Join(snapshots, fmt.Sprint(i)), 0o700))
	}
	must(t, p.SnapshotCustom(ctx, data, "next", time.Now(), time.Time{}, nil))
	err = p.SnapshotCustom(ctx, data, "more", time.Now(), time.Time{}, nil)
	if isKind(t, err, kiln.TooLarge); !strings.Contains(err.Error(), `"data" has 10000 snapshots`) ||
		!strings.Contains(err.Error(), "delete default data/SNAPSHOT; or have the next ones expire: ") {
		t.Error(err)
	}
}

func TestCustomSnapshots(t *testing.T) {
	p, dir := openCustoms(t)
	defer p.Close()
	ctx := t.Context()
	data := volume.CustomName{In: "default", Name: "data"}
	state := volume.CustomState{Description: "x", Config: map[string]string{"user.a": "b"}}
	must(t, p.CreateCustom(data, state))
	in, err := p.CustomFiles(data)
	must(t, err)
	must(t, os.Mkdir(filepath.Join(in, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(in, "sub", "a"), []byte("1"), 0o600))
	at := time.Now().UTC()
	paused := false
	pause := func(context.Context) (func() error, error) {
		must(t, os.WriteFile(filepath.Join(in, "last"), []byte("moment"), 0o600))
		paused = true
		return func() error { paused = false; return nil }, nil
	}
	must(t, p.SnapshotCustom(ctx, data, "s0", at, at.Add(time.Hour), pause))
	if paused {
		t.Error("nobody goes on")
	}
	isKind(t, p.SnapshotCustom(ctx, data, "s0", at, time.Time{}, nil), kiln.Conflict)
	isKind(t, p.SnapshotCustom(ctx, data, "a/b", at, time.Time{}, nil), kiln.Invalid)
	isKind(t, p.SnapshotCustom(ctx, volume.CustomName{In: "default", Name: "none"}, "s", at, time.Time{}, nil), kiln.NotFound)
	busy := kiln.Errorf(kiln.Conflict, "an instance is busy")
	err = p.SnapshotCustom(ctx, data, "s1", at, time.Time{}, func(context.Context) (func() error, error) { return nil, busy })
	if !errors.Is(err, busy) {
		t.Error(err)
	}
	list, err := p.CustomSnapshots(data)
	if err != nil || len(list) != 1 || list[0].Name != "s0" || list[0].Description != "x" || list[0].Damage != "" ||
		!list[0].ExpiresAt.Equal(at.Add(time.Hour)) {
		t.Fatalf("%+v %v", list, err)
	}

	// What is under way keeps the volume where it is.
	must(t, os.WriteFile(filepath.Join(in, "sub", "a"), []byte("2"), 0o600))
	must(t, os.WriteFile(filepath.Join(in, "new"), nil, 0o600))
	refused := errors.New("in use")
	err = p.RestoreCustom(ctx, data, "s0", anyState, func(context.Context) (func() error, error) {
		isKind(t, p.DeleteCustom(data, nil), kiln.Conflict)
		isKind(t, p.RenameCustom(data, "x", nil), kiln.Conflict)
		isKind(t, p.DeleteCustomSnapshot(data, "s0"), kiln.Conflict)
		_, err := p.MountCustom(data)
		isKind(t, err, kiln.Conflict)
		isKind(t, p.SnapshotCustom(ctx, data, "s1", at, time.Time{}, nil), kiln.Conflict)
		return nil, refused
	})
	if !errors.Is(err, refused) || files(t, in) != "last=moment new= sub/a=2" {
		t.Errorf("%v: %s", err, files(t, in))
	}
	asked := 0 // again when the files are about to be exchanged: somebody may use them by then
	err = p.RestoreCustom(ctx, data, "s0", anyState, func(context.Context) (func() error, error) {
		if asked++; asked == 2 {
			return nil, refused
		}
		return func() error { return nil }, nil
	})
	if !errors.Is(err, refused) || asked != 2 || files(t, in) != "last=moment new= sub/a=2" {
		t.Errorf("%v after %d: %s", err, asked, files(t, in))
	}
	nobody := func(context.Context) (func() error, error) { return func() error { return nil }, nil }
	must(t, p.RestoreCustom(ctx, data, "s0", anyState, nobody))
	if got := files(t, in); got != "last=moment sub/a=1" {
		t.Error(got)
	}
	isKind(t, p.RestoreCustom(ctx, data, "none", anyState, nobody), kiln.NotFound)
	changed := kiln.Errorf(kiln.Invalid, "what is said of it was changed")
	if err := p.RestoreCustom(ctx, data, "s0", func(s volume.CustomState) error {
		if s.Description != state.Description {
			t.Errorf("%+v", s)
		}
		return changed
	}, func(context.Context) (func() error, error) { t.Error("somebody is asked to stop"); return nil, nil }); !errors.Is(
		err, changed) {
		t.Error(err)
	}
	// The time of one may be put off after it was listed.
	must(t, p.ExpireCustomSnapshot(data, "s0", at))
	must(t, p.SnapshotCustom(ctx, data, "gone", at, at.Add(time.Hour), nil))
	must(t, p.ExpireCustomSnapshot(data, "gone", at.Add(time.Hour)))
	if list, err := p.CustomSnapshots(data); err != nil || len(list) != 1 || list[0].Name != "s0" {
		t.Errorf("%+v %v", list, err)
	}

	release, err := p.UseCustom(data)
	must(t, err)
	isKind(t, p.DeleteCustom(data, nil), kiln.Conflict)
	isKind(t, p.RestoreCustom(ctx, data, "s0", anyState, nobody), kiln.Conflict)
	release()

	copied := volume.CustomName{In: "web", Name: "copied"}
	must(t, os.WriteFile(filepath.Join(in, "new"), nil, 0o600))
	must(t, p.CopyCustom(ctx, data, "", copied, state, true, nil))
	isKind(t, p.CopyCustom(ctx, data, "", copied, state, true, nil), kiln.Conflict)
	bare := volume.CustomName{In: "web", Name: "bare"}
	must(t, p.CopyCustom(ctx, data, "s0", bare, volume.CustomState{}, true, nil))
	for n, want := range map[volume.CustomName]string{copied: "last=moment new= sub/a=1", bare: "last=moment sub/a=1"} {
		got, err := p.CustomFiles(n)
		must(t, err)
		if all := files(t, got); all != want {
			t.Errorf("%s: %s", n.Name, all)
		}
	}
	if list, err := p.CustomSnapshots(copied); err != nil || len(list) != 1 || list[0].Damage != "" {
		t.Errorf("%+v %v", list, err)
	}
	if list, err := p.CustomSnapshots(bare); err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}

	// One that is damaged is listed, and can be deleted.
	must(t, os.WriteFile(filepath.Join(dir, "custom/web/copied/snapshots/s0/custom.json"), []byte("{"), 0o600))
	list, err = p.CustomSnapshots(copied)
	if err != nil || len(list) != 1 || list[0].Damage == "" {
		t.Errorf("%+v %v", list, err)
	}
	isKind(t, p.RestoreCustom(ctx, copied, "s0", anyState, nobody), kiln.Integrity)
	isKind(t, p.EditCustomSnapshot(copied, "s0", func(*volume.CustomSnapshot) error { return nil }), kiln.Integrity)
	must(t, p.DeleteCustomSnapshot(copied, "s0"))
	isKind(t, p.DeleteCustomSnapshot(copied, "s0"), kiln.NotFound)
	must(t, p.RenameCustomSnapshot(data, "s0", "s1"))
	must(t, p.DeleteCustom(data, nil))
}

// TestUnfinishedCustom leaves what a daemon leaves that is killed while it copies: the next
// one has none of it.
func TestUnfinishedCustom(t *testing.T) {
	p, dir := openCustoms(t)
	data := volume.CustomName{In: "default", Name: "data"}
	must(t, p.CreateCustom(data, volume.CustomState{}))
	stop := errors.New("killed")
	var left []string
	_ = p.SnapshotCustom(t.Context(), data, "s0", time.Now(), time.Time{}, func(context.Context) (func() error, error) {
		left, _ = filepath.Glob(filepath.Join(dir, "tmp", "new-*"))
		return nil, stop
	})
	if len(left) != 1 {
		t.Fatalf("%q", left)
	}
	must(t, os.MkdirAll(filepath.Join(left[0], "files"), 0o700))
	if list, err := p.CustomSnapshots(data); len(list) != 0 || err != nil {
		t.Errorf("%+v %v", list, err)
	}
	must(t, p.Close())
	again, err := volume.Open(dir)
	must(t, err)
	again.Quiet()
	must(t, again.Close())
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp", "*")); len(left) != 0 {
		t.Errorf("%q", left)
	}
	if all, err := again.Customs("default"); len(all) != 1 || all[0].Damage != "" || err != nil {
		t.Errorf("%+v %v", all, err)
	}
}

// anyState restores whatever is said of a volume.
func anyState(volume.CustomState) error { return nil }
