package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestExpireVolumeSnapshots has snapshots whose time is over, or comes, or never does.
func TestExpireVolumeSnapshots(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	ctx, now := t.Context(), time.Now()
	config := map[string]string{"snapshots.expiry": "1d"}
	if err := d.CreateVolume(ctx, "data", volume.CustomState{Config: config}); err != nil {
		t.Fatal(err)
	}
	soon, never := now.Add(time.Hour), time.Time{}
	for name, at := range map[string]*time.Time{"": nil, "soon": &soon, "never": &never} {
		o, err := d.CreateVolumeSnapshot(ctx, "data", NewVolumeSnapshot{Name: name, ExpiresAt: at})
		wait(t, o, err)
	}
	left := func(at time.Time) string {
		if err := d.expireVolumeSnapshots(ctx, at); err != nil {
			t.Error(err)
		}
		list, err := d.VolumeSnapshots(ctx, "data")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		return strings.Join(names, " ")
	}
	if got := left(now); len(strings.Fields(got)) != 3 {
		t.Error(got)
	}
	if got := left(now.Add(2 * time.Hour)); strings.Contains(got, "soon") || !strings.Contains(got, "snap0") {
		t.Error(got)
	}
	if got := left(now.Add(25 * time.Hour)); got != "never" {
		t.Error(got)
	}
}

