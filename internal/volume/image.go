package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/archive/erofs"
	"github.com/kiln-containers/kiln/internal/disk"
)

// The kinds of an image's tree.
const (
	kindErofs    = "erofs"
	kindSquashfs = "squashfs"
	kindDir      = "dir"
)

// imageFile is where an imageRecord is, in the directory of a tree.
const imageFile = "image.json"

// imageRecord is image.json.
type imageRecord struct {
	Kind   string `json:"kind"`
	Subdir string `json:"subdir,omitempty"` // where the root filesystem is in it
}

// unsynced marks a tree that may not be on stable storage yet. Its content is the
// boot that it was made in: after another one the tree can't be trusted.
const unsynced = "unsynced"

func (p *Pool) imageDir(fp kiln.Fingerprint) string {
	return filepath.Join(p.dir, "images", fp.String())
}

// imageRecord tells what the tree of an image is. The error is NotFound when there is
// none that can be used, and something else when that can't be told now.
func (p *Pool) imageRecord(fp kiln.Fingerprint) (imageRecord, error) {
	var r imageRecord
	b, err := disk.ReadFile(filepath.Join(p.imageDir(fp), imageFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, kiln.Errorf(kiln.NotFound, "the pool has no tree of image %s", fp.Short())
	case err != nil && !lasting(err):
		return r, fmt.Errorf("look at the tree of image %s: %w", fp.Short(), err)
	case err != nil || json.Unmarshal(b, &r) != nil || r.Kind == "":
		// It says what the tree is, which can be made again.
		return r, kiln.Errorf(kiln.NotFound, "the tree of image %s has no readable image.json", fp.Short())
	}
	switch boot, err := disk.ReadFile(filepath.Join(p.imageDir(fp), unsynced)); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !lasting(err):
		return r, fmt.Errorf("look at the tree of image %s: %w", fp.Short(), err)
	case err != nil || string(boot) != p.boot:
		return imageRecord{}, kiln.Errorf(kiln.NotFound, "the tree of image %s was on its way to the disk when the host "+
			"crashed", fp.Short())
	}
	return r, nil
}

// hasImage says NotFound when the pool hasn't the tree of an image, or when what it has
// beside the root filesystem is damaged.
func (p *Pool) hasImage(fp kiln.Fingerprint) error {
	if _, err := p.imageRecord(fp); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(p.imageDir(fp), damagedMark)); err == nil {
		return kiln.Errorf(kiln.NotFound, "the tree of image %s was found damaged", fp.Short())
	}
	err := p.verifyMeta(context.Background(), fp, disk.ReadTo)
	if errors.Is(err, kiln.Integrity) {
		err = kiln.Errorf(kiln.NotFound, "%w", err)
	}
	return err
}

// ensure makes the tree of an image again if it is lost, as renew does.
func (p *Pool) ensure(ctx context.Context, fp kiln.Fingerprint) error {
	return p.renew(ctx, fp, func() error { return p.hasImage(fp) })
}

// renew makes the tree of an image again when state says NotFound of it, and puts the
// old one away once there is another. If that fails nothing changes. The error is
// Integrity when it never can be done.
func (p *Pool) renew(ctx context.Context, fp kiln.Fingerprint, state func() error) error {
	if fp.IsZero() {
		return nil
	}
	was := state()
	if !errors.Is(was, kiln.NotFound) {
		return was
	}
	if p.Refill == nil {
		return nil // whoever needs it says so
	}
	err := p.fill(ctx, fp, state, func(ctx context.Context) (Content, error) { return p.Refill(ctx, fp) })
	switch {
	case errors.Is(err, kiln.NotFound):
		return kiln.Errorf(kiln.Integrity, "%w, and the image that it could be made of is lost; import or copy that again. "+
			"What is left stays in %s", was, p.imageDir(fp))
	case err != nil:
		return kiln.Errorf(kiln.KindOf(err), "%v; it can't be made again, so what is left stays in %s: %w", was,
			p.imageDir(fp), err)
	}
	return nil
}

