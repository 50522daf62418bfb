// Package volume keeps file trees for instances, on any file system. An image
// has one read-only tree; an instance is what it changed of that, as the upper
// layer of an overlay with ids as they are inside. Cloning copies nothing.
//
// The package doesn't know what an image or an instance is otherwise, nor who
// runs in a tree.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Content tells a pool how to get the tree of an image that it hasn't.
type Content struct {
	// Unpack writes the root filesystem, and metadata.yaml and templates/ to
	// meta. rootfs is nil when the tree is mounted as it is.
	Unpack func(ctx context.Context, rootfs, meta archive.TreeWriter) error
	// Squashfs is the path of a file that may be mounted as it is, and Subdir
	// is where the root filesystem is in it. Empty: nothing may be.
	Squashfs, Subdir string
	// Done is called when the tree is made, or can't be, unless it is nil.
	Done func()
}

// A Pool keeps volumes below one directory:
//
//	images/<fingerprint>/     image.json, meta/, and one of rootfs.erofs, rootfs.squashfs, rootfs/
//	volumes/<name>/           volume.json, upper/, work/, and meta/ once it was edited
//	snapshots/<name>/         snapshot.json, and meta/ if the volume had it
//	layers/<id>/              upper/ of a volume as it was once, and layer.json if it is several in one
//	custom/<in>/<name>/       custom.json, files/ that instances have beside their own, and snapshots/
//	notes/<name>.json         what the owner of a volume wants to find beside it
//	lost/<time>.<kind>.<name> what nobody knew of, and trees that were replaced
//	tmp/                      what isn't whole yet, or is being removed
type Pool struct {
	// Refill says how to make the tree of an image again that is lost or damaged,
	// when somebody needs it; nil: it can't be. It is set before the pool is used.
	Refill func(ctx context.Context, fp kiln.Fingerprint) (Content, error)

	// Walk begins to count what is remembered of files that are gone through, for whoever ctx
	// is about; nil: nobody counts that. It is set before the pool is used.
	Walk func(ctx context.Context) *archive.Visit

	owned Owned
	spare Spare
	dir   string
	ns    *namespace
	erofs bool
	boot  string // names the time since the kernel started

	closing  chan struct{}
	beside   chan struct{} // has one for each stack that is merged while nobody waits for it
	wg       sync.WaitGroup
	settling sync.Mutex
	sharing  sync.Mutex
	customs  sync.Mutex // held while the record or the name of a custom volume changes
	using    map[CustomName]int
	noting   sync.Mutex // held while a note, or the volume of one, comes or goes

	removing sync.Mutex               // held while the tree of an image is removed
	pinned   map[kiln.Fingerprint]int // trees that somebody is about to use

	// stacks is held for reading from the look at one record that names layers and a
	// tree until the next that does has its place, so that a sweep sees all or none. What a
	// record comes with is made and synced before that: the sync of a file system takes as
	// long as others write to it, and with a sweep that waits, everybody would wait for it.
	stacks  sync.RWMutex
	trusted bool // the last sweep saw all records: what nobody names now was left by a verb

	mu      sync.Mutex
	filling map[kiln.Fingerprint]*fill
	merged  map[string]mergedLayer   // layers that are several in one, by id
	merging map[string]chan struct{} // closed when some layers, by their ids, aren't being merged any more
	sizes   map[string]int64         // bytes of layers that were counted
}

// fill is the making of one image's tree, which many may wait for.
type fill struct {
	done chan struct{}
	err  error
}

// temporary are the names of what is being made or removed.
var temporary = regexp.MustCompile(`^(new|old|squashfs)-`)

// Owned gives the volumes and snapshots that the owner of a pool has. It may be called
// at any time, also by what the owner calls: who makes one names it here after that, and
// who deletes one before.
type Owned func() (volumes, snapshots []string, err error)

// Spare runs what makes room and must go on when the disk is full, again with what its owner
// has reserved for that.
type Spare func(f func() error) error

// Open is OpenFor an owner that only has what is in the pool, and no reserve.
func Open(dir string) (*Pool, error) {
	return OpenFor(dir, nil, nil)
}

