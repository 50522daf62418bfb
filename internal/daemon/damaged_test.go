package daemon

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestDamagedRows has instances whose rows can't be read and one whose profile can't:
// they are listed with the reason, can be deleted, and hide
// nothing else.
func TestDamagedRows(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	for _, name := range []string{"good", "json", "config", "profile"} {
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Source: Source{Type: "image", Alias: "bb"}})
		wait(t, o, err)
	}
	if err := errors.Join(d.CreateProfile(t.Context(), db.Profile{Name: "hit"}), d.Close()); err != nil {
		t.Fatal(err)
	}
	rows, err := sql.Open("sqlite3", filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{`UPDATE instances SET devices = '{"a' WHERE name = 'json'`,
		`UPDATE instances SET config = '' WHERE name = 'config'`,
		`UPDATE instances_profiles SET profile_id = (SELECT id FROM profiles WHERE name = 'hit') WHERE instance_id =
			(SELECT id FROM instances WHERE name = 'profile')`, `UPDATE profiles SET config = '' WHERE name = 'hit'`} {
		if _, err := rows.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	rows.Close()
	d = open(t, dir)
	defer func() { end(t, d) }()
	list, err := d.Instances(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatal(list, err)
	}
	for _, i := range list {
		why := map[string]string{"json": "devices is damaged", "config": "config is damaged",
			"profile": `its profile "hit" can't be used`}[i.Name]
		if (i.Status == instance.Broken) != (why != "") || !strings.Contains(i.Problem, why) {
			t.Errorf("%s: %v, %q", i.Name, i.Status, i.Problem)
		}
		if err := d.instances.Start(t.Context(), i.Name); why != "" && (!errors.Is(err, kiln.Integrity) ||
			!strings.Contains(err.Error(), why)) || why == "" && err != nil {
			t.Errorf("start %s: %v", i.Name, err)
		}
	}
	for _, name := range []string{"json", "config", "profile"} {
		o, err := d.DeleteInstance(t.Context(), name)
		wait(t, o, err)
	}
	if list, err := d.Instances(t.Context()); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
}
