package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// state is all that a daemon says of what is in it.
type state struct {
	Images    []kiln.Image
	History   []store.Version
	Instances []instance.Instance
	Snapshots map[string][]instance.Snapshot // of every instance
	Profiles  []db.Profile
	Networks  []db.Network
}

func stateOf(t *testing.T, d *Daemon) (s state) {
	t.Helper()
	ctx := t.Context()
	var err [6]error
	s.Images, err[0] = d.Images.List(ctx, store.Query{Files: true})
	s.History, err[1] = d.Images.History(ctx, "split")
	s.Instances, err[2] = d.Instances(ctx)
	s.Snapshots = map[string][]instance.Snapshot{}
	for _, i := range s.Instances {
		if list, serr := d.Snapshots(ctx, i.Name); len(list) > 0 || serr != nil {
			s.Snapshots[i.Name], err[3] = list, errors.Join(err[3], serr)
		}
	}
	s.Profiles, err[4] = d.db.Profiles(ctx)
	s.Networks, err[5] = d.db.Networks(ctx)
	if err := errors.Join(err[:]...); err != nil {
		t.Fatal(err)
	}
	images := map[string]kiln.Image{}
	for i, img := range s.Images {
		s.Images[i].LastUsedAt = time.Time{} // which isn't recorded
		images[img.Fingerprint.String()] = s.Images[i]
	}
	s.Images = nil // in whatever order they come back
	for _, name := range slices.Sorted(maps.Keys(images)) {
		s.Images = append(s.Images, images[name])
	}
	for i := range s.Instances {
		s.Instances[i].LastUsedAt = time.Time{}
	}
	return s
}

