package volume

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Where the file system can have blocks in common (btrfs, xfs), the trees of images
// that are much alike take the room of one. The kernel compares what it is told is
// the same before it lets go of anything, so that a mistake here costs nothing but
// time; and it is done beside everything else, for trees that are on the disk.
const (
	shareBlock = 4 << 10  // erofs aligns files to it
	shareRun   = 64 << 10 // less isn't worth an extent of its own
	shareMost  = 16 << 20 // of one request; xfs doesn't take more
	sharedFile = "shared" // how many bytes of a tree another has, too
	shareWith  = 3        // trees that a new one is compared with
)

// share lets the blocks of a new tree that the newest others have be theirs.
func (p *Pool) share(ctx context.Context, fp kiln.Fingerprint) error {
	path := filepath.Join(p.imageDir(fp), "rootfs.erofs")
	others, err := p.newestTrees(path)
	if err != nil || len(others) == 0 {
		return err
	}
	tree, err := disk.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tree.Close()
	var sum int64
	for _, o := range others {
		n, err := shareFile(ctx, tree, o)
		sum += n
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(p.imageDir(fp), sharedFile), strconv.AppendInt(nil, sum, 10), 0o600)
}

// shareUntilClosed is share until the pool is closed.
func (p *Pool) shareUntilClosed(fp kiln.Fingerprint) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.closing:
			cancel()
		case <-stop:
		}
	}()
	p.sharing.Lock()
	defer p.sharing.Unlock()
	return p.share(ctx, fp)
}

// newestTrees gives the trees that were made last, but for one.
func (p *Pool) newestTrees(but string) ([]string, error) {
	paths, err := disk.Glob(p.dir, "images/*/rootfs.erofs")
	if err != nil {
		return nil, err
	}
	made := map[string]int64{}
	for _, path := range paths {
		if fi, err := os.Stat(path); err == nil && path != but {
			made[path] = fi.ModTime().UnixNano()
		}
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return made[path] == 0 })
	slices.SortFunc(paths, func(a, b string) int { return int(min(1, max(-1, made[b]-made[a]))) })
	return paths[:min(len(paths), shareWith)], nil
}

// shareFile lets the kernel share the runs of blocks that tree has of another file.
// It gives how many bytes that were.
func shareFile(ctx context.Context, tree *os.File, other string) (int64, error) {
	from, err := disk.Open(other)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	if err := unix.IoctlFileDedupeRange(int(from.Fd()), &unix.FileDedupeRange{Src_length: 0,
		Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(tree.Fd())}}}); err != nil {
		return 0, nil // this file system can't
	}
	seed := maphash.MakeSeed()
	at := map[uint64]int64{} // where the other file has a block
	err = eachBlock(ctx, from, func(off int64, b []byte) error {
		at[maphash.Bytes(seed, b)] = off
		return nil
	})
	if err != nil {
		return 0, err
	}
	var sum int64
	src, dst, length := int64(0), int64(0), int64(0) // the run so far
	flush := func() error {
		n, err := dedupe(from, tree, src, dst, length)
		sum += n
		length = 0
		return err
	}
	err = eachBlock(ctx, tree, func(off int64, b []byte) error {
		o, ok := at[maphash.Bytes(seed, b)]
		if ok && length > 0 && o == src+length && length < shareMost {
			length += shareBlock
			return nil
		}
		if err := flush(); err != nil || !ok {
			return err
		}
		src, dst, length = o, off, shareBlock
		return nil
	})
	return sum, errors.Join(err, flush())
}

// eachBlock reads a file block by block, but for those that are nothing but zeros.
func eachBlock(ctx context.Context, f *os.File, fn func(off int64, b []byte) error) error {
	buf := make([]byte, 256*shareBlock)
	zero := make([]byte, shareBlock)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(buf, off)
		for i := 0; i+shareBlock <= n; i += shareBlock {
			b := buf[i : i+shareBlock]
			if string(b) == string(zero) {
				continue
			}
			if err := fn(off+int64(i), b); err != nil {
				return err
			}
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// dedupe asks the kernel to share one run. What differs after all isn't shared.
func dedupe(from, to *os.File, src, dst, length int64) (int64, error) {
	if length < shareRun {
		return 0, nil
	}
	r := unix.FileDedupeRange{Src_offset: uint64(src), Src_length: uint64(length),
		Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(to.Fd()), Dest_offset: uint64(dst)}}}
	if err := unix.IoctlFileDedupeRange(int(from.Fd()), &r); err != nil {
		return 0, err
	}
	if r.Info[0].Status != unix.FILE_DEDUPE_RANGE_SAME {
		return 0, nil
	}
	return int64(r.Info[0].Bytes_deduped), nil
}

// sharedBytes is what share found of an image's tree.
func (p *Pool) sharedBytes(fp kiln.Fingerprint) (int64, error) {
	b, err := disk.ReadFile(filepath.Join(p.imageDir(fp), sharedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, nil // it is a statistic
	}
	return n, nil
}
