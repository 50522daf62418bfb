package backup

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// A Tree is what there is of an instance or a storage volume, or of a snapshot of it.
type Tree struct {
	Root io.Closer // of Dir; nil: nothing but that
	Dir  *os.File  // the root directory, with owners as the instance sees them
	Meta []File    // metadata.yaml and the templates, of an instance
}

// A File is one of an instance's own files beside its root directory.
type File struct {
	Name    string // "metadata.yaml", "templates/hosts"
	Content []byte
}

// open gives the tree of a snapshot, "" for what the backup is of itself; it is closed
// before the next one is opened.
type open func(ctx context.Context, snapshot string) (Tree, error)

// Write writes the backup of an instance as a plain tar. open gives the tree of a snapshot,
// "" for the instance's own; it is closed before the next one is opened. visit counts what is
// remembered of the files; it may be nil. Errors are those of Visit.Add as well.
func Write(ctx context.Context, w io.Writer, visit *archive.Visit, t kiln.Transfer, expanded Expand,
	open func(ctx context.Context, snapshot string) (Tree, error)) error {
	idx, inst, err := encode(t, expanded)
	if err != nil {
		return err
	}
	var snapshots []string
	for _, s := range t.Snapshots {
		snapshots = append(snapshots, s.Name)
	}
	return instanceLayout.write(ctx, w, visit, idx, snapshots, open, File{instanceState, inst})
}

// WriteVolume writes the backup of a storage volume, as Write does that of an instance.
func WriteVolume(ctx context.Context, w io.Writer, visit *archive.Visit, v Volume,
	open func(ctx context.Context, snapshot string) (Tree, error)) error {
	idx, err := encodeVolume(v)
	if err != nil {
		return err
	}
	var snapshots []string
	for _, s := range v.Snapshots {
		snapshots = append(snapshots, s.Name)
	}
	return volumeLayout.write(ctx, w, visit, idx, snapshots, open)
}

// Compressed has fill write a backup, and writes it to w under a compression. temp is a
// directory for what a compressor needs. The error is Unsupported when a program is missing,
// or fill's.
func Compressed(ctx context.Context, w io.Writer, c archive.Compression, temp string,
	fill func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx) // lets go of a compressor that isn't closed
	defer cancel()
	z, err := archive.Compress(ctx, w, c, temp)
	if err != nil {
		return err
	}
	if err := fill(z); err != nil {
		return archive.CloseAfter(err, z)
	}
	return z.Close()
}

// write writes the index, the snapshots, and what the backup is of, with files of its own.
func (l layout) write(ctx context.Context, w io.Writer, visit *archive.Visit, idx []byte, snapshots []string,
	open open, files ...File) error {
	out, now := archive.NewPacker(w), time.Now()
	out.Visit = visit
	if err := out.AddFile(indexPath, idx, now); err != nil {
		return err
	}
	for _, name := range snapshots {
		if err := l.writeTree(ctx, out, path.Join(l.snapshots, name), name, open, nil); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "snapshot %q: %w", name, err)
		}
	}
	if err := l.writeTree(ctx, out, l.own, "", open, files); err != nil {
		return err
	}
	return out.Close()
}

func (l layout) writeTree(ctx context.Context, out *archive.Packer, dir, snapshot string, open open,
	files []File) (err error) {
	t, err := open(ctx, snapshot)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, t.Dir.Close())
		if t.Root != nil {
			err = errors.Join(err, t.Root.Close())
		}
	}()
	files = append(files, t.Meta...)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	now := time.Now()
	for _, f := range files {
		if !fs.ValidPath(f.Name) {
			return kiln.Errorf(kiln.Invalid, "%q is no file of an instance", f.Name)
		}
		if err := out.AddFile(path.Join(dir, f.Name), f.Content, now); err != nil {
			return err
		}
	}
	return out.AddTree(ctx, t.Dir, path.Join(dir, l.root))
}
