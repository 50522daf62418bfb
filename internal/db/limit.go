package db

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// CountLimits are the keys of a project's configuration that bound how many instances it
// has: all of them, and those of the only type that there is.
func CountLimits() []string { return []string{"limits.instances", "limits.containers"} }

// SumLimits are the keys of a project's configuration that bound what its instances may
// have together. How much one may have, it or its profiles say by the same key.
func SumLimits() []string { return []string{"limits.cpu", "limits.memory", "limits.processes"} }

// ParseLimit reads the value of one of SumLimits: bytes of memory, else a number. The
// error is Invalid: also for what an instance may say and can't be added up, a share of
// the host's memory or a list of processors.
func ParseLimit(key, value string) (int64, error) {
	if key == "limits.memory" {
		return kiln.ParseSize(value)
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return 0, kiln.Errorf(kiln.Invalid, "%q is not a whole number of at least 0", value)
	}
	return n, nil
}

// limited reports whether two configurations differ in what SumLimits say.
func limited(a, b map[string]string) bool {
	return slices.ContainsFunc(SumLimits(), func(key string) bool { return a[key] != b[key] })
}

// checkLimits refuses what was just changed if a project's instances are too many now, or
// may have too much together. The error is Invalid; Conflict is for names.
func checkLimits(ctx context.Context, tx *Tx, in int64) error {
	if tx.unbound {
		return nil
	}
	p, err := ruledProject(ctx, tx, in)
	if err != nil {
		return err
	}
	var n int
	if err := tx.tx.QueryRowContext(ctx, `SELECT count(*) FROM instances WHERE project_id = ?`, in).Scan(&n); err != nil {
		return known(err)
	}
	for _, key := range CountLimits() {
		if most, err := strconv.Atoi(p.Config[key]); err == nil && n > most {
			return kiln.Errorf(kiln.Invalid, "project %q may have %d instances (%s), and has them; delete one, or ask whoever "+
				"manages the server", p.Name, most, key)
		}
	}
	if !limited(p.Config, nil) {
		return nil
	}
	all, err := expandedConfigs(ctx, tx.tx, in, everyInstance)
	if err != nil {
		return err
	}
	instances := slices.SortedFunc(maps.Values(all), func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	for _, key := range SumLimits() {
		if err := checkSum(p, key, instances); err != nil {
			return err
		}
	}
	return nil
}

func checkSum(p Project, key string, instances []Instance) error {
	if p.Config[key] == "" {
		return nil
	}
	left, err := ParseLimit(key, p.Config[key])
	if err != nil {
		return kiln.Errorf(kiln.Integrity, "project %q: %s: %w", p.Name, key, err)
	}
	for _, i := range instances {
		if i.Config[key] == "" {
			return kiln.Errorf(kiln.Invalid, "project %q may have %s of %s together, so each of its instances has to say how "+
				"much it may have, by itself or by a profile; %q doesn't: give it %[3]s", p.Name, p.Config[key], key, i.Name)
		}
		has, err := ParseLimit(key, i.Config[key])
		if err != nil {
			return kiln.Errorf(kiln.Invalid, "project %q may have %s of %s together; what instance %q says can't be added "+
				"up: %w", p.Name, p.Config[key], key, i.Name, err)
		}
		if has > left {
			return kiln.Errorf(kiln.Invalid, "project %q may have %s of %s together, and its instances would have more; give "+
				"one less, or ask whoever manages the server", p.Name, p.Config[key], key)
		}
		left -= has
	}
	return nil
}

// expandedConfigs gives one instance of a project, or everyInstance, by their rows, each with
// its name, and its configuration and devices over those of its profiles. What can't be read
// of a row is left out.
func expandedConfigs(ctx context.Context, q queryer, in, instance int64) (map[int64]Instance, error) {
	which, args := `project_id = ?`, []any{in}
	if instance != everyInstance {
		which, args = which+` AND id = ?`, append(args, instance)
	}
	all := map[int64]Instance{}
	lay := func(id int64, config map[string]string, devices map[string]map[string]string) Instance {
		i, ok := all[id]
		if !ok {
			i = Instance{Config: map[string]string{}, Devices: map[string]map[string]string{}}
			all[id] = i
		}
		for k, v := range config {
			if v != "" {
				i.Config[k] = v
			}
		}
		maps.Copy(i.Devices, devices)
		return i
	}
	err := each(ctx, q, `SELECT o.instance_id, p.config, p.devices FROM instances_profiles o JOIN profiles p ON p.id = o.profile_id
		WHERE o.instance_id IN (SELECT id FROM instances WHERE `+which+`) ORDER BY o.instance_id, o.position`,
		args, func(rows *sql.Rows) error {
			var id int64
			var config map[string]string
			var devices map[string]map[string]string
			err := rows.Scan(&id, noted{"config", jsonColumn{&config}, new(string)},
				noted{"devices", jsonColumn{&devices}, new(string)})
			lay(id, config, devices)
			return err
		})
	if err != nil {
		return nil, err
	}
	err = each(ctx, q, `SELECT id, name, config, devices FROM instances WHERE `+which, args,
		func(rows *sql.Rows) error {
			var id int64
			var i Instance
			err := rows.Scan(&id, noted{"name", &i.Name, &i.Damage}, noted{"config", jsonColumn{&i.Config}, &i.Damage},
				noted{"devices", jsonColumn{&i.Devices}, new(string)})
			whole := lay(id, i.Config, i.Devices)
			whole.Name = i.Name
			if all[id] = whole; i.Damage != "" {
				delete(all, id)
			}
			return err
		})
	return all, err
}
