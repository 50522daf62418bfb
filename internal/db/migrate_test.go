package db

import (
	"database/sql"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"github.com/kiln-containers/kiln"
)

// older makes a database as the migrations up to one have it.
func older(t *testing.T, version int64) (path string, db *sql.DB) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "kiln.db")
	db, err := sql.Open("sqlite3", "file:"+path+"?_foreign_keys=on")
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return path, db
}

// dump gives the rows of a table, with the columns that are asked for.
func dump(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for rows.Next() {
		values, targets := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		var line []string
		for i, v := range values {
			line = append(line, columns[i]+"="+v.String)
		}
		list = append(list, strings.Join(line, " "))
	}
	return list
}

// TestProjectsMigration has every row and every reference survive the tables that were
// made anew, and the new keys hold.
func TestProjectsMigration(t *testing.T) {
	path, db := older(t, 5)
	for _, statement := range []string{
		`INSERT INTO images (id, fingerprint, type, architecture, size, filename, public, auto_update, cached, created_at,
			expires_at, last_used_at, uploaded_at, properties, profiles, origin, origin_key, own_properties, replaced_by,
			replaced_at) VALUES
			(7, 'aa', 'container', 'x86_64', 5, 'f', true, false, true, '2020-01-01T00:00:00Z', '', '', '2021-01-01T00:00:00Z',
			'{"os":"x"}', '["default"]', '{"alias":"a"}', 'key', '{"own":"1"}', 'bb', '2022-01-01T00:00:00Z'),
			(9, 'bb', 'container', 'aarch64', 6, '', false, true, false, '', '', '', '', '{}', '[]', '', '', '{}', '', '')`,
		`INSERT INTO image_files VALUES (7, 0, 'metadata', 'm', 1, 'a', '.tar'), (7, 1, 'rootfs', 'r', 4, 'b', '.squashfs')`,
		`INSERT INTO image_properties VALUES (7, 'os', 'x')`,
		`INSERT INTO image_aliases VALUES ('debian/12', 'd', 9), ('old', '', 7)`,
		`INSERT INTO alias_history (id, name, fingerprint, at, rolled_back_at) VALUES (3, 'debian/12', 'aa', '2022-01-01T00:00:00Z', ''),
			(4, 'debian/12', 'bb', '2022-01-02T00:00:00Z', '2022-01-03T00:00:00Z')`,
		`INSERT INTO profiles VALUES ('default', 'p', '{"a":"b"}', '{"root":{"type":"disk"}}'), ('web', '', '{}', '{}')`,
		`INSERT INTO instances VALUES ('c1', 'container', 'x86_64', 'i', true, true, '2022-01-01T00:00:00Z',
			'2022-01-02T00:00:00Z', '` + strings.Repeat("a", 64) + `', '{"user.x":"1"}', '{}',
			'["default","web"]'), ('c2', 'container', 'x86_64', '', false, false, '', '', '', '{}', '{}', '[]')`,
		`INSERT INTO instance_snapshots VALUES ('c1', 's0', 'f0', '2022-01-01T00:00:00Z', '2022-01-02T00:00:00Z',
			'2022-01-03T00:00:00Z', 'x86_64', 'd', true, '` + strings.Repeat("a", 64) + `', '{}', '{}', '[]'),
			('c2', 's0', 'f1', '', '', '', 'x86_64', '', false, '', '{}', '{}', '["web"]')`,
		`INSERT INTO config VALUES ('core.https_address', ':8443')`,
		`INSERT INTO certificates VALUES ('fp', 'n', 'd', true, '["default"]', 'pem', '2022-01-01T00:00:00Z')`,
		`INSERT INTO mirrors VALUES ('m', '{}', '[]', 2, true, false, '', '')`,
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	const snapshots = ` name, files, created_at, expires_at, last_used_at, architecture, description, ephemeral, base, config, ` +
		`devices FROM instance_snapshots s `
	same := []string{
		`SELECT id, fingerprint, type, architecture, size, filename, public, auto_update, cached, created_at, expires_at,
			last_used_at, uploaded_at, properties, profiles, origin, origin_key, own_properties, replaced_by, replaced_at
			FROM images ORDER BY id`,
		`SELECT * FROM image_files ORDER BY image_id, position`, `SELECT * FROM image_properties`,
		`SELECT name, description, image_id FROM image_aliases ORDER BY name`,
		`SELECT id, name, fingerprint, at, rolled_back_at FROM alias_history ORDER BY id`,
		`SELECT name, description, config, devices FROM profiles ORDER BY name`,
		`SELECT name, type, architecture, description, ephemeral, running, created_at, last_used_at, base, config, devices
			FROM instances ORDER BY name`,
		`SELECT * FROM config`, `SELECT * FROM mirrors`,
		`SELECT fingerprint, name, description, restricted, projects, certificate, added_at FROM certificates`,
	}
	before := map[string][]string{}
	for _, q := range same {
		before[q] = dump(t, db, q)
	}
	taken := dump(t, db, `SELECT instance AS instance,`+snapshots+`ORDER BY files`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	for _, q := range same {
		if diff := cmp.Diff(before[q], dump(t, d.write, q)); diff != "" || len(before[q]) == 0 {
			t.Errorf("%s (-before +after):\n%s", q, diff)
		}
	}
	if list, err := d.Certificates(t.Context()); err != nil || len(list) != 1 || list[0].Type != ClientCertificate {
		t.Errorf("certificates of before there were types: %+v, %v", list, err)
	}
	if diff := cmp.Diff(taken, dump(t, d.write,
		`SELECT (SELECT i.name FROM instances i WHERE i.id = s.instance_id) AS instance,`+
			snapshots+`ORDER BY files`)); diff != "" {
		t.Errorf("snapshots (-before +after):\n%s", diff)
	}
	if list := dump(t, d.write, `PRAGMA foreign_key_check`); len(list) > 0 {
		t.Errorf("references to nothing: %v", list)
	}
	if err := d.RenameInstance(t.Context(), "c1", "c3"); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Snapshots(t.Context(), "c3"); err != nil || len(list) != 1 || list[0].Instance != "c3" {
		t.Errorf("after a rename: %+v, %v", list, err)
	}
	for _, statement := range []string{
		`INSERT INTO profiles (name, description, config, devices) VALUES ('web', '', '{}', '{}')`,
		`INSERT INTO image_aliases (name, description, image_id) VALUES ('old', '', 9)`,
		`INSERT INTO instances SELECT 99, project_id, name, type, architecture, description, ephemeral, running, created_at,
			last_used_at, base, config, devices FROM instances WHERE name = 'c2'`,
		`INSERT INTO profiles (project_id, name, description, config, devices) VALUES (5, 'x', '', '{}', '{}')`,
	} {
		_, err := d.write.Exec(statement)
		if err == nil || !strings.Contains(err.Error(), "constraint failed") {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if _, err := d.write.Exec(`INSERT INTO projects VALUES (2, 'other', '', '{}');
		INSERT INTO profiles (project_id, name, description, config, devices) VALUES (2, 'web', '', '{}', '{}')`); err != nil {
		t.Errorf("the same name in another project: %v", err)
	}
	if _, err := d.write.Exec(`DELETE FROM images WHERE id = 7; DELETE FROM instances WHERE name = 'c3'`); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{`SELECT * FROM image_files`, `SELECT * FROM image_properties`,
		`SELECT * FROM image_aliases WHERE name = 'old'`, `SELECT * FROM instance_snapshots WHERE files = 'f0'`} {
		if left := dump(t, d.write, q); len(left) > 0 {
			t.Errorf("%s: %v", q, left)
		}
	}
}

// TestProfilesMigration has the lists of profiles survive in their order, and none of what
// was wrong with them keep a database from being opened.
func TestProfilesMigration(t *testing.T) {
	path, db := older(t, 7)
	instance := func(name, profiles string) string {
		return `INSERT INTO instances (name, type, architecture, description, ephemeral, running, created_at, last_used_at,
			base, config, devices, profiles) VALUES ('` + name + `', 'container', 'x86_64', '', false, false, '', '', '', '{}',
			'{}', '` + profiles + `')`
	}
	snapshot := func(name, profiles string) string {
		return `INSERT INTO instance_snapshots (instance_id, name, files, created_at, expires_at, last_used_at, architecture,
			description, ephemeral, base, config, devices, profiles) SELECT id, '` + name + `', '` + name + `', '', '', '',
			'x86_64', '', false, '', '{}', '{}', '` + profiles + `' FROM instances WHERE name = 'two'`
	}
	for _, statement := range []string{
		`INSERT INTO profiles (name, description, config, devices) VALUES ('default', '', '{}', '{}'), ('web', '', '{}', '{}')`,
		instance("two", `["web","default"]`), instance("none", `[]`), instance("gone", `["web","gone","default"]`),
		instance("twice", `["web","default","web"]`), instance("damaged", `["we`), instance("text", `"web"`),
		instance("map", `{"0":"web"}`), instance("null", `null`), instance("empty", ``),
		snapshot("s0", `["web","default"]`), snapshot("s1", `["`), snapshot("s2", `["gone"]`),
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	ctx := t.Context()
	lists := func() map[string]string {
		out := map[string]string{}
		instances, err := d.Instances(ctx)
		snapshots, serr := allSnapshots(ctx, d)
		if err != nil || serr != nil {
			t.Fatal(err, serr)
		}
		for _, i := range instances {
			out[i.Name] = strings.Join(i.Profiles, " ")
			if one, err := d.Instance(ctx, i.Name); err != nil || cmp.Diff(i, one) != "" {
				t.Errorf("%s: %s, %v", i.Name, cmp.Diff(i, one), err)
			}
		}
		for _, s := range snapshots {
			out[s.Name] = strings.Join(s.Profiles, " ")
			if one, err := d.Snapshot(ctx, "two", s.Name); err != nil || cmp.Diff(s, one) != "" {
				t.Errorf("%s: %s, %v", s.Name, cmp.Diff(s, one), err)
			}
		}
		return out
	}
	want := map[string]string{"two": "web default", "none": "", "gone": "web default", "twice": "web default web",
		"damaged": "", "text": "", "map": "", "null": "", "empty": "", "s0": "web default", "s1": "", "s2": ""}
	if diff := cmp.Diff(want, lists()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	before := dump(t, d.write, `SELECT * FROM instances_profiles`)
	if err := d.RenameProfile(ctx, "web", "shop"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, dump(t, d.write, `SELECT * FROM instances_profiles`)); diff != "" {
		t.Errorf("a rename changes more than one row:\n%s", diff)
	}
	for name, list := range want {
		want[name] = strings.ReplaceAll(list, "web", "shop")
	}
	if diff := cmp.Diff(want, lists()); diff != "" {
		t.Errorf("after a rename (-want +got):\n%s", diff)
	}
	// A profile of snapshots only can be deleted; of instances it can't.
	if err := d.DeleteProfile(ctx, "shop"); kiln.KindOf(err) != kiln.Conflict ||
		!strings.Contains(err.Error(), "in use by: gone, twice, two;") {
		t.Error(err)
	}
	for _, name := range []string{"two", "gone", "twice"} {
		if err := d.EditInstance(ctx, name, func(i *Instance) error { i.Profiles = nil; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DeleteProfile(ctx, "shop"); err != nil || lists()["s0"] != "default" {
		t.Errorf("%v, %q", err, lists()["s0"])
	}
	if err := d.DeleteInstance(ctx, "two"); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"instances_profiles", "instance_snapshots_profiles"} {
		if left := dump(t, d.write, `SELECT * FROM `+table); len(left) > 0 {
			t.Errorf("%s: %v", table, left)
		}
	}
}