// fill makes the tree of an image when state says NotFound of it.
func (p *Pool) fill(ctx context.Context, fp kiln.Fingerprint, state func() error,
	content func(context.Context) (Content, error)) error {
	for {
		if err := state(); !errors.Is(err, kiln.NotFound) {
			return err
		}
		p.mu.Lock()
		f := p.filling[fp]
		mine := f == nil
		if mine {
			f = &fill{done: make(chan struct{})}
			p.filling[fp] = f
		}
		p.mu.Unlock()
		if mine {
			f.err = p.makeImage(ctx, fp, state, content)
			p.mu.Lock()
			delete(p.filling, fp)
			p.mu.Unlock()
			close(f.done)
			return f.err
		}
		select {
		case <-f.done:
			// Whoever made it may have given up for a reason of its own.
			if k := kiln.KindOf(f.err); f.err != nil && k != kiln.Cancelled && k != kiln.Timeout {
				return f.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Pool) makeImage(ctx context.Context, fp kiln.Fingerprint, state func() error,
	content func(context.Context) (Content, error)) error {
	if err := state(); !errors.Is(err, kiln.NotFound) {
		return err // made between the look and the lock
	}
	c, err := content(ctx)
	if err != nil {
		return err
	}
	if c.Done != nil {
		defer c.Done()
	}
	temp, err := p.prepare(func(temp string) error { return p.writeImage(ctx, temp, fp, c) })
	if err != nil {
		return err
	}
	if err := p.place(fp, temp); err != nil {
		return errors.Join(err, removeTree(temp))
	}
	p.settleLater(fp)
	return nil
}

// place gives a new tree of an image its name. What has that is put away in the same
// step, whatever it is: it may be all that is left of something.
func (p *Pool) place(fp kiln.Fingerprint, temp string) error {
	dir := p.imageDir(fp)
	if _, err := os.Lstat(dir); err == nil {
		// A tree that a crash takes away must not be in the place of one that stays.
		if err := p.settle(temp); err != nil {
			return err
		}
	}
	p.removing.Lock()
	defer p.removing.Unlock()
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return p.ns.forget(fp.String(), func() error { return disk.RenameNew(temp, dir) })
	}
	// First where the old one shall be; then they change places. A crash between the two
	// leaves one too many.
	lost, err := p.putAway(lostTree, fp.String(), temp)
	if err != nil {
		return err
	}
	err = p.ns.forget(fp.String(), func() error { return disk.Exchange(lost, dir) })
	if err != nil {
		return errors.Join(fmt.Errorf("replace the tree of image %s: %w", fp.Short(), err), p.discard(lost))
	}
	return nil
}

// RepairTree is VerifyTree that makes a damaged tree again, by Refill: what runs goes on
// with the old one, what starts from now on has the new one. It gives what was wrong. If
// the tree can't be made again it stays as it is, and the error says why.
func (p *Pool) RepairTree(ctx context.Context, fp kiln.Fingerprint) (damage, err error) {
	return p.repairTree(ctx, fp, disk.ReadTo)
}

func (p *Pool) repairTree(ctx context.Context, fp kiln.Fingerprint, read reading) (damage, err error) {
	dir := p.imageDir(fp)
	was, err := lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mark := filepath.Join(dir, damagedMark)
	damage = p.verifyTree(ctx, fp, read)
	if !errors.Is(damage, kiln.Integrity) {
		if damage == nil {
			if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		return nil, damage
	}
	err = p.renew(ctx, fp, func() error {
		now, err := lstat(dir)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case err == nil && now.Ino != was.Ino:
			return nil // somebody has made it
		}
		return kiln.Errorf(kiln.NotFound, "%w", damage)
	})
	if err != nil && ctx.Err() == nil {
		if now, lerr := lstat(dir); lerr == nil && now.Ino == was.Ino {
			err = errors.Join(err, disk.WriteBytes(mark, 0o600, nil))
		}
	}
	return damage, err
}

// ScrubTree is RepairTree by what is on the disk, read at a pace. Of a tree without digests,
// as an older version has made it, they are noted instead.
func (p *Pool) ScrubTree(ctx context.Context, fp kiln.Fingerprint, pace disk.Pace) (damage, err error) {
	if err := p.Settle(fp); err != nil {
		return nil, err
	}
	damage, err = p.repairTree(ctx, fp, fromDisk(pace))
	if damage != nil || err != nil {
		return damage, err
	}
	return nil, p.noteDigests(ctx, fp, fromDisk(pace))
}

// noteDigests writes the digests of a tree that has none, or not all. Nobody waits for it while it
// reads. They are whole on the disk or not there, as a tree with others counts as damaged.
func (p *Pool) noteDigests(ctx context.Context, fp kiln.Fingerprint, read reading) error {
	dir := p.imageDir(fp)
	was, err := lstat(dir)
	if err == nil {
		_, err = p.imageRecord(fp)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, kiln.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	note := func(name string, sums string, err error) error {
		if err != nil {
			return fmt.Errorf("note what the tree of image %s is: %w", fp.Short(), err)
		}
		p.removing.Lock()
		defer p.removing.Unlock()
		if now, err := lstat(dir); err != nil || now.Ino != was.Ino {
			return nil // another has its place, or none
		}
		return disk.WriteBytes(filepath.Join(dir, name), 0o600, []byte(sums))
	}
	var errs []error
	if fi, err := os.Stat(filepath.Join(dir, digestFile)); errors.Is(err, fs.ErrNotExist) || err == nil &&
		fi.Size() == int64(hex.EncodedLen(sha256.Size)) {
		sums, err := digestsOf(ctx, dir, read)
		errs = append(errs, note(digestFile, sums, err))
	}
	if _, err := os.Stat(filepath.Join(dir, metaDigestFile)); errors.Is(err, fs.ErrNotExist) {
		sum, err := metaDigest(ctx, dir, read)
		errs = append(errs, note(metaDigestFile, sum, err))
	}
	return errors.Join(errs...)
}

// Detach makes sure that what stands on an image doesn't need what its tree is made from
// any more: the tree is there, if it can be, and on stable storage. None that nobody
// stands on is no error.
func (p *Pool) Detach(ctx context.Context, fp kiln.Fingerprint) error {
	if err := p.hasImage(fp); errors.Is(err, kiln.NotFound) {
		users, err := p.users()
		if err != nil && !errors.Is(err, kiln.Integrity) {
			return err
		}
		if len(users[fp]) > 0 {
			// Of an image that is damaged itself nothing can be made, however long one keeps it.
			if err := p.ensure(ctx, fp); err != nil && !errors.Is(err, kiln.Integrity) {
				return err
			}
		}
	} else if err != nil {
		return err
	}
	return p.Settle(fp)
}

// settleDelay leaves the disk to whoever waits for an instance of the new tree.
const settleDelay = 5 * time.Second

// settleLater brings a new tree to stable storage soon. If it can't, or the pool
// is closed before, the next owner does it, or the next boot makes it again.
func (p *Pool) settleLater(fp kiln.Fingerprint) {
	p.wg.Go(func() {
		select {
		case <-time.After(settleDelay):
			if p.Settle(fp) == nil {
				_ = p.shareUntilClosed(fp) // it saves room, and nobody waits for it
			}
		case <-p.closing:
		}
	})
}

// Settle returns when the tree of an image is on stable storage, as it must be
// before what it was made from goes away. None is no error.
func (p *Pool) Settle(fp kiln.Fingerprint) error {
	p.settling.Lock()
	defer p.settling.Unlock()
	switch _, err := p.imageRecord(fp); {
	case errors.Is(err, kiln.NotFound):
		return nil
	case err != nil:
		return err
	}
	return p.settle(p.imageDir(fp))
}

// settle is Settle for a tree that was made since the host started, in a directory.
func (p *Pool) settle(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, unsynced)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Read from memory, in which it is as it was written.
	if err := p.spare(func() error { return writeDigest(dir) }); err != nil {
		return err
	}
	if err := disk.SyncSystem(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, unsynced)); err != nil {
		return err
	}
	return disk.SyncDir(dir)
}

func (p *Pool) writeImage(ctx context.Context, dir string, fp kiln.Fingerprint, c Content) error {
	if err := os.WriteFile(filepath.Join(dir, unsynced), []byte(p.boot), 0o600); err != nil {
		return err
	}
	metaDir := filepath.Join(dir, "meta")
	if err := os.Mkdir(metaDir, 0o700); err != nil {
		return err
	}
	meta, err := archive.NewDirWriter(metaDir, 1)
	if err != nil {
		return err
	}
	r := imageRecord{Kind: kindDir}
	switch {
	case c.Squashfs != "":
		r = imageRecord{kindSquashfs, c.Subdir}
		// A link of its own: the tree stays when the store lets go of the file.
		err = errors.Join(takeFile(c.Squashfs, filepath.Join(dir, "rootfs.squashfs")), mountedMeta(ctx, c, meta))
	case p.erofs:
		r.Kind = kindErofs
		err = writeErofs(ctx, filepath.Join(dir, "rootfs.erofs"), fp, c, meta)
	default:
		err = writeDir(ctx, filepath.Join(dir, "rootfs"), c, meta)
	}
	if err := errors.Join(err, meta.Close()); err != nil {
		return err
	}
	if err := writeMetaDigest(dir); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, imageFile), b, 0o600) // as lasting as the tree
}

