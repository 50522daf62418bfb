package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/kiln-containers/kiln"
)

// Limits bound what an archive may unpack to. Zero means no bound.
type Limits struct {
	Bytes   int64  // sum of the sizes of the files, holes included
	Room    int64  // free space, in bytes: sum of what is in the files without the holes
	Entries int64  // also directories on the way to them; their text has entryBytes each, on average
	Xattrs  int    // bytes of the extended attributes of a file; zero means MaxXattrs
	Visit   *Visit // of whoever remembers the entries; nil: nobody counts them
}

// entryBytes bounds what has to be remembered of the entries of an archive.
const entryBytes = 128

// noID is the uid or gid that overlayfs and the kernel keep for themselves: -1,
// and -2, which an instance's work directory is mapped to.
const noID = 1<<32 - 2

// maxName bounds names and link targets, in bytes: PATH_MAX of Linux.
const maxName = 4096

// Walk calls fn for every entry of a tar stream, checked as Entry promises, and
// reads the stream to its end. A name may lead through earlier symlinks, as far as
// they stay in the tree. An entry may come again: the later takes the place of the
// earlier, as with GNU tar, which leaves a directory that isn't empty where it is. A
// later directory gives the earlier its attributes; where a symlink to a directory
// is, the symlink stays, as with tar's --keep-directory-symlink: a merged /usr
// survives a layer without. Errors: Invalid for an archive that isn't a sound tree,
// Integrity for one that is cut or damaged, TooLarge for one over lim, NoSpace for
// one over lim.Room, and those of fn and r.
func Walk(ctx context.Context, r io.Reader, lim Limits, fn func(*Entry, io.Reader) error) error {
	w := walker{lim: lim, places: newPlaces()}
	counted := &counter{r: r}
	in := tar.NewReader(counted)
	var end int64 // of the last entry, or of its header where it is sparse
	sparse, name := false, ""
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		read := counted.n
		h, err := in.Next()
		if sparse && (err == nil || errors.Is(err, io.EOF)) {
			content := max(read, counted.skipped) - end
			w.stored += content
			end += (content + tarBlock - 1) &^ (tarBlock - 1)
			if err := w.fits(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return notTar(err)
		}
		end, sparse, name = counted.n, isSparse(h), h.Name
		if !sparse {
			end += (h.Size + tarBlock - 1) &^ (tarBlock - 1)
		}
		e, err := w.entry(h)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		if err := fn(e, in); err != nil {
			return notTar(err) // of its content, perhaps
		}
	}
	// A tar ends with blocks of zeros; without one, this is not its end.
	if counted.n < end+tarBlock || counted.zeros < tarBlock {
		return kiln.Errorf(kiln.Integrity, "the archive is truncated")
	}
	return tarEnd(r)
}

// pixzIndex is what the index begins with that pixz writes after the end of a tar.
const pixzIndex = "\xa6\x4c\x32\x2e\xd6\x14\xae\xdb"

// tarEnd reads what comes after the end of a tar: padding, or the index of pixz.
func tarEnd(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if b != 0 {
			break
		}
	}
	if err := in.UnreadByte(); err != nil {
		return err
	}
	if head, _ := in.Peek(len(pixzIndex)); string(head) == pixzIndex {
		_, err := io.Copy(io.Discard, in)
		return err
	}
	return nothingLeft(in)
}

const tarBlock = 512

// isSparse reports whether a file takes less of the archive than its size.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// counter counts what is read, in bytes, and how many of the last are zero.
type counter struct {
	r        io.Reader
	n, zeros int64
	skipped  int64 // n after what was skipped last
}

// Seek is called by package tar for what it skips, with the last byte left: nothing
// else tells where a sparse file ends in the archive.
func (c *counter) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, errors.ErrUnsupported
	}
	if offset == 0 {
		return c.n, nil
	}
	c.skipped = c.n + offset + 1
	if _, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, offset); errors.Is(err, io.EOF) {
		return 0, io.ErrUnexpectedEOF
	} else if err != nil {
		return 0, err
	}
	return c.n, nil
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	last := len(bytes.TrimRight(b[:n], "\x00"))
	if last > 0 {
		c.zeros = 0
	}
	c.zeros += int64(n - last)
	return n, err
}

