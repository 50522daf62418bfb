package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Recovery is what Recover did.
type Recovery struct {
	Backup    string   // the copy of the database that it began with; "": none
	Images    []string // fingerprints of images that have rows again
	Aliases   []string // of these
	Instances []string // names of instances that have rows again
	Snapshots []string // "instance/snapshot" that are attached again
	Profiles  []string // that were made or became what they were
	Networks  []string // of the same kind
	Remarks   []string // what isn't as it was, or may not be
	Left      []string // what could not be placed, and stays in lost/
	Gone      []string // what only the database had, and how to set it again
}

// recoverer is one Recover under way.
type recoverer struct {
	*Daemon
	r        Recovery
	images   *store.Store
	overrule bool // records count more than rows, which are missing or of an older copy

	unrecorded map[string]error // why a volume has no record
	attached   map[string]bool  // files of snapshots that have rows
}

// Recover makes rows of what the database in a daemon's directory doesn't name: images
// and instances of the records beside their files, and of the files alone where there is
// no record. A damaged or missing database is replaced by its newest copy that is whole;
// then records, which are newer, count more than its rows. What was put away comes back,
// and what can't be placed is put away for good. No daemon may run there.
// Errors: NotFound where no daemon ever was, Conflict when one runs.
func Recover(ctx context.Context, cfg Config) (Recovery, error) {
	ctx = project.InAll(ctx)
	v := &recoverer{Daemon: &Daemon{cfg: cfg}}
	lock, err := lockThere(ctx, cfg.Dir)
	if err != nil {
		return v.r, err
	}
	defer lock.Close()
	if err := v.database(ctx); err != nil {
		return v.r, err
	}
	if v.db, err = db.Open(ctx, filepath.Join(cfg.Dir, databaseFile)); err != nil {
		return v.r, err
	}
	defer v.db.Close()
	if err := v.firstStart(ctx); err != nil {
		return v.r, err
	}
	if err := v.recoverNetworks(ctx); err != nil {
		return v.r, err
	}
	if err := v.recoverAllProfiles(ctx); err != nil {
		return v.r, err
	}
	v.pool, err = volume.OpenFor(filepath.Join(cfg.Dir, "volumes"), func() (volumes, snapshots []string, err error) {
		return nil, nil, errors.New("rows are being recovered") // so nothing is swept
	})
	if err != nil {
		return v.r, err
	}
	defer v.pool.Close()
	if v.blobs, err = blob.Open(filepath.Join(cfg.Dir, "blobs")); err != nil {
		return v.r, err
	}
	v.images = store.New(v.blobs, v.db, store.Options{Limits: v.limits, Records: filepath.Join(cfg.Dir, imagesDir)})
	if err := v.recoverImages(ctx); err != nil {
		return v.r, err
	}
	if err := v.recoverVolumes(ctx); err != nil {
		return v.r, err
	}
	return v.r, v.recoverInstances(ctx)
}

// recoverVolumes makes sure that the storage volumes, which need no rows, are in projects
// that there are, and are seen there.
func (v *recoverer) recoverVolumes(ctx context.Context) error {
	ins, err := v.pool.CustomIns()
	if err != nil {
		return err
	}
	for _, name := range ins {
		volumes, err := v.pool.CustomNames(name)
		if err != nil {
			return err
		}
		if len(volumes) == 0 {
			continue
		}
		in, err := v.inProject(ctx, name)
		if err != nil {
			return err
		}
		if of, err := project.One(in, project.Volumes); err == nil && of != name {
			v.remark("the storage volumes of project %q are not seen, since it has the default project's: %s; while the "+
				"project is empty: kiln project set %s features.storage.volumes=true", name, some(volumes), name)
		}
	}
	return nil
}

// database makes sure that there is one to begin with.
func (v *recoverer) database(ctx context.Context) error {
	err := db.Check(ctx, filepath.Join(v.cfg.Dir, databaseFile))
	if !errors.Is(err, kiln.Integrity) && !errors.Is(err, fs.ErrNotExist) {
		return err // nil, or nobody knows that it is damaged
	}
	v.overrule = true
	v.r.Backup, err = restoreDatabase(ctx, v.cfg.Dir, "")
	if err == nil {
		v.r.Gone = append(v.r.Gone, fmt.Sprintf("settings, trusted clients and mirrors are those of the copy %s; "+
			"compare: kiln config show, kiln config trust list, kiln mirror list", filepath.Base(v.r.Backup)))
		return nil
	}
	if !errors.Is(err, kiln.NotFound) && !errors.Is(err, kiln.Integrity) {
		return err
	}
	v.r.Gone = append(v.r.Gone, "settings of the server; set them again: kiln config set KEY VALUE",
		"trusted clients; trust them again: kiln config trust add",
		"mirrors; add them again: kiln mirror add",
		"rollbacks from images that are not here any more; an update may bring those back")
	return setDatabaseAside(v.cfg.Dir)
}

// inProject has ctx be about a project that a record names, which is made if it isn't there.
func (v *recoverer) inProject(ctx context.Context, name string) (context.Context, error) {
	_, err := v.db.Project(ctx, name)
	if errors.Is(err, kiln.NotFound) {
		v.remark("the project %q was lost; it is there again, with its own images and profiles and without what else it "+
			"was configured with: kiln project edit %s", name, name)
		err = v.db.CreateProject(ctx, db.Project{Name: name, Config: newProject(nil)}, projectProfile(name))
	}
	if err != nil {
		return ctx, err
	}
	return v.In(ctx, name)
}

func (v *recoverer) remark(format string, args ...any) {
	v.r.Remarks = append(v.r.Remarks, fmt.Sprintf(format, args...))
}

func (v *recoverer) left(format string, args ...any) {
	v.r.Left = append(v.r.Left, fmt.Sprintf(format, args...))
}
