package daemon

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/network"
)

// networksFile has what the rows of networks say.
const networksFile = "networks.json"

// networksRecord is its format.
type networksRecord struct {
	Version  int          `json:"version"`
	Networks []db.Network `json:"networks"`
}

// saveNetworks writes the record of networks if it isn't as the rows say. Where a row is
// damaged it stays, as the better copy.
func (d *Daemon) saveNetworks(ctx context.Context) error {
	rows, err := d.db.Networks(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.Damage != "" {
			return nil
		}
	}
	return saveRows(filepath.Join(d.cfg.Dir, networksFile), networksRecord{rowsVersion, rows})
}

// recordedNetworks reads it. Errors: fs.ErrNotExist, Integrity, TooLarge, Unsupported.
func recordedNetworks(dir string) ([]db.Network, error) {
	var f networksRecord
	err := readRows(filepath.Join(dir, networksFile), &f, &f.Version)
	return f.Networks, err
}

// recoverNetworks makes the rows of networks that have none. One that is there is changed
// only if it counts less than records.
func (v *recoverer) recoverNetworks(ctx context.Context, dir string) error {
	list, err := recordedNetworks(dir)
	if err != nil {
		if v.overrule {
			v.r.Gone = append(v.r.Gone, "networks; compare them, and create them again: kiln network list")
		}
		if !errors.Is(err, fs.ErrNotExist) {
			v.remark("what was known of networks is lost: %v", err)
		}
		return nil
	}
	for _, n := range list {
		if err := errors.Join(network.CheckName(n.Name), network.Check(n.Config)); err != nil {
			v.remark("network %q can't be brought back: %v", n.Name, err)
			continue
		}
		n.Damage = ""
		has, err := v.db.Network(ctx, n.Name)
		switch {
		case errors.Is(err, kiln.NotFound):
			err = v.db.CreateNetwork(ctx, n)
		case err != nil:
			return err
		case has.Damage != "":
			v.remark("network %q is damaged: %s", n.Name, has.Damage)
			continue
		case !v.overrule || has.Description == n.Description && has.Bridge == n.Bridge && maps.Equal(has.Config, n.Config) &&
			reflect.DeepEqual(has.Forwards, n.Forwards):
			continue
		default:
			err = v.db.EditNetwork(ctx, n.Name, func(row *db.Network) error { *row = n; return nil })
		}
		if err != nil {
			return err
		}
		v.r.Networks = append(v.r.Networks, n.Name)
	}
	return nil
}