// takeFile gives a file another name, or makes a copy of it on another file system.
func takeFile(from, to string) error {
	err := os.Link(from, to)
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	st, err := lstat(from)
	if err != nil {
		return err
	}
	return copyContent(from, to, st.Ino)
}

// mountedMeta takes the metadata of an image that is mounted as it is: from the
// mount when they are in the same file, which saves reading all of that.
func mountedMeta(ctx context.Context, c Content, meta archive.TreeWriter) error {
	if c.Subdir == "" {
		return c.Unpack(ctx, nil, meta)
	}
	fd, err := mountFile(kindSquashfs, c.Squashfs)
	if err != nil {
		return fmt.Errorf("mount %s: %w", c.Squashfs, err)
	}
	defer unix.Close(fd)
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer root.Close()
	names := []string{"metadata.yaml"}
	templates, err := fs.ReadDir(root.FS(), "templates")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, t := range templates {
		names = append(names, "templates/"+t.Name())
	}
	for _, name := range names {
		if err := addFile(root, name, meta); err != nil {
			return err
		}
	}
	return nil
}

// addFile copies a plain file into a tree; others are left out.
func addFile(root *os.Root, name string, to archive.TreeWriter) error {
	fi, err := root.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return err
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return to.Add(&archive.Entry{Path: name, Type: archive.Regular, Mode: 0o644, Size: fi.Size(), ModTime: fi.ModTime()},
		f)
}

