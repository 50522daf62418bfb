package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// recoveredFile is a database that is being made of the files.
const recoveredFile = databaseFile + ".recovered"

// A Recovery is what Recover did.
type Recovery struct {
	Backup    string   // the copy of the database that it began with; "": none
	Images    []string // fingerprints of images that have rows again
	Aliases   []string // of these
	Instances []string // names of instances that have rows again
	Snapshots []string // "instance/snapshot" that are attached again
	Projects  []string // that were made, or with what became of them as it was last: "web: restricted"
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

	kept       []string             // directories of records that are kept, newest first
	unrecorded map[string]error     // why a volume has no record
	attached   map[string]bool      // files of snapshots that have rows
	settled    map[db.Name]bool     // profiles of which no other record counts
	leases     map[string][]leaseOn // of rows that were removed, by BackupsOf
}

// Recover makes rows of what the database in a daemon's directory doesn't name: images
// and instances of the records beside their files, and of the files alone where there is
// no record. A damaged or missing database is replaced by one that begins as its newest copy
// that is whole; then records, which are newer, count more than its rows. That one has no
// name before it is complete: until then there is no database for a daemon, and who is
// interrupted begins anew. What was put away comes back, and what can't be placed is put
// away for good. No daemon may run there.
// Errors: NotFound where no daemon ever was, Conflict when one runs.
func Recover(ctx context.Context, cfg Config) (Recovery, error) {
	ctx = project.InAll(ctx)
	v := &recoverer{Daemon: &Daemon{cfg: cfg}, settled: map[db.Name]bool{}, leases: map[string][]leaseOn{}}
	lock, err := lockThere(ctx, cfg.Dir)
	if err != nil {
		return v.r, err
	}
	defer lock.Close()
	if err := v.dropUnfinished(); err != nil {
		return v.r, err
	}
	v.kept = keptRecords(cfg.Dir)
	file, err := v.database(ctx)
	if err != nil {
		return v.r, err
	}
	err = v.recoverInto(ctx, file)
	if err != nil && v.overrule { // nothing is back
		return Recovery{Backup: v.r.Backup, Remarks: v.r.Remarks}, err
	}
	if err != nil || !v.overrule {
		return v.r, err
	}
	return v.r, errors.Join(putDatabase(ctx, cfg.Dir, file), v.dropUnfinished())
}

// recoverInto is Recover for the database in a file.
func (v *recoverer) recoverInto(ctx context.Context, file string) (err error) {
	if v.db, err = db.Open(ctx, file); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.db.Close()) }()
	v.db.OnRow(instance.Forbids)
	v.db.Unbound()
	if err := v.firstStart(ctx); err != nil {
		return err
	}
	if err := v.fromRecords(func(dir string) error { return v.recoverProjects(ctx, dir) }); err != nil {
		return err
	}
	if err := v.fromRecords(func(dir string) error { return v.recoverNetworks(ctx, dir) }); err != nil {
		return err
	}
	if err := v.fromRecords(func(dir string) error { return v.recoverPins(ctx, dir) }); err != nil {
		return err
	}
	if err := v.fromRecords(func(dir string) error { return v.recoverAllProfiles(ctx, dir) }); err != nil {
		return err
	}
	v.pool, err = volume.OpenFor(filepath.Join(v.cfg.Dir, "volumes"), func() (volumes, snapshots []string, err error) {
		return nil, nil, errors.New("rows are being recovered") // so nothing is swept
	}, v.db.WithReserve)
	if err != nil {
		return err
	}
	defer v.pool.Close()
	if v.blobs, err = blob.Open(filepath.Join(v.cfg.Dir, "blobs")); err != nil {
		return err
	}
	v.images = store.New(v.blobs, v.db, store.Options{Limits: v.limits, Records: filepath.Join(v.cfg.Dir, imagesDir)})
	if err := v.recoverImages(ctx); err != nil {
		return err
	}
	if err := v.recoverVolumes(ctx); err != nil {
		return err
	}
	if err := v.recoverInstances(ctx); err != nil {
		return err
	}
	if err := v.db.ResolveWarning(ctx, filesForgotten, db.Subject{}); err != nil {
		return err
	}
	return v.remarkBroken(ctx)
}

// remarkBroken tells of the projects that have more than they may, or what they may not.
func (v *recoverer) remarkBroken(ctx context.Context) error {
	projects, err := v.db.Projects(ctx)
	for _, p := range projects {
		switch broken := v.db.CheckProject(ctx, p.Name); {
		case errors.Is(broken, kiln.Denied):
			v.remark("%s; or let it have more: kiln project edit %s", strings.ReplaceAll(broken.Error(), "\n", "; "), p.Name)
		case broken != nil:
			v.remark("%v", broken)
		}
	}
	return cmp.Or(err, ctx.Err())
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

// dropUnfinished removes what is left of the database of a recovery that was interrupted.
func (v *recoverer) dropUnfinished() error {
	list, err := disk.Glob(v.cfg.Dir, recoveredFile+"*")
	errs := []error{err}
	for _, path := range list {
		errs = append(errs, os.RemoveAll(path)) // one is a directory: its reserve's
	}
	return errors.Join(errs...)
}

// database gives the file of the one to make rows in.
func (v *recoverer) database(ctx context.Context) (string, error) {
	path, temp := filepath.Join(v.cfg.Dir, databaseFile), filepath.Join(v.cfg.Dir, recoveredFile)
	err := db.Check(ctx, path)
	if !errors.Is(err, kiln.Integrity) && !errors.Is(err, fs.ErrNotExist) {
		return path, err // nil, or nobody knows that it is damaged
	}
	v.overrule = true
	for _, part := range []string{"-reserve", "-reserve.d"} { // it may be all the room
		if err := os.RemoveAll(path + part); err != nil {
			return "", err
		}
	}
	v.r.Backup, err = wholeCopy(ctx, v.cfg.Dir, "")
	if err == nil {
		v.r.Gone = append(v.r.Gone, fmt.Sprintf("settings, trusted clients and mirrors are those of the copy %s; "+
			"compare: kiln config show, kiln config trust list, kiln mirror list", filepath.Base(v.r.Backup)),
			"rollbacks since then from images that are not here any more; an update may bring those back")
		return temp, db.Copy(ctx, v.r.Backup, temp)
	}
	if !errors.Is(err, kiln.NotFound) && !errors.Is(err, kiln.Integrity) {
		return "", err
	}
	v.r.Gone = append(v.r.Gone, "settings of the server; set them again: kiln config set KEY VALUE",
		"trusted clients; trust them again: kiln config trust add",
		"mirrors; add them again: kiln mirror add",
		"rollbacks from images that are not here any more; an update may bring those back")
	return temp, nil
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
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(v.r.Remarks, text) { // as of records that are kept, which say the same
		v.r.Remarks = append(v.r.Remarks, text)
	}
}

func (v *recoverer) left(format string, args ...any) {
	v.r.Left = append(v.r.Left, fmt.Sprintf(format, args...))
}
