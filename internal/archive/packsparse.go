package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A stretch of a file is in the archive; what is between two is zeros.
type stretch struct{ offset, size int64 }

const (
	// Files are cut into pieces of this many bytes, a power of two, or into larger
	// ones, so that there are no more than maxStretches …
	sparsePiece  = 256 << 10
	maxStretches = 1 << 16
	// … and are sparse when so many bytes are saved. Other programs unpack plain
	// entries, so few are not.
	sparseWorth = 1 << 20
)

// stretches gives the pieces of a file that aren't all zeros, neighbours as one. That
// depends on what is in the file and not on where a file system has holes, which are
// only not read: the same content becomes the same bytes.
func (p *Packer) stretches(fd int, size int64) ([]stretch, error) {
	whole := []stretch{{0, size}}
	if size < sparseWorth {
		return whole, nil
	}
	piece := int64(sparsePiece)
	for size/piece >= maxStretches {
		piece *= 2
	}
	var list []stretch
	data := int64(0)
	for at := int64(0); at < size; at += piece {
		next, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // holes up to the end
		}
		if err == nil { // a file system that knows no holes has data everywhere
			at = max(at, next&^(piece-1))
		}
		n := min(piece, size-at)
		empty, err := p.zeros(fd, at, n)
		if err != nil {
			return nil, err
		}
		switch last := len(list) - 1; {
		case empty:
		case last >= 0 && list[last].offset+list[last].size == at:
			list[last].size += n
		default:
			list = append(list, stretch{at, n})
		}
		data += n
		if empty {
			data -= n
		}
	}
	if size-data < sparseWorth {
		return whole, nil
	}
	return list, nil
}

// zeros reports whether a piece of a file is all zeros. Of most that aren't, it reads
// the beginning only.
func (p *Packer) zeros(fd int, at, size int64) (bool, error) {
	for want := int64(4096); size > 0; want = int64(len(p.buf)) {
		b := p.buf[:min(size, want)]
		if err := readAt(fd, b, at); err != nil {
			return false, err
		}
		if !zero(b) {
			return false, nil
		}
		at += int64(len(b))
		size -= int64(len(b))
	}
	return true, nil
}

// readAt fills b. The error is io.ErrUnexpectedEOF where the file ends before.
func readAt(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		b = b[n:]
		at += int64(n)
	}
	return nil
}

// sparse writes a file of which only stretches are in the archive, as GNU tar 1.0
// does: https://www.gnu.org/software/tar/manual/html_node/PAX-1.html. Package tar reads
// that, but writes none.
func (p *Packer) sparse(fd int, h *tar.Header, list []stretch) error {
	stored := int64(0)
	for _, s := range list {
		stored += s.size
	}
	if len(list) == 0 || list[len(list)-1].offset+list[len(list)-1].size < h.Size {
		list = append(list, stretch{h.Size, 0}) // which says that there is a hole before the end
	}
	var m strings.Builder
	fmt.Fprintf(&m, "%d\n", len(list))
	for _, s := range list {
		fmt.Fprintf(&m, "%d\n%d\n", s.offset, s.size)
	}
	table := padded(m.String())

	records := maps.Clone(h.PAXRecords)
	if records == nil {
		records = map[string]string{}
	}
	maps.Copy(records, map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name,
		"GNU.sparse.realsize": strconv.FormatInt(h.Size, 10)})
	dir, base := path.Split(h.Name)
	file := rawHeader{name: dir + "GNUSparseFile.0/" + base, typ: tar.TypeReg, mode: h.Mode, uid: int64(h.Uid),
		gid: int64(h.Gid), size: int64(len(table)) + stored, modified: h.ModTime.Unix()}
	file.extend(records)
	extra := padded(paxText(records))
	ext := rawHeader{name: dir + "PaxHeaders.0/" + base, typ: tar.TypeXHeader, mode: 0o644,
		size: int64(len(paxText(records)))}

	if err := p.out.Flush(); err != nil {
		return err
	}
	for _, part := range []string{ext.block(), extra, file.block(), table} {
		if _, err := p.w.WriteString(part); err != nil {
			return err
		}
	}
	for _, s := range list {
		if err := p.content(fd, p.w, s); err != nil {
			return err
		}
	}
	_, err := p.w.Write(make([]byte, -stored&(tarBlock-1)))
	return err
}

// padded fills the last block.
func padded(s string) string { return s + strings.Repeat("\x00", -len(s)&(tarBlock-1)) }

// paxText encodes the records of an extended header, sorted: "22 key=value\n".
func paxText(records map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(records)) {
		n := len(key) + len(records[key]) + len(" =\n")
		total := n + len(strconv.Itoa(n))
		total = n + len(strconv.Itoa(total)) // the length counts its own digits
		fmt.Fprintf(&b, "%d %s=%s\n", total, key, records[key])
	}
	return b.String()
}

// rawHeader is a block of POSIX.1-1988's ustar.
type rawHeader struct {
	name                           string
	typ                            byte
	mode, uid, gid, size, modified int64
}

// extend moves to records what the fields of the block can't hold.
func (h *rawHeader) extend(records map[string]string) {
	for _, f := range []struct {
		key    string
		value  *int64
		digits int
	}{{"uid", &h.uid, 7}, {"gid", &h.gid, 7}, {"size", &h.size, 11}, {"mtime", &h.modified, 11}} {
		if *f.value < 0 || *f.value>>(3*f.digits) != 0 {
			records[f.key] = strconv.FormatInt(*f.value, 10)
			*f.value = 0
		}
	}
}

func (h *rawHeader) block() string {
	b := make([]byte, tarBlock)
	copy(b[:100], h.name)
	octal := func(b []byte, value int64) { copy(b, fmt.Sprintf("%0*o", len(b)-1, value)) }
	octal(b[100:108], h.mode)
	octal(b[108:116], h.uid)
	octal(b[116:124], h.gid)
	octal(b[124:136], h.size)
	octal(b[136:148], h.modified)
	copy(b[148:156], "        ")
	b[156] = h.typ
	copy(b[257:265], "ustar\x0000")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum)
	return string(b)
}