// TestVolumeKeepsItsName gives the name of a volume away while something is done with it: that
// is refused until it is over.
func TestVolumeKeepsItsName(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	if err := d.CreateVolume(ctx, "data", volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	backups, err := d.VolumeBackups(ctx, "data")
	if err != nil {
		t.Fatal(err)
	}
	devices := map[string]map[string]string{"d": {"type": "disk", "pool": "default", "source": "data", "path": "/d"}}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "x", Source: Source{Type: "none"},
		Config: instance.Config{Devices: devices}})
	wait(t, o, err)
	names := func() error { // what else would keep the name is left out
		n := volume.CustomName{In: project.Default, Name: "data"}
		return errors.Join(d.pool.RenameCustom(n, "old", nil), d.pool.RenameCustom(volume.CustomName{In: n.In, Name: "old"}, "data", nil))
	}
	for verb, begin := range map[string]func() (*op.Operation, error){
		"snapshot": func() (*op.Operation, error) { return d.CreateVolumeSnapshot(ctx, "data", NewVolumeSnapshot{}) },
		"copy": func() (*op.Operation, error) {
			return d.CopyVolume(ctx, "copy", volume.CustomState{}, VolumeCopy{From: "data"})
		},
		"backup": func() (*op.Operation, error) { return backups.Create(ctx, NewBackup{Name: "b"}) },
	} {
		resume, err := d.instances.HoldAll(ctx, []db.Name{{Project: project.Default, Name: "x"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		o, err := begin()
		if err != nil {
			t.Fatal(verb, err)
		}
		if err := names(); !errors.Is(err, kiln.Conflict) {
			t.Errorf("%s: another one can have the name: %v", verb, err)
		}
		if err := resume(); err != nil {
			t.Fatal(err)
		}
		wait(t, o, nil)
		if err := names(); err != nil {
			t.Errorf("after %s: %v", verb, err)
		}
	}
	for verb, begin := range map[string]func() (*op.Operation, error){ // that are refused
		"snapshot": func() (*op.Operation, error) {
			return d.CreateVolumeSnapshot(ctx, "data", NewVolumeSnapshot{Name: "/"})
		},
		"copy": func() (*op.Operation, error) {
			return d.CopyVolume(ctx, "copy", volume.CustomState{}, VolumeCopy{From: "data"})
		},
		"backup":       func() (*op.Operation, error) { return backups.Create(ctx, NewBackup{Name: "/"}) },
		"of no volume": func() (*op.Operation, error) { return d.CreateVolumeSnapshot(ctx, "none", NewVolumeSnapshot{}) },
	} {
		if _, err := begin(); err == nil {
			t.Errorf("%s succeeds", verb)
		}
		if err := names(); err != nil {
			t.Errorf("after a %s that is refused: %v", verb, err)
		}
	}
}

// TestVolumeWithoutProject makes a volume in a project that was deleted after the request
// came: it isn't made, nor seen in the next project of that name.
func TestVolumeWithoutProject(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	ctx := t.Context()
	if err := d.CreateProject(ctx, db.Project{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	web, err := d.In(ctx, "web")
	if err := errors.Join(err, d.DeleteProject(ctx, "web")); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateVolume(web, "data", volume.CustomState{}); !errors.Is(err, kiln.NotFound) {
		t.Errorf("made without its project: %v", err)
	}
	if list, err := d.pool.CustomNames("web"); len(list) > 0 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}

// TestVolumeElsewhere makes volumes in a project that got the default project's after the
// request came: nobody would see them.
func TestVolumeElsewhere(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	ctx := t.Context()
	err := errors.Join(d.CreateProject(ctx, db.Project{Name: "web"}), d.CreateVolume(ctx, "data", volume.CustomState{}))
	web, werr := d.In(ctx, "web")
	if err := errors.Join(err, werr, d.UpdateProject(ctx, "web", func(p db.Project) (db.Project, error) {
		p.Config["features.storage.volumes"] = "false"
		return p, nil
	})); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateVolume(web, "more", volume.CustomState{}); !errors.Is(err, kiln.Conflict) {
		t.Errorf("made where nobody sees it: %v", err)
	}
	o, err := d.CopyVolume(web, "copy", volume.CustomState{}, VolumeCopy{From: "data", Project: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Wait(ctx); !errors.Is(s.Err, kiln.Conflict) {
		t.Errorf("copied where nobody sees it: %v", s.Err)
	}
	if list, err := d.pool.CustomNames("web"); len(list) > 0 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	// What has its name and nobody sees, as after an older database, doesn't keep it from being seen.
	if err := errors.Join(d.pool.CreateCustom(volume.CustomName{In: "web", Name: "old"}, volume.CustomState{}),
		d.UpdateProject(ctx, "web", func(p db.Project) (db.Project, error) {
			p.Config = map[string]string{"features.storage.volumes": "true"}
			return p, nil
		})); err != nil {
		t.Error(err)
	}
}

// TestVolumeOfProfile: an instance uses what its profiles give it, too.
func TestVolumeOfProfile(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	devices := map[string]map[string]string{"d": {"type": "disk", "pool": "default", "source": "data", "path": "/d"}}
	if err := errors.Join(d.CreateVolume(ctx, "data", volume.CustomState{}),
		d.CreateProfile(ctx, db.Profile{Name: "p", Devices: devices})); err != nil {
		t.Fatal(err)
	}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c", Source: Source{Type: "none"},
		Config: instance.Config{Profiles: []string{"default", "p"}}})
	wait(t, o, err)
	if v, err := d.Volume(ctx, "data"); err != nil || len(v.Instances) != 1 || len(v.Profiles) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestVolumeBounds: what is said of a volume doesn't grow without end.
func TestVolumeBounds(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	for what, c := range map[string]struct {
		s    volume.CustomState
		kind kiln.Kind
	}{
		"text":    {volume.CustomState{Description: strings.Repeat("x", mostVolumeText+1)}, kiln.TooLarge},
		"value":   {volume.CustomState{Config: map[string]string{"user.a": "\x1b[31m"}}, kiln.Invalid},
		"key":     {volume.CustomState{Config: map[string]string{"user.a\nb": "c"}}, kiln.Invalid},
		"unknown": {volume.CustomState{Config: map[string]string{"bogus": "c"}}, kiln.Invalid},
		"expiry":  {volume.CustomState{Config: map[string]string{"snapshots.expiry": "soon"}}, kiln.Invalid},
		"size":    {volume.CustomState{Config: map[string]string{"size": "1GiB"}}, kiln.Unsupported},
	} {
		if err := d.CreateVolume(t.Context(), "data", c.s); kiln.KindOf(err) != c.kind {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := d.Volumes(t.Context()); len(list) > 0 || err != nil {
		t.Errorf("%+v %v", list, err)
	}
}

// TestVolumeBackups has backups go where their volume goes, and with it, and makes volumes of
// one that is cut or changed at many places: it fails and leaves nothing, or the change was
// of no byte that matters.
func TestVolumeBackups(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	defer func() { end(t, d) }()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(d.CreateVolume(ctx, "data", volume.CustomState{Config: map[string]string{"user.a": "b"}}))
	o, err := d.CreateVolumeSnapshot(ctx, "data", NewVolumeSnapshot{Name: "s0"})
	wait(t, o, err)
	backups := func(name string) Backups {
		t.Helper()
		b, err := d.VolumeBackups(ctx, name)
		must(err)
		return b
	}
	o, err = backups("data").Create(ctx, NewBackup{Compression: "gzip"})
	wait(t, o, err)
	must(d.RenameVolume(ctx, "data", "other"))
	must(d.CreateVolume(ctx, "data", volume.CustomState{}))
	end(t, d)
	d = open(t, dir)
	for _, later := range []time.Duration{0, 2 * volume.LostTime, 4 * volume.LostTime} {
		must(d.sweepBackups(ctx, time.Now().Add(later)))
	}
	if list, err := backups("data").List(); len(list) > 0 || err != nil {
		t.Errorf("a new volume has %v, %v", list, err)
	}
	f, err := backups("other").Open(ctx, "backup0")
	must(err)
	whole, err := io.ReadAll(f)
	must(errors.Join(err, f.Close()))

	bring := func(b []byte) error { return d.ImportVolume(ctx, "new", bytes.NewReader(b)).Wait(ctx).Err }
	for n := 0; n < len(whole); n += max(1, len(whole)/40) {
		changed := slices.Clone(whole)
		changed[n] ^= 0x55
		for _, b := range [][]byte{whole[:n], changed} {
			err := bring(b)
			if err == nil { // as in the name that gzip has
				must(d.DeleteVolume(ctx, "new"))
				if len(b) < len(whole) {
					t.Errorf("%d of %d bytes make a volume", len(b), len(whole))
				}
			} else if k := kiln.KindOf(err); k == kiln.Internal {
				t.Errorf("byte %d: an error without a kind: %v", n, err)
			}
			if _, err := d.Volume(ctx, "new"); !errors.Is(err, kiln.NotFound) {
				t.Fatalf("byte %d: there is a volume: %v", n, err)
			}
		}
	}
	must(bring(whole))
	if err := bring(whole); !errors.Is(err, kiln.Conflict) {
		t.Errorf("a second one of the name: %v", err)
	}
	v, err := d.Volume(ctx, "new")
	must(err)
	if list, err := d.VolumeSnapshots(ctx, "new"); len(list) != 1 || v.Config["user.a"] != "b" || err != nil {
		t.Errorf("%+v %v %v", v, list, err)
	}

	must(d.DeleteVolume(ctx, "other"))
	left, err := os.ReadDir(filepath.Join(dir, exportsDir))
	if len(left) > 0 || err != nil {
		t.Errorf("%v %v are left", left, err)
	}
}

// TestImportLeavesKeysOut: what can't be said of volumes here is no reason to lose one.
func TestImportLeavesKeysOut(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	var b bytes.Buffer
	v := backup.Volume{Name: "data", Config: map[string]string{"user.a": "b", "size": "10GiB", "zfs.blocksize": "1",
		"snapshots.expiry": "soon", "new.key": "x"}}
	err := backup.WriteVolume(t.Context(), &b, nil, v, func(context.Context, string) (tr backup.Tree, err error) {
		tr.Dir, err = os.Open(t.TempDir())
		return tr, err
	})
	if err != nil {
		t.Fatal(err)
	}
	o := d.ImportVolume(t.Context(), "", &b)
	s := o.Wait(t.Context())
	got, err := d.Volume(t.Context(), "data")
	if err != nil || s.Err != nil || !maps.Equal(got.Config, map[string]string{"user.a": "b"}) {
		t.Errorf("%+v %v %v", got, err, s.Err)
	}
	if w, _ := s.Metadata["warning"].(string); !strings.Contains(w, "new.key, size, snapshots.expiry, zfs.blocksize") {
		t.Errorf("warning %q", w)
	}
}
