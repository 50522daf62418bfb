package format

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestManyLinks has a tree of nothing but symlinks that could lead to the shell.
func TestManyLinks(t *testing.T) {
	i := inspector{links: map[string]string{}}
	for n := range 10 * maxLinks {
		e := &archive.Entry{Path: fmt.Sprintf("rootfs/%d/sh", n), Type: archive.Symlink, Link: "busybox"}
		if err := i.entry(e, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(i.links) > maxLinks {
		t.Errorf("%d links are remembered", len(i.links))
	}
}

// TestHardLinks has hard links between the parts of an image, which are unpacked one by one.
func TestHardLinks(t *testing.T) {
	link := func(name, to string) formattest.File {
		return formattest.File{Name: name, Type: tar.TypeLink, Link: to}
	}
	for what, c := range map[string]struct {
		link formattest.File
		want string // part of the error
	}{
		"in rootfs":               {link("rootfs/etc/p", "rootfs/etc/passwd"), ""},
		"in rootfs, absolute":     {link("rootfs/etc/p", "/rootfs/etc/passwd"), ""},
		"in templates":            {link("templates/again.tpl", "templates/hostname.tpl"), ""},
		"beside both":             {link("more", "rootfs/etc/passwd"), ""},
		"rootfs to metadata":      {link("rootfs/etc/p", "metadata.yaml"), `"rootfs/etc/p": hard link to "metadata.yaml"`},
		"rootfs to a template":    {link("rootfs/etc/p", "templates/hostname.tpl"), `outside of rootfs/`},
		"a template to rootfs":    {link("templates/p.tpl", "rootfs/etc/passwd"), `outside of templates/`},
		"out through a symlink":   {link("rootfs/etc/p", "to-templates/hostname.tpl"), `outside of rootfs/`},
		"rootfs through symlinks": {link("rootfs/etc/p", "rootfs/to-etc/passwd"), ""},
	} {
		files := append(formattest.Meta(), formattest.Rootfs(t, "rootfs/")...)
		files = append(files, formattest.File{Name: "to-templates", Type: tar.TypeSymlink, Link: "templates"},
			formattest.File{Name: "rootfs/to-etc", Type: tar.TypeSymlink, Link: "/etc"}, c.link)
		b := formattest.Tar(t, files...)
		_, err := Arrange([]Facts{inspect(t, b)})
		switch {
		case c.want != "":
			if !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", what, err, c.want)
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", what, err)
			continue
		}
		rootfs, meta := dirWriter(t), dirWriter(t)
		err = Unpack(t.Context(), &one{Reader: bytes.NewReader(b)}, archive.Limits{}, rootfs, meta)
		if err := errors.Join(err, rootfs.Close(), meta.Close()); err != nil {
			t.Errorf("%s: inspected, but not unpacked: %v", what, err)
		}
	}
}

// TestHardLinksOfSplit has hard links in the files of a split image.
func TestHardLinksOfSplit(t *testing.T) {
	rootfs := inspect(t, formattest.Tar(t, append(formattest.Rootfs(t, ""),
		formattest.File{Name: "rootfs/", Type: tar.TypeDir, Mode: 0o755},
		formattest.File{Name: "rootfs/p", Type: tar.TypeLink, Link: "etc/passwd"})...))
	rootfs.Rootfs, rootfs.Tree = false, true // a system that has a directory of this name
	good := inspect(t, formattest.Tar(t, append(formattest.Meta(),
		formattest.File{Name: "templates/x", Type: tar.TypeLink, Link: "templates/hostname.tpl"})...))
	bad := inspect(t, formattest.Tar(t, append(formattest.Meta(), formattest.File{Name: "other"},
		formattest.File{Name: "templates/x", Type: tar.TypeLink, Link: "other"})...))
	for _, swap := range []bool{false, true} {
		for _, meta := range []Facts{good, bad} {
			files := []Facts{meta, rootfs}
			if swap {
				files = []Facts{rootfs, meta}
			}
			_, err := Arrange(files)
			if (err != nil) != (meta.outside != nil) || err != nil && !errors.Is(err, kiln.Invalid) {
				t.Errorf("swapped %v: %v, want %v", swap, err, meta.outside)
			}
		}
	}
}

func dirWriter(t *testing.T) *archive.DirWriter {
	t.Helper()
	w, err := archive.NewDirWriter(t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
