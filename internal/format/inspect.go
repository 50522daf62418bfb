package format

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// Facts are what one file of an image turns out to be.
type Facts struct {
	Format    archive.Format
	Metadata  []byte // metadata.yaml at the top, nil when there is none
	Rootfs    bool   // there is a root filesystem below rootfs/ …
	Tree      bool   // … or the file is one
	Arch      string // canonical, of the programs in it; "" if unknown
	OSRelease map[string]string
	Newest    time.Time // latest modification in it
	Entries   int64
	Bytes     int64  // unpacked
	stray     string // where a metadata.yaml is that should be at the top
	vm        bool   // it is a disk of a virtual machine
	backup    backup // what it is a backup of
	outside   error  // of a hard link that a unified image may not have
	nodes     int    // device nodes outside of dev/, which are left out …
	node      string // … and the first of them
	hosts     bool   // etc/hosts says something, or is a link
}

// A backup says what an archive in the format of LXD's backups is of; "": it is none.
type backup string

const (
	ofInstance backup = "instance"
	ofVolume   backup = "storage volume"
)

// Inspect reads one file of an image from r to its end, while it is being
// written to f. All of it is unpacked and checked. f is read for formats that
// need seeking, after the end of r.
// Errors: Invalid, TooLarge, Unsupported.
func Inspect(ctx context.Context, r io.Reader, f *os.File, lim archive.Limits) (Facts, error) {
	in := bufio.NewReaderSize(r, archive.HeadSize)
	head, err := in.Peek(archive.HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return Facts{}, err
	}
	kind, err := archive.Detect(head)
	if err != nil {
		return Facts{}, err
	}
	if kind == archive.Squashfs {
		if _, err := io.Copy(io.Discard, in); err != nil {
			return Facts{}, err
		}
	}
	files, kind, err := open(ctx, kind, in, f, lim.Visit)
	if err != nil {
		return Facts{}, err
	}
	defer files.Close()
	i := inspector{Facts: Facts{Format: kind}, links: map[string]string{}}
	if err := archive.Walk(ctx, files, lim, i.entry); err != nil {
		return Facts{}, err
	}
	i.finish()
	return i.Facts, nil
}

// open gives the content of a file as a tar stream.
func open(ctx context.Context, kind archive.Format, in io.Reader, f *os.File, visit *archive.Visit) (io.ReadCloser,
	archive.Format, error) {
	if kind == archive.Squashfs {
		r, err := archive.SquashfsTar(ctx, f, visit)
		return r, kind, err
	}
	return archive.Decompress(ctx, in, visit)
}

// inspector collects facts while entries pass.
type inspector struct {
	Facts
	archs map[string]string // of programs, by path in the root filesystem
	links map[string]string // symlinks that may lead to /bin/sh
	top   []string          // names at the top
	seen  bool              // a metadata.yaml
}

// prefix is where the root filesystem is in a unified image.
const prefix = "rootfs/"

func (i *inspector) entry(e *archive.Entry, r io.Reader) error {
	i.Entries++
	i.Bytes += e.Size
	if e.ModTime.After(i.Newest) {
		i.Newest = e.ModTime
	}
	if i.outside == nil {
		i.outside = checkLink(e)
	}
	switch {
	case e.Path == "metadata.yaml":
		return i.metadata(e, r)
	case e.Path == "rootfs" && e.Type == archive.Dir, strings.HasPrefix(e.Path, prefix):
		i.Rootfs = true
	case e.Path == "rootfs.img":
		i.vm = true
	case e.Path == "backup/index.yaml" && i.backup == "":
		i.backup = ofInstance
	case e.Path == "backup/volume", strings.HasPrefix(e.Path, "backup/volume/"):
		i.backup = ofVolume
	case path.Base(e.Path) == "metadata.yaml" && i.stray == "":
		i.stray = e.Path
	}
	top, _, _ := strings.Cut(e.Path, "/")
	if !slices.Contains(i.top, top) && len(i.top) < 1000 {
		i.top = append(i.top, top)
	}
	return i.system(strings.TrimPrefix(e.Path, prefix), e, r)
}

