package backup

import (
	"context"
	"errors"
	"io"
	"path"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// Trees is where the backup of an instance goes.
type Trees interface {
	// Begin is told what the backup is of, before its files come. It may refuse it.
	Begin(t kiln.Transfer) error
	// Root and Meta give what takes the root directory, and the other files, of a
	// snapshot, "" for the instance itself. Each is asked for once.
	Root(snapshot string) (archive.TreeWriter, error)
	Meta(snapshot string) (archive.TreeWriter, error)
}

// VolumeTrees is where the backup of a storage volume goes. It is as Trees.
type VolumeTrees interface {
	Begin(v Volume) error
	Root(snapshot string) (archive.TreeWriter, error)
}

// Read reads the backup of an instance, under whatever compression, to its end. Files come
// from the archive tree by tree, and the index before them. left is how many nodes weren't
// taken because overlayfs would read them as deletions: 0:0 devices. Errors: Invalid,
// Integrity for what is cut or damaged, TooLarge, NoSpace, Unsupported, and those of r and
// of the trees.
func Read(ctx context.Context, r io.Reader, lim archive.Limits, to Trees) (left int, err error) {
	in := reader{layout: instanceLayout, newRoot: to.Root, newMeta: to.Meta}
	in.begin = func(i index) (contents, error) {
		t, c, err := i.instance()
		if err == nil {
			err = lim.Visit.Add(t.Memory() + c.memory())
		}
		if err == nil {
			err = to.Begin(t)
		}
		return c, err
	}
	err = in.read(ctx, r, lim)
	return in.left, err
}

// ReadVolume reads the backup of a storage volume, as Read does that of an instance.
func ReadVolume(ctx context.Context, r io.Reader, lim archive.Limits, to VolumeTrees) error {
	in := reader{layout: volumeLayout, newRoot: to.Root}
	in.begin = func(i index) (contents, error) {
		v, c, err := i.volume()
		if err == nil {
			err = lim.Visit.Add(v.memory() + c.memory())
		}
		if err == nil {
			err = to.Begin(v)
		}
		return c, err
	}
	return in.read(ctx, r, lim)
}

// maxXattrs bounds the extended attributes of a file, in bytes: Linux has none that are
// longer, and no file system with room for many of those.
const maxXattrs = 1 << 20

// reader takes a backup apart.
type reader struct {
	layout
	begin            func(index) (contents, error)
	newRoot, newMeta func(snapshot string) (archive.TreeWriter, error) // newMeta may be nil

	source io.Reader // of the archive
	plain  bool      // paths are of one instance or snapshot, as ReadTree has them
	index  *contents
	seen   map[string]bool // snapshots whose files came, "" for what the backup is of itself
	rooted,
	inside bool // the files of now are coming, and among them its root directory
	now        string
	root, meta archive.TreeWriter
	left       int
}

func (in *reader) read(ctx context.Context, r io.Reader, lim archive.Limits) error {
	z, _, err := archive.Decompress(ctx, r, lim.Visit)
	if err != nil {
		return err
	}
	defer z.Close()
	in.seen, in.source = map[string]bool{}, r
	lim.Xattrs = maxXattrs
	if err := archive.Walk(ctx, z, lim, in.entry); err != nil {
		return errors.Join(err, in.close())
	}
	if err := in.leave(); err != nil {
		return err
	}
	return in.whole()
}

func (in *reader) entry(e *archive.Entry, r io.Reader) error {
	if e.Path == indexPath {
		return in.readIndex(e, r)
	}
	p, ok := in.placeOf(e.Path)
	switch {
	case ok:
		return in.file(p, e, r)
	case e.Type == archive.Dir && (e.Path == "." || e.Path == "backup" || e.Path == in.snapshots):
		return nil
	}
	for dir, err := range map[string]error{instanceLayout.own: ofInstance(), volumeLayout.own: ofVolume(),
		machineDir: ofMachine()} {
		if _, ok := below(e.Path, dir); ok {
			return err
		}
	}
	if _, ok := below(e.Path, rootDir); ok || e.Path == metadataFile {
		return kiln.Errorf(kiln.Invalid, "this is an image and no backup; import it with: kiln image import")
	}
	return kiln.Errorf(kiln.Invalid, "%.100q belongs to no backup of this %s, which has %s, %s and %s; an image is "+
		"imported with: kiln image import", e.Path, in.of, indexPath, in.own, in.snapshots)
}

func (in *reader) readIndex(e *archive.Entry, r io.Reader) error {
	switch {
	case e.Type != archive.Regular:
		return kiln.Errorf(kiln.Invalid, "%s is no file", indexPath)
	case e.Size > maxIndex:
		return kiln.Errorf(kiln.TooLarge, "%s has more than %d bytes", indexPath, maxIndex)
	case in.index != nil:
		return kiln.Errorf(kiln.Invalid, "%s comes twice", indexPath)
	}
	i, err := takeIndex(e.Size, r, in.source)
	if err != nil {
		return err
	}
	c, err := in.begin(i)
	in.index = &c
	return err
}

// An index of more than smallIndexSize bytes is kept in memory with few others: sixteen
// kilobytes of an archive can become maxIndex.
const smallIndexSize = 1 << 20

var largeIndexes = make(chan struct{}, 4)

// largeIndexTime is how long one waits for the others, and how long one may take to come.
const largeIndexTime = time.Minute

// takeIndex reads an index out of an archive that comes from a source.
func takeIndex(size int64, r io.Reader, source any) (index, error) {
	if size > smallIndexSize {
		late := time.NewTimer(largeIndexTime)
		defer late.Stop()
		select {
		case largeIndexes <- struct{}{}:
			defer func() { <-largeIndexes }()
		case <-late.C:
			return index{}, kiln.Errorf(kiln.Busy, "other large backups are being read; try again later")
		}
		if s, ok := source.(interface{ SetReadDeadline(time.Time) error }); ok { // else the others wait for a slow sender
			if err := s.SetReadDeadline(time.Now().Add(largeIndexTime)); err == nil {
				defer func() { _ = s.SetReadDeadline(time.Time{}) }()
			}
		}
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return index{}, err
	}
	return parseIndex(b)
}

// file takes an entry of a tree.
func (in *reader) file(p place, e *archive.Entry, r io.Reader) error {
	if in.index == nil {
		return kiln.Errorf(kiln.Invalid, "%.100q comes before %s, without which it can't be understood; pack that first",
			e.Path, indexPath)
	}
	if err := in.enter(p.snapshot); err != nil {
		return err
	}
	e.Path = p.rest
	if rest, ok := below(p.rest, in.layout.root); ok {
		e.Path = rest
		return in.rootEntry(e, r)
	}
	if p.rest != metadataFile && path.Dir(p.rest) != templatesDir {
		return nil // directories, backup.yaml, and what else a version of LXD keeps there
	}
	if e.Type != archive.Regular {
		return kiln.Errorf(kiln.Invalid, "%.100q is no file", path.Join(p.snapshot, p.rest))
	}
	if in.meta == nil {
		var err error
		if in.meta, err = in.newMeta(in.now); err != nil {
			return err
		}
	}
	e.UID, e.GID, e.Mode, e.Xattrs = 0, 0, 0o644, nil
	return in.meta.Add(e, r)
}

func (in *reader) rootEntry(e *archive.Entry, r io.Reader) error {
	if !in.rooted && (e.Path != "." || e.Type != archive.Dir) {
		return kiln.Errorf(kiln.Invalid, "the root directory of %s doesn't come before what is in it", in.what())
	}
	if in.root == nil {
		var err error
		if in.root, err = in.newRoot(in.now); err != nil {
			return err
		}
		in.rooted = true
	}
	switch e.Type {
	case archive.Hardlink:
		link, err := in.checkLink(e)
		if err != nil {
			return err
		}
		e.Link = link
	case archive.CharDevice:
		if e.Major == 0 && e.Minor == 0 && in.newMeta != nil { // a storage volume is in no overlay
			in.left++
			return nil
		}
	}
	in.index.owners[in.now].apply(e)
	return in.root.Add(e, r)
}

func (in *reader) what() string {
	if in.now == "" {
		return "the " + in.of
	}
	return "snapshot " + in.now
}

// enter begins with the files of a snapshot, unless that is where they are coming from.
func (in *reader) enter(snapshot string) error {
	if in.inside && in.now == snapshot {
		return nil
	}
	if err := in.leave(); err != nil {
		return err
	}
	if snapshot != "" {
		if err := kiln.CheckSnapshotName(snapshot); err != nil {
			return err
		}
	}
	if in.now = snapshot; in.seen[snapshot] {
		return kiln.Errorf(kiln.Invalid, "the files of %s don't come one after another", in.what())
	}
	if len(in.seen) > maxSnapshots {
		return kiln.Errorf(kiln.Invalid, "there are more than %d snapshots", maxSnapshots)
	}
	in.seen[snapshot], in.inside, in.rooted = true, true, false
	return nil
}

// leave is done with the files of a snapshot.
func (in *reader) leave() error {
	err := in.close()
	if err == nil && in.inside && !in.rooted {
		err = kiln.Errorf(kiln.Invalid, "there is no root directory of %s", in.what())
	}
	in.inside = false
	return err
}

// close closes the trees of now.
func (in *reader) close() error {
	var errs []error
	for _, w := range []archive.TreeWriter{in.root, in.meta} {
		if w != nil {
			errs = append(errs, w.Close())
		}
	}
	in.root, in.meta = nil, nil
	return errors.Join(errs...)
}

// whole says whether all came that the index names, and nothing else. The error is Invalid.
func (in *reader) whole() error {
	if in.index == nil {
		return kiln.Errorf(kiln.Invalid, "this is no backup of the kind that kiln and LXD export: there is no %s", indexPath)
	}
	if !in.seen[""] {
		return kiln.Errorf(kiln.Invalid, "there are no files of the %s in the backup: no %s", in.of, in.own)
	}
	named := map[string]bool{"": true}
	for _, name := range in.index.snapshots {
		if named[name] = true; !in.seen[name] {
			return kiln.Errorf(kiln.Invalid, "there are no files of the snapshot %q in the backup", name)
		}
	}
	for name := range in.seen {
		if !named[name] {
			return kiln.Errorf(kiln.Invalid, "%s doesn't have the snapshot %q, whose files are there", indexPath, name)
		}
	}
	return nil
}