func writeErofs(ctx context.Context, path string, fp kiln.Fingerprint, c Content, meta archive.TreeWriter) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o400)
	if err != nil {
		return err
	}
	defer f.Close()
	// overlayfs tells file systems apart by this.
	w := erofs.NewWriter(f, [16]byte(fp[:16]))
	if err := c.Unpack(ctx, w, meta); err != nil {
		return err
	}
	return w.Close()
}

func writeDir(ctx context.Context, path string, c Content, meta archive.TreeWriter) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	const workers = 4
	w, err := archive.NewDirWriter(path, workers)
	if err != nil {
		return err
	}
	return errors.Join(c.Unpack(ctx, w, meta), w.Close())
}

// bootID names the time since the kernel started.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// settleUnsynced goes on with trees that the last owner of the pool didn't settle. Those
// that a crash of the host caught on their way to the disk are made again when somebody
// needs them.
func (p *Pool) settleUnsynced() error {
	marks, err := disk.Glob(p.dir, "images/*/"+unsynced)
	if err != nil {
		return err
	}
	for _, m := range marks {
		if fp, err := kiln.ParseFingerprint(filepath.Base(filepath.Dir(m))); err == nil {
			p.settleLater(fp)
		}
	}
	return nil
}

// ImageInfo is what a pool has of one image.
type ImageInfo struct {
	Fingerprint kiln.Fingerprint
	Kind        string   // "erofs", "squashfs" or "dir"; "" when it can't be told, or used
	Bytes       int64    // on disk
	Shared      int64    // of them, with the trees of other images
	Users       []string // names of volumes and snapshots
}