func notTar(err error) error {
	var k kiln.Kind
	switch {
	case errors.As(err, &k), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return kiln.Errorf(kiln.Integrity, "the archive is truncated")
	case errors.Is(err, tar.ErrHeader):
		return kiln.Errorf(kiln.Integrity, "the archive is damaged: %w", err)
	}
	return err
}

// walker checks one entry after the other.
type walker struct {
	*places
	lim     Limits
	entries int64
	bytes   int64
	stored  int64 // without holes
	names   int64 // bytes of names, targets and extended attributes
}

func bad(name, format string, args ...any) error {
	return kiln.Errorf(kiln.Invalid, "entry %q: %w", name, fmt.Errorf(format, args...))
}

// cleanPath checks a name and gives it relative, without "./" and trailing slashes.
func cleanPath(name string) (string, error) {
	switch {
	case name == "":
		return "", bad(name, "the name is empty")
	case len(name) > maxName:
		return "", bad(name[:64]+"…", "the name is longer than %d bytes", maxName)
	case strings.Contains(name, "\x00"):
		return "", bad(name, "the name has a NUL")
	}
	name = strings.TrimLeft(name, "/") // of an absolute name, as other programs do
	if name == "" {
		name = "."
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", bad(name, "the name has a \"..\"")
		}
		if len(part) > 255 {
			return "", bad(name[:64]+"…", "a part of the name is longer than 255 bytes")
		}
	}
	return path.Clean(name), nil
}

// entry checks a header. It is nil for what is no entry.
func (w *walker) entry(h *tar.Header) (*Entry, error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	name, err := cleanPath(h.Name)
	if err != nil {
		return nil, err
	}
	e := &Entry{
		Path: name, Mode: uint32(h.Mode & 0o7777), ModTime: h.ModTime,
		UID: uint32(h.Uid), GID: uint32(h.Gid),
		Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= noID || int64(h.Gid) >= noID {
		return nil, bad(name, "the owner %d:%d is out of range", h.Uid, h.Gid)
	}
	if e.Xattrs, err = keptXattrs(h.PAXRecords); err != nil {
		return nil, bad(name, "%w", err)
	}
	if e.Path, err = w.realPath(e.Path); err != nil {
		return nil, bad(name, "%w", err)
	}
	if err := w.typed(e, h); err != nil {
		return nil, err
	}
	if !isSparse(h) {
		w.stored += e.Size
	}
	if err := w.count(e); err != nil {
		return nil, err
	}
	if skip, err := w.again(e); skip || err != nil {
		return nil, err
	}
	return e, w.counted(e.Path, w.set(e), 0)
}

// realPath gives the path that an entry has when the symlinks are followed that its
// name leads through. Their targets count like names, for the time they take.
func (w *walker) realPath(name string) (string, error) {
	dir, followed, err := w.real(path.Dir(name))
	if w.names += followed; err != nil {
		return "", err
	}
	if name = path.Join(dir, path.Base(name)); len(name) > maxName {
		return "", kiln.Errorf(kiln.Invalid, "through symlinks, the name is longer than %d bytes", maxName)
	}
	return name, nil
}

// again decides about an entry whose place is taken; skip means that what is there
// stays as it is.
func (w *walker) again(e *Entry) (skip bool, err error) {
	was, ok := w.at(e.Path)
	switch {
	case !ok:
	case e.Type == Hardlink && e.Link == e.Path:
		return true, nil
	case e.Type == Dir && was == Symlink:
		dir, followed, err := w.real(e.Path)
		w.names += followed
		is, ok := w.at(dir)
		return err == nil && ok && is == Dir || dir == ".", nil
	case e.Type != Dir && was == Dir && w.holdsSomething(e.Path):
		return false, bad(e.Path, "it takes the place of a directory that is not empty")
	}
	return false, nil
}

func (w *walker) typed(e *Entry, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, oldRegular, tar.TypeGNUSparse, tar.TypeCont:
		e.Type, e.Size = Regular, h.Size
		if strings.HasSuffix(h.Name, "/") { // a directory of the oldest tars
			e.Type, e.Size = Dir, 0
		}
	case tar.TypeDir:
		e.Type = Dir
	case tar.TypeSymlink:
		e.Type, e.Link = Symlink, h.Linkname
		if err := checkTarget(e.Link); err != nil {
			return bad(e.Path, "%w", err)
		}
	case tar.TypeLink:
		return w.hardlink(e, h)
	case tar.TypeFifo:
		e.Type = Fifo
	case tar.TypeChar:
		e.Type = CharDevice
	case tar.TypeBlock:
		e.Type = BlockDevice
	default:
		return bad(e.Path, "unknown type %q", h.Typeflag)
	}
	if e.Path == "." && e.Type != Dir {
		return bad(e.Path, "the root of the tree is not a directory")
	}
	return nil
}

