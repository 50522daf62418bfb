package daemon

import (
	"context"
	"database/sql"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/store"
)

// A kind of damage: what is put into a column.
const (
	noText  = `X'00ff'` // of a type that no column has
	noJSON  = `'{"a'`
	noTime  = `'yesterday'`
	noTruth = `'perhaps'`
	noHash  = `'no fingerprint'`
)

// damages has, for each table, the row to damage and what to put into its columns.
var damages = []struct {
	table, row, also string // also makes it something that is due to be deleted
	columns          map[string][]string
}{
	{"images", `id = 2`, `cached = true, last_used_at = '2000-01-01T00:00:00Z'`,
		map[string][]string{"fingerprint": {noText, noHash, `''`}, "type": {noText, `'spaceship'`}, "architecture": {noText},
			"size": {noText, "-5", `'much'`}, "filename": {noText}, "public": {noText, noTruth}, "auto_update": {noText, noTruth},
			"cached": {noText, noTruth}, "created_at": {noText, noTime}, "expires_at": {noText, noTime},
			"last_used_at": {noText, noTime}, "uploaded_at": {noText, noTime}, "properties": {noText, noJSON, `'{"a":1}'`},
			"profiles": {noText, noJSON}, "origin": {noText, noJSON}, "own_properties": {noText, noJSON},
			"replaced_by": {noText, noHash}, "replaced_at": {noText, noTime}}},
	{"image_files", `image_id = 2`, "",
		map[string][]string{"role": {noText}, "hash": {noText, noHash}, "size": {noText, "-1"}, "name": {noText},
			"ext": {noText}}},
	{"image_properties", `image_id = 2`, "",
		map[string][]string{"value": {noText}}},
	{"image_aliases", `name = 'hit'`, "", map[string][]string{"description": {noText}, "image_id": {"999"}}},
	{"alias_history", `name = 'hit'`, "", map[string][]string{"fingerprint": {noText, noHash, `''`}, "at": {noText, noTime},
		"rolled_back_at": {noText, noTime}}},
	{"profiles", `name = 'hit'`, "", map[string][]string{"description": {noText}, "config": {noText, noJSON},
		"devices": {noText, noJSON}}},
	{"instances", `name = 'hit'`, "", map[string][]string{"type": {noText, `'spaceship'`}, "architecture": {noText},
		"description": {noText}, "ephemeral": {noText, noTruth}, "running": {noText, noTruth}, "created_at": {noText, noTime},
		"last_used_at": {noText, noTime}, "base": {noText, noHash}, "config": {noText, noJSON, "'{}'"},
		"devices": {noText, noJSON}}},
	{"instances_profiles", `instance_id = 2`, "", map[string][]string{"profile_id": {"999"}}},
	{"instance_snapshots", `name = 'hit'`, `expires_at = '2000-01-01T00:00:00Z'`,
		map[string][]string{"files": {noText}, "created_at": {noText, noTime}, "expires_at": {noText, noTime},
			"last_used_at": {noText, noTime}, "architecture": {noText}, "description": {noText}, "ephemeral": {noText, noTruth},
			"base": {noText, noHash}, "config": {noText, noJSON}, "devices": {noText, noJSON}}},
	{"certificates", `name = 'hit'`, "", map[string][]string{"name": {noText}, "type": {noText, `'spaceship'`}, "description": {noText},
		"restricted": {noText, noTruth}, "projects": {noText, noJSON}, "certificate": {noText}, "added_at": {noText, noTime}}},
	{"mirrors", `name = 'hit'`, "", map[string][]string{"remote": {noText, noJSON}, "filters": {noText, noJSON},
		"keep": {noText, "-1"}, "pull_through": {noText, noTruth}, "public": {noText, noTruth},
		"last_run_at": {noText, noTime}, "last_error": {noText}}},
	{"config", `key = 'images.remote_cache_expiry'`, "", map[string][]string{"value": {noText, `'soon'`}}},
}

// TestEveryColumnDamaged damages each column that something reads, one at a time. Every
// list is whole, nothing is deleted for it, the others can be used as before, what is
// damaged can't, and can be deleted.
func TestEveryColumnDamaged(t *testing.T) {
	model := filepath.Join(t.TempDir(), "kiln")
	makeBoth(t, model)
	for _, table := range damages {
		for column, values := range table.columns {
			for _, value := range values {
				t.Run(table.table+"."+column+"="+value, func(t *testing.T) {
					dir := filepath.Join(t.TempDir(), "kiln")
					if out, err := exec.Command("cp", "-a", model, dir).CombinedOutput(); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
					if table.also != "" {
						execute(t, dir, "UPDATE "+table.table+" SET "+table.also+" WHERE "+table.row)
					}
					execute(t, dir, "UPDATE "+table.table+" SET "+column+" = "+value+" WHERE "+table.row)
					d := open(t, dir)
					if lost, err := ListLost(t.Context(), dir); err != nil || len(lost) > 0 {
						t.Errorf("put away: %+v, %v", lost, err)
					}
					n := nounOf(table.table)
					checkDamaged(t, d, n, table.table+"."+column)
					end(t, d)
					d = open(t, dir) // and once more, without it
					defer end(t, d)
					if left := names(t, d)[n]; n != "" && !slices.Equal(left, []string{"good"}) {
						t.Errorf("left of %s: %q", n, left)
					}
				})
			}
		}
	}
}