// OpenFor opens a pool and removes what was being made or removed when its last
// owner died; layers that nobody names are put away. As long as the files of something
// that the owner has are missing, or owned fails, no layer and no tree of an image is
// removed. Without a spare, nothing is reserved.
func OpenFor(dir string, owned Owned, spare Spare) (*Pool, error) {
	if spare == nil {
		spare = func(f func() error) error { return f() }
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := disk.OwnDirs(dir, 0o700, "images", "volumes", "snapshots", "layers", "custom", "notes", "lost", "tmp",
		"mnt"); err != nil {
		return nil, err
	}
	temps, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	ns, err := newNamespace(filepath.Join(dir, "mnt"))
	if err != nil {
		return nil, fmt.Errorf("open pool %s: %w", dir, err)
	}
	p := &Pool{
		owned: owned, spare: spare, dir: dir, ns: ns, erofs: hasErofs(), boot: boot, closing: make(chan struct{}),
		filling: map[kiln.Fingerprint]*fill{}, pinned: map[kiln.Fingerprint]int{}, merged: map[string]mergedLayer{},
		merging: map[string]chan struct{}{}, beside: make(chan struct{}, mergesBeside),
		sizes: map[string]int64{}, using: map[CustomName]int{},
	}
	p.wg.Go(func() {
		for _, t := range temps {
			if !temporary.MatchString(t.Name()) {
				continue // whose that is isn't known
			}
			_ = removeUntil(p.closing, filepath.Join(dir, "tmp", t.Name())) // the next Open tries again
		}
	})
	return p, errors.Join(p.settleUnsynced(), p.noteRecords(), p.openLayers())
}

// walk begins to count what is remembered of files; the visit is to be left, and may be nil.
func (p *Pool) walk(ctx context.Context) *archive.Visit {
	if p.Walk == nil {
		return nil
	}
	return p.Walk(ctx)
}

// MountsImages reports whether the tree of an image is one file that the kernel mounts, and
// not a directory.
func (p *Pool) MountsImages() bool { return p.erofs }

// hasErofs reports whether the kernel can mount EROFS, after trying to load it.
func hasErofs() bool {
	fd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// Close lets go of the mounts that the pool holds. Volumes in use stay mounted. What is being
// removed or merged isn't waited for.
func (p *Pool) Close() error {
	close(p.closing)
	p.wg.Wait()
	return p.ns.Close()
}

// TempDir is a directory of the pool for files that are of no use after a crash: the
// next Open empties it.
func (p *Pool) TempDir() string { return filepath.Join(p.dir, "tmp") }

// Free tells how many bytes the file system has left.
func (p *Pool) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return kiln.Errorf(kiln.Invalid, "%q can't name a volume", name)
	}
	return nil
}

func (p *Pool) volumeDir(name string) string { return filepath.Join(p.dir, "volumes", name) }

// A Volume is the file tree of one instance.
type Volume struct {
	pool *Pool
	name string
	base kiln.Fingerprint
}

// Get gives a volume. The error is NotFound.
func (p *Pool) Get(name string) (*Volume, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	r, err := p.volumeRecord(name)
	if err != nil {
		return nil, err
	}
	return &Volume{p, name, r.Base}, nil
}

// List gives the names of all volumes.
func (p *Pool) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "volumes"))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Clone makes a volume of an image. content is asked only if the pool hasn't the
// image's tree; several who want the same one get it made once. The error is
// Conflict when the name is taken, or is content's.
func (p *Pool) Clone(ctx context.Context, name string, fp kiln.Fingerprint,
	content func(context.Context) (Content, error)) (*Volume, error) {
	defer p.Pin(fp)()
	if err := p.Fill(ctx, fp, content); err != nil {
		return nil, err
	}
	return p.create(name, record{Base: fp}, "", "")
}

// Pin keeps the trees of images, which may not be there yet, from being removed until
// the function is called that it gives: for who is about to name them in a record.
func (p *Pool) Pin(list ...kiln.Fingerprint) (release func()) {
	p.removing.Lock()
	defer p.removing.Unlock()
	for _, fp := range list {
		p.pinned[fp]++
	}
	return func() {
		p.removing.Lock()
		defer p.removing.Unlock()
		for _, fp := range list {
			if p.pinned[fp]--; p.pinned[fp] == 0 {
				delete(p.pinned, fp)
			}
		}
	}
}

// Empty makes a volume with nothing in it. The error is Conflict.
func (p *Pool) Empty(ctx context.Context, name string) (*Volume, error) {
	return p.create(name, record{}, "", "")
}

