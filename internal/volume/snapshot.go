package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A Snapshot is a volume as it was at one moment. Its layers are those that the
// volume goes on to stand on: it has nothing of its own but their names. A layer
// is there as long as somebody names it.
type Snapshot struct {
	pool *Pool
	name string
	record
}

func (p *Pool) snapshotDir(name string) string { return filepath.Join(p.dir, "snapshots", name) }

// Snapshot keeps a volume as it is now. Of a volume that isn't in use nothing is
// copied; what it costs with one that is, see capture. pause holds still what
// uses the volume, and is nil when nothing does. Errors: NotFound, Conflict.
func (p *Pool) Snapshot(ctx context.Context, volume, name string, pause Pause) (*Snapshot, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.snapshotDir(name)); err == nil {
		return nil, kiln.Errorf(kiln.Conflict, "snapshot %q already exists", name)
	}
	s := &Snapshot{pool: p, name: name}
	err := p.hold(ctx, volume, pause, user{p.snapshotDir(name), func(temp string, r record, _ string) error {
		s.record = r
		return writeSnapshot(temp, r, filepath.Join(p.volumeDir(volume), "meta"))
	}})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// writeSnapshot fills the directory of a snapshot.
func writeSnapshot(dir string, r record, meta string) error {
	if err := copyMeta(meta, dir); err != nil {
		return err
	}
	return writeRecord(dir, snapshotFile, r)
}

// onSnapshot makes something that names what a snapshot names, by fill, and has place give
// it its place. The snapshot may be deleted while it is made, and then its layers are. So it
// is looked at again once no sweep can come between: as long as it is there, it keeps all
// that it names, and the layers that are several of these in one. Errors: NotFound, Damage,
// those of fill and place.
func (p *Pool) onSnapshot(name string, fill func(temp string, s *Snapshot) error, place func(temp string) error) error {
	s, err := p.wholeSnapshot(name)
	if err != nil {
		return err
	}
	temp, err := p.prepare(func(temp string) error { return fill(temp, s) })
	p.stacks.RLock()
	defer p.stacks.RUnlock()
	now, gone := p.wholeSnapshot(name)
	switch {
	case gone != nil: // whatever came of that
		err = gone
	case err == nil && !now.equal(s.record):
		err = kiln.Errorf(kiln.Conflict, "the snapshot %q became another one meanwhile; try again", name)
	}
	if temp == "" {
		return err
	}
	if err != nil {
		return errors.Join(err, removeTree(temp))
	}
	return place(temp)
}

// GetSnapshot gives a snapshot. The error is NotFound.
func (p *Pool) GetSnapshot(name string) (*Snapshot, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	r, err := readRecord(filepath.Join(p.snapshotDir(name), snapshotFile), "snapshot", name)
	if err != nil {
		return nil, err
	}
	return &Snapshot{p, name, r}, nil
}

// wholeSnapshot is GetSnapshot of one whose layers are all there. The error may be Damage.
func (p *Pool) wholeSnapshot(name string) (*Snapshot, error) {
	s, err := p.GetSnapshot(name)
	if err != nil {
		return nil, err
	}
	return s, p.whole(s.record, "")
}

// Snapshots gives the names of all snapshots.
func (p *Pool) Snapshots() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "snapshots"))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// DeleteSnapshots removes snapshots. The others stay as they are: they name the
// layers they need. One that isn't there is no error.
func (p *Pool) DeleteSnapshots(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := checkName(name); err != nil {
			return err
		}
		if err := p.discard(p.snapshotDir(name)); err != nil {
			return err
		}
	}
	return p.sweepLayers()
}

// Restore makes a volume that isn't in use what it was at a snapshot: it gets an
// empty upper layer on the snapshot's. Everything since is lost, unless other
// snapshots have it. The error is NotFound.
func (p *Pool) Restore(ctx context.Context, volume, snapshot string) error {
	if _, err := p.Get(volume); err != nil {
		return err
	}
	return p.onSnapshot(snapshot, func(temp string, s *Snapshot) error {
		return p.writeOn(temp, s)
	}, func(temp string) error {
		if err := disk.Exchange(temp, p.volumeDir(volume)); err != nil {
			return errors.Join(err, removeTree(temp))
		}
		p.wg.Go(func() {
			_ = removeTree(temp) // the next Open tries again
			_ = p.sweepLayers()
		})
		return nil
	})
}