// TestDamagedAddress has a daemon start whose address can't be read: it listens where
// the command line says, and the setting can be set again.
func TestDamagedAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	if err := d.SetSettings(t.Context(), map[string]string{httpsAddress: "127.0.0.1:1"}, false); err != nil {
		t.Fatal(err)
	}
	end(t, d)
	execute(t, dir, "UPDATE config SET value = "+noText)
	d = open(t, dir)
	defer end(t, d)
	var at []string
	listen := func(list []string) error { at = list; return nil }
	if err := d.Listen(t.Context(), "127.0.0.1:3", listen); err != nil || !slices.Equal(at, []string{"127.0.0.1:3"}) {
		t.Errorf("%v, %v", at, err)
	}
	if err := d.SetSettings(t.Context(), map[string]string{httpsAddress: "127.0.0.1:2"}, false); err != nil ||
		!slices.Equal(at, []string{"127.0.0.1:2", "127.0.0.1:3"}) {
		t.Errorf("%v, %v", at, err)
	}
}

// nounOf is what a row of a table makes unusable; "": nothing by itself.
func nounOf(table string) string {
	return map[string]string{"images": "image", "image_files": "image", "image_aliases": "alias", "profiles": "profile",
		"instances": "instance", "instance_snapshots": "snapshot", "certificates": "client", "mirrors": "mirror"}[table]
}

// checkDamaged looks at a daemon where the noun "hit" is damaged, and deletes it.
func checkDamaged(t *testing.T, d *Daemon, noun, column string) {
	t.Helper()
	ctx := t.Context()
	whole := func() {
		t.Helper()
		for n, list := range names(t, d) {
			if len(list) != 2 {
				t.Errorf("of %s there are %q", n, list)
			}
		}
	}
	whole()
	d.expire()
	d.keepSnapshots(time.Now().Add(-time.Hour), time.Now())
	if list, err := d.PruneImages(ctx, false, false); err != nil || len(list) > 0 {
		t.Errorf("pruned: %+v, %v", list, err)
	}
	whole()
	use := uses(d)
	for n, f := range use {
		if err := f(ctx, "good"); err != nil {
			t.Errorf("the good %s: %v", n, err)
		}
	}
	if f := use[noun]; f != nil {
		if err := f(ctx, "hit"); !errors.Is(err, kiln.Integrity) {
			t.Errorf("the damaged %s is changed: %v", noun, err)
		}
	}
	if column == "config.value" {
		if _, err := d.setting(ctx, cacheExpiry); !errors.Is(err, kiln.Integrity) {
			t.Error(err)
		}
		if err := d.SetSettings(ctx, map[string]string{cacheExpiry: ""}, false); err != nil {
			t.Error(err)
		}
	}
	if noun == "image" { // as lists show it
		fp := imageCalled(d, "hit")
		if img, err := d.Images.ByPrefix(ctx, fp.Short()); err != nil || img.Fingerprint != fp || img.Damage == "" {
			t.Errorf("by %s: %+v, %v", fp.Short(), img, err)
		}
	}
	if f := deletions(d)[noun]; f != nil {
		if err := f(ctx); err != nil {
			t.Errorf("delete the damaged %s: %v", noun, err)
		}
	}
}