// create makes a volume on a stack. Its root directory is like another one, and
// its metadata are those in a directory, unless these are "".
func (p *Pool) create(name string, r record, like, meta string) (*Volume, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := p.appear(p.volumeDir(name), func(dir string) error { return writeVolume(dir, r, like, meta) }); err != nil {
		return nil, err
	}
	return &Volume{p, name, r.Base}, nil
}

// writeVolume fills the directory of a volume in which nothing was changed yet.
func writeVolume(dir string, r record, like, meta string) error {
	upper := filepath.Join(dir, "upper")
	// Owned by the container's root, which is 0 in every layer.
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(filepath.Join(dir, "work"), 0o700)); err != nil {
		return err
	}
	if err := copyMeta(meta, dir); err != nil {
		return err
	}
	if like != "" {
		if err := copyRoot(like, upper); err != nil {
			return err
		}
	}
	return writeRecord(dir, volumeFile, r)
}

// appear makes a directory that is there whole or not at all. The error is
// Conflict when it is there.
func (p *Pool) appear(dir string, fill func(temp string) error) error {
	temp, err := p.prepare(fill)
	if err != nil {
		return err
	}
	return p.put(temp, dir)
}

// put gives what was prepared its place, or removes it. The error is Conflict when
// something is there.
func (p *Pool) put(temp, dir string) error {
	err := disk.RenameNew(temp, dir)
	if errors.Is(err, fs.ErrExist) {
		err = kiln.Errorf(kiln.Conflict, "volume %q already exists", filepath.Base(dir))
	}
	if err != nil {
		return errors.Join(err, removeTree(temp))
	}
	return nil
}

// prepare fills a directory that has no place yet.
func (p *Pool) prepare(fill func(temp string) error) (string, error) {
	temp, err := os.MkdirTemp(filepath.Join(p.dir, "tmp"), "new-")
	if err != nil {
		return "", err
	}
	if err := fill(temp); err != nil {
		return "", errors.Join(err, removeTree(temp))
	}
	return temp, nil
}

// prepareLarge is prepare for who may have made much when it fails or is interrupted, and
// holds up others meanwhile.
func (p *Pool) prepareLarge(fill func(temp string) error) (string, error) {
	var failed error
	temp, err := p.prepare(func(temp string) error {
		failed = fill(temp)
		return nil
	})
	if err == nil && failed != nil {
		p.removeLater(temp)
		err = failed
	}
	return temp, err
}

// removeLater removes a tree in tmp/ beside the caller. When the pool is closed meanwhile, or it
// fails, the next Open goes on with it.
func (p *Pool) removeLater(temp string) {
	p.wg.Go(func() { _ = removeUntil(p.closing, temp) })
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, disk.Sync(f), f.Close())
}

// Rename gives a volume that isn't in use another name.
// Errors: NotFound, Conflict.
func (p *Pool) Rename(from, to string) error {
	if err := errors.Join(checkName(from), checkName(to)); err != nil {
		return err
	}
	err := disk.RenameNew(p.volumeDir(from), p.volumeDir(to))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return kiln.Errorf(kiln.NotFound, "no volume %q", from)
	case errors.Is(err, fs.ErrExist):
		return kiln.Errorf(kiln.Conflict, "volume %q already exists", to)
	case err != nil:
		return err
	}
	p.noting.Lock()
	defer p.noting.Unlock()
	if err := os.Rename(p.notePath(from), p.notePath(to)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Delete removes a volume. It is gone for everybody when Delete returns; a large
// tree is taken apart after that. One that isn't there is no error.
func (p *Pool) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := errors.Join(p.discard(p.volumeDir(name)), p.dropNote(name)); err != nil {
		return err
	}
	return p.sweepLayers()
}

// discard moves a directory out of sight and removes it beside the caller. It makes nothing
// for that: on a full disk there may be no room for another directory.
func (p *Pool) discard(dir string) error {
	temp := filepath.Join(p.dir, "tmp", "old-"+rand.Text())
	err := p.spare(func() error { return os.Rename(dir, temp) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	p.removeLater(temp)
	return nil
}

// clearFlags takes the attributes off that a container's root may have set with
// chattr(1).
func clearFlags(path string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	const kept = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND // the same bits as FS_IMMUTABLE_FL and FS_APPEND_FL
	if err == nil && flags&kept != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^kept))
	}
}