// populated is the directory of a daemon that ended, with something of everything.
func populated(t *testing.T) (dir string, before state) {
	dir = filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	ctx := t.Context()
	meta, rootfs := formattest.Split(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("uni")}, formattest.Unified(t)), nil)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("split", "other"), Public: true}, meta, rootfs), nil)
	img, err := d.Images.Find(ctx, "uni")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Images.UpdateAlias(ctx, "split", func(a *kiln.Alias) error { // and it has a history
		a.Target, a.Description = img.Fingerprint, "moved"
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	devices := map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"}}
	if err := errors.Join(d.CreateProfile(ctx, db.Profile{Name: "web", Description: "x", Config: map[string]string{
		"limits.processes": "500"}}), d.CreateProfile(ctx, db.Profile{Name: "spare", Description: "no instance uses it"}),
		d.db.EditProfile(ctx, "default", func(p *db.Profile) error {
			p.Config["user.site"] = "here"
			return nil
		})); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: Source{Type: "image", Alias: "uni"},
			Config: instance.Config{Description: "of " + name, Options: map[string]string{"user.a": name},
				Profiles: []string{defaultProfile, "web"}, Devices: devices}})
		wait(t, o, err)
	}
	if err := errors.Join(d.instances.CreateSnapshot(ctx, "a", instance.NewSnapshot{Name: "s0"}),
		d.instances.CreateSnapshot(ctx, "a", instance.NewSnapshot{Name: "s1"}), d.instances.Rename(ctx, "b", "c"),
		d.instances.RenameSnapshot(ctx, "a", "s1", "s2")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.db.CreateNetwork(ctx, db.Network{Name: "lab", Config: map[string]string{
		"ipv4.address": "10.98.1.1/24"}}), d.db.EditNetwork(ctx, defaultNetwork, func(n *db.Network) error {
		n.Config["ipv4.address"], n.Description = "10.98.2.1/24", "x"
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	before = stateOf(t, d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, before
}

// TestRecoverAll loses the database: everything is as it was.
func TestRecoverAll(t *testing.T) {
	dir, before := populated(t)
	loseDatabase(t, dir)
	cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"}
	r, err := Recover(t.Context(), cfg)
	if err != nil || len(r.Left)+len(r.Remarks) > 0 || len(r.Gone) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := []int{len(r.Images), len(r.Aliases), len(r.Instances), len(r.Snapshots),
		len(r.Profiles), len(r.Networks)}; !cmp.Equal(got,
		[]int{2, 3, 2, 2, 3, 2}) {
		t.Errorf("%d: %+v", got, r)
	}
	if r, err := Recover(t.Context(), cfg); err != nil || len(r.Images)+len(r.Instances)+len(r.Snapshots)+len(r.Profiles)+
		len(r.Left)+len(r.Remarks)+len(r.Gone) > 0 {
		t.Errorf("once more: %+v, %v", r, err)
	}
	d := open(t, dir)
	defer end(t, d)
	if diff := cmp.Diff(before, stateOf(t, d)); diff != "" {
		t.Error(diff)
	}
}

// TestRecoverOlderCopy has a copy of the database of before the last changes: the records
// are newer.
func TestRecoverOlderCopy(t *testing.T) {
	dir, _ := populated(t)
	d := open(t, dir)
	if err := d.copyDatabase(t.Context(), time.Now().UTC().Format("20060102T150405")); err != nil {
		t.Fatal(err)
	}
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "new", Source: Source{Type: "none"}})
	wait(t, o, err)
	if err := errors.Join(d.instances.Rename(t.Context(), "a", "z"), d.instances.Rename(t.Context(), "c", "a"),
		d.instances.DeleteSnapshot(t.Context(), "z", "s0"), d.db.RenameProfile(t.Context(), "web", "net"),
		d.Images.RenameAlias(t.Context(), "uni", "one"),
		d.db.EditNetwork(t.Context(), "lab", func(n *db.Network) error { n.Description = "new"; return nil })); err != nil {
		t.Fatal(err)
	}
	before := stateOf(t, d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	newest := filepath.Join(dir, backupsDir, "kiln-99990101.db") // and damaged
	if err := errors.Join(os.Remove(filepath.Join(dir, databaseFile)),
		os.WriteFile(newest, []byte(strings.Repeat("text ", 2000)), 0o600)); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || r.Backup == "" || r.Backup == newest || len(r.Left)+len(r.Remarks) > 0 || len(r.Gone) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	d = open(t, dir)
	defer end(t, d)
	after := stateOf(t, d)
	n := slices.IndexFunc(after.Profiles, func(p db.Profile) bool { return p.Name == "web" })
	if n < 0 {
		t.Fatal("the profile of the copy is not there as well")
	}
	after.Profiles = slices.Delete(after.Profiles, n, n+1)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

// TestRecoverWithoutRecords has files only: the two of a split image find each other,
// and snapshots that nobody knows stay for good.
func TestRecoverWithoutRecords(t *testing.T) {
	dir, _ := populated(t)
	loseDatabase(t, dir)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, imagesDir)), os.RemoveAll(filepath.Join(dir, "volumes/notes"))); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Images) != 2 || len(r.Instances) != 2 || len(r.Left) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, want := range []string{"no aliases", "name and configuration of instance recovered-"} {
		if !strings.Contains(strings.Join(r.Remarks, "\n"), want) {
			t.Errorf("nobody says %q: %q", want, r.Remarks)
		}
	}
	d := open(t, dir)
	lost, err := ListLost(t.Context(), dir)
	if err != nil || len(lost) != 2 || lost[0].Kind != "snapshot" || !lost[0].GoesAt.IsZero() {
		t.Errorf("%+v, %v", lost, err)
	}
	if _, err := DropLost(t.Context(), dir, "nothing here"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("of no such name: %v", err)
	}
	if _, err := DropLost(t.Context(), dir, lost[0].Name[:8]); !errors.Is(err, kiln.Ambiguous) {
		t.Errorf("of the names that begin so: %v", err)
	}
	if _, err := DropLost(t.Context(), dir, lost[0].Name); err != nil {
		t.Error(err)
	}
	for _, few := range []string{"", lost[1].Name[:1], lost[1].Name[:7]} {
		if name, err := DropLost(t.Context(), dir, few); !errors.Is(err, kiln.NotFound) {
			t.Errorf("%q is enough to drop %q: %v", few, name, err)
		}
	}
	if lost, err := ListLost(t.Context(), dir); err != nil || len(lost) != 1 {
		t.Errorf("%+v, %v", lost, err)
	}
	end(t, d)
}

// loseDatabase removes a database and its copies.
func loseDatabase(t *testing.T, dir string) {
	t.Helper()
	err := errors.Join(os.Remove(filepath.Join(dir, databaseFile)), os.RemoveAll(filepath.Join(dir, backupsDir)))
	if err != nil {
		t.Fatal(err)
	}
}

