package volume

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A CustomSnapshot is a custom volume as it was at one moment. Its files are copies, which
// share their blocks with the volume's where the file system can do that (reflinks):
//
//	custom/<in>/<name>/snapshots/<snapshot>/   custom.json, files/
type CustomSnapshot struct {
	Name   string
	Of     CustomName
	Damage string // what of it can't be read; "": nothing
	CustomState
	ExpiresAt time.Time // zero: never
}

// Expired reports whether the time of a snapshot is over.
func (s CustomSnapshot) Expired(now time.Time) bool {
	return !s.ExpiresAt.IsZero() && !s.ExpiresAt.After(now)
}

// snapshotState is the record of a snapshot.
type snapshotState struct {
	CustomState
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

func (p *Pool) customSnapshots(n CustomName) string {
	return filepath.Join(p.customDir(n), "snapshots")
}

func (p *Pool) customSnapshotDir(n CustomName, snap string) string {
	return filepath.Join(p.customSnapshots(n), snap)
}

// exclusive and shared use of custom volumes: a number in Pool.using is how many read the
// files of one, which stay where they are meanwhile; -1: they are being exchanged.
const exchanging = -1

// use keeps a custom volume and its snapshots where they are until the function is called
// that it gives. Errors: Conflict while its files are exchanged, or, for who exchanges
// them, while anybody reads them.
func (p *Pool) use(n CustomName, alone bool) (release func(), err error) {
	p.customs.Lock()
	defer p.customs.Unlock()
	if now := p.using[n]; now == exchanging || alone && now > 0 {
		return nil, n.busy()
	}
	if alone {
		p.using[n] = exchanging
	} else {
		p.using[n]++
	}
	return func() {
		p.customs.Lock()
		defer p.customs.Unlock()
		if p.using[n]--; alone || p.using[n] == 0 {
			delete(p.using, n)
		}
	}, nil
}

func (n CustomName) busy() error {
	return kiln.Errorf(kiln.Conflict, "storage volume %q is being copied, restored, attached, renamed or deleted; try "+
		"again when that is done: kiln operation list", n.Name)
}

// UseCustom keeps a custom volume where it is, and under its name, until the function is
// called that it gives. The error is Conflict while its files are exchanged.
func (p *Pool) UseCustom(n CustomName) (release func(), err error) { return p.use(n, false) }

// MountCustom is CustomFiles for who is about to mount them. The error is also Conflict,
// while they are exchanged.
func (p *Pool) MountCustom(n CustomName) (string, error) {
	p.customs.Lock()
	now := p.using[n]
	p.customs.Unlock()
	if now == exchanging {
		return "", n.busy()
	}
	return p.CustomFiles(n)
}

// idle refuses to move what somebody uses. It is called with the lock customs held.
func (p *Pool) idle(n CustomName) error {
	if p.using[n] != 0 {
		return n.busy()
	}
	return nil
}

// copyFiles copies a directory, all of it as at one moment: pause holds still what uses it,
// and is nil when nothing does. What it costs with pause is like capture.
func (p *Pool) copyFiles(ctx context.Context, from, to string, pause Pause) error {
	visit := p.walk(ctx)
	defer visit.Leave()
	if pause == nil {
		return copyTree(ctx, from, to, visit)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	m := mirror{from: from, to: to, visit: visit}
	return m.atOnce(ctx, pause, func() error { return nil })
}

// SnapshotCustom keeps a custom volume as it is now; at is when that is, and expires when it
// is of no use any more. pause holds still what uses the volume, and is nil when nothing
// does. It is there whole or not at all. Errors: Invalid, NotFound, Integrity, Conflict.
func (p *Pool) SnapshotCustom(ctx context.Context, n CustomName, snap string, at, expires time.Time,
	pause Pause) error {
	if err := kiln.CheckSnapshotName(snap); err != nil {
		return err
	}
	release, err := p.use(n, false)
	if err != nil {
		return err
	}
	defer release()
	c, files, err := p.wholeCustom(n)
	if err != nil {
		return err
	}
	dir := p.customSnapshotDir(n, snap)
	if _, err := os.Lstat(dir); err == nil {
		return n.SnapshotExists(snap)
	}
	if err := p.roomForSnapshot(n); err != nil {
		return err
	}
	if err := disk.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	exists, err := p.placeNew(dir, func(temp string) error {
		if err := p.copyFiles(ctx, files, filepath.Join(temp, "files"), pause); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "snapshot %s/%s: %w", n.Name, snap, err)
		}
		s := snapshotState{c.CustomState, expires}
		s.CreatedAt, s.Backups = at, ""
		return errors.Join(writeSnapshotState(temp, s), disk.SyncSystem(temp))
	})
	if exists {
		return n.SnapshotExists(snap)
	}
	return err
}

