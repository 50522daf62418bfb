package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Where the database and its copies are below a daemon's directory.
const (
	databaseFile = "kiln.db"
	backupsDir   = "backups"
	backupsKept  = 7
)

// checkDatabase makes sure that a daemon doesn't start without a database where there
// is something that one has named: it would take all of that for garbage. The error is
// Integrity.
func checkDatabase(dir string) error {
	path := filepath.Join(dir, databaseFile)
	what := "is missing"
	if fi, err := os.Stat(path); err == nil {
		if fi.Size() > 0 {
			return nil
		}
		what = "is empty"
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var found []string
	for _, sub := range []string{"blobs/sha256/*/*", "volumes/volumes/*", "volumes/snapshots/*"} {
		list, err := filepath.Glob(filepath.Join(dir, sub))
		if err != nil {
			return err
		}
		if len(list) > 0 {
			found = append(found, fmt.Sprintf("%d in %s", len(list), filepath.Join(dir, filepath.Dir(sub))))
		}
	}
	if len(found) == 0 {
		return nil
	}
	return kiln.Errorf(kiln.Integrity,
		"the database %s %s, but there are files of images and instances (%s); nothing was "+
			"changed. Bring a copy of it back: kiln admin restore-database; or make it anew from the files: kiln admin "+
			"recover; or, to begin anew, move %s away", path, what, strings.Join(found, ", "), dir)
}

// lostBlobs says which files no image has.
func (d *Daemon) lostBlobs(list []kiln.Fingerprint) {
	d.cfg.Log.Warn("no image has some files; they are kept for a while, see kiln admin recover", "files", len(list),
		"first", list[0], "in", filepath.Join(d.cfg.Dir, "blobs", "lost"), "days", int(blob.LostTime.Hours()/24))
}

// backUp keeps a copy of the database for each day, and the newest of them.
func (d *Daemon) backUp(ctx context.Context) error {
	dir := filepath.Join(d.cfg.Dir, backupsDir)
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "kiln-"+time.Now().UTC().Format("20060102")+".db")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := d.db.Backup(ctx, path); err != nil {
		return err
	}
	list, err := backups(d.cfg.Dir)
	errs := []error{err}
	for _, old := range list[min(backupsKept, len(list)):] {
		errs = append(errs, os.Remove(old))
	}
	return errors.Join(errs...)
}

// backups gives the copies of a database, newest first.
func backups(dir string) ([]string, error) {
	list, err := filepath.Glob(filepath.Join(dir, backupsDir, "kiln-*.db"))
	slices.Sort(list)
	slices.Reverse(list)
	return list, err
}

// RestoreDatabase puts a copy of the database in the place of the one in a daemon's
// directory, which is kept beside it: the file that is named, or for "" the newest that
// is whole. No daemon may run there. It gives the copy.
// Errors: NotFound, Conflict, Integrity.
func RestoreDatabase(ctx context.Context, dir, file string) (string, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	return restoreDatabase(ctx, dir, file)
}

func restoreDatabase(ctx context.Context, dir, file string) (string, error) {
	list := []string{file}
	if file == "" {
		var err error
		if list, err = backups(dir); err != nil {
			return "", err
		}
	}
	var bad error
	for _, path := range list {
		if same(path, filepath.Join(dir, databaseFile)) {
			return "", kiln.Errorf(kiln.Invalid, "%s is the database itself; name a copy of it, as those in %s", path,
				filepath.Join(dir, backupsDir))
		}
		err := db.Check(ctx, path)
		if errors.Is(err, kiln.Integrity) {
			bad = errors.Join(bad, err)
			continue
		}
		if err != nil {
			return "", err
		}
		return path, putDatabase(ctx, dir, path)
	}
	if bad == nil {
		return "", kiln.Errorf(kiln.NotFound, "there is no copy of the database in %s; make it anew from the files: kiln "+
			"admin recover", filepath.Join(dir, backupsDir))
	}
	return "", bad
}

// same reports whether two paths are of one file.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// putDatabase puts a copy of a database in the place of the one in a directory. The
// copy is whole before the other is touched.
func putDatabase(ctx context.Context, dir, from string) error {
	temp := filepath.Join(dir, databaseFile+".restored")
	if err := db.Copy(ctx, from, temp); err != nil {
		return err
	}
	defer os.Remove(temp) // gone if it has its name
	if err := setDatabaseAside(dir); err != nil {
		return err
	}
	return disk.RenameNew(temp, filepath.Join(dir, databaseFile))
}

