// Package backup reads and writes backups of instances and of custom storage volumes as LXD
// has them: one tarball with an index and whole trees, of the instance or the volume and of
// its snapshots. It keeps them, too, in a directory.
//
// The package doesn't know what is in an instance, where trees are, or who may have a
// backup. What it reads is treated as hostile.
package backup

import (
	"path"
	"strings"
)

// Where things are in the backup of an instance, as LXD 5.0 writes it:
//
//	backup/index.yaml             what is in it, and the configuration of all that
//	backup/snapshots/<name>/…     of each snapshot, oldest first
//	backup/container/…            of the instance itself
//
// and in each of the last two rootfs/, metadata.yaml, templates/ and backup.yaml, which
// says of the instance again what the index does. Of a storage volume there are
//
//	backup/volume-snapshots/<name>/…
//	backup/volume/…
//
// with nothing but its files. The index comes first: it also says which ids the owners of
// the files are, see idMap.
const (
	indexPath     = "backup/index.yaml"
	machineDir    = "backup/virtual-machine"
	rootDir       = "rootfs"
	metadataFile  = "metadata.yaml"
	templatesDir  = "templates"
	instanceState = "backup.yaml"
)

// A layout is where the files are in a backup, by what it is of.
type layout struct {
	of             string // what it is of
	own, snapshots string // the directory of that, and the one with those of the snapshots
	root           string // the tree within each of these; ".": that is all of it
}

var (
	instanceLayout = layout{"instance", "backup/container", "backup/snapshots", rootDir}
	volumeLayout   = layout{"storage volume", "backup/volume", "backup/volume-snapshots", "."}
)

// A place is where an entry of a backup belongs.
type place struct {
	snapshot string // "": what the backup is of itself
	rest     string // below its directory; "." is that
}

// placeOf gives the place of an entry; ok is false for what belongs to no tree.
func (l layout) placeOf(name string) (p place, ok bool) {
	if rest, ok := below(name, l.own); ok {
		return place{"", rest}, true
	}
	rest, ok := below(name, l.snapshots)
	if !ok || rest == "." {
		return place{}, false
	}
	snap, rest, _ := strings.Cut(rest, "/")
	return place{snap, path.Clean(rest)}, true
}

// below gives the rest of a clean path that is a directory or in it.
func below(name, dir string) (rest string, ok bool) {
	if name == dir {
		return ".", true
	}
	if dir == "." {
		return name, true
	}
	return strings.CutPrefix(name, dir+"/")
}
