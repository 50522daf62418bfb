package volume

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// LostTime is how long the files of volumes and snapshots that nobody knew of are
// kept in lost/, for who finds out that they were somebody's, and damaged trees of images
// that were made again.
const LostTime = 7 * 24 * time.Hour

// lost/<time>.<kind>.<name>/ is what volumes/<name>/, snapshots/<name>/, layers/<name>/ or
// images/<name>/ was. The layers and trees that a volume or a snapshot stands on are kept
// with it.
const (
	lostVolume   = "volume"
	lostSnapshot = "snapshot"
	lostTree     = "tree"
	lostLayer    = "layer"
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
	p.noting.Lock() // so that its note has its volume in one place or the other
	defer p.noting.Unlock()
	_, err := p.putAway(kind, name, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// putAway moves a directory to lost/ and gives its path there.
func (p *Pool) putAway(kind, name, dir string) (string, error) {
	for at := time.Now().UTC(); ; at = at.Add(time.Millisecond) {
		to := filepath.Join(p.dir, "lost", strings.Join([]string{at.Format(lostFormat), kind, name}, "."))
		err := p.spare(func() error { return disk.RenameNew(dir, to) })
		if !errors.Is(err, fs.ErrExist) { // one of the same name was put away in this millisecond
			return to, err
		}
	}
}

// keepMark is an empty file in the directory of what is put away and stays.
const keepMark = "keep"

// Keep puts a volume away until somebody brings it back or removes it: SweepLost
// doesn't. One that isn't there is no error.
func (p *Pool) Keep(name string) error { return p.keep(lostVolume, name, p.volumeDir(name)) }

// KeepSnapshot is Keep for a snapshot.
func (p *Pool) KeepSnapshot(name string) error {
	return p.keep(lostSnapshot, name, p.snapshotDir(name))
}

func (p *Pool) keep(kind, name, dir string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := disk.WriteBytes(filepath.Join(dir, keepMark), 0o600, nil); err != nil {
		return err
	}
	return p.lose(kind, name, dir)
}

// A Lost is what was put away: a volume or a snapshot that nobody knew of, a layer that
// nobody named, or the tree of an image that nobody needed or that was replaced.
type Lost struct {
	Entry    string // names it for Find and in lost/
	Name     string // it had
	Snapshot bool
	Tree     bool
	Layer    bool
	At       time.Time
	Kept     bool // it stays; else SweepLost removes it some day
}

// Lost gives what was put away, oldest first.
func (p *Pool) Lost() ([]Lost, error) { return ListLost(p.dir) }

// ListLost is Lost of the pool in a directory, which others may be using.
func ListLost(dir string) ([]Lost, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "lost"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []Lost
	for _, e := range entries {
		if l, ok := parseLost(e.Name()); ok { // else it isn't ours
			_, kept := os.Stat(filepath.Join(dir, "lost", e.Name(), keepMark))
			l.Kept = kept == nil
			list = append(list, l)
		}
	}
	return list, nil
}

// parseLost reads the name of an entry of lost/.
func parseLost(entry string) (Lost, bool) {
	// The time has a dot as well.
	fields := strings.SplitN(entry, ".", 4)
	if len(fields) != 4 {
		return Lost{}, false
	}
	at, err := time.Parse(lostFormat, fields[0]+"."+fields[1])
	kind := fields[2]
	return Lost{Entry: entry, Name: fields[3], Snapshot: kind == lostSnapshot, Tree: kind == lostTree,
			Layer: kind == lostLayer, At: at},
		err == nil && slices.Contains([]string{lostVolume, lostSnapshot, lostTree, lostLayer}, kind)
}

// Find brings back what was put away, under the name it had. The error is Conflict when
// that is taken.
func (p *Pool) Find(l Lost) error {
	dir := p.volumeDir(l.Name)
	switch {
	case l.Snapshot:
		dir = p.snapshotDir(l.Name)
	case l.Tree:
		dir = filepath.Join(p.dir, "images", l.Name)
	case l.Layer:
		dir = p.layerDir(l.Name)
	}
	p.noting.Lock()
	err := disk.RenameNew(filepath.Join(p.dir, "lost", l.Entry), dir)
	p.noting.Unlock()
	if errors.Is(err, fs.ErrExist) {
		err = kiln.Errorf(kiln.Conflict, "%s already exists", dir)
	}
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, keepMark)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// LostSize is how many bytes what was put away takes by itself, without the layers that
// it stands on.
func LostSize(ctx context.Context, dir string, l Lost) (int64, error) {
	return usage(ctx, filepath.Join(dir, "lost", l.Entry))
}

// DropLost removes what was put away from the pool in a directory, which others may be
// using: the layers that only it stood on go with their next sweep. The error is NotFound.
func DropLost(dir string, l Lost) error {
	temp := filepath.Join(dir, "tmp", "old-"+rand.Text())
	err := os.Rename(filepath.Join(dir, "lost", l.Entry), temp)
	if errors.Is(err, fs.ErrNotExist) {
		err = kiln.Errorf(kiln.NotFound, "%s was not put away", l.Entry)
	}
	return errors.Join(err, removeTree(temp))
}

// putAwayNow has what was put away begin its time in lost/ anew.
func (p *Pool) putAwayNow(l Lost) error {
	p.noting.Lock() // it may be brought back
	defer p.noting.Unlock()
	_, err := p.putAway(strings.SplitN(l.Entry, ".", 4)[2], l.Name, filepath.Join(p.dir, "lost", l.Entry))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// SweepLost removes what was put away longer ago than LostTime, but for what is kept,
// and the notes of volumes that are gone. What was put away before the clock was set is so
// from now on.
func (p *Pool) SweepLost() error {
	list, err := p.Lost()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range list {
		if l.Kept {
			continue
		}
		switch long, unknown := disk.LongAgo(l.At, LostTime); {
		case unknown:
			errs = append(errs, p.putAwayNow(l))
		case long:
			errs = append(errs, p.discard(filepath.Join(p.dir, "lost", l.Entry)))
		}
	}
	return errors.Join(append(errs, p.sweepNotes(), p.sweepLayers())...)
}
