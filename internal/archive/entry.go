// Package archive turns archives into trees and trees into archives: tar under
// every compressor, squashfs, and the read-only erofs files that kiln runs
// instances from. Every archive is treated as hostile. The package doesn't know
// what an image is, where its files are kept, or who asks.
package archive

import (
	"io"
	"time"
)

// A Type is the type of an entry of a tree.
type Type byte

// The types of entry.
const (
	Dir Type = iota
	Regular
	Symlink
	Hardlink // Link is the path of an earlier entry
	Fifo
	Socket
	CharDevice
	BlockDevice
)

// An Entry is one file of a tree, already checked: Path is relative, clean,
// separated by slashes and free of NUL; it has no symlink among its parents, since
// those that the archive led through are followed. The tree's own root directory has
// the Path ".".
type Entry struct {
	Path    string
	Type    Type
	Mode    uint32 // permission bits with setuid, setgid and sticky (07777)
	UID     uint32 // as in the archive
	GID     uint32
	Size    int64 // bytes, of Regular entries
	ModTime time.Time
	Link    string            // target of a Symlink (as it is) or of a Hardlink (clean)
	Xattrs  map[string]string // only the ones that may be kept
	Links   Type              // of what a Hardlink is another name of
	Major   uint32            // of devices
	Minor   uint32
}

// A TreeWriter receives the entries of one tree. A parent may come after its
// children or not at all; it is then made 0755 root:root.
type TreeWriter interface {
	// Add writes one entry. r gives the content of a Regular entry and may
	// not be used after Add returns. e may not be kept.
	Add(e *Entry, r io.Reader) error
	// Close finishes the tree. Only after it returned nil is the tree whole;
	// it may not be on stable storage yet.
	Close() error
}
