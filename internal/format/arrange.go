package format

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// A Layout says what the files of an image are to it.
type Layout struct {
	Roles    []kiln.Role // of each file, as they came
	Metadata *Metadata
	// Synthesised is a metadata tarball to put in front of the files: they
	// were a root filesystem without one.
	Synthesised []byte
	// Warnings say what of the image instances won't have as it is in the files.
	Warnings []string
}

// Swapped reports whether the files came as rootfs, metadata.
func (l Layout) Swapped() bool { return len(l.Roles) == 2 && l.Roles[0] == kiln.Rootfs }

// Arrange decides from what the files are which image they make. The error is
// Invalid, or Unsupported for virtual machines, and says which file is what.
func Arrange(facts []Facts) (Layout, error) {
	for n, f := range facts {
		if f.vm {
			return Layout{}, kiln.Errorf(kiln.Unsupported, "%s is an image of a virtual machine; kiln runs system containers",
				which(n, facts))
		}
		switch f.backup {
		case ofInstance:
			return Layout{}, kiln.Errorf(kiln.Invalid, "%s is a backup of an instance and no image; make an instance of it "+
				"with: kiln import FILE", which(n, facts))
		case ofVolume:
			return Layout{}, kiln.Errorf(kiln.Invalid, "%s is a backup of a storage volume and no image; make a volume of it "+
				"with: kiln storage volume import default FILE", which(n, facts))
		}
	}
	var l Layout
	var err error
	switch len(facts) {
	case 1:
		l, err = arrangeOne(facts[0])
	case 2:
		l, err = arrangeTwo(facts)
	default:
		err = kiln.Errorf(kiln.Invalid, "an image has one or two files, not %d", len(facts))
	}
	if err == nil {
		l.warn(facts)
	}
	return l, err
}

func (l *Layout) warn(facts []Facts) {
	l.Warnings = slices.Clone(l.Metadata.Warnings)
	for _, f := range facts {
		if f.nodes > 0 {
			l.Warnings = append(l.Warnings, fmt.Sprintf("device nodes outside of /dev are left out: %.100q, %d in all", f.node,
				f.nodes))
		}
	}
}

func which(n int, facts []Facts) string {
	if len(facts) == 1 {
		return "the file"
	}
	return [...]string{"the first file", "the second file"}[n]
}

func arrangeOne(f Facts) (Layout, error) {
	switch {
	case f.Metadata != nil && f.Rootfs && f.outside != nil:
		return Layout{}, f.outside
	case f.Metadata != nil && f.Rootfs:
		return withMetadata(f.Metadata, kiln.Unified)
	case f.Metadata != nil:
		return Layout{}, kiln.Errorf(kiln.Invalid, "this is the metadata file of a split image; give the file with its "+
			"root filesystem as well")
	case f.stray != "":
		return Layout{}, kiln.Errorf(kiln.Invalid, "Metadata tarball is missing metadata.yaml: there is one at %q, so the "+
			"archive has the leading directory %q; pack it again from inside of that", f.stray, path.Dir(f.stray))
	case f.Rootfs:
		return Layout{}, kiln.Errorf(kiln.Invalid, "Metadata tarball is missing metadata.yaml: there is a root filesystem "+
			"below rootfs/, but no metadata.yaml beside it")
	case f.Tree:
		return synthesise(f)
	}
	return Layout{}, kiln.Errorf(kiln.Invalid, "this is no image: there is neither a metadata.yaml nor a root "+
		"filesystem in it")
}

