package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/volume"
)

// asideDir has the records that were there when a copy of the database took the place of a
// newer one, or when a daemon found that its database is older than they are: in 1/, 2/, … with
// the names that they have in a daemon's directory. A daemon writes the records by its rows, which
// may be older. For volume.LostTime they say what the files in lost/ were.
const asideDir = "records"

// setRecordsAside keeps the records in a daemon's directory apart from those that the next daemon
// writes. They share what is in them: each write of a record makes a new file.
func setRecordsAside(dir string) error {
	aside := filepath.Join(dir, asideDir)
	temp := filepath.Join(aside, ".new-records")
	if err := os.RemoveAll(temp); err != nil { // of who was killed
		return err
	}
	var list []string
	for _, pattern := range []string{projectsFile, networksFile, profilesFile, imagesDir + "/*.json",
		"volumes/notes/*.json"} {
		some, err := disk.Glob(dir, pattern)
		if err != nil {
			return err
		}
		list = append(list, some...)
	}
	if areKept(dir, list) {
		return nil
	}
	defer os.RemoveAll(temp) // gone if it has its name
	made := map[string]bool{}
	for _, path := range list {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		to := filepath.Join(temp, rel)
		if in := filepath.Dir(to); !made[in] {
			if err := disk.MkdirAll(in, 0o700); err != nil {
				return err
			}
			made[in] = true
		}
		if err := linkRecord(path, to); err != nil {
			return fmt.Errorf("keep the record %s: %w", path, err)
		}
	}
	for in := range made {
		if err := disk.SyncDir(in); err != nil {
			return err
		}
	}
	last := 0
	for _, kept := range keptRecords(dir) {
		n, _ := strconv.Atoi(filepath.Base(kept))
		last = max(last, n)
	}
	return disk.RenameNew(temp, filepath.Join(aside, strconv.Itoa(last+1)))
}

// areKept reports whether the newest records that are kept are these.
func areKept(dir string, list []string) bool {
	kept := keptRecords(dir)
	return !slices.ContainsFunc(list, func(path string) bool {
		rel, err := filepath.Rel(dir, path)
		return err != nil || len(kept) == 0 || !same(path, filepath.Join(kept[0], rel))
	})
}

// linkRecord gives a record another name, or makes a copy of it where that can't be.
func linkRecord(from, to string) error {
	err := os.Link(from, to)
	if err == nil {
		return nil
	}
	f, oerr := disk.Open(from)
	if errors.Is(oerr, kiln.Integrity) {
		return nil // something that is none
	}
	if oerr != nil {
		return errors.Join(err, oerr)
	}
	defer f.Close()
	return disk.Write(to, 0o600, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// keptRecords gives the directories of records that are kept, the newest first.
func keptRecords(dir string) []string {
	list, _ := disk.Glob(dir, asideDir+"/*")
	number := func(path string) int {
		n, err := strconv.Atoi(filepath.Base(path))
		if err != nil || strconv.Itoa(n) != filepath.Base(path) {
			return 0
		}
		return n
	}
	list = slices.DeleteFunc(list, func(path string) bool { return number(path) <= 0 })
	slices.SortFunc(list, func(a, b string) int { return number(b) - number(a) })
	return list
}

// sweepRecords removes the records that were kept long ago, as are the files that they told of.
func sweepRecords(dir string) error {
	var errs []error
	for _, kept := range keptRecords(dir) {
		old, err := disk.Stale(kept, volume.LostTime)
		if old {
			err = os.RemoveAll(kept)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// fromRecords calls f with the directory whose records there are, and then with those of the
// records that are kept: these fill in what has no row, and never count more than one.
func (v *recoverer) fromRecords(f func(dir string) error) error {
	overrule := v.overrule
	defer func() { v.overrule = overrule }()
	for _, dir := range append([]string{v.cfg.Dir}, v.kept...) {
		if err := f(dir); err != nil {
			return err
		}
		v.overrule = false
	}
	return nil
}

// attachKept attaches the snapshots of an instance that records which are kept tell of and its
// own doesn't, and tells of what is configured in another way than it was then.
func (v *recoverer) attachKept(ctx context.Context, uuid string, row db.Instance) error {
	for _, dir := range v.kept {
		r, err := instance.ReadRecord(filepath.Join(dir, "volumes"), uuid)
		if err != nil {
			continue // it knew nothing of the instance
		}
		there := slices.DeleteFunc(r.Snapshots, func(s db.Snapshot) bool {
			_, err := v.pool.GetSnapshot(s.Files)
			return errors.Is(err, kiln.NotFound) // deleted since
		})
		if err := v.attach(ctx, row.Name, there); err != nil {
			return err
		}
		if other := instance.Differing(row, r.Instance); len(other) > 0 {
			v.remark("instance %q had another %s before an older database took its place, by the record %s; compare: "+
				"kiln config show %s%s", row.Name, strings.Join(other, ", "),
				filepath.Join(dir, "volumes/notes", uuid+".json"), row.Name, flagOf(row.Project))
		}
	}
	return nil
}

// recordOf gives the newest record of a volume that can be read.
func (v *recoverer) recordOf(uuid string) (instance.Record, error) {
	r, err := instance.Recorded(v.pool, uuid)
	for _, dir := range v.kept {
		if err == nil {
			break
		}
		if older, rerr := instance.ReadRecord(filepath.Join(dir, "volumes"), uuid); rerr == nil {
			return older, nil
		}
	}
	return r, err
}

// tellKept says that there are records which are newer than the database may be.
func (d *Daemon) tellKept() {
	if kept := keptRecords(d.cfg.Dir); len(kept) > 0 {
		d.cfg.Log.Info("the database was older than what is there, or still is; what was known of what isn't in it is "+
			"kept for a while, see kiln admin recover", "in", kept[0], "days", int(volume.LostTime.Hours()/24))
	}
}

// aboutLost says what records know of volumes and of the files of snapshots.
func aboutLost(dir string) map[string]string {
	about := instance.RecordedIn(filepath.Join(dir, "volumes"))
	for _, kept := range keptRecords(dir) {
		for files, what := range instance.RecordedIn(filepath.Join(kept, "volumes")) {
			if _, ok := about[files]; !ok {
				about[files] = what
			}
		}
	}
	return about
}