// setDatabaseAside keeps what is there of a database under a name that nothing has,
// by which it can be opened again with its log.
func setDatabaseAside(dir string) error {
	path := filepath.Join(dir, databaseFile)
	aside := path + ".damaged-" + time.Now().UTC().Format("20060102T150405")
	for n, name := 2, aside; ; n++ {
		_, err := os.Lstat(name)
		if _, werr := os.Lstat(name + "-wal"); errors.Is(err, fs.ErrNotExist) && errors.Is(werr, fs.ErrNotExist) {
			aside = name
			break
		}
		name = fmt.Sprintf("%s-%d", aside, n)
	}
	// The log is last: if it stays alone, the next time moves it, too, before there is
	// another database that it would be taken for the log of.
	for _, part := range []string{"", "-shm", "-wal"} {
		err := disk.RenameNew(path+part, aside+part)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// A Recovery is what Recover did.
type Recovery struct {
	Backup    string   // the copy of the database that it began with; "": an empty one
	Images    []string // fingerprints of images that have rows again
	Instances []string // names of instances that have rows again
	Left      []string // what could not be brought back, and why
}

// Recover makes rows of what the database in a daemon's directory doesn't name: images
// of their files, instances of their volumes. A damaged or missing database is replaced
// by its newest copy that is whole. What was put away comes back. No daemon may run
// there. The error is Conflict when one does.
func Recover(ctx context.Context, cfg Config) (Recovery, error) {
	var r Recovery
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return r, err
	}
	defer lock.Close()
	err = db.Check(ctx, filepath.Join(cfg.Dir, databaseFile))
	if errors.Is(err, kiln.Integrity) || errors.Is(err, fs.ErrNotExist) {
		r.Backup, err = restoreDatabase(ctx, cfg.Dir, "")
		if errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Integrity) {
			err = setDatabaseAside(cfg.Dir)
		}
	}
	if err != nil { // else nobody knows that it is damaged
		return r, err
	}
	d := &Daemon{cfg: cfg}
	if d.db, err = db.Open(ctx, filepath.Join(cfg.Dir, databaseFile)); err != nil {
		return r, err
	}
	defer d.db.Close()
	if err := d.firstStart(ctx); err != nil {
		return r, err
	}
	if d.pool, err = volume.Open(filepath.Join(cfg.Dir, "volumes")); err != nil {
		return r, err
	}
	defer d.pool.Close()
	if err := d.recoverImages(ctx, &r); err != nil {
		return r, err
	}
	return r, d.recoverInstances(ctx, &r)
}

// recoverImages imports every file of an image that no row names.
func (d *Daemon) recoverImages(ctx context.Context, r *Recovery) error {
	var err error
	if d.blobs, err = blob.Open(filepath.Join(d.cfg.Dir, "blobs")); err != nil {
		return err
	}
	lost, err := d.blobs.Lost()
	if err != nil {
		return err
	}
	for _, fp := range lost {
		if err := d.blobs.Find(fp); err != nil {
			return err
		}
	}
	named, err := d.db.Blobs(ctx)
	if err != nil {
		return err
	}
	var found []kiln.Fingerprint
	if err := d.blobs.List(func(fp kiln.Fingerprint, _ int64) error {
		if named[fp] == 0 {
			found = append(found, fp)
		}
		return nil
	}); err != nil {
		return err
	}
	images := store.New(d.blobs, d.db, store.Options{Limits: d.limits})
	for _, fp := range found {
		img := kiln.Image{Fingerprint: fp, Filename: fp.String(), Profiles: []string{defaultProfile}}
		s, err := remote.Files{Paths: []string{d.blobs.Path(fp)}}.Open(ctx, img)
		if err != nil {
			return err
		}
		got, err := images.Put(ctx, img, s)
		err = errors.Join(err, s.Close())
		switch {
		case err == nil:
			r.Images = append(r.Images, got.Fingerprint.String())
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			r.Left = append(r.Left, fmt.Sprintf("the file %s is no image by itself (%v); a split image is brought back "+
				"by importing or copying it again", fp, err))
		}
	}
	return nil
}

// recoverInstances makes a row for every volume that none names.
func (d *Daemon) recoverInstances(ctx context.Context, r *Recovery) error {
	lost, err := d.pool.Lost()
	if err != nil {
		return err
	}
	for _, l := range lost {
		if err := d.pool.Find(l); err != nil {
			r.Left = append(r.Left, fmt.Sprintf("%s: %v", l.Entry, err))
		}
	}
	rows, err := d.db.Instances(ctx)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, row := range rows {
		named[row.Config[instance.UUIDKey]] = true
	}
	volumes, err := d.pool.List()
	if err != nil {
		return err
	}
	for _, uuid := range volumes {
		if named[uuid] {
			continue
		}
		name, err := d.recoverInstance(ctx, uuid, r)
		if err != nil {
			r.Left = append(r.Left, fmt.Sprintf("the volume %s: %v", uuid, err))
			continue
		}
		r.Instances = append(r.Instances, name)
	}
	return nil
}

// recoverInstance makes the row of a volume, and gives its name: as its record has it, or
// made up where there is none or the name is taken.
func (d *Daemon) recoverInstance(ctx context.Context, uuid string, r *Recovery) (string, error) {
	vol, err := d.pool.Get(uuid)
	if err != nil {
		return "", err
	}
	madeUp := "recovered-" + strings.Trim(uuid[:min(8, len(uuid))], "-")
	record, err := instance.Recorded(d.pool, uuid)
	row := record.Instance
	if err != nil {
		if !errors.Is(err, kiln.NotFound) {
			r.Left = append(r.Left, fmt.Sprintf("the name and configuration of instance %s: %v", madeUp, err))
		}
		row = db.Instance{Name: madeUp, Type: "container", Architecture: HostArch(), CreatedAt: time.Now().UTC(),
			Base: vol.Base(), Description: "made of files that no instance had",
			Config: map[string]string{instance.UUIDKey: uuid}, Profiles: []string{defaultProfile}}
	}
	var there []string
	for _, p := range row.Profiles {
		if _, err := d.db.Profile(ctx, p); errors.Is(err, kiln.NotFound) {
			r.Left = append(r.Left, fmt.Sprintf("the profile %q, which instance %s used; create it and add it again: kiln "+
				"profile add %s %s", p, row.Name, row.Name, p))
			continue
		} else if err != nil {
			return "", err
		}
		there = append(there, p)
	}
	row.Profiles = there
	err = d.db.CreateInstance(ctx, row)
	if errors.Is(err, kiln.Conflict) {
		r.Left = append(r.Left, fmt.Sprintf("the name %q, which another instance has; this one is called %s", row.Name,
			madeUp))
		row.Name = madeUp
		err = d.db.CreateInstance(ctx, row)
	}
	return row.Name, err
}