func (i *inspector) metadata(e *archive.Entry, r io.Reader) error {
	switch {
	case e.Type != archive.Regular:
		return kiln.Errorf(kiln.Invalid, "metadata.yaml is not a regular file")
	case i.seen:
		return kiln.Errorf(kiln.Invalid, "metadata.yaml is there twice")
	case e.Size > MaxMetadata:
		return kiln.Errorf(kiln.Invalid, "metadata.yaml is larger than %d bytes", MaxMetadata)
	}
	i.seen = true
	var err error
	i.Metadata, err = io.ReadAll(r)
	return err
}

// system looks at the files that tell what system a tree is.
func (i *inspector) system(p string, e *archive.Entry, r io.Reader) error {
	switch e.Type {
	case archive.CharDevice, archive.BlockDevice:
		if !strings.HasPrefix(p, "dev/") {
			if i.nodes++; i.nodes == 1 {
				i.node = p
			}
		}
	case archive.Symlink:
		i.hosts = i.hosts || p == "etc/hosts"
		if path.Base(p) == "sh" && len(i.links) < maxLinks {
			i.links[p] = e.Link
		}
	case archive.Regular:
		switch p {
		case "etc/hosts":
			i.hosts = i.hosts || e.Size > 0
			return nil
		case "etc/os-release", "usr/lib/os-release":
			if e.Size > 64<<10 {
				return nil
			}
			b, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			if i.OSRelease == nil || p == "etc/os-release" { // which comes before the other
				i.OSRelease = parseOSRelease(b)
			}
			return nil
		}
		switch path.Dir(p) {
		case "bin", "usr/bin", "sbin", "usr/sbin":
			return i.program(p, r)
		}
	}
	return nil
}

// maxLinks bounds how many symlinks called sh are remembered.
const maxLinks = 1000

// maxPrograms bounds how many programs are looked at, since the shell can be a
// link to any of them.
const maxPrograms = 10_000

func (i *inspector) program(p string, r io.Reader) error {
	if len(i.archs) >= maxPrograms {
		return nil
	}
	head := make([]byte, 64) // a 64-bit ELF header
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if n < 20 || string(head[:4]) != elf.ELFMAG {
		return nil
	}
	order := elf.Data(head[elf.EI_DATA])
	machine := elf.Machine(head[18]) | elf.Machine(head[19])<<8
	if order == elf.ELFDATA2MSB {
		machine = elf.Machine(head[19]) | elf.Machine(head[18])<<8
	}
	if arch := kiln.ELFArch(machine, elf.Class(head[elf.EI_CLASS]), order); arch != "" {
		if i.archs == nil {
			i.archs = map[string]string{}
		}
		i.archs[p] = arch
	}
	return nil
}

// finish draws conclusions from all entries.
func (i *inspector) finish() {
	i.Tree = !i.Rootfs && (slices.Contains(i.top, "etc") || slices.Contains(i.top, "usr") ||
		slices.Contains(i.top, "bin") || slices.Contains(i.top, "sbin"))
	i.Arch = i.shellArch()
	if i.Tree || i.Rootfs || i.Metadata != nil { // with a directory of that name
		i.backup = ""
	}
}

// shellArch gives the architecture of /bin/sh, or else of most programs.
func (i *inspector) shellArch() string {
	for _, p := range []string{"bin/sh", "usr/bin/sh"} {
		for range 8 {
			if arch := i.archs[p]; arch != "" {
				return arch
			}
			link, ok := i.links[p]
			if !ok {
				break
			}
			if !path.IsAbs(link) {
				link = path.Join("/", path.Dir(p), link)
			}
			p = strings.TrimPrefix(path.Clean(link), "/")
		}
	}
	count := map[string]int{}
	best := ""
	for _, arch := range i.archs {
		if count[arch]++; count[arch] > count[best] || count[arch] == count[best] && arch < best {
			best = arch
		}
	}
	return best
}
