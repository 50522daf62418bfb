package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// parse makes files of words: "d/" a directory of mode 0700, "l->t" a symlink,
// "h=>t" a hard link, "n!" a device, "f" a file with its name in it.
func parse(words string) []file {
	var files []file
	for n, word := range strings.Fields(words) {
		f := file{name: word, body: fmt.Sprint(n, word), mode: 0o644}
		switch {
		case strings.Contains(word, "->"):
			f.name, f.link, _ = strings.Cut(word, "->")
			f.typ, f.body = tar.TypeSymlink, ""
		case strings.Contains(word, "=>"):
			f.name, f.link, _ = strings.Cut(word, "=>")
			f.typ, f.body = tar.TypeLink, ""
		case strings.HasSuffix(word, "/"):
			f.typ, f.body, f.mode = tar.TypeDir, "", 0o700
		case strings.HasSuffix(word, "!"):
			f.name, f.typ, f.body = strings.TrimSuffix(word, "!"), tar.TypeChar, ""
		}
		files = append(files, f)
	}
	return files
}

// unparse gives the words for a tree: what is in files, and the modes of directories.
func unparse(t *testing.T, dir string) string {
	t.Helper()
	var words []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		fi, err := d.Info()
		switch {
		case err != nil:
		case d.IsDir():
			name += fmt.Sprintf("/%o", fi.Mode().Perm())
		case d.Type() == os.ModeSymlink:
			link, _ := os.Readlink(p)
			name += "->" + link
		case fi.Mode().IsRegular():
			b, _ := os.ReadFile(p)
			name += "=" + string(b)
		default:
			name += "?"
		}
		words = append(words, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(words, " ")
}

// TestPlaces has archives that were put together of several: entries lead through
// links, or come again as something else.
func TestPlaces(t *testing.T) {
	for in, want := range map[string]string{
		// through links
		"usr/lib/ lib->usr/lib lib/x":           "lib->usr/lib usr/755 usr/lib/700 usr/lib/x=2lib/x",
		"usr/lib/ lib->/usr/lib lib/x":          "lib->/usr/lib usr/755 usr/lib/700 usr/lib/x=2lib/x",
		"lib->usr/lib lib/x usr/lib/":           "lib->usr/lib usr/755 usr/lib/700 usr/lib/x=1lib/x",
		"a/b/l->../../c a/b/l/x":                "a/755 a/b/755 a/b/l->../../c c/755 c/x=1a/b/l/x",
		"l->. l/x l/l/y":                        "l->. x=1l/x y=2l/l/y",
		"a->b b->c c/ a/d/x a/d/":               "a->b b->c c/700 c/d/700 c/d/x=3a/d/x",
		"r->/ a/ r/a/x":                         "a/700 a/x=2r/a/x r->/",
		"rootfs/usr/ rootfs/l->/usr rootfs/l/x": "rootfs/755 rootfs/l->/usr rootfs/usr/700 rootfs/usr/x=2rootfs/l/x",
		"t->rootfs/a rootfs/a/ t/x":             "rootfs/755 rootfs/a/700 rootfs/a/x=2t/x t->rootfs/a",
		"l->u u/x l/x":                          "l->u u/755 u/x=2l/x",
		"l->u u/ l/m->/v l/m/x":                 "l->u u/700 u/m->/v v/755 v/x=3l/m/x",
		"s->u h=>s u/ h/x":                      "h->u s->u u/700 u/x=3h/x",
		// hard links
		"usr/x l->usr y=>l/x":     "l->usr usr/755 usr/x=0usr/x y=0usr/x",
		"usr/x l->usr l/x=>usr/x": "l->usr usr/755 usr/x=0usr/x",
		"usr/x l->usr l/y=>/l/x":  "l->usr usr/755 usr/x=0usr/x usr/y=0usr/x",
		"a a=>a":                  "a=0a",
		"a b=>a c=>b":             "a=0a b=0a c=0a",
		"n! m=>n o=>m n":          "n=3n",
		"a d/ d=>a":               "a=0a d=0a",
		"a b a=>b":                "a=1b b=1b",
		// directories and links change places
		"usr/ lib->usr lib/ lib/x":  "lib->usr usr/700 usr/x=3lib/x",
		"usr/ lib->/usr lib/ lib/x": "lib->/usr usr/700 usr/x=3lib/x",
		"lib->usr lib/ lib/x":       "lib/700 lib/x=2lib/x",
		"lib->lib lib/ lib/x":       "lib/700 lib/x=2lib/x",
		"lib->../x lib/ lib/x":      "lib/700 lib/x=2lib/x",
		"u/ l->u l->v l/x":          "l->v u/700 v/755 v/x=3l/x",
		"u/ l->u l u/x":             "l=2l u/700 u/x=3u/x",
		"f l->f l/ l/x":             "f=0f l/700 l/x=3l/x",
		"lib/ lib->usr lib/x":       "lib->usr usr/755 usr/x=2lib/x",
		"lib/ lib->usr lib->var":    "lib->var",
		"d/ d d/ d/x":               "d/700 d/x=3d/x",
		"d d/ d/x":                  "d/700 d/x=2d/x",
		"d/e/ d/e d/e/ d/e/f":       "d/755 d/e/700 d/e/f=3d/e/f",
		"d/ d!":                     "",
		"d d!":                      "",
		"d->x d! d/":                "d/700",
		"p->/ p/":                   "p->/",
	} {
		b := makeTar(t, parse(in)...)
		if got := unparse(t, toDir(t, bytes.NewReader(b))); got != want {
			t.Errorf("%s: a directory of\n%s, want\n%s", in, got, want)
		}
		if got := unparse(t, toErofs(t, bytes.NewReader(b))); got != want {
			t.Errorf("%s: an erofs of\n%s, want\n%s", in, got, want)
		}
	}
}

// TestReplacedTimes looks at the times of directories that came again, or went.
func TestReplacedTimes(t *testing.T) {
	outside := t.TempDir()
	before, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	dir := toDir(t, bytes.NewReader(makeTar(t, file{name: "gone", typ: tar.TypeDir, mode: 0o700},
		file{name: "gone", typ: tar.TypeSymlink, link: outside}, file{name: "d", typ: tar.TypeDir}, file{name: "d/f"})))
	after, err := os.Stat(outside)
	if err != nil || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
		t.Errorf("%v: a directory outside has %v, had %v", err, after, before)
	}
	if fi, err := os.Stat(filepath.Join(dir, "d")); err != nil || !fi.ModTime().Equal(then) {
		t.Errorf("%v: %v", err, fi.ModTime())
	}
}