// TestRecoverVolumes loses the database: storage volumes are where they were, also in a
// project that nothing else tells of.
func TestRecoverVolumes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	if err := d.CreateProject(t.Context(), db.Project{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	web, err := d.In(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		d.CreateVolume(t.Context(), "data", volume.CustomState{Description: "x", Config: map[string]string{"user.a": "b"}}),
		d.CreateVolume(web, "data", volume.CustomState{Description: "y"}), d.Close()); err != nil {
		t.Fatal(err)
	}
	loseDatabase(t, dir)
	if err := os.Remove(filepath.Join(dir, projectsFile)); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil || len(r.Left) > 0 || len(r.Remarks) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	d = open(t, dir)
	defer end(t, d)
	if web, err = d.In(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	for want, ctx := range map[string]context.Context{"x": t.Context(), "y": web} {
		if v, err := d.Volume(ctx, "data"); err != nil || v.Description != want || v.Damage != "" {
			t.Errorf("%+v %v", v, err)
		}
	}
}

// olderCopy is a directory without its database, whose copy is of before the last changes, when
// the project could have less, too, of which there is no record.
func olderCopy(t *testing.T) (dir string, before state) {
	dir, _ = populated(t)
	d := open(t, dir)
	ctx := t.Context()
	may := func(instances, each, all string) {
		t.Helper()
		if err := errors.Join(
			d.UpdateProject(ctx, "default", func(p db.Project) (db.Project, error) {
				p.Config["limits.instances"], p.Config["limits.memory"] = instances, all
				return p, nil
			}),
			d.db.EditProfile(ctx, "web", func(p *db.Profile) error { p.Config["limits.memory"] = each; return nil })); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.db.EditProfile(ctx, "web", func(p *db.Profile) error { p.Config["limits.memory"] = "1MiB"; return nil }); err != nil {
		t.Fatal(err)
	}
	may("2", "512MiB", "1GiB")
	if err := d.copyDatabase(ctx, time.Now().UTC().Format("20060102T150405")); err != nil {
		t.Fatal(err)
	}
	may("3", "1GiB", "8GiB")
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "new", Source: Source{Type: "none"},
		Config: instance.Config{Profiles: []string{defaultProfile, "web"}}})
	wait(t, o, err)
	if err := errors.Join(d.instances.Rename(ctx, "a", "z"), d.instances.Rename(ctx, "c", "a")); err != nil {
		t.Fatal(err)
	}
	before = stateOf(t, d)
	if err := errors.Join(d.Close(), os.Remove(filepath.Join(dir, databaseFile)),
		os.Remove(filepath.Join(dir, projectsFile))); err != nil {
		t.Fatal(err)
	}
	return dir, before
}

// TestRecoverInterrupted has a recovery cancelled at many places: no daemon starts, and the next
// recovery brings all back as if it were the first, also what a project may not have any more.
func TestRecoverInterrupted(t *testing.T) {
	lost, before := olderCopy(t)
	for n := int32(1); ; n = n*3/2 + 1 {
		dir := filepath.Join(t.TempDir(), "kiln")
		if out, err := exec.Command("cp", "-a", lost, dir).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
		cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		late := &lateCancel{Context: ctx, cancel: cancel}
		late.left.Store(n)
		_, err := Recover(late, cfg)
		cancel()
		finished := err == nil
		if !finished {
			if d, err := Open(t.Context(), cfg); !errors.Is(err, kiln.Integrity) {
				t.Fatalf("cancelled at %d, a daemon starts: %v %v", n, err, d.Close())
			}
			r, err := Recover(t.Context(), cfg)
			if err != nil || r.Backup == "" || len(r.Instances) != 3 || len(r.Left) > 0 || len(r.Remarks) != 1 ||
				!strings.Contains(r.Remarks[0], "limits.instances") {
				t.Fatalf("cancelled at %d: %+v, %v", n, r, err)
			}
		}
		if left, err := filepath.Glob(filepath.Join(dir, recoveredFile+"*")); err != nil || len(left) > 0 {
			t.Errorf("%q, %v", left, err)
		}
		d := open(t, dir)
		diff := cmp.Diff(before, stateOf(t, d))
		end(t, d)
		if diff != "" {
			t.Fatalf("cancelled at %d: %s", n, diff)
		}
		if finished {
			return
		}
	}
}