// Bounds on the snapshots of one custom volume: a backup has no more of them, and every list
// has all that their records say, in bytes, as with instances.
const (
	mostSnapshots     = 10_000
	mostSnapshotBytes = 32 << 20
)

// roomForSnapshot refuses another snapshot of a volume that has as many as it may, or whose
// snapshots say too much together. The error is TooLarge.
func (p *Pool) roomForSnapshot(n CustomName) error {
	entries, err := os.ReadDir(p.customSnapshots(n))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var text int64
	for _, e := range entries {
		if fi, err := os.Lstat(filepath.Join(p.customSnapshotDir(n, e.Name()), customFile)); err == nil {
			text += fi.Size()
		}
	}
	const cure = "delete some: kiln storage volume delete default %[1]s/SNAPSHOT; or have the next ones expire: kiln " +
		"storage volume set default %[1]s snapshots.expiry=30d"
	switch {
	case len(entries) >= mostSnapshots:
		return kiln.Errorf(kiln.TooLarge, "storage volume %q has %d snapshots, which is the most; "+cure, n.Name,
			len(entries))
	case text >= mostSnapshotBytes:
		return kiln.Errorf(kiln.TooLarge, "storage volume %q has %[2]d snapshots with %[3]s of descriptions and keys "+
			"together, which is the most; "+cure, n.Name, len(entries), kiln.FormatSize(text))
	}
	return nil
}

// wholeCustom gives a custom volume whose files are to be copied. Errors: Invalid, NotFound,
// Integrity.
func (p *Pool) wholeCustom(n CustomName) (Custom, string, error) {
	files, err := p.CustomFiles(n)
	if err != nil {
		return Custom{}, "", err
	}
	c, err := p.Custom(n)
	if err == nil && c.Damage != "" {
		err = kiln.Errorf(kiln.Integrity, "storage volume %q is damaged: %s", n.Name, c.Damage)
	}
	return c, files, err
}

// SnapshotExists is the error about the name of a snapshot that is taken.
func (n CustomName) SnapshotExists(snap string) error {
	return kiln.Errorf(kiln.Conflict, "Snapshot %q of storage volume %q already exists; choose another name, or "+
		"replace it with --reuse", snap, n.Name)
}

func (n CustomName) noSnapshot(snap string) error {
	return kiln.Errorf(kiln.NotFound, "storage volume %q has no snapshot %q; see: kiln storage volume info default %s",
		n.Name, snap, n.Name)
}

func writeSnapshotState(dir string, s snapshotState) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return disk.WriteSealed(filepath.Join(dir, customFile), 0o600, b)
}

// CustomSnapshots gives the snapshots of a custom volume, oldest first. The error is Invalid.
func (p *Pool) CustomSnapshots(n CustomName) ([]CustomSnapshot, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p.customSnapshots(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return nil, kiln.Errorf(kiln.Integrity, "the snapshots of storage volume %q are lost: %w", n.Name, err)
	}
	var list []CustomSnapshot
	for _, e := range entries {
		if s, err := p.CustomSnapshot(n, e.Name()); err == nil { // others aren't ours, or are gone
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b CustomSnapshot) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Name, b.Name))
	})
	return list, err
}