// TestFollowedBytes has few bytes of archive that take many steps to follow.
func TestFollowedBytes(t *testing.T) {
	files := []file{{name: "d/", typ: tar.TypeDir}, {name: "l0", typ: tar.TypeSymlink, link: strings.Repeat("d/../", 600)}}
	for i := range 15 {
		files = append(files, file{name: fmt.Sprintf("l%d", i+1), typ: tar.TypeSymlink, link: fmt.Sprintf("l%d/l0", i)})
	}
	for i := range 100 {
		files = append(files, file{name: fmt.Sprintf("l15/%d", i)})
	}
	b := makeTar(t, files...)
	if _, err := count(t.Context(), bytes.NewReader(b), archive.Limits{Entries: 1000}); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("%v, want TooLarge", err)
	}
	if n, err := count(t.Context(), bytes.NewReader(b), archive.Limits{}); err != nil || n != len(files) {
		t.Errorf("without a limit: %d, %v", n, err)
	}
}

// FuzzPlaces makes trees of arbitrary words with both writers: what Walk lets through,
// they take, and agree.
func FuzzPlaces(f *testing.F) {
	f.Add("usr/ lib->usr lib/ lib/x")
	f.Add("a d/ d=>a d->../.. d/x")
	f.Add("d/e/ d/e d!")
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > 200 || strings.Contains(in, "\x00") {
			t.Skip()
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, f := range parse(in) {
			h := &tar.Header{Name: f.name, Typeflag: f.typ, Linkname: f.link, Mode: f.mode, Size: int64(len(f.body))}
			if w.WriteHeader(h) != nil {
				return
			}
			io.WriteString(w, f.body)
		}
		if w.Close() != nil {
			return
		}
		dir := t.TempDir()
		d, err := archive.NewDirWriter(dir, 1)
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		err = archive.Walk(t.Context(), &b, archive.Limits{}, func(e *archive.Entry, r io.Reader) error {
			failed = d.Add(e, r)
			return failed
		})
		if closed := d.Close(); failed != nil || err == nil && closed != nil {
			t.Errorf("%q: let through, and then %v, %v", in, failed, closed)
		}
	})
}
