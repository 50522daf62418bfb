package volume

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// A layer travels as a tar in PAX format: a directory comes before what is in it,
// and all that is in it before what isn't. What tar has no field for is in records.
// Extended attributes that are too large for the header of their file come before
// it, in global headers. Behind the end of the archive is its SHA-256, 32 bytes:
// without it, an archive that was cut between two entries would read as whole.
const (
	xattrRecord = "SCHILY.xattr." // and the name, in which % and = are escaped
	typeRecord  = "KILN.type"     // "socket"; the entry is an empty file else
	dataRecord  = "KILN.data"     // "4096+10 8192+5": where the entry's bytes are in the file
	sizeRecord  = "KILN.size"     // of a file with dataRecord; the rest of it are holes
)

// maxSegments bounds dataRecord: readers of tar refuse large records.
const maxSegments = 10_000

// maxRecords is how many bytes of extended attributes one header has: readers of tar
// refuse headers over 1 MiB. One attribute has up to 64 KiB.
const maxRecords = 256 << 10

// A packer writes a tree that nobody changes.
type packer struct {
	out   *tar.Writer
	links map[[2]uint64]string // by device and inode: the first name of a file with several
	visit *archive.Visit       // counts what is remembered; nil: nobody does
}

// pack writes a directory as tar, and the sum of that.
func pack(ctx context.Context, dir string, w io.Writer, visit *archive.Visit) error {
	sum := sha256.New()
	p := packer{tar.NewWriter(io.MultiWriter(w, sum)), map[[2]uint64]string{}, visit}
	if err := p.entry(ctx, dir, "."); err != nil {
		return err
	}
	if err := p.out.Close(); err != nil {
		return err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// header writes the header of an entry, behind the extended attributes that don't
// fit into it.
func (p *packer) header(h *tar.Header) error {
	var size int
	more := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		value := h.PAXRecords[name]
		if _, ok := xattrName(name); !ok || size+len(value) <= maxRecords {
			size += len(value)
			continue
		}
		delete(h.PAXRecords, name)
		if more[name] = value; sizeOf(more) > maxRecords {
			if err := p.global(more); err != nil {
				return err
			}
			more = map[string]string{}
		}
	}
	if len(more) > 0 {
		if err := p.global(more); err != nil {
			return err
		}
	}
	return p.out.WriteHeader(h)
}

func (p *packer) global(records map[string]string) error {
	return p.out.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: records})
}

func sizeOf(records map[string]string) (n int) {
	for name, value := range records {
		n += len(name) + len(value)
	}
	return n
}

// entry writes what is at a place, under a name.
func (p *packer) entry(ctx context.Context, from, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(from) >= unix.PathMax {
		return kiln.Errorf(kiln.Unsupported, "%.100q…: the path is %d bytes long; layers travel with paths of up to %d: "+
			"remove the directory", name, len(name), unix.PathMax-1)
	}
	st, err := lstat(from)
	if err != nil {
		return err
	}
	h, err := header(from, name, st)
	if err != nil {
		return err
	}
	if isDir(st) {
		h.Name += "/"
		if err := p.header(h); err != nil {
			return fmt.Errorf("pack %q: %w", name, err)
		}
		return p.inside(ctx, from, name)
	}
	// All whiteouts can be one file with many names, which means nothing.
	if st.Nlink > 1 && !isWhiteout(st) {
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := p.links[id]; ok {
			return p.out.WriteHeader(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeLink, Name: name, Linkname: first})
		}
		p.links[id] = name
		if err := p.visit.Add(linkSize + int64(len(name))); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeReg && h.PAXRecords[typeRecord] == "" {
		err = p.file(from, h, st.Size)
	} else {
		err = p.header(h)
	}
	if err != nil {
		return fmt.Errorf("pack %q: %w", name, err)
	}
	return nil
}

// linkSize is what is remembered of a file with several names, beside the first, in bytes.
const linkSize = 96

