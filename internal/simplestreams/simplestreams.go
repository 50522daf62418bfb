// Package simplestreams reads and writes the documents of simplestreams, which
// public image servers are made of: an index names lists of products, a product
// has versions, a version has files.
//
// Documents come from untrusted servers: what is wrong with one part costs that part, and
// what is handed out was checked. The package works on bytes alone. It doesn't
// know where they come from or go to, what time it is, or what is in the files.
package simplestreams

import (
	"cmp"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
)

// Where a server has its index, and where Write says that the products are; from
// the base of the server.
const (
	IndexPath    = "streams/v1/index.json"
	ProductsPath = "streams/v1/images.json"
)

// The largest documents that are read, in bytes.
const (
	MaxIndex    = 16 << 20
	MaxProducts = 64 << 20
)

// MaxImages is how many images a list of products can have, and a server in all its
// lists.
const MaxImages = 1 << 16

// What else a document can't have more of. A byte of JSON must not become a
// hundred bytes of memory.
const (
	maxLists        = 256     // lists of products in an index
	maxAliases      = 1 << 18 // aliases in a list of products
	maxRequirements = 16      // of one product
	maxText         = 256     // bytes of a name or property; the rest is cut off
	maxPath         = 1024    // bytes
	maxSize         = 1 << 50 // bytes of a file
)

// The kinds of files: the field "ftype" of an item.
const (
	ftypeIncus         = "incus.tar.xz" // metadata
	ftypeLXD           = "lxd.tar.xz"   // the same
	ftypeSquashfs      = "squashfs"
	ftypeRootTar       = "root.tar.xz"
	ftypeIncusCombined = "incus_combined.tar.gz" // a unified image, however compressed
	ftypeLXDCombined   = "lxd_combined.tar.gz"   // the same
	ftypeDiskKVM       = "disk-kvm.img"
	ftypeUEFI          = "uefi1.img"
	ftypeDisk          = "disk1.img"
	ftypeDelta         = "squashfs.vcdiff"
)

// bodies are the kinds of files that make an image of their own, with or without
// a metadata file: containers first, of those the preferred first.
var bodies = [...]string{
	ftypeSquashfs, ftypeRootTar, ftypeIncusCombined, ftypeLXDCombined, ftypeDiskKVM, ftypeUEFI, ftypeDisk,
}

// The types of images, as the API has them.
const (
	container      = "container"
	virtualMachine = "virtual-machine"
)

// A File is one file on a server.
type File struct {
	Name   string // the last element of Path; for people only
	Path   string // from the base of the server: clean, relative, without ".."
	FType  string
	Size   int64 // bytes; 0 if the document doesn't say
	SHA256 kiln.Fingerprint
}

// A Delta makes the squashfs of an image from that of an older version of its
// product. It is in the format VCDIFF.
type Delta struct {
	File
	Base string // name of the older version
}

// An Image is one way to get one version of a product: a metadata file with a
// root file, or a file that is both.
type Image struct {
	// Fingerprint is zero for an image without a metadata file: it is known
	// when there is one.
	Fingerprint  kiln.Fingerprint
	Type         string // "container" or "virtual-machine"
	Architecture string // canonical
	Properties   map[string]string
	Signature    string   // unchecked; see kiln.Image
	Aliases      []string // plain ones; Names has the other form too
	Product      string   // key of the product
	Version      string   // name of the version, also called serial
	CreatedAt    time.Time
	ExpiresAt    time.Time // zero: never
	Size         int64     // bytes of all its files; 0 if the document doesn't say
	Files        []File    // in fingerprint order
	Deltas       []Delta   // other ways to the last file
}

// body is the kind of file that img was made for.
func (img Image) body() string { return img.Files[len(img.Files)-1].FType }

// Products is a list of products that was read.
type Products struct {
	images []Image
}

// Images gives what can be used of the list, by operating system, release,
// variant, newest version, architecture and preferred kind of file. An alias is at
// the newest image of its type and architecture only.
func (p *Products) Images() []Image { return p.images }

// BaseOf gives the fingerprint of the image whose squashfs a delta of img starts
// from. There is none if the list doesn't have that version any more.
func (p *Products) BaseOf(img Image, d Delta) (kiln.Fingerprint, bool) {
	for _, base := range p.images {
		if base.Product == img.Product && base.Version == d.Base && base.body() == ftypeSquashfs {
			return base.Fingerprint, !base.Fingerprint.IsZero()
		}
	}
	return kiln.Fingerprint{}, false
}

// arrange puts images into the order of Images and takes an alias that several
// products have from all but the newest version.
func arrange(images []Image) {
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(
			cmp.Compare(a.Properties["os"], b.Properties["os"]),
			cmp.Compare(a.Properties["release"], b.Properties["release"]),
			cmp.Compare(a.Properties["variant"], b.Properties["variant"]),
			cmp.Compare(b.Version, a.Version),
			cmp.Compare(a.Architecture, b.Architecture),
			cmp.Compare(slices.Index(bodies[:], a.body()), slices.Index(bodies[:], b.body())),
			cmp.Compare(a.Product, b.Product),
		)
	})
	type slot struct{ alias, kind, arch string }
	newest := map[slot]int{}
	for i, img := range images {
		for _, a := range img.Aliases {
			s := slot{a, img.Type, img.Architecture}
			if j, ok := newest[s]; !ok || images[j].Version < img.Version {
				newest[s] = i
			}
		}
	}
	for i := range images {
		img := &images[i]
		img.Aliases = slices.DeleteFunc(img.Aliases, func(a string) bool {
			return newest[slot{a, img.Type, img.Architecture}] != i
		})
	}
}

// Beside is where a server has what makes a file cheaper to move, from the base of
// the server: kind "index" tells its parts, "patch" makes it of the file whose hash
// base is. The convention is kiln's; others don't have such files.
func Beside(path, kind string, base kiln.Fingerprint) string {
	if kind == "patch" {
		return path + ".kpatch-" + base.String()
	}
	return path + ".kidx"
}