// writeOn fills the directory of a volume with the content of a snapshot.
func (p *Pool) writeOn(dir string, s *Snapshot) error {
	r := record{s.Base(), p.compact(s.Layers)}
	return writeVolume(dir, r, p.layerTree(r.Layers[0]), filepath.Join(p.snapshotDir(s.name), "meta"))
}

// Copy makes a volume with the content of another. Nothing of it is copied, unless
// it is in use; pause is then as for Snapshot. Errors: NotFound, Conflict.
func (p *Pool) Copy(ctx context.Context, from, to string, pause Pause) (*Volume, error) {
	if err := checkName(to); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.volumeDir(to)); err == nil {
		return nil, kiln.Errorf(kiln.Conflict, "volume %q already exists", to)
	}
	v := &Volume{pool: p, name: to}
	err := p.hold(ctx, from, pause, user{p.volumeDir(to), func(temp string, r record, top string) error {
		v.base = r.Base
		return writeVolume(temp, r, top, filepath.Join(p.volumeDir(from), "meta"))
	}})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// CloneSnapshot makes a volume with the content of a snapshot. Nothing is copied.
// Errors: NotFound, Conflict.
func (p *Pool) CloneSnapshot(ctx context.Context, from, to string) (*Volume, error) {
	if err := checkName(to); err != nil {
		return nil, err
	}
	v := &Volume{pool: p, name: to}
	err := p.onSnapshot(from, func(temp string, s *Snapshot) error {
		v.base = s.Base()
		return p.writeOn(temp, s)
	}, func(temp string) error { return p.put(temp, p.volumeDir(to)) })
	if err != nil {
		return nil, err
	}
	return v, nil
}

// CopySnapshot makes a snapshot with the content of another. Nothing is copied.
// Errors: NotFound, Conflict.
func (p *Pool) CopySnapshot(ctx context.Context, from, to string) error {
	if err := checkName(to); err != nil {
		return err
	}
	return p.onSnapshot(from, func(temp string, s *Snapshot) error {
		return writeSnapshot(temp, s.record, filepath.Join(p.snapshotDir(from), "meta"))
	}, func(temp string) error { return p.put(temp, p.snapshotDir(to)) })
}

// Base is the image that the snapshot's volume is a clone of; zero: of none.
func (s *Snapshot) Base() kiln.Fingerprint { return s.record.Base }

// Mount gives the snapshot's tree, to be read only, as Volume.Mount does. It may
// be mounted any number of times.
func (s *Snapshot) Mount(ctx context.Context, ids []IDMap) (*os.File, error) {
	return s.pool.mount(ctx, s.record, "", ids)
}

// Meta opens the snapshot's metadata.yaml and templates/ for reading. The error is
// fs.ErrNotExist when there are none.
func (s *Snapshot) Meta() (*os.Root, error) {
	own, err := disk.OpenRoot(filepath.Join(s.pool.snapshotDir(s.name), "meta"))
	if !errors.Is(err, fs.ErrNotExist) || s.Base().IsZero() {
		return own, err
	}
	if err := s.pool.ensure(context.Background(), s.Base()); err != nil {
		return nil, err
	}
	return disk.OpenRoot(filepath.Join(s.pool.imageDir(s.Base()), "meta"))
}

// Usage is how many bytes the volume had changed since the snapshot before.
func (s *Snapshot) Usage() (int64, error) { return s.pool.layerUsage(s.Layers[0]) }

// copyMeta copies a directory of metadata, if it is there, to the place where a
// volume or a snapshot has them.
func copyMeta(from, dir string) error {
	if from == "" {
		return nil
	}
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := copyTree(context.Background(), from, filepath.Join(dir, "meta"), nil); err != nil {
		return err
	}
	return disk.SyncSystem(dir)
}
