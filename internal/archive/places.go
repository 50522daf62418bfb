package archive

import (
	"hash/maphash"
	"path"
	"strings"

	"github.com/kiln-containers/kiln"
)

// places remembers what is where in a tree while it comes. Of each entry it keeps the
// type, under the hash of its path, and little more: that stays small with a million
// of them. Only real paths are in it, so below a path that is a directory here no
// symlink is left.
type places struct {
	seed    maphash.Seed
	types   map[uint64]place
	links   map[uint64]string    // targets of symlinks
	devices map[uint64][2]uint32 // major and minor
}

// A place is the Type of what is there; full is added for a directory that has
// something in it.
type place byte

const full place = 0x80

func newPlaces() *places {
	return &places{seed: maphash.MakeSeed(), types: map[uint64]place{}, links: map[uint64]string{},
		devices: map[uint64][2]uint32{}}
}

func (p *places) key(name string) uint64 { return maphash.String(p.seed, name) }

func (p *places) at(name string) (Type, bool) {
	was, ok := p.types[p.key(name)]
	return Type(was &^ full), ok
}

// holdsSomething reports whether a directory has entries.
func (p *places) holdsSomething(name string) bool { return p.types[p.key(name)]&full != 0 }

// set remembers an entry, and the directories above it that were no entries: made is how many
// of those are new.
func (p *places) set(e *Entry) (made int) {
	key := p.key(e.Path)
	is, target := e.Type, e.Link
	if is == Hardlink {
		from := p.key(e.Link)
		is, target = Type(p.types[from]), p.links[from]
	}
	delete(p.links, key)
	delete(p.devices, key)
	switch is {
	case Symlink:
		p.links[key] = target
	case CharDevice, BlockDevice:
		p.devices[key] = [2]uint32{e.Major, e.Minor}
	}
	p.types[key] = p.types[key]&full | place(is) // only a directory that comes again is full
	dir := e.Path
	for at := strings.LastIndexByte(dir, '/'); at >= 0; at = strings.LastIndexByte(dir, '/') {
		dir = dir[:at]
		key := p.key(dir)
		was, ok := p.types[key]
		p.types[key] = place(Dir) | full
		if ok && was&full != 0 {
			break // and so are the ones above it
		}
		if !ok {
			made++
		}
	}
	return made
}

// maxFollowed is how many symlinks a path may lead through, as Linux has it.
const maxFollowed = 40

// real gives the path of a directory without symlinks, as a program that is confined
// to the tree would find it: below "rootfs" that is the tree, since unified images
// have theirs there. What is missing of it is a directory that is yet to be made.
// followed is the length of the targets of the symlinks.
func (p *places) real(name string) (dir string, followed int64, err error) {
	if is, ok := p.at(name); name == "." || ok && is == Dir {
		return name, 0, nil
	}
	links := 0
	for dir = "."; name != ""; {
		var part string
		part, name, _ = strings.Cut(name, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			if dir == rootOf(dir) {
				return "", 0, kiln.Errorf(kiln.Invalid, "it goes through a symlink that leads out of the tree")
			}
			dir = path.Dir(dir)
			continue
		}
		next := path.Join(dir, part)
		switch is, ok := p.at(next); {
		case !ok, is == Dir:
			dir = next
		case is != Symlink:
			return "", 0, kiln.Errorf(kiln.Invalid, "it goes through %q, which is not a directory", next)
		case links == maxFollowed:
			return "", 0, kiln.Errorf(kiln.Invalid, "it goes through more than %d symlinks, the last is %q", maxFollowed, next)
		default:
			links++
			target := p.links[p.key(next)]
			followed += int64(len(target))
			if path.IsAbs(target) {
				dir = rootOf(next)
			}
			name = target + "/" + name
		}
	}
	return dir, followed, nil
}

// rootOf gives the root directory that a file has for its root.
func rootOf(name string) string {
	if name == treeDir || strings.HasPrefix(name, treeDir+"/") {
		return treeDir
	}
	return "."
}

// treeDir is where a unified image has its root filesystem.
const treeDir = "rootfs"
