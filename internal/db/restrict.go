package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// Forbids tells what a project, with a name and a configuration, doesn't allow of an instance
// with all that it has of profiles, or, with part, of a profile. nil: nothing is forbidden.
type Forbids func(project string, config, options map[string]string, devices map[string]map[string]string,
	part bool) []string

// OnRow has f asked in each transaction that gives an instance or a profile a configuration,
// or a project rules. It is set before others use the database.
func (d *DB) OnRow(f Forbids) { d.forbids = f }

// Unbound has no transaction ask what projects may have, of whoever makes rows of what is
// there already. It is called before others use the database.
func (d *DB) Unbound() { d.unbound = true }

// CheckProject says, also if the database is Unbound, what of a project it may not have.
// Errors: Denied, NotFound, Integrity when its row is damaged.
func (d *DB) CheckProject(ctx context.Context, name string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		tx.unbound = false
		id, err := projectRow(ctx, tx.tx, name)
		if err != nil {
			return err
		}
		return errors.Join(checkLimits(ctx, tx, id), checkRules(ctx, tx, id, everyInstance), checkProfileRules(ctx, tx, id))
	})
}

// restricts reports whether a project has keys that forbid something.
func restricts(config map[string]string) bool { return kiln.IsTrue(config["restricted"]) }

// ruled reports whether two configurations of a project differ in what they forbid.
func ruled(a, b map[string]string) bool {
	return different(a, b, func(key string) bool { return strings.HasPrefix(key, "restricted") })
}

// reconfigured reports whether two configurations of an instance differ in what users say.
func reconfigured(a, b map[string]string) bool {
	return different(a, b, func(key string) bool { return !strings.HasPrefix(key, "volatile.") })
}

func different(a, b map[string]string, counts func(key string) bool) bool {
	for _, m := range []map[string]string{a, b} {
		for key := range m {
			if counts(key) && a[key] != b[key] {
				return true
			}
		}
	}
	return false
}

// everyInstance is in the place of the row of one.
const everyInstance = 0

// checkRules refuses what was just changed if the project doesn't allow what one of its
// instances has now, or, with everyInstance, any of them. The error is Denied.
func checkRules(ctx context.Context, tx *Tx, in, instance int64) error {
	if tx.unbound {
		return nil
	}
	p, err := ruledProject(ctx, tx, in)
	if err != nil || !restricts(p.Config) || tx.forbids == nil {
		return err
	}
	all, err := expandedConfigs(ctx, tx.tx, in, instance)
	if err != nil {
		return err
	}
	var broken []string
	for _, i := range all {
		if list := tx.forbids(p.Name, p.Config, i.Config, i.Devices, false); len(list) > 0 {
			broken = append(broken, fmt.Sprintf("instance %q has %s", i.Name, strings.Join(list, ", ")))
		}
	}
	return forbidden(p, broken)
}

// checkProfileRules is checkRules for the profiles that a project has itself, or one of them.
func checkProfileRules(ctx context.Context, tx *Tx, in int64, names ...string) error {
	if tx.unbound {
		return nil
	}
	p, err := ruledProject(ctx, tx, in)
	if err != nil || !restricts(p.Config) || tx.forbids == nil || project.New(p.Name, p.Config).Profiles != p.Name {
		return err
	}
	var broken []string
	err = each(ctx, tx.tx, `SELECT `+profileColumns+` FROM profiles WHERE project_id = ?`, []any{in},
		func(rows *sql.Rows) error {
			var o Profile
			if err := o.scan(rows); err != nil {
				return err
			}
			if len(names) > 0 && !slices.Contains(names, o.Name) {
				return nil
			}
			if list := tx.forbids(p.Name, p.Config, o.Config, o.Devices, true); len(list) > 0 {
				broken = append(broken, fmt.Sprintf("profile %q has %s", o.Name, strings.Join(list, ", ")))
			}
			return nil
		})
	if err != nil {
		return err
	}
	return forbidden(p, broken)
}

func ruledProject(ctx context.Context, tx *Tx, in int64) (p Project, err error) {
	err = p.scan(tx.tx.QueryRowContext(ctx, `SELECT `+projectColumns+` FROM projects WHERE id = ?`, in))
	if err == nil && p.Damage != "" { // what it may have isn't known
		err = damagedProject(p)
	}
	return p, known(err)
}

func damagedProject(p Project) error {
	return kiln.Errorf(kiln.Integrity, "project %q can't be used: %s; bring a copy of the database back: "+
		"kiln admin restore-database", p.Name, p.Damage)
}

// forbidden is the error about what breaks the rules of a project; nil for nothing.
func forbidden(p Project, broken []string) error {
	if len(broken) == 0 {
		return nil
	}
	slices.Sort(broken)
	const most = 20
	if more := len(broken) - most; more > 0 {
		broken = append(broken[:most], fmt.Sprintf("and %d more", more))
	}
	return kiln.Errorf(kiln.Denied, "project %q doesn't allow it: %s; change that first, or ask whoever manages the "+
		"server", p.Name, strings.Join(broken, "; "))
}
