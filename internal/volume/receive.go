package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A Receiver takes the parts of a volume, and of its snapshots, that come from another
// pool. Until Commit nobody sees any of it; Close without that throws it away, and so
// does the next Open of the pool.
type Receiver struct {
	pool  *Pool
	dir   string
	left  int64             // bytes that may be written yet
	parts map[string]string // of each part, by the name it has there: the directory here
}

// reserve is what a receiver leaves free of the disk, in bytes.
const reserve = 16 << 20

// Receive prepares for parts. The error is NoSpace when they are larger than the disk.
func (p *Pool) Receive(parts []kiln.Part) (*Receiver, error) {
	free, err := p.Free()
	if err != nil {
		return nil, err
	}
	free -= reserve
	var need int64
	for _, part := range parts {
		if need += part.Size; part.Size < 0 || need > free || need < 0 {
			return nil, kiln.Errorf(kiln.NoSpace, "the files need more than the %s that are free", kiln.FormatSize(max(free, 0)))
		}
	}
	dir, err := p.prepare(func(temp string) error { return nil })
	if err != nil {
		return nil, err
	}
	return &Receiver{pool: p, dir: dir, left: free, parts: map[string]string{}}, nil
}

// Add unpacks one part, a tar as Export writes it. Errors: Invalid, NoSpace,
// Integrity, and the reader's.
func (l *Receiver) Add(ctx context.Context, id string, r io.Reader) error {
	if l.parts[id] != "" {
		return kiln.Errorf(kiln.Invalid, "the part %q came already", id)
	}
	dir := filepath.Join(l.dir, uuid.NewString())
	tree := filepath.Join(dir, "upper")
	if err := os.MkdirAll(tree, 0o700); err != nil {
		return err
	}
	if err := unpack(ctx, r, tree, isMeta(id), &l.left); err != nil {
		return err
	}
	l.parts[id] = dir
	return nil
}

// Tree begins a part that comes as entries of an archive, and not as Export writes it.
// The error is Invalid.
func (l *Receiver) Tree(id string) (archive.TreeWriter, error) {
	if l.parts[id] != "" {
		return nil, kiln.Errorf(kiln.Invalid, "the part %q came already", id)
	}
	dir := filepath.Join(l.dir, uuid.NewString())
	tree := filepath.Join(dir, "upper")
	if err := os.MkdirAll(tree, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(tree, 0o755); err != nil { // until its own entry comes
		return nil, err
	}
	l.parts[id] = dir
	w, err := archive.NewDirWriter(tree, treeWriters)
	if err != nil {
		return nil, err
	}
	w.Devices = true // no layer is mounted so that they work
	return w, nil
}

// Staging makes a directory of which somebody else fills trees, and that is no part. It goes
// with the receiver, or when drop is called: nothing of it is synced then.
func (l *Receiver) Staging(owner int) (dir *os.File, drop func() error, err error) {
	path := filepath.Join(l.dir, uuid.NewString())
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, nil, err
	}
	if err := os.Chown(path, owner, owner); err != nil {
		return nil, nil, err
	}
	dir, err = disk.OpenDir(path)
	return dir, func() error { return removeTree(path) }, err
}

// treeWriters is how many small files of a tree are written at a time.
const treeWriters = 4

// Room is how many bytes may be written yet.
func (l *Receiver) Room() int64 { return l.left }

// Commit makes a volume on a stack, and snapshots by their names. When it fails, what it
// made is for the caller to delete. The error is NotFound when the tree of an image isn't
// here; Pin keeps it.
func (l *Receiver) Commit(ctx context.Context, volume string, top kiln.Stack, snapshots map[string]kiln.Stack) error {
	p := l.pool
	for _, s := range snapshots {
		if err := l.check(s); err != nil {
			return err
		}
	}
	if err := l.check(top); err != nil {
		return err
	}
	if err := disk.SyncSystem(l.dir); err != nil {
		return err
	}
	if err := checkName(volume); err != nil {
		return err
	}
	type ready struct{ temp, dir string }
	var all []ready
	defer func() {
		for _, r := range all { // those that have no place yet
			_ = removeTree(r.temp)
		}
	}()
	prepare := func(dir string, fill func(temp string) error) error {
		temp, err := p.prepare(fill)
		if err == nil {
			all = append(all, ready{temp, dir})
		}
		return err
	}
	for name, s := range snapshots {
		if err := checkName(name); err != nil {
			return err
		}
		if err := prepare(p.snapshotDir(name), func(temp string) error {
			return writeSnapshot(temp, l.record(s), l.meta(s))
		}); err != nil {
			return err
		}
	}
	if err := prepare(p.volumeDir(volume), func(temp string) error {
		return writeVolume(temp, l.record(top), filepath.Join(l.parts[top.Layers[0]], "upper"), l.meta(top))
	}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// A sweep sees the layers and what they are for, or neither.
	p.stacks.RLock()
	defer p.stacks.RUnlock()
	for _, s := range append(slices.Collect(maps.Values(snapshots)), top) {
		if s.Base.IsZero() {
			continue
		}
		if _, err := p.imageRecord(s.Base); err != nil {
			return fmt.Errorf("what the instance stands on isn't here any more: %w", err)
		}
	}
	for id, dir := range l.parts {
		if isMeta(id) {
			continue
		}
		if err := disk.Rename(dir, p.layerDir(filepath.Base(dir))); err != nil {
			return fmt.Errorf("keep the layer %s: %w", id, err)
		}
	}
	for len(all) > 0 {
		r := all[0]
		all = all[1:] // put removes what gets no place
		if err := p.put(r.temp, r.dir); err != nil {
			return err
		}
	}
	return nil
}

// check makes sure that a stack can be mounted. The error is Invalid.
func (l *Receiver) check(s kiln.Stack) error {
	if len(s.Layers) == 0 || len(s.Layers) > maxLayers+2 {
		return kiln.Errorf(kiln.Invalid, "a tree of %d layers can't be", len(s.Layers))
	}
	seen := map[string]bool{}
	for _, id := range s.Layers {
		if l.parts[id] == "" || isMeta(id) || seen[id] {
			return kiln.Errorf(kiln.Invalid, "the layer %q didn't come, or is named twice", id)
		}
		seen[id] = true
	}
	if s.Meta != "" && (l.parts[s.Meta] == "" || !isMeta(s.Meta)) {
		return kiln.Errorf(kiln.Invalid, "the metadata %q didn't come", s.Meta)
	}
	return nil
}

// record is a stack by the ids of this pool.
func (l *Receiver) record(s kiln.Stack) record {
	r := record{Base: s.Base}
	for _, id := range s.Layers {
		r.Layers = append(r.Layers, filepath.Base(l.parts[id]))
	}
	return r
}

// meta is where the metadata of a stack are; "" for none.
func (l *Receiver) meta(s kiln.Stack) string {
	if s.Meta == "" {
		return ""
	}
	return filepath.Join(l.parts[s.Meta], "upper")
}

// Close removes what wasn't committed.
func (l *Receiver) Close() error {
	if _, err := os.Stat(l.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	l.pool.removeLater(l.dir)
	return nil
}
