package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// LostTime is how long the files of volumes and snapshots that nobody knew of are
// kept in lost/, for who finds out that they were somebody's.
const LostTime = 7 * 24 * time.Hour

// lost/<time>.<kind>.<name>/ is what volumes/<name>/ or snapshots/<name>/ was. The
// layers and trees that it stands on are kept with it.
const (
	lostVolume   = "volume"
	lostSnapshot = "snapshot"
	lostFormat   = "20060102T150405.000"
)

// Lose puts a volume away that nobody knows of. One that isn't there is no error.
func (p *Pool) Lose(name string) error { return p.lose(lostVolume, name, p.volumeDir(name)) }

// LoseSnapshot is Lose for a snapshot.
func (p *Pool) LoseSnapshot(name string) error {
	return p.lose(lostSnapshot, name, p.snapshotDir(name))
}

func (p *Pool) lose(kind, name, dir string) error {
	if err := checkName(name); err != nil {
		return err
	}
	p.stacks.RLock()
	defer p.stacks.RUnlock()
	entry := strings.Join([]string{time.Now().UTC().Format(lostFormat), kind, name}, ".")
	err := disk.RenameNew(dir, filepath.Join(p.dir, "lost", entry))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// A Lost is a volume or a snapshot that was put away.
type Lost struct {
	Entry    string // names it for Find and in lost/
	Name     string // it had
	Snapshot bool
	At       time.Time
}

// Lost gives what was put away, oldest first.
func (p *Pool) Lost() ([]Lost, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "lost"))
	if err != nil {
		return nil, err
	}
	var list []Lost
	for _, e := range entries {
		// The time has a dot as well.
		fields := strings.SplitN(e.Name(), ".", 4)
		if len(fields) != 4 {
			continue // not ours
		}
		at, err := time.Parse(lostFormat, fields[0]+"."+fields[1])
		if err == nil && (fields[2] == lostVolume || fields[2] == lostSnapshot) {
			list = append(list, Lost{e.Name(), fields[3], fields[2] == lostSnapshot, at})
		}
	}
	return list, nil
}

// Find brings back a volume or a snapshot that was put away, under the name it had.
// The error is Conflict when that is taken.
func (p *Pool) Find(l Lost) error {
	dir := p.volumeDir(l.Name)
	if l.Snapshot {
		dir = p.snapshotDir(l.Name)
	}
	err := disk.RenameNew(filepath.Join(p.dir, "lost", l.Entry), dir)
	if errors.Is(err, fs.ErrExist) {
		err = kiln.Errorf(kiln.Conflict, "volume %q already exists", l.Name)
	}
	return err
}

// SweepLost removes what was put away longer ago than LostTime.
func (p *Pool) SweepLost() error {
	list, err := p.Lost()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range list {
		if time.Since(l.At) > LostTime {
			errs = append(errs, p.discard(filepath.Join(p.dir, "lost", l.Entry)))
		}
	}
	return errors.Join(append(errs, p.sweepLayers())...)
}
