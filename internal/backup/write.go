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

// A Tree is what there is of an instance, or of a snapshot of it.
type Tree struct {
	Root io.Closer // of Dir
	Dir  *os.File  // the root directory, with owners as the instance sees them
	Meta []File    // metadata.yaml and the templates
}

// A File is one of an instance's own files beside its root directory.
type File struct {
	Name    string // "metadata.yaml", "templates/hosts"
	Content []byte
}

// Write writes a backup as a plain tar. open gives the tree of a snapshot, "" for the
// instance's own; it is closed before the next one is opened.
func Write(ctx context.Context, w io.Writer, t kiln.Transfer, expanded Expand,
	open func(ctx context.Context, snapshot string) (Tree, error)) error {
	idx, inst, err := encode(t, expanded)
	if err != nil {
		return err
	}
	out, now := archive.NewPacker(w), time.Now()
	if err := out.AddFile(indexPath, idx, now); err != nil {
		return err
	}
	for _, s := range t.Snapshots {
		if err := writeTree(ctx, out, path.Join(snapshotsDir, s.Name), s.Name, open, nil); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "snapshot %q: %w", s.Name, err)
		}
	}
	if err := writeTree(ctx, out, instanceDir, "", open, []File{{instanceState, inst}}); err != nil {
		return err
	}
	return out.Close()
}

func writeTree(ctx context.Context, out *archive.Packer, dir, snapshot string,
	open func(context.Context, string) (Tree, error), files []File) (err error) {
	t, err := open(ctx, snapshot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Dir.Close(), t.Root.Close()) }()
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
	return out.AddTree(ctx, t.Dir, path.Join(dir, rootDir))
}