// CustomSnapshot gives one snapshot. What can't be read of it is its Damage. Errors:
// Invalid, NotFound.
func (p *Pool) CustomSnapshot(n CustomName, snap string) (CustomSnapshot, error) {
	s := CustomSnapshot{Name: snap, Of: n}
	if err := errors.Join(n.check(), kiln.CheckSnapshotName(snap)); err != nil {
		return s, err
	}
	dir := p.customSnapshotDir(n, snap)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(p.customDir(n)); errors.Is(err, fs.ErrNotExist) {
			return s, n.missing()
		}
		return s, n.noSnapshot(snap)
	}
	var damage error
	if fi, err := os.Lstat(filepath.Join(dir, "files")); err != nil || !fi.IsDir() {
		damage = fmt.Errorf("its files are lost: there is no directory %s", filepath.Join(dir, "files"))
	}
	var state snapshotState
	b, err := disk.ReadSealed(filepath.Join(dir, customFile), maxCustom)
	if err == nil {
		err = json.Unmarshal(b, &state)
	}
	if err != nil {
		state = snapshotState{}
		damage = errors.Join(damage, fmt.Errorf("what is known of it can't be read: %w", err))
	}
	s.CustomState, s.ExpiresAt = state.CustomState, state.ExpiresAt
	if damage != nil {
		s.Damage = damage.Error()
	}
	return s, nil
}

// EditCustomSnapshot changes the description of a snapshot, and when it expires. Errors:
// Invalid, NotFound, Integrity when the snapshot is damaged, and those of f.
func (p *Pool) EditCustomSnapshot(n CustomName, snap string, f func(*CustomSnapshot) error) error {
	p.customs.Lock()
	defer p.customs.Unlock()
	s, err := p.CustomSnapshot(n, snap)
	if err != nil {
		return err
	}
	if s.Damage != "" {
		return kiln.Errorf(kiln.Integrity, "snapshot %s/%s can't be changed: %s; if it is of no use: kiln storage volume "+
			"delete default %s/%s", n.Name, snap, s.Damage, n.Name, snap)
	}
	if err := f(&s); err != nil {
		return err
	}
	return writeSnapshotState(p.customSnapshotDir(n, snap), snapshotState{s.CustomState, s.ExpiresAt})
}

// RenameCustomSnapshot gives a snapshot another name. Errors: Invalid, NotFound, Conflict.
func (p *Pool) RenameCustomSnapshot(n CustomName, from, to string) error {
	if err := kiln.CheckSnapshotName(to); err != nil {
		return err
	}
	p.customs.Lock()
	defer p.customs.Unlock()
	if _, err := p.CustomSnapshot(n, from); err != nil {
		return err
	}
	if err := p.idle(n); err != nil {
		return err
	}
	err := disk.RenameNew(p.customSnapshotDir(n, from), p.customSnapshotDir(n, to))
	if errors.Is(err, fs.ErrExist) {
		return n.SnapshotExists(to)
	}
	return err
}

// DeleteCustomSnapshot removes a snapshot. Errors: Invalid, NotFound, Conflict while somebody
// reads it.
func (p *Pool) DeleteCustomSnapshot(n CustomName, snap string) error {
	return p.deleteCustomSnapshot(n, snap, func(CustomSnapshot) bool { return true })
}

// ExpireCustomSnapshot removes a snapshot if its time is over. The errors are those of
// DeleteCustomSnapshot.
func (p *Pool) ExpireCustomSnapshot(n CustomName, snap string, now time.Time) error {
	return p.deleteCustomSnapshot(n, snap, func(s CustomSnapshot) bool { return s.Expired(now) })
}

func (p *Pool) deleteCustomSnapshot(n CustomName, snap string, due func(CustomSnapshot) bool) error {
	p.customs.Lock()
	defer p.customs.Unlock()
	if s, err := p.CustomSnapshot(n, snap); err != nil || !due(s) {
		return err
	}
	if err := p.idle(n); err != nil {
		return err
	}
	if err := p.discard(p.customSnapshotDir(n, snap)); err != nil {
		return err
	}
	return disk.SyncDir(p.customSnapshots(n))
}

