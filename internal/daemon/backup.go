package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Where the database and its copies are below a daemon's directory.
const (
	databaseFile = "kiln.db"
	backupsDir   = "backups"
	copyDays     = "20060102"
	copyTimes    = copyDays + "T150405"
	backupsKept  = 7 // of days
	timesKept    = 4 // made after changes
	copyPause    = 10 * time.Minute
	busyPause    = time.Hour // where changes never end
	copyTime     = 2 * time.Minute
)

// keepCopies makes the copies of the database that are due, until the daemon ends. What
// they are copied to may be on a server that doesn't answer: nobody may wait for this.
func (d *Daemon) keepCopies() {
	for day := (time.Time{}); ; {
		copied := d.backUpChanges
		if time.Since(day) >= 24*time.Hour {
			day, copied = time.Now(), d.backUp
		}
		if err := copied(d.ctx); err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Error("copy the database", "err", err)
		}
		if !d.nextMinute() {
			return
		}
	}
}

// checkDatabase makes sure that a daemon doesn't start without a database where there
// is something that one has named: it would take all of that for garbage. The error is
// Integrity.
func checkDatabase(dir string) error {
	path := filepath.Join(dir, databaseFile)
	what := "is missing"
	if fi, err := os.Stat(path); err == nil {
		switch {
		case !fi.Mode().IsRegular():
			what = "is not a file"
		case fi.Size() > 0:
			return nil
		default:
			what = "is empty"
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var found []string
	for _, sub := range []string{"blobs/sha256/*/*", "volumes/volumes/*", "volumes/snapshots/*", "volumes/custom/*/*",
		backupsDir + "/kiln-*.db"} {
		list, err := disk.Glob(dir, sub)
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
		"the database %s %s, but there are files of images and instances or copies of it (%s); nothing was "+
			"changed. Make it anew from its newest copy and what is newer in the files: kiln admin recover; or bring a copy "+
			"back as it is: kiln admin restore-database; or, to begin anew, move %s away",
		path, what, strings.Join(found, ", "), dir)
}

// lostBlobs says which files no image has.
func (d *Daemon) lostBlobs(list []kiln.Fingerprint) {
	d.lostNow = list
	d.cfg.Log.Warn("no image has some files; they are kept for a while, see kiln admin recover", "files", len(list),
		"first", list[0], "in", filepath.Join(d.cfg.Dir, "blobs", "lost"), "days", int(blob.LostTime.Hours()/24))
}

// backUp keeps a copy of the database for each day, and the newest of them.
func (d *Daemon) backUp(ctx context.Context) error {
	return d.copyDatabase(ctx, time.Now().UTC().Format(copyDays))
}

// copies says of which state of the database there is a copy.
type copies struct {
	copied, seen uint64 // versions of the database
	at           time.Time
}

// next reports whether to make a copy now of a database of some version: when it has
// changed and was left alone since the last call, but not too often; and when it was
// never left alone for long.
func (c *copies) next(version uint64, now time.Time) bool {
	quiet := version == c.seen
	c.seen = version
	since := now.Sub(c.at)
	if version == c.copied || since < copyPause || !quiet && (since < busyPause || c.at.IsZero()) {
		return false
	}
	c.copied, c.at = version, now
	return true
}

// backUpChanges copies the database a while after it was changed last. It is called
// once a minute.
func (d *Daemon) backUpChanges(ctx context.Context) error {
	now := time.Now().UTC()
	if !d.copies.next(d.db.Version(), now) {
		return nil
	}
	return d.copyDatabase(ctx, now.Format(copyTimes))
}

// copyDatabase makes a copy of the database with a name, unless there is one, and removes
// what copies are too many: of days, and of times of a day. The database isn't held while
// this waits for the directory of the copies.
func (d *Daemon) copyDatabase(ctx context.Context, name string) (err error) {
	d.copying.Lock() // each writes the same file first
	defer d.copying.Unlock()
	dir := filepath.Join(d.cfg.Dir, backupsDir)
	late := time.AfterFunc(copyTime, func() {
		d.outcome(copyFailed, db.Subject{}, kiln.Errorf(kiln.Timeout, "%s didn't answer within %v; is it on a server that "+
			"can't be reached?", dir, copyTime))
	})
	defer func() {
		late.Stop()
		d.outcome(copyFailed, db.Subject{}, err)
	}()
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "kiln-"+name+".db")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	temp := filepath.Join(d.cfg.Dir, databaseFile+".copy")
	if err := d.db.Backup(ctx, temp); err != nil {
		return err
	}
	defer os.Remove(temp) // gone if it has its name
	if err := place(temp, path); err != nil {
		return err
	}
	list, err := backups(d.cfg.Dir)
	there, rerr := os.ReadDir(dir)
	errs := []error{err, rerr}
	for _, e := range there {
		if disk.IsUnfinished(e.Name()) { // left by a kill: nobody else writes here
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	days, times := 0, 0
	for _, old := range list {
		n, most := &days, backupsKept
		if strings.Contains(filepath.Base(old), "T") {
			n, most = &times, timesKept
		}
		if *n++; *n > most {
			errs = append(errs, os.Remove(old))
		}
	}
	return errors.Join(errs...)
}

// place gives a file its name in a directory that may be another file system's.
func place(from, to string) error {
	err := disk.Rename(from, to)
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	f, err := disk.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return disk.Write(to, 0o600, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// backups gives the copies of a database, newest first.
func backups(dir string) ([]string, error) {
	list, err := disk.Glob(dir, backupsDir+"/kiln-*.db")
	made := map[string]string{}
	for _, path := range list {
		made[path] = copiedAt(path)
	}
	slices.SortFunc(list, func(a, b string) int {
		return cmp.Or(strings.Compare(made[b], made[a]), strings.Compare(b, a))
	})
	return list, err
}

// copiedAt is when a copy of the database was made, as the names of copies have times. The name of
// a day's copy doesn't say at what time of that day; its file does, unless that was copied since.
func copiedAt(path string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "kiln-"), ".db")
	if fi, err := os.Stat(path); err == nil && !strings.Contains(name, "T") {
		if at := fi.ModTime().UTC().Format(copyTimes); strings.HasPrefix(at, name+"T") {
			return at
		}
	}
	return name
}

// RestoreDatabase puts a copy of the database in the place of the one in a daemon's
// directory, which is kept beside it: the file that is named, or for "" the newest that
// is whole. The records are kept as they are for Recover, also when a daemon runs before that.
// No daemon may run there. It gives the copy.
// Errors: NotFound, Conflict, Integrity.
func RestoreDatabase(ctx context.Context, dir, file string) (string, error) {
	lock, err := lockThere(ctx, dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	path, err := wholeCopy(ctx, dir, file)
	if err != nil {
		return "", err
	}
	if err := setRecordsAside(dir); err != nil {
		return "", err
	}
	return path, putDatabase(ctx, dir, path)
}

// wholeCopy gives the copy of the database that is named, or the newest that is whole.
// Errors: NotFound, Integrity, Invalid.
func wholeCopy(ctx context.Context, dir, file string) (string, error) {
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
		return path, nil
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
