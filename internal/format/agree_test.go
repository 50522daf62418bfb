package format

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/archive/erofs"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// words makes entries: "d/" a directory, "l->t" a symlink, "h=>t" a hard link, "n!" a
// device, "p|" a fifo, "f" a file.
func words(text string) []formattest.File {
	var files []formattest.File
	for _, word := range strings.Fields(text) {
		f := formattest.File{Name: word, Body: word}
		switch {
		case strings.Contains(word, "->"):
			f.Name, f.Link, _ = strings.Cut(word, "->")
			f.Type = tar.TypeSymlink
		case strings.Contains(word, "=>"):
			f.Name, f.Link, _ = strings.Cut(word, "=>")
			f.Type = tar.TypeLink
		case strings.HasSuffix(word, "/"):
			f.Type = tar.TypeDir
		case strings.HasSuffix(word, "!"):
			f.Name, f.Type = strings.TrimSuffix(word, "!"), tar.TypeChar
		case strings.HasSuffix(word, "|"):
			f.Name, f.Type = strings.TrimSuffix(word, "|"), tar.TypeFifo
		}
		if f.Type != 0 {
			f.Body = ""
		}
		files = append(files, f)
	}
	return files
}

// imports does what an import does with an image of one file.
func imports(ctx context.Context, b []byte) error {
	facts, err := Inspect(ctx, bytes.NewReader(b), nil, archive.Limits{Bytes: 1 << 30, Entries: 10_000})
	if err == nil {
		_, err = Arrange([]Facts{facts})
	}
	return err
}

// launches does what the first launch does, with both writers of trees.
func launches(t *testing.T, b []byte) error {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "tree"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var errs []error
	for _, rootfs := range []archive.TreeWriter{erofs.NewWriter(f, [16]byte{}), dirWriter(t)} {
		meta := dirWriter(t)
		err := Unpack(t.Context(), &one{Reader: bytes.NewReader(b)}, archive.Limits{}, rootfs, meta)
		errs = append(errs, err, rootfs.Close(), meta.Close())
	}
	return errors.Join(errs...)
}

// TestImportAgrees has images with what is hard to unpack: import says so, or launch
// does it.
func TestImportAgrees(t *testing.T) {
	for text, ok := range map[string]bool{
		"rootfs/a rootfs/b=>rootfs/a":                                   true,
		"rootfs/n! rootfs/m=>rootfs/n rootfs/o=>rootfs/m":               true,
		"rootfs/n! rootfs/n rootfs/m=>rootfs/n":                         true,
		"rootfs/n rootfs/n! rootfs/m=>rootfs/n":                         true,
		"rootfs/s->x rootfs/t=>rootfs/s rootfs/t/y":                     true,
		"rootfs/p| rootfs/q=>rootfs/p":                                  true,
		"rootfs/usr/ rootfs/lib->usr rootfs/lib/x rootfs/lib/":          true,
		"rootfs/a templates/x=>rootfs/a":                                false,
		"a rootfs/x=>a":                                                 false,
		"a rootfs/x=>a rootfs/x":                                        false,
		"templates/x rootfs/x=>templates/x":                             false,
		"templates/x templates/y=>templates/x":                          true,
		"templates/x templates/x/ templates/x/y":                        true,
		"templates/x/ templates/x templates/x/":                         true,
		"templates/x->hostname.tpl":                                     true,
		"templates/x! templates/y=>templates/x templates/y":             true,
		"templates/x| templates/y=>templates/x":                         true,
		"templates/s->x templates/y=>templates/s":                       true,
		"t->templates t/x t/y=>t/x":                                     true,
		"rootfs/d/ rootfs/d":                                            true,
		"rootfs/d/e rootfs/d":                                           false,
		"rootfs/x->.. rootfs/x/y":                                       false,
		"x rootfs/l->/x rootfs/l/":                                      true,
		"templates/d/ templates/d->x templates/d/ templates/d/y":        true,
		"rootfs/" + strings.Repeat("d/", 500) + " rootfs/l=>rootfs/d/x": false,
	} {
		b := formattest.Tar(t, append(formattest.Meta(), append([]formattest.File{{Name: "rootfs/", Type: tar.TypeDir}},
			words(text)...)...)...)
		imported := imports(t.Context(), b)
		if ok != (imported == nil) || imported != nil && !errors.Is(imported, kiln.Invalid) {
			t.Errorf("%.80s: imported: %v", text, imported)
		}
		if imported == nil {
			if err := launches(t, b); err != nil {
				t.Errorf("%.80s: imported, and not launched: %v", text, err)
			}
		}
	}
}

// FuzzImportAgrees looks for images that import takes and launch refuses.
func FuzzImportAgrees(f *testing.F) {
	f.Add("rootfs/a rootfs/b=>rootfs/a templates/x templates/x/")
	f.Add("rootfs/s->x rootfs/t=>rootfs/s rootfs/t/y rootfs/n! rootfs/m=>rootfs/n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 || strings.Contains(text, "\x00") {
			t.Skip()
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, file := range append([]formattest.File{{Name: "metadata.yaml", Body: formattest.Metadata},
			{Name: "rootfs/", Type: tar.TypeDir}}, words(text)...) {
			h := &tar.Header{Name: file.Name, Linkname: file.Link, Typeflag: file.Type, Size: int64(len(file.Body))}
			if w.WriteHeader(h) != nil {
				return
			}
			io.WriteString(w, file.Body)
		}
		if w.Close() != nil || imports(t.Context(), b.Bytes()) != nil {
			return
		}
		if err := launches(t, b.Bytes()); err != nil {
			t.Errorf("%q: imported, and not launched: %v", text, err)
		}
	})
}
