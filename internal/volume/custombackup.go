package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A KeptCustom is a custom volume as it was at one moment, with its snapshots. Until Close
// they stay where they are, and the volume has its name.
type KeptCustom struct {
	pool      *Pool
	of        Custom
	snapshots []CustomSnapshot
	temp      string // a copy of the files of the volume
	release   func()
}

// KeepCustom keeps a custom volume as it is now, with its snapshots if they are asked for.
// pause is as for SnapshotCustom. Errors: Invalid, NotFound, Integrity, Conflict.
func (p *Pool) KeepCustom(ctx context.Context, n CustomName, snapshots bool, pause Pause) (_ *KeptCustom, err error) {
	k := &KeptCustom{pool: p}
	if k.release, err = p.use(n, false); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			k.release()
		}
	}()
	var files string
	if k.of, files, err = p.wholeCustom(n); err != nil {
		return nil, err
	}
	if snapshots {
		if k.snapshots, err = p.wholeSnapshots(n); err != nil {
			return nil, err
		}
	}
	k.temp, err = p.prepare(func(temp string) error {
		return p.copyFiles(ctx, files, filepath.Join(temp, "files"), pause)
	})
	return k, err
}

// Backup writes what is kept as a backup that any server with the format of LXD takes. visit
// counts what is remembered. Errors: Unsupported when a program is missing that compresses; those
// of backup.Write.
func (k *KeptCustom) Backup(ctx context.Context, w io.Writer, c archive.Compression, visit *archive.Visit) error {
	v := backupVolume(k.of.Name, k.of.CustomState)
	for _, s := range k.snapshots {
		b := backupVolume(s.Name, s.CustomState)
		b.ExpiresAt = s.ExpiresAt
		v.Snapshots = append(v.Snapshots, b)
	}
	return backup.Compressed(ctx, w, c, k.pool.TempDir(), func(z io.Writer) error {
		return backup.WriteVolume(ctx, z, visit, v, func(_ context.Context, snapshot string) (t backup.Tree, err error) {
			dir := k.temp
			if snapshot != "" {
				dir = k.pool.customSnapshotDir(k.of.CustomName, snapshot)
			}
			t.Dir, err = disk.OpenDir(filepath.Join(dir, "files"))
			return t, err
		})
	})
}

func backupVolume(name string, s CustomState) backup.Volume {
	return backup.Volume{Name: name, Description: s.Description, Config: s.Config, CreatedAt: s.CreatedAt}
}

// Close lets go of what is kept.
func (k *KeptCustom) Close() error {
	k.release()
	k.pool.removeLater(k.temp)
	return nil
}

// ReadCustomBackup takes the files of a custom volume and of its snapshots from a backup,
// for CommitCustom. check is told what the backup is of, and says whether that can be here.
// Errors are those of backup.ReadVolume, and check's.
func (l *Receiver) ReadCustomBackup(ctx context.Context, r io.Reader, lim archive.Limits,
	check func(backup.Volume) error) error {
	return backup.ReadVolume(ctx, r, lim, customTrees{l, check})
}

// customTrees takes the trees of a backup as parts of a receiver.
type customTrees struct {
	to    *Receiver
	check func(backup.Volume) error
}

// Begin implements backup.VolumeTrees.
func (t customTrees) Begin(v backup.Volume) error { return t.check(v) }

// Root implements backup.VolumeTrees.
func (t customTrees) Root(snapshot string) (archive.TreeWriter, error) { return t.to.Tree(snapshot) }

// CommitCustom makes a custom volume of the part "", and its snapshots of the parts with their
// names, whole or not at all. Errors: Invalid when the files of one didn't come, or the name
// can't be; Conflict when there is such a volume; that of ctx when it ended.
func (l *Receiver) CommitCustom(ctx context.Context, n CustomName, s CustomState, snapshots []CustomSnapshot) error {
	return l.pool.placeCustom(n, func(temp string) error {
		if err := l.moveTree("", temp); err != nil {
			return err
		}
		for _, snap := range snapshots {
			dir := filepath.Join(temp, "snapshots", snap.Name)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			if err := l.moveTree(snap.Name, dir); err != nil {
				return err
			}
			if err := writeSnapshotState(dir, snapshotState{snap.CustomState, snap.ExpiresAt}); err != nil {
				return err
			}
		}
		return errors.Join(writeCustom(temp, s), disk.SyncSystem(temp), ctx.Err())
	})
}

// moveTree has the tree of a part be the files in a directory.
func (l *Receiver) moveTree(id, dir string) error {
	from := l.parts[id]
	if from == "" {
		return kiln.Errorf(kiln.Invalid, "the files of %q didn't come", id)
	}
	return os.Rename(filepath.Join(from, "upper"), filepath.Join(dir, "files"))
}

// CustomOf gives what a backup says of a custom volume or a snapshot; now is when it was made
// if it doesn't say that.
func CustomOf(v backup.Volume, now time.Time) CustomState {
	s := CustomState{Description: v.Description, Config: v.Config, CreatedAt: v.CreatedAt.UTC()}
	if s.CreatedAt.Unix() <= 0 || s.CreatedAt.After(now) {
		s.CreatedAt = now
	}
	return s
}

// CustomBackups gives what the backups of custom volumes are kept by. all is false when one
// of them doesn't say.
func (p *Pool) CustomBackups() (of map[string]bool, all bool, err error) {
	ins, err := p.CustomIns()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	of, all = map[string]bool{}, true
	for _, in := range ins {
		list, err := p.Customs(in)
		if err != nil {
			return nil, false, err
		}
		for _, c := range list {
			of[c.Backups] = true
			all = all && c.Damage == ""
		}
	}
	return of, all, nil
}
