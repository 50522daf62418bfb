package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// digestFile says what a tree was when it was made, as treeDigests writes it. One that an older
// version has written has no line of image.json. A tree without one isn't known to be
// damaged.
const digestFile = "digest"

// metaDigestFile has the SHA-256 of the names and contents in meta/, in hex. It is
// compared whenever the metadata are used, as they are small.
const metaDigestFile = "meta.digest"

// damagedMark is in the directory of a tree that was found damaged and couldn't be made again:
// no other volume is made of it.
const damagedMark = "damaged"

// A reading gives a file to w: disk.ReadTo, as containers see it, or fromDisk.
type reading func(ctx context.Context, f *os.File, w io.Writer) error

// fromDisk reads what is on the disk, at a pace.
func fromDisk(pace disk.Pace) reading {
	return func(ctx context.Context, f *os.File, w io.Writer) error { return disk.ReadThrough(ctx, f, pace, w) }
}

// writeMetaDigest notes the digest of the metadata of a new tree: it is as lasting as the tree.
func writeMetaDigest(dir string) error {
	sum, err := metaDigest(context.Background(), dir, disk.ReadTo)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, metaDigestFile), []byte(sum), 0o600)
}

func metaDigest(ctx context.Context, dir string, read reading) (string, error) {
	root, err := disk.OpenRoot(filepath.Join(dir, "meta"))
	if err != nil {
		return "", err
	}
	defer root.Close()
	h := sha256.New()
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v\n", path, e.Type())
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		var size counter
		err = read(ctx, f, io.MultiWriter(h, &size))
		fmt.Fprintf(h, "\n%d\n", size)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// verifyMeta compares the metadata of an image's tree with what they were when it was
// made. A tree that doesn't say so isn't known to be damaged. The error is Integrity, or
// another when they can't be read now.
func (p *Pool) verifyMeta(ctx context.Context, fp kiln.Fingerprint, read reading) error {
	dir := p.imageDir(fp)
	want, err := disk.ReadFile(filepath.Join(dir, metaDigestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	got := ""
	if err == nil {
		got, err = metaDigest(ctx, dir, read)
	}
	switch {
	case err == nil && got == strings.TrimSpace(string(want)):
		return nil
	case err == nil:
		err = fmt.Errorf("its SHA-256 is %s", got)
	case !lasting(err) && !errors.Is(err, unix.EIO):
		return fmt.Errorf("read the metadata of the tree of image %s: %w", fp.Short(), err)
	}
	return kiln.Errorf(kiln.Integrity, "the metadata of the tree of image %s are damaged: %w", fp.Short(), err)
}

// writeDigest notes the digests of the tree that is in a directory, as the memory has it.
func writeDigest(dir string) error {
	sums, err := digestsOf(context.Background(), dir, disk.ReadTo)
	if err != nil {
		return err
	}
	return disk.WriteBytes(filepath.Join(dir, digestFile), 0o600, []byte(sums))
}

// digestsOf is treeDigests of the tree that is in a directory.
func digestsOf(ctx context.Context, dir string, read reading) (string, error) {
	root, err := disk.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	record, err := disk.ReadFileIn(root, imageFile)
	if err != nil {
		return "", err
	}
	return treeDigests(ctx, root, record, read)
}

// treeDigests gives what digestFile has of a tree, in two lines of hex: the SHA-256 of the
// file that is the tree, or of what walkDigest writes of a directory; and that of image.json,
// which is given. The error is Integrity when that is no image.json.
func treeDigests(ctx context.Context, dir *os.Root, record []byte, read reading) (string, error) {
	var r imageRecord
	if json.Unmarshal(record, &r) != nil || !slices.Contains([]string{kindErofs, kindSquashfs, kindDir}, r.Kind) {
		return "", kiln.Errorf(kiln.Integrity, "%s says nothing of use", imageFile)
	}
	h := sha256.New()
	if r.Kind == kindDir {
		f, err := dir.OpenFile("rootfs", openDirFlags, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := walkDigest(ctx, f, h, read); err != nil {
			return "", err
		}
	} else {
		f, err := disk.OpenFileIn(dir, "rootfs."+r.Kind, os.O_RDONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := read(ctx, f, h); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x\n%x\n", h.Sum(nil), sha256.Sum256(record)), nil
}

// walkDigest writes of all that is in a directory, in the order of names: where it is, what it
// is, and what it has in it. When it was read or changed last but for its content isn't part
// of that, nor is how much room it takes.
func walkDigest(ctx context.Context, dir *os.File, w io.Writer, read reading) error {
	c, err := openCursor(fdPath(int(dir.Fd()), "."))
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := c.lstat(".")
	if err != nil {
		return err
	}
	if err := c.digest(ctx, ".", ".", &st, w, read); err != nil {
		return err
	}
	return c.sorted(ctx, "", func(path, name string, st *unix.Stat_t) error {
		return c.digest(ctx, path, name, st, w, read)
	})
}

// sorted is walk in the order of names, with the path of each from where it began.
func (c *cursor) sorted(ctx context.Context, above string, f func(path, name string, st *unix.Stat_t) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.eachSorted(func(name string) error {
		st, err := c.lstat(name)
		if err != nil {
			return err
		}
		path := above + "/" + name
		if err := f(path, name, &st); err != nil || !isDir(&st) {
			return err
		}
		if err := c.enter(name); err != nil {
			return err
		}
		if err := c.sorted(ctx, path, f); err != nil {
			return err
		}
		return c.leave()
	})
}

// digest writes of one file.
func (c *cursor) digest(ctx context.Context, path, name string, st *unix.Stat_t, w io.Writer, read reading) error {
	fmt.Fprintf(w, "%q %o %d:%d %d.%d", path, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	xattrs, err := readXattrs(c.path(name))
	if err != nil {
		return of(name, err)
	}
	for _, x := range xattrs {
		fmt.Fprintf(w, " %q=%q", x.name, x.value)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		fmt.Fprintf(w, " %d %d\n", st.Nlink, st.Size)
		fd, err := unix.Openat(c.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_CLOEXEC,
			0)
		if err != nil {
			return of(name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		if err := read(ctx, f, w); err != nil {
			return err
		}
	case unix.S_IFLNK:
		to := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(c.fd, name, to)
		if err != nil {
			return of(name, err)
		}
		fmt.Fprintf(w, " %q", to[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(w, " %d", st.Rdev)
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// VerifyTree reads the tree of an image again and compares it with what it was when it
// was made. A tree that isn't there is no error. The error is Integrity.
func (p *Pool) VerifyTree(ctx context.Context, fp kiln.Fingerprint) error {
	return p.verifyTree(ctx, fp, disk.ReadTo)
}

func (p *Pool) verifyTree(ctx context.Context, fp kiln.Fingerprint, read reading) error {
	if err := p.verifyMeta(ctx, fp, read); err != nil {
		return err
	}
	return p.verifyFile(ctx, fp, read)
}

// verifyFile is VerifyTree without the metadata.
func (p *Pool) verifyFile(ctx context.Context, fp kiln.Fingerprint, read reading) error {
	dir, err := disk.OpenRoot(p.imageDir(fp)) // all files of one tree, though another takes its place
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if boot, err := disk.ReadFileIn(dir, unsynced); err == nil && string(boot) != p.boot {
		return nil // nobody uses it
	}
	want, err := disk.ReadFileIn(dir, digestFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = checkOdd(dir)
	case err == nil:
		err = compareTree(ctx, dir, string(want), read)
	}
	switch {
	case err == nil:
		return nil
	case lasting(err) || errors.Is(err, unix.EIO):
		return kiln.Errorf(kiln.Integrity, "the tree of image %s is damaged: %w", fp.Short(), err)
	}
	return fmt.Errorf("read the tree of image %s: %w", fp.Short(), err)
}

// checkOdd looks for something else in the place of the file of a tree that has no digests yet.
// The error is Integrity.
func checkOdd(dir *os.Root) error {
	for _, kind := range []string{kindErofs, kindSquashfs} {
		f, err := disk.OpenFileIn(dir, "rootfs."+kind, os.O_RDONLY, 0)
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// compareTree compares a tree with its digests.
func compareTree(ctx context.Context, dir *os.Root, want string, read reading) error {
	record, err := disk.ReadFileIn(dir, imageFile)
	if err != nil {
		return err
	}
	got, err := treeDigests(ctx, dir, record, read)
	if err != nil {
		return err
	}
	if len(want) == hex.EncodedLen(sha256.Size) { // of an older version
		got = got[:len(want)]
	}
	if got != want {
		return kiln.Errorf(kiln.Integrity, "its SHA-256 is %s", got[:hex.EncodedLen(sha256.Size)])
	}
	return nil
}

// Squashfs opens the tree of an image that is the very file of the image. The error is
// NotFound when it is another, or none.
func (p *Pool) Squashfs(fp kiln.Fingerprint) (*os.File, error) {
	f, err := disk.Open(filepath.Join(p.imageDir(fp), "rootfs."+kindSquashfs))
	if errors.Is(err, fs.ErrNotExist) {
		err = kiln.Errorf(kiln.NotFound, "the pool has no squashfs of image %s", fp.Short())
	}
	return f, err
}
