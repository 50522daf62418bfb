package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/rsync"
	"github.com/kiln-containers/kiln/internal/volume"
)

// sendIDs are the ids of the host that the files of an instance have for who sends them: far
// from those of users, and as many as a file may have of owners, whatever the instance's are.
func sendIDs() []volume.IDMap {
	return []volume.IDMap{{Container: 0, Host: defaultFirstID, Size: 2_000_000_000}}
}

// ownDirMode is what LXD gives the directory of an instance, in which the others are.
const ownDirMode = 0o100

// Send sends a whole tree as LXD has it on its disk, that of a snapshot or for "" of the
// instance itself, with the ids that the instance sees. visit counts the memory of rsync; it
// may be nil. Errors: as of rsync.Send, and those of the visit.
func (h *Share) Send(ctx context.Context, snapshot string, s rsync.Stream, o rsync.Options, visit *archive.Visit) (
	err error) {
	snap, err := h.snapshot(snapshot)
	if err != nil {
		return err
	}
	files, err := metaFiles(snap)
	if err != nil {
		return err
	}
	temp := h.set.pool.TempDir()
	dir, err := os.MkdirTemp(temp, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.Content, 0o644)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "rootfs"), 0o755), os.Chmod(dir, ownDirMode)); err != nil {
		return err
	}
	own, err := disk.OpenDir(dir)
	if err != nil {
		return err
	}
	defer own.Close()
	tree, err := snap.Mount(ctx, sendIDs())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	ids, err := h.set.pool.UserNS(ctx, sendIDs())
	if err != nil {
		return err
	}
	return rsync.Send(ctx, s, rsync.Files{Dir: own, Tree: tree, IDs: ids}, temp, o, rsync.Bounds{Memory: visit.Add})
}

// Trees takes whole trees from another server, one after the other, for a receiver: each
// comes as what differs from the one before.
type Trees struct {
	set    *Set
	in     restored
	own    *os.File // what came last, as rsync keeps it
	drop   func() error
	before unix.Statfs_t // the disk, before the files that are on their way
}

// NewTrees prepares for trees.
func (s *Set) NewTrees(to *volume.Receiver) (*Trees, error) {
	own, drop, err := to.Staging(rsync.Nobody)
	if err != nil {
		return nil, err
	}
	return &Trees{set: s, in: restored{to: to, meta: map[string]bool{}}, own: own, drop: drop}, nil
}

// Fetch takes the files of one tree.
func (t *Trees) Fetch(ctx context.Context, s rsync.Stream, o rsync.Options, lim archive.Limits) error {
	if err := unix.Fstatfs(int(t.own.Fd()), &t.before); err != nil {
		return err
	}
	return rsync.Receive(ctx, s, t.own, t.set.pool.TempDir(), o, rsync.Bounds{
		Room: func() error { return t.room(lim) }, Memory: lim.Visit.Add})
}

// leastFree is what trees on their way leave free of the disk, in bytes, and in files.
const (
	leastFree  = 64 << 20
	leastFiles = 1024
)

// room says whether more may come, before it is known what it is. Errors: NoSpace, TooLarge.
func (t *Trees) room(lim archive.Limits) error {
	var now unix.Statfs_t
	if err := unix.Fstatfs(int(t.own.Fd()), &now); err != nil {
		return err
	}
	used := (int64(t.before.Bfree) - int64(now.Bfree)) * now.Bsize // by whomever
	avail := int64(now.Bavail) * now.Bsize
	if lim.Bytes > 0 && used > lim.Bytes || avail < leastFree {
		// XFS gives a file that grows more than it has, until it is closed.
		ahead, err := preallocated(t.own)
		if err != nil {
			return err
		}
		used, avail = used-ahead, avail+ahead
	}
	switch {
	case lim.Bytes > 0 && used > lim.Bytes:
		return kiln.Errorf(kiln.TooLarge, "the files are larger than %s", kiln.FormatSize(lim.Bytes))
	case avail < leastFree, now.Files > 0 && now.Ffree < leastFiles:
		return kiln.Errorf(kiln.NoSpace, "the files need more space than is free")
	case lim.Entries > 0 && int64(t.before.Ffree)-int64(now.Ffree) > lim.Entries:
		return kiln.Errorf(kiln.TooLarge, "there are more than %d files", lim.Entries)
	}
	return nil
}

// preallocated sums what the files in a directory that others fill have of the disk beyond
// their ends, in bytes.
func preallocated(dir *os.File) (sum int64, err error) {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return 0, err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return gone(err)
		}
		fi, err := e.Info()
		if err != nil {
			return gone(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		whole := (st.Size + st.Blksize - 1) / st.Blksize * st.Blksize
		sum += max(st.Blocks*512-whole, 0)
		return nil
	})
	return sum, err
}

// gone is no error for what isn't there any more.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Keep makes a part of the files that came last, of a snapshot or for "" of the instance, after
// which no others come. owners says whom they belong to, as backup.OwnersKey does. left is as
// of backup.Read.
func (t *Trees) Keep(ctx context.Context, snapshot, owners string, lim archive.Limits) (left int, err error) {
	walk := archive.WalkFakeSuper
	if snapshot == "" { // what is kept needs no second copy
		walk = archive.TakeFakeSuper
	}
	return backup.ReadTree(snapshot, owners, &t.in, func(fn archive.Found) error { return walk(ctx, t.own, lim, fn) })
}

// Stacks says of an instance and its snapshots which trees are theirs.
func (t *Trees) Stacks(of *kiln.Transfer) {
	of.Stack = t.in.stack("", of.Base)
	for i := range of.Snapshots {
		s := &of.Snapshots[i]
		s.Stack = t.in.stack(s.Name, s.Base)
	}
}

// Close lets go of the files as they came.
func (t *Trees) Close() error { return errors.Join(t.own.Close(), t.drop()) }

// CheckRefresh says whether an instance can be given other files. Errors: NotFound, Conflict
// while it runs.
func (s *Set) CheckRefresh(ctx context.Context, name string) error {
	_, err := s.stopped(ctx, name, "brought up to date")
	return err
}

// Refresh gives a stopped instance other files and more snapshots, and drops those of its
// snapshots that are named, in one step. Its configuration stays. from is the UUID that the
// other server has for the source; "" if it isn't known. Errors: NotFound, Conflict, Denied.
func (s *Set) Refresh(ctx context.Context, name, from string, f *Files, drop []db.SnapshotAge) error {
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.stopped(ctx, name, "brought up to date")
	if err != nil {
		return err
	}
	if err := s.checkSnapshots(ctx, f); err != nil {
		return err
	}
	rows, err := s.db.SnapshotFiles(ctx, name)
	if err != nil {
		return err
	}
	err = s.db.RefreshInstance(ctx, name, func(r *db.Instance) error {
		otherFiles(r, f, "copy")
		if delete(r.Config, refreshedKey); uuid.Validate(from) == nil {
			r.Config[refreshedKey] = from
		}
		return nil
	}, drop, f.snapshots)
	if err != nil {
		return err
	}
	f.taken = true
	ctx = context.WithoutCancel(ctx) // it is done, whoever is gone by now
	s.notify(ctx, Change{Name: name, Action: "refreshed"})
	left, err := s.db.SnapshotFiles(ctx, name)
	if err == nil {
		gone := slices.DeleteFunc(filesOf(rows), func(files string) bool { return slices.Contains(filesOf(left), files) })
		err = s.pool.DeleteSnapshots(ctx, gone...)
	}
	return errors.Join(err, s.pool.Delete(ctx, old.Config[UUIDKey]), os.RemoveAll(s.boxDir(old)))
}
