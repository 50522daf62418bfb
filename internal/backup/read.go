package backup

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// Trees is where a backup goes.
type Trees interface {
	// Begin is told what the backup is of, before its files come. It may refuse it.
	Begin(t kiln.Transfer) error
	// Root and Meta give what takes the root directory, and the other files, of a
	// snapshot, "" for the instance itself. Each is asked for once.
	Root(snapshot string) (archive.TreeWriter, error)
	Meta(snapshot string) (archive.TreeWriter, error)
}

// Read reads a backup, under whatever compression, to its end. Files come from the
// archive tree by tree, and the index before them. left is how many nodes weren't taken because overlayfs would
// read them as deletions: 0:0 devices. Errors: Invalid, Integrity for what is cut or
// damaged, TooLarge, NoSpace, Unsupported, and those of r and of the trees.
func Read(ctx context.Context, r io.Reader, lim archive.Limits, to Trees) (left int, err error) {
	z, _, err := archive.Decompress(ctx, r)
	if err != nil {
		return 0, err
	}
	defer z.Close()
	in := reader{to: to, seen: map[string]bool{}}
	if err := archive.Walk(ctx, z, lim, in.entry); err != nil {
		return 0, errors.Join(err, in.close())
	}
	if err := in.leave(); err != nil {
		return 0, err
	}
	return in.left, in.whole()
}

// reader takes a backup apart.
type reader struct {
	to    Trees
	index *contents
	seen  map[string]bool // snapshots whose files came, "" for the instance's
	rooted,
	inside bool // the files of now are coming, and among them its root directory
	now        string
	root, meta archive.TreeWriter
	left       int
}

func (in *reader) entry(e *archive.Entry, r io.Reader) error {
	if e.Path == indexPath {
		return in.readIndex(e, r)
	}
	p, ok := placeOf(e.Path)
	switch {
	case ok:
		return in.file(p, e, r)
	case e.Type == archive.Dir && (e.Path == "." || e.Path == "backup" || e.Path == snapshotsDir):
		return nil
	}
	for dir, what := range map[string]string{customDir: "a storage volume, not of an instance",
		machineDir: "a virtual machine; kiln runs system containers"} {
		if e.Path == dir || strings.HasPrefix(e.Path, dir+"/") {
			return kiln.Errorf(kiln.Unsupported, "this is the backup of %s", what)
		}
	}
	if e.Path == "metadata.yaml" || e.Path == "rootfs" || strings.HasPrefix(e.Path, "rootfs/") {
		return kiln.Errorf(kiln.Invalid, "this is an image and no backup; import it with: kiln image import")
	}
	return kiln.Errorf(kiln.Invalid, "%.100q belongs to no backup of an instance, which has %s, %s and %s", e.Path,
		indexPath, instanceDir, snapshotsDir)
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
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	t, err := parseIndex(b)
	if err != nil {
		return err
	}
	in.index = &t
	return in.to.Begin(t.Transfer)
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
	if rest, ok := below(p.rest, rootDir); ok {
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
		if in.meta, err = in.to.Meta(in.now); err != nil {
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
		if in.root, err = in.to.Root(in.now); err != nil {
			return err
		}
		in.rooted = true
	}
	switch e.Type {
	case archive.Hardlink:
		p, ok := placeOf(e.Link)
		rest, inRoot := below(p.rest, rootDir)
		if !ok || !inRoot || p.snapshot != in.now {
			return kiln.Errorf(kiln.Invalid, "%.100q is a hard link to %.100q, which is elsewhere", e.Path, e.Link)
		}
		e.Link = rest
	case archive.CharDevice:
		if e.Major == 0 && e.Minor == 0 {
			in.left++
			return nil
		}
	}
	in.index.owners[in.now].apply(e)
	return in.root.Add(e, r)
}

func (in *reader) what() string {
	if in.now == "" {
		return "the instance"
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
		return kiln.Errorf(kiln.Invalid, "this is no backup of an instance: there is no %s", indexPath)
	}
	if !in.seen[""] {
		return kiln.Errorf(kiln.Invalid, "there are no files of the instance in the backup: no %s", instanceDir)
	}
	named := map[string]bool{"": true}
	for _, s := range in.index.Snapshots {
		if named[s.Name] = true; !in.seen[s.Name] {
			return kiln.Errorf(kiln.Invalid, "there are no files of the snapshot %q in the backup", s.Name)
		}
	}
	for name := range in.seen {
		if !named[name] {
			return kiln.Errorf(kiln.Invalid, "%s doesn't have the snapshot %q, whose files are there", indexPath, name)
		}
	}
	return nil
}