// checkTarget says whether a symlink may have a target, wherever that leads.
func checkTarget(link string) error {
	if link == "" || len(link) >= maxName || strings.Contains(link, "\x00") {
		return errors.New("the target of the symlink is empty, too long, or has a NUL")
	}
	return nil
}

func (w *walker) hardlink(e *Entry, h *tar.Header) error {
	e.Type = Hardlink
	link, err := cleanPath(h.Linkname)
	if err != nil {
		return bad(e.Path, "hard link to %q: it leaves the tree or is no name", h.Linkname)
	}
	if link, err = w.realPath(link); err != nil {
		return bad(e.Path, "hard link to %q: %w", h.Linkname, err)
	}
	e.Link = link
	switch is, ok := w.at(link); {
	case e.Path == ".":
		return bad(e.Path, "the root of the tree is a hard link")
	case !ok:
		return bad(e.Path, "hard link to %q, which is not in the archive before it", link)
	case is == Dir:
		return bad(e.Path, "hard link to the directory %q", link)
	case is == CharDevice, is == BlockDevice: // another node of the same device is as good
		numbers := w.devices[w.key(link)]
		e.Type, e.Link, e.Major, e.Minor = is, "", numbers[0], numbers[1]
	default:
		e.Links = is
	}
	return nil
}

// counted counts entries with so much text; name is that of the last. Directories that are no
// entries of an archive are there as well.
func (w *walker) counted(name string, entries int, text int64) error {
	w.entries += int64(entries)
	w.names += text
	switch {
	case w.lim.Entries > 0 && w.entries > w.lim.Entries:
		return kiln.Errorf(kiln.TooLarge, "the archive has more than %d entries, with the directories that are none",
			w.lim.Entries)
	case w.lim.Entries > 0 && w.names > entryBytes*w.lim.Entries:
		return kiln.Errorf(kiln.TooLarge, "the archive has more than %s of names, link targets and extended attributes "+
			"(at %.100q)", kiln.FormatSize(entryBytes*w.lim.Entries), name)
	}
	return w.lim.Visit.entry(entries, text)
}

func (w *walker) count(e *Entry) error {
	text, attrs := int64(len(e.Path)+len(e.Link)), 12
	for key, value := range e.Xattrs {
		text += int64(len(key) + len(value))
		attrs += (4 + len(key) + len(value) + 3) &^ 3
	}
	if most := cmp.Or(w.lim.Xattrs, MaxXattrs); attrs > most {
		return bad(e.Path, "its extended attributes take %d bytes; a file may have %d", attrs, most)
	}
	if err := w.counted(e.Path, 1, text); err != nil {
		return err
	}
	if e.Size < 0 {
		return bad(e.Path, "the size is negative")
	}
	w.bytes += e.Size
	if w.bytes < 0 || w.lim.Bytes > 0 && w.bytes > w.lim.Bytes {
		return kiln.Errorf(kiln.TooLarge, "the archive unpacks to more than %s (at %q)", kiln.FormatSize(w.lim.Bytes), e.Path)
	}
	return w.fits(e.Path)
}

// fits checks what is stored up to the end of a file. The error is NoSpace.
func (w *walker) fits(name string) error {
	if w.lim.Room > 0 && w.stored > w.lim.Room {
		return kiln.Errorf(kiln.NoSpace, "the archive unpacks to more than the %s that are free (at %q)",
			kiln.FormatSize(w.lim.Room), name)
	}
	return nil
}

// oldRegular is the type of a plain file in the oldest tars.
const oldRegular = '\x00'