// execute changes the rows of a database behind the back of all that keeps them right.
func execute(t *testing.T, dir, statement string) {
	t.Helper()
	rows, err := sql.Open("sqlite3", filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	r, err := rows.Exec(statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if n, _ := r.RowsAffected(); n == 0 {
		t.Fatalf("%s: nothing to change", statement)
	}
}

// makeBoth makes one good noun of each kind and one that is to be hit.
func makeBoth(t *testing.T, dir string) {
	t.Helper()
	ctx := t.Context()
	d := open(t, dir)
	defer end(t, d)
	for _, name := range []string{"good", "hit"} {
		b := formattest.Tiny(t, name)
		wait(t, importFiles(t, d, ImportSpec{Filename: name}, b), nil)
		o, err := d.CreateInstance(ctx, CreateSpec{Name: name, Source: Source{Type: "none"}})
		wait(t, o, err)
		for _, err := range []error{
			d.db.CreateCertificate(ctx, db.Certificate{Fingerprint: strings.Repeat(name[:1], 64), Name: name,
				Type: db.ClientCertificate, PEM: "pem"}),
			d.db.CreateMirror(ctx, db.Mirror{Name: name, PullThrough: true, LastRunAt: time.Now()}),
			d.CreateProfile(ctx, db.Profile{Name: name}),
			d.instances.CreateSnapshot(ctx, "good", instance.NewSnapshot{Name: name}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := d.Images.List(ctx, store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"good", "hit"} { // both of the good image
		if err := d.CreateAlias(ctx, kiln.Alias{Name: name, Target: list[0].Fingerprint}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SetSettings(ctx, map[string]string{cacheExpiry: "5"}, false); err != nil {
		t.Fatal(err)
	}
}

// names gives what there is of each noun, by the lists.
func names(t *testing.T, d *Daemon) map[string][]string {
	t.Helper()
	ctx := t.Context()
	all := map[string][]string{}
	images, err := d.Images.List(ctx, store.Query{})
	for n := range images {
		all["image"] = append(all["image"], []string{"good", "hit"}[n])
	}
	aliases, err1 := d.Images.Aliases(ctx)
	for _, a := range aliases {
		all["alias"] = append(all["alias"], a.Name)
		_, err := d.Images.History(ctx, a.Name)
		err1 = errors.Join(err1, err)
	}
	profiles, err2 := d.Profiles(ctx)
	for _, p := range profiles {
		if p.Name != defaultProfile {
			all["profile"] = append(all["profile"], p.Name)
		}
	}
	instances, err3 := d.Instances(ctx)
	for _, i := range instances {
		all["instance"] = append(all["instance"], i.Name)
	}
	snapshots, err4 := d.Snapshots(ctx, "good")
	for _, s := range snapshots {
		all["snapshot"] = append(all["snapshot"], s.Name)
	}
	slices.Sort(all["snapshot"]) // a damaged time has its own order
	clients, err5 := d.Clients(ctx)
	for _, c := range clients {
		all["client"] = append(all["client"], map[byte]string{'g': "good", 'h': "hit"}[c.Fingerprint[0]])
	}
	mirrors, err6 := d.Mirrors(ctx)
	for _, m := range mirrors {
		all["mirror"] = append(all["mirror"], m.Name)
	}
	_, err7 := d.Images.List(ctx, store.Query{Public: true, Files: true})
	_, err8 := d.Settings(ctx)
	_, err9 := d.ImageUsage(ctx)
	if err := errors.Join(err, err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		t.Errorf("lists: %v", err)
	}
	return all
}

// uses has, for each noun, something that changes or uses one.
func uses(d *Daemon) map[string]func(context.Context, string) error {
	return map[string]func(context.Context, string) error{
		"image": func(ctx context.Context, name string) error {
			_, err := d.Images.Open(ctx, kiln.Image{Fingerprint: imageCalled(d, name)})
			return errors.Join(err, d.UpdateImage(ctx, imageCalled(d, name), func(i *kiln.Image) error {
				i.Properties["changed"] = "yes"
				return nil
			}))
		},
		"alias": func(ctx context.Context, name string) error {
			return d.UpdateAlias(ctx, name, func(a *kiln.Alias) error { a.Description = "changed"; return nil })
		},
		"profile": func(ctx context.Context, name string) error {
			_, err := d.UpdateProfile(ctx, name, func(p db.Profile) (db.Profile, error) { return p, nil })
			return err
		},
		"instance": func(ctx context.Context, name string) error {
			_, err := d.instances.Update(ctx, name, func(i instance.Instance) (instance.Config, error) { return i.Config, nil })
			return err
		},
		"snapshot": func(ctx context.Context, name string) error {
			return d.instances.SetSnapshotExpiry(ctx, "good", name, func(time.Time) (time.Time, error) {
				return time.Now().Add(time.Hour), nil
			})
		},
		"client": func(ctx context.Context, name string) error {
			return d.UpdateClient(ctx, strings.Repeat(name[:1], 64), func(c *Client) error { c.Description = "x"; return nil })
		},
		"mirror": func(ctx context.Context, name string) error {
			_, err := d.RunMirror(ctx, name, false)
			return err
		},
	}
}

// imageCalled gives the fingerprint that lists have of an image.
func imageCalled(d *Daemon, name string) kiln.Fingerprint {
	list, err := d.Images.List(d.ctx, store.Query{})
	if err != nil {
		panic(err)
	}
	return list[map[string]int{"good": 0, "hit": 1}[name]].Fingerprint
}

// deletions has what deletes the one that is hit, of each noun.
func deletions(d *Daemon) map[string]func(context.Context) error {
	done := func(o *op.Operation, err error) error {
		if err != nil {
			return err
		}
		return o.Wait(d.ctx).Err
	}
	return map[string]func(context.Context) error{
		"image":    func(ctx context.Context) error { return done(d.DeleteImage(ctx, imageCalled(d, "hit")), nil) },
		"alias":    func(ctx context.Context) error { return d.DeleteAlias(ctx, "hit") },
		"profile":  func(ctx context.Context) error { return d.DeleteProfile(ctx, "hit") },
		"instance": func(ctx context.Context) error { return done(d.DeleteInstance(ctx, "hit")) },
		"snapshot": func(ctx context.Context) error { return done(d.DeleteSnapshot(ctx, "good", "hit")) },
		"client":   func(ctx context.Context) error { return d.RemoveClient(ctx, strings.Repeat("h", 64)) },
		"mirror":   func(ctx context.Context) error { return d.RemoveMirror(ctx, "hit") },
	}
}