// RestoreCustom gives a custom volume the files of one of its snapshots. What it has said of
// it stays; check is told that first, and may refuse it. quiet makes sure that nobody uses the
// files until the function is called that it gives; it is called before any work is done, and
// when they are about to be exchanged, all at once. Errors: Invalid, NotFound, Integrity,
// Conflict, and those of check and quiet.
func (p *Pool) RestoreCustom(ctx context.Context, n CustomName, snap string, check func(CustomState) error,
	quiet Pause) error {
	release, err := p.use(n, true)
	if err != nil {
		return err
	}
	defer release()
	c, err := p.Custom(n)
	if err == nil {
		err = check(c.CustomState)
	}
	if err != nil {
		return err
	}
	s, err := p.CustomSnapshot(n, snap)
	if err != nil {
		return err // before anybody is asked to stop
	}
	resume, err := quiet(ctx)
	if err == nil {
		err = resume()
	}
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "storage volume %q can't be restored: %w", n.Name, err)
	}
	if s.Damage != "" {
		return kiln.Errorf(kiln.Integrity, "storage volume %q can't be restored from snapshot %q, which is damaged: %s",
			n.Name, snap, s.Damage)
	}
	temp, err := p.prepare(func(temp string) error {
		err := p.copyFiles(ctx, filepath.Join(p.customSnapshotDir(n, snap), "files"), filepath.Join(temp, "files"), nil)
		return cmp.Or(err, disk.SyncSystem(temp))
	})
	if err != nil {
		return err
	}
	defer p.removeLater(temp)
	if resume, err = quiet(ctx); err != nil {
		return err
	}
	return errors.Join(p.exchange(filepath.Join(temp, "files"), filepath.Join(p.customDir(n), "files")), resume())
}

// exchange puts a directory in the place of another, which may be lost.
func (p *Pool) exchange(from, to string) error {
	err := disk.Exchange(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return disk.Rename(from, to)
	}
	return err
}

// CopyCustom makes a custom volume with the files of another, or of one of its snapshots
// unless snap is "". What is said of it is s. The snapshots of the other come along if they
// are asked for. pause is as for SnapshotCustom. Errors: Invalid, NotFound, Integrity,
// Conflict.
func (p *Pool) CopyCustom(ctx context.Context, from CustomName, snap string, to CustomName, s CustomState,
	snapshots bool, pause Pause) error {
	release, err := p.use(from, false)
	if err != nil {
		return err
	}
	defer release()
	_, files, err := p.wholeCustom(from)
	if err != nil {
		return err
	}
	if snap != "" {
		of, err := p.CustomSnapshot(from, snap)
		if err == nil && of.Damage != "" {
			err = kiln.Errorf(kiln.Integrity, "snapshot %s/%s is damaged: %s", from.Name, snap, of.Damage)
		}
		if err != nil {
			return err
		}
		files, pause = filepath.Join(p.customSnapshotDir(from, snap), "files"), nil
	}
	if err := to.check(); err != nil {
		return err
	}
	if _, err := os.Lstat(p.customDir(to)); err == nil {
		return to.Taken()
	}
	return p.placeCustom(to, func(temp string) error {
		if snapshots && snap == "" {
			if err := p.copyCustomSnapshots(ctx, from, temp); err != nil {
				return err
			}
		}
		if err := p.copyFiles(ctx, files, filepath.Join(temp, "files"), pause); err != nil {
			return err
		}
		return errors.Join(writeCustom(temp, s), disk.SyncSystem(temp))
	})
}

// wholeSnapshots gives the snapshots of a custom volume whose files are to be copied. Errors:
// Invalid, Integrity.
func (p *Pool) wholeSnapshots(n CustomName) ([]CustomSnapshot, error) {
	list, err := p.CustomSnapshots(n)
	for _, s := range list {
		if s.Damage != "" {
			return nil, kiln.Errorf(kiln.Integrity, "snapshot %s/%s is damaged: %s; delete it, or leave the snapshots out: "+
				"--volume-only", n.Name, s.Name, s.Damage)
		}
	}
	return list, err
}

func (p *Pool) copyCustomSnapshots(ctx context.Context, from CustomName, temp string) error {
	list, err := p.wholeSnapshots(from)
	if err != nil || len(list) == 0 {
		return err
	}
	if err := os.Mkdir(filepath.Join(temp, "snapshots"), 0o700); err != nil {
		return err
	}
	for _, s := range list {
		dir := filepath.Join(temp, "snapshots", s.Name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		err := p.copyFiles(ctx, filepath.Join(p.customSnapshotDir(from, s.Name), "files"), filepath.Join(dir, "files"), nil)
		if err != nil {
			return err
		}
		if err := writeSnapshotState(dir, snapshotState{s.CustomState, s.ExpiresAt}); err != nil {
			return err
		}
	}
	return nil
}
