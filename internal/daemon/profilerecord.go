package daemon

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// profilesFile has what the rows of profiles say, of all projects: those that an instance
// uses are in its record as well.
const profilesFile = "profiles.json"

// profilesRecord is its format.
type profilesRecord struct {
	Version  int          `json:"version"`
	Profiles []db.Profile `json:"profiles"`
}

// saveProfiles writes the record of profiles if it isn't as the rows say. Where a row is
// damaged it stays, as the better copy.
func (d *Daemon) saveProfiles(ctx context.Context) error {
	rows, err := d.db.Profiles(project.InAll(ctx))
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.Damage != "" {
			return nil
		}
	}
	return saveRows(filepath.Join(d.cfg.Dir, profilesFile), profilesRecord{rowsVersion, rows})
}

// recordedProfiles reads it. Errors: fs.ErrNotExist, Integrity, TooLarge, Unsupported.
func recordedProfiles(dir string) ([]db.Profile, error) {
	var f profilesRecord
	err := readRows(filepath.Join(dir, profilesFile), &f, &f.Version)
	return f.Profiles, err
}

// recoverAllProfiles makes the rows of profiles that have none, also of those that no
// instance uses. One that is there is changed only if it counts less than records.
func (v *recoverer) recoverAllProfiles(ctx context.Context, dir string) error {
	list, err := recordedProfiles(dir)
	if err != nil {
		if v.overrule {
			v.r.Gone = append(v.r.Gone, "profiles that no instance uses; compare them, and create them again: kiln profile "+
				"list")
		}
		if !errors.Is(err, fs.ErrNotExist) {
			v.remark("what was known of profiles that no instance uses is lost: %v", err)
		}
		return nil
	}
	for _, p := range list {
		if err := errors.Join(kiln.CheckProjectName(p.Project), instance.CheckProfileName(p.Name)); err != nil {
			v.remark("profile %q can't be brought back: %v", p.Name, err)
			continue
		}
		in, err := v.inProject(ctx, p.Project)
		if err != nil {
			return err
		}
		p.Damage = ""
		if err := v.recoverProfile(project.In(in, project.Alone(p.Project)), p); err != nil {
			return err
		}
	}
	return nil
}