// Images gives the trees of images that the pool has.
func (p *Pool) Images() ([]ImageInfo, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "images"))
	if err != nil {
		return nil, err
	}
	users, err := p.users()
	if err != nil && !errors.Is(err, kiln.Integrity) {
		return nil, err
	}
	var list []ImageInfo
	for _, e := range entries {
		fp, err := kiln.ParseFingerprint(e.Name())
		if err != nil {
			continue // not ours
		}
		// What can't be told of one leaves the others in the list.
		r, _ := p.imageRecord(fp)
		size, _ := usage(context.Background(), p.imageDir(fp))
		shared, _ := p.sharedBytes(fp)
		list = append(list, ImageInfo{fp, r.Kind, size, shared, users[fp]})
	}
	return list, nil
}

// users gives the volumes and snapshots of every image.
func (p *Pool) users() (map[kiln.Fingerprint][]string, error) {
	m := map[kiln.Fingerprint][]string{}
	err := p.records(func(name string, r record) { m[r.Base] = append(m[r.Base], name) })
	return m, err
}

// RemoveImage removes the tree of an image. Errors: NotFound, Conflict when a
// volume or a snapshot needs it, or one whose record is lost or damaged may.
func (p *Pool) RemoveImage(fp kiln.Fingerprint) error {
	return p.removeImage(fp, func() error { return p.discard(p.imageDir(fp)) })
}

func (p *Pool) removeImage(fp kiln.Fingerprint, remove func() error) error {
	p.removing.Lock()
	defer p.removing.Unlock()
	p.stacks.Lock()
	defer p.stacks.Unlock()
	if p.pinned[fp] > 0 {
		return kiln.Errorf(kiln.Conflict, "the tree of image %s is about to be used", fp.Short())
	}
	users, err := p.users()
	if errors.Is(err, kiln.Integrity) {
		return kiln.Errorf(kiln.Conflict, "the tree of image %s may be used: %v", fp.Short(), err)
	}
	if err != nil {
		return err
	}
	if len(users[fp]) > 0 {
		return kiln.Errorf(kiln.Conflict, "the tree of image %s is used by %d volumes and snapshots", fp.Short(),
			len(users[fp]))
	}
	if _, err := os.Stat(p.imageDir(fp)); err != nil {
		return kiln.Errorf(kiln.NotFound, "the pool has no tree of image %s", fp.Short())
	}
	return p.ns.forget(fp.String(), remove)
}

// Sweep puts the trees away that no volume needs and keep doesn't want, unless some volume
// may need any: see Withheld.
func (p *Pool) Sweep(keep func(kiln.Fingerprint) bool) error {
	list, err := p.Images()
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range list {
		if len(i.Users) > 0 || keep(i.Fingerprint) {
			continue
		}
		err := p.removeImage(i.Fingerprint, func() error {
			_, err := p.putAway(lostTree, i.Fingerprint.String(), p.imageDir(i.Fingerprint))
			return err
		})
		if !errors.Is(err, kiln.Conflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
