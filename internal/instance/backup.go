package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Backup writes all that is shared as a backup that any server with the format of LXD
// takes: whole trees, with the ids that the instance sees. visit counts what is remembered.
// Errors: Unsupported when a program is missing that compresses; those of backup.Write.
func (h *Share) Backup(ctx context.Context, w io.Writer, c archive.Compression, visit *archive.Visit) error {
	profiles, err := h.set.profiles(ctx)
	if err != nil {
		return err
	}
	expanded := func(s kiln.InstanceState) (map[string]string, map[string]map[string]string) {
		var used []Profile
		for _, name := range s.Profiles {
			used = append(used, profiles[name])
		}
		return expand(Config{Options: s.Config, Devices: s.Devices}, used)
	}
	return backup.Compressed(ctx, w, c, h.set.pool.TempDir(), func(z io.Writer) error {
		return backup.Write(ctx, z, visit, h.Transfer, expanded, h.tree)
	})
}

// tree opens what is shared of a snapshot, "" for the instance.
func (h *Share) tree(ctx context.Context, snapshot string) (t backup.Tree, err error) {
	snap, err := h.snapshot(snapshot)
	if err != nil {
		return t, err
	}
	if t.Meta, err = metaFiles(snap); err != nil {
		return t, err
	}
	mount, err := snap.Mount(ctx, nil)
	if err != nil {
		return t, err
	}
	t.Root = mount
	t.Dir, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", mount.Fd())) // a mount's own file can't be read
	if err != nil {
		return t, errors.Join(err, mount.Close())
	}
	return t, nil
}

// snapshot gives what is shared of a snapshot, "" for the instance.
func (h *Share) snapshot(name string) (*volume.Snapshot, error) {
	files := h.trees[len(h.trees)-1]
	if name != "" {
		at := slices.IndexFunc(h.Snapshots, func(s kiln.InstanceState) bool { return s.Name == name })
		files = h.trees[at]
	}
	return h.set.pool.GetSnapshot(files)
}

// metaFiles reads the metadata and the templates of a snapshot, as they are.
func metaFiles(snap *volume.Snapshot) ([]backup.File, error) {
	meta, err := snap.Meta()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer meta.Close()
	b, err := readFile(meta, metadataFile, format.MaxMetadata)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	templates, err := readTemplates(meta)
	list := []backup.File{{Name: metadataFile, Content: b}}
	for _, t := range templates {
		list = append(list, backup.File{Name: path.Join(templateDir, t.name), Content: t.text})
	}
	return list, err
}

// ReadBackup makes the parts of an instance and of its snapshots of a backup, and gives
// their stacks, for Receive. check is told what the backup is of, and says whether that
// can be here. left is as of backup.Read.
func ReadBackup(ctx context.Context, r io.Reader, lim archive.Limits, to *volume.Receiver,
	check func(*kiln.Transfer) error) (t kiln.Transfer, left int, err error) {
	in := restored{to: to, check: check, meta: map[string]bool{}}
	if left, err = backup.Read(ctx, r, lim, &in); err != nil {
		return in.t, 0, err
	}
	in.t.Stack = in.stack("", in.t.Base)
	for i := range in.t.Snapshots {
		s := &in.t.Snapshots[i]
		s.Stack = in.stack(s.Name, s.Base)
	}
	return in.t, left, nil
}

// WithoutBase gives the stack of a whole tree, which its image has no part in.
func WithoutBase(s kiln.Stack) kiln.Stack {
	s.Base = kiln.Fingerprint{}
	return s
}

// restored takes a backup as parts of a receiver: a layer, and metadata, of each tree.
type restored struct {
	to    *volume.Receiver
	check func(*kiln.Transfer) error
	t     kiln.Transfer
	meta  map[string]bool // snapshots that have metadata
}

func rootPart(snapshot string) string { return "root-" + snapshot }

// stack is what the tree of a snapshot stands on: all of its files are in one layer,
// whatever image it was made from.
func (in *restored) stack(snapshot string, base kiln.Fingerprint) kiln.Stack {
	s := kiln.Stack{Base: base, Layers: []string{rootPart(snapshot)}}
	if in.meta[snapshot] {
		s.Meta = volume.MetaPart(snapshot)
	}
	return s
}

// Begin implements backup.Trees.
func (in *restored) Begin(t kiln.Transfer) error {
	in.t = t
	return in.check(&in.t)
}

// Root implements backup.Trees.
func (in *restored) Root(snapshot string) (archive.TreeWriter, error) {
	return in.to.Tree(rootPart(snapshot))
}

// Meta implements backup.Trees.
func (in *restored) Meta(snapshot string) (archive.TreeWriter, error) {
	in.meta[snapshot] = true
	return in.to.Tree(volume.MetaPart(snapshot))
}