func arrangeTwo(facts []Facts) (Layout, error) {
	a, b := facts[0], facts[1]
	switch {
	case a.Metadata != nil && b.Metadata != nil:
		return Layout{}, kiln.Errorf(kiln.Invalid, "both files have a metadata.yaml; a split image is one file with the "+
			"metadata and one with the root filesystem")
	case a.Metadata == nil && b.Metadata == nil && a.Tree && b.Tree:
		return Layout{}, kiln.Errorf(kiln.Invalid, "Metadata tarball is missing metadata.yaml: both files are root "+
			"filesystems")
	case a.Metadata == nil && b.Metadata == nil:
		for n, f := range facts {
			if f.stray != "" {
				return Layout{}, kiln.Errorf(kiln.Invalid, "Metadata tarball is missing metadata.yaml: %s has one at %q, below "+
					"a leading directory; pack it again from inside of that", which(n, facts), f.stray)
			}
		}
		return Layout{}, kiln.Errorf(kiln.Invalid, "Metadata tarball is missing metadata.yaml: neither file has one")
	case a.Metadata != nil && a.Rootfs, b.Metadata != nil && b.Rootfs:
		n := 0
		if b.Metadata != nil {
			n = 1
		}
		return Layout{}, kiln.Errorf(kiln.Invalid, "%s is a whole image by itself (metadata and root filesystem); import "+
			"it alone", which(n, facts))
	case a.Metadata != nil && !b.Tree:
		return Layout{}, kiln.Errorf(kiln.Invalid, "the first file is the metadata, but the second has no root filesystem "+
			"at its top (no etc, usr or bin)")
	case b.Metadata != nil && !a.Tree:
		return Layout{}, kiln.Errorf(kiln.Invalid, "the second file is the metadata, but the first has no root filesystem "+
			"at its top (no etc, usr or bin)")
	case a.Metadata != nil && a.outside != nil:
		return Layout{}, a.outside
	case b.Metadata != nil && b.outside != nil:
		return Layout{}, b.outside
	case a.Metadata != nil:
		return withMetadata(a.Metadata, kiln.Metadata, kiln.Rootfs)
	}
	return withMetadata(b.Metadata, kiln.Rootfs, kiln.Metadata)
}

func withMetadata(b []byte, roles ...kiln.Role) (Layout, error) {
	m, err := ParseMetadata(b)
	return Layout{Roles: roles, Metadata: m}, err
}

// synthesise writes the metadata of a bare root filesystem. It depends on the
// tree alone: the same tree gives the same image on every machine and day.
func synthesise(f Facts) (Layout, error) {
	if f.Arch == "" {
		return Layout{}, kiln.Errorf(kiln.Invalid, "this is a root filesystem without metadata, and no program in it "+
			"tells its architecture; add a metadata.yaml")
	}
	created := f.Newest.Unix()
	if created <= 0 {
		created = 1
	}
	os := strings.ToLower(f.OSRelease["ID"])
	release := cmp.Or(f.OSRelease["VERSION_CODENAME"], f.OSRelease["VERSION_ID"])
	m := &Metadata{Architecture: f.Arch, CreationDate: created, Properties: map[string]string{"architecture": f.Arch}}
	for key, value := range map[string]string{
		"os": os, "release": release, "version": f.OSRelease["VERSION_ID"],
		"description": strings.TrimSpace(fmt.Sprintf("%s (%s)", cmp.Or(f.OSRelease["PRETTY_NAME"], "Linux"), f.Arch)),
	} {
		if value != "" {
			m.Properties[key] = value
		}
	}
	files := ownNames(m, f)
	text, err := m.YAML()
	if err != nil {
		return Layout{}, err
	}
	files["metadata.yaml"] = string(text)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) { // metadata.yaml is the first
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(created, 0),
			Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return Layout{}, err
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			return Layout{}, err
		}
	}
	if err := w.Close(); err != nil {
		return Layout{}, err
	}
	return Layout{Roles: []kiln.Role{kiln.Rootfs}, Metadata: m, Synthesised: b.Bytes()}, nil
}

// ownNames gives metadata the templates, whose files it returns, by which each instance
// has its own name: what makes root filesystems leaves in them that of the host it ran
// on, and no hosts(5).
func ownNames(m *Metadata, f Facts) map[string]string {
	made := []string{"create", "copy"}
	m.Templates = map[string]*Template{"/etc/hostname": {When: made, Template: "hostname.tpl"}}
	files := map[string]string{"templates/hostname.tpl": "{{ container.name }}\n"}
	if !f.hosts { // what somebody wrote stays
		m.Templates["/etc/hosts"] = &Template{When: made, Template: "hosts.tpl"}
		files["templates/hosts.tpl"] = "127.0.0.1\tlocalhost\n127.0.1.1\t{{ container.name }}\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	}
	return files
}