func (p *packer) inside(ctx context.Context, from, name string) error {
	// Reading doesn't change when it was read last, for the bytes to be the same
	// the next time.
	d, err := os.OpenFile(from, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	names, forget, err := archive.Names(d, 0, p.visit)
	d.Close()
	if err != nil {
		return err
	}
	defer forget()
	for _, n := range names {
		if err := p.entry(ctx, filepath.Join(from, n), path.Join(name, n)); err != nil {
			return err
		}
	}
	return nil
}

// header says all that there is to say of a file but its content.
func header(from, name string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), AccessTime: time.Unix(st.Atim.Unix()), PAXRecords: map[string]string{},
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
	case unix.S_IFLNK:
		link, err := os.Readlink(from)
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, link
		h.AccessTime = h.ModTime // it was read last just now
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFSOCK:
		h.Typeflag, h.PAXRecords[typeRecord] = tar.TypeReg, "socket"
	case unix.S_IFCHR:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil, kiln.Errorf(kiln.Unsupported, "%q is of a type that no layer has: %o", name, st.Mode)
	}
	list, err := readXattrs(from)
	for _, x := range list {
		h.PAXRecords[recordName(x.name)] = x.value
	}
	return h, err
}

// recordName writes the name of an attribute as that of a record.
func recordName(xattr string) string {
	return xattrRecord + strings.ReplaceAll(strings.ReplaceAll(xattr, "%", "%25"), "=", "%3D")
}

// xattrName reads it again; ok is false for another record.
func xattrName(record string) (name string, ok bool) {
	record, ok = strings.CutPrefix(record, xattrRecord)
	if name, err := url.PathUnescape(record); err == nil {
		return name, ok
	}
	return record, ok
}

// file writes what of a file isn't a hole.
func (p *packer) file(from string, h *tar.Header, size int64) error {
	f, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	list, err := segments(f, size)
	if err != nil {
		return err
	}
	for _, s := range list {
		h.Size += s.size
	}
	if h.Size < size {
		h.PAXRecords[sizeRecord], h.PAXRecords[dataRecord] = strconv.FormatInt(size, 10), segmentText(list)
	}
	if err := p.header(h); err != nil {
		return err
	}
	for _, s := range list {
		if _, err := io.Copy(p.out, io.NewSectionReader(f, s.offset, s.size)); err != nil {
			return err
		}
	}
	return nil
}

// A segment is where a file has bytes.
type segment struct{ offset, size int64 }

// segments gives the places of a file that aren't holes. Small holes count as bytes
// where there would be too many.
func segments(f *os.File, size int64) ([]segment, error) {
	var list []segment
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // holes up to the end
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		at = min(end, size)
		list = append(list, segment{start, at - start})
	}
	for gap := int64(4096); len(list) > maxSegments; gap *= 2 {
		fewer, many := list[:1], len(list)-maxSegments
		for _, s := range list[1:] {
			if last := &fewer[len(fewer)-1]; many > 0 && s.offset-last.offset-last.size <= gap {
				last.size = s.offset + s.size - last.offset
				many--
			} else {
				fewer = append(fewer, s)
			}
		}
		list = fewer
	}
	return list, nil
}

func segmentText(list []segment) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d+%d", s.offset, s.size)
	}
	return b.String()
}

// parseSegments reads what segmentText wrote: places in a file of a size, one after
// another, with so many bytes in all. The error is Invalid.
func parseSegments(text string, size, bytes int64) ([]segment, error) {
	var list []segment
	var end, sum int64
	for word := range strings.FieldsSeq(text) {
		a, b, _ := strings.Cut(word, "+")
		offset, err1 := strconv.ParseInt(a, 10, 64)
		n, err2 := strconv.ParseInt(b, 10, 64)
		if err1 != nil || err2 != nil || n <= 0 || offset < end || n > size || offset > size-n {
			return nil, kiln.Errorf(kiln.Invalid, "%q is no place in a file of %d bytes", word, size)
		}
		end, sum = offset+n, sum+n
		list = append(list, segment{offset, n})
	}
	if sum != bytes {
		return nil, kiln.Errorf(kiln.Invalid, "%d bytes don't fill %d", bytes, sum)
	}
	return list, nil
}
