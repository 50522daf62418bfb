package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestMain runs a child that imports until it is killed. Properties are checked fewer
// times than rapid's hundred, since each time makes a database; -rapid.checks has the
// last word.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	project.Assume(project.Alone(project.Default))
	if dir := os.Getenv("KILN_STORE_CHILD"); dir != "" {
		s, _, err := openDir(context.Background(), dir)
		if err != nil {
			panic(err)
		}
		fmt.Println("ready")
		for i := 0; ; i++ {
			img := formattest.Tiny(&testing.B{}, fmt.Sprint(os.Getpid(), i))
			if _, err := s.Put(context.Background(), kiln.Image{Aliases: []kiln.Alias{{Name: fmt.Sprint("a", i)}}},
				files(img)); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

func openDir(ctx context.Context, dir string) (*Store, *db.DB, error) {
	d, err := db.Open(ctx, filepath.Join(dir, "db"))
	if err != nil {
		return nil, nil, err
	}
	b, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, nil, err
	}
	s, err := Open(ctx, b, d,
		Options{Limits: func(context.Context) (archive.Limits, error) { return archive.Limits{Bytes: 10 << 30}, nil }})
	return s, d, err
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, d, err := openDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return s
}

// memory is a stream of files in memory.
type memory struct {
	rest [][]byte
	now  io.Reader
}

func files(b ...[]byte) *memory { return &memory{rest: b} }

func (m *memory) Next() (kiln.File, error) {
	if len(m.rest) == 0 {
		return kiln.File{}, io.EOF
	}
	m.now, m.rest = bytes.NewReader(m.rest[0]), m.rest[1:]
	return kiln.File{Size: -1, Name: "file"}, nil
}

func (m *memory) Read(b []byte) (int, error) { return m.now.Read(b) }
func (m *memory) Close() error               { return nil }

func alias(names ...string) (list []kiln.Alias) {
	for _, n := range names {
		list = append(list, kiln.Alias{Name: n})
	}
	return list
}

func sumOf(b ...[]byte) kiln.Fingerprint { return sha256.Sum256(bytes.Join(b, nil)) }

func TestFingerprints(t *testing.T) {
	s := open(t, t.TempDir())
	unified := formattest.Unified(t)
	meta, rootfs := formattest.Split(t)
	for name, c := range map[string]struct {
		files [][]byte
		want  kiln.Fingerprint
	}{
		"unified": {[][]byte{unified}, sumOf(unified)},
		"split":   {[][]byte{meta, rootfs}, sumOf(meta, rootfs)},
	} {
		img, err := s.Put(t.Context(), kiln.Image{Fingerprint: c.want, Aliases: alias(name),
			Properties: map[string]string{"os": "mine"}}, files(c.files...))
		if err != nil || img.Fingerprint != c.want || img.Architecture != "x86_64" || img.Properties["os"] != "mine" ||
			img.Properties["release"] != "1.35" {
			t.Errorf("%s: %+v, %v", name, img, err)
		}
		r, err := s.Open(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.files {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, c.files[i]) {
				t.Errorf("%s: file %d is not what came: %v", name, i, err)
			}
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		r.Close()
	}
	// The other order gives the same image.
	if img, err := s.Put(t.Context(), kiln.Image{}, files(rootfs, meta)); !errors.Is(err, kiln.Conflict) ||
		img.Fingerprint != sumOf(meta, rootfs) {
		t.Errorf("swapped: %s, %v", img.Fingerprint, err)
	}
	// A bare root filesystem gives the same image each time.
	a, err := s.Put(t.Context(), kiln.Image{}, files(rootfs))
	if err != nil || a.Properties["os"] != "busybox" || len(a.Files) != 2 {
		t.Fatalf("bare: %+v, %v", a, err)
	}
	if b, err := s.Put(t.Context(), kiln.Image{}, files(rootfs)); !errors.Is(err, kiln.Conflict) ||
		a.Fingerprint != b.Fingerprint {
		t.Errorf("bare again: %v", err)
	}
}

func TestBadInputLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	good := formattest.Tiny(t, "")
	meta, rootfs := formattest.Split(t)
	yaml := func(text string) []byte {
		return formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: text},
			formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755})
	}
	for what, c := range map[string]struct {
		files [][]byte
		kind  kiln.Kind
		text  string
	}{
		"empty":            {[][]byte{{}}, kiln.Integrity, "empty"},
		"no file":          {nil, kiln.Invalid, "no file"},
		"magic":            {[][]byte{[]byte("hello world")}, kiln.Integrity, "Unsupported compression"},
		"garbage after":    {[][]byte{append(bytes.Clone(good), "garbage"...)}, kiln.Invalid, "garbage after the end"},
		"metadata only":    {[][]byte{meta}, kiln.Invalid, "give the file with its root filesystem"},
		"two rootfs":       {[][]byte{rootfs, rootfs}, kiln.Invalid, "both files are root filesystems"},
		"two metadata":     {[][]byte{meta, meta}, kiln.Invalid, "both files have a metadata.yaml"},
		"whole and rootfs": {[][]byte{good, rootfs}, kiln.Invalid, "the first file is a whole image by itself"},
		"three":            {[][]byte{meta, rootfs, rootfs}, kiln.Invalid, "one or two files"},
		"not yaml":         {[][]byte{yaml("{{{")}, kiln.Invalid, "not YAML"},
		"no architecture":  {[][]byte{yaml("creation_date: 1\n")}, kiln.Invalid, "Architecture isn't supported"},
		"architecture": {[][]byte{yaml("architecture: pdp11\ncreation_date: 1\n")}, kiln.Invalid,
			`Architecture isn't supported: "pdp11"`},
		"no date":       {[][]byte{yaml("architecture: amd64\n")}, kiln.Invalid, "Missing creation date"},
		"date as text":  {[][]byte{yaml("architecture: amd64\ncreation_date: today\n")}, kiln.Invalid, "metadata.yaml"},
		"negative date": {[][]byte{yaml("architecture: amd64\ncreation_date: -5\n")}, kiln.Invalid, "not a date"},
		"absurd date": {[][]byte{yaml("architecture: amd64\ncreation_date: 999999999999999\n")}, kiln.Invalid,
			"not a date"},
		"large metadata": {[][]byte{yaml("# " + strings.Repeat("x", 1<<20))}, kiln.Invalid, "larger than"},
		"property list": {[][]byte{yaml("architecture: amd64\ncreation_date: 1\nproperties: {os: [a, b]}\n")},
			kiln.Invalid, `property "os" is not a text`},
		"yaml bomb": {[][]byte{yaml("a0: &a0 [" + strings.Repeat("x,", 200) + "]\na1: &a1 [" + strings.Repeat("*a0,", 200) +
			"]\narchitecture: amd64\ncreation_date: 1\n")}, kiln.Invalid, "it has more than it may have of values"},
		"template path": {[][]byte{yaml("architecture: amd64\ncreation_date: 1\ntemplates: {/x: {when: [start], " +
			"template: ../../x}}\n")}, kiln.Invalid, "outside of template directory"},
		"metadata symlink": {[][]byte{formattest.Tar(t, formattest.File{Name: "metadata.yaml", Type: '2',
			Link: "/etc/passwd"}, formattest.File{Name: "rootfs/", Type: '5'})}, kiln.Invalid, "not a regular file"},
		"metadata twice": {[][]byte{formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: "x"},
			formattest.File{Name: "./metadata.yaml", Body: "y"}, formattest.File{Name: "rootfs/", Type: '5'})}, kiln.Invalid,
			"twice"},
		"machine": {[][]byte{formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: formattest.Metadata},
			formattest.File{Name: "rootfs.img", Body: "x"})}, kiln.Unsupported, "virtual machine"},
		"escape": {[][]byte{formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: formattest.Metadata},
			formattest.File{Name: "rootfs/../../x", Body: "x"})}, kiln.Invalid, `".."`},
		"through a link": {[][]byte{formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: formattest.Metadata},
			formattest.File{Name: "rootfs/a", Type: '2', Link: "../../etc"}, formattest.File{Name: "rootfs/a/b", Body: "x"})},
			kiln.Invalid, "goes through"},
	} {
		_, err := s.Put(t.Context(), kiln.Image{Aliases: alias("bad")}, files(c.files...))
		if kiln.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%s)", what, err, kiln.KindOf(err))
		}
	}
	_, err := s.Put(t.Context(), kiln.Image{Fingerprint: kiln.Fingerprint{1}}, files(good))
	if !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), "fingerprints don't match") {
		t.Errorf("other fingerprint: %v", err)
	}
	empty(t, s, dir)
}

// empty checks that neither rows nor files are left.
func empty(t *testing.T, s *Store, dir string) {
	t.Helper()
	if list, err := s.List(t.Context(), Query{}); len(list) != 0 || err != nil {
		t.Errorf("listed: %v, %v", list, err)
	}
	filepath.Walk(filepath.Join(dir, "blobs"), func(path string, fi os.FileInfo, _ error) error {
		if fi.Mode().IsRegular() {
			t.Errorf("left: %s", path)
		}
		return nil
	})
}

func TestTruncatedAnywhere(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	img := formattest.Compress(t, formattest.Tiny(t, ""), "gzip")
	for n := range img {
		if _, err := s.Put(t.Context(), kiln.Image{}, files(img[:n])); err == nil {
			t.Errorf("%d of %d bytes pass", n, len(img))
		}
	}
	empty(t, s, dir)
}

// TestLateConflict loses its alias to somebody while the image is on its way.
func TestLateConflict(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	other, err := s.Put(t.Context(), kiln.Image{}, files(formattest.Tiny(t, "other")))
	if err != nil {
		t.Fatal(err)
	}
	in := files(formattest.Tiny(t, "mine"))
	late := &hooked{memory: in, before: func() {
		if err := s.CreateAlias(t.Context(), kiln.Alias{Name: "a", Target: other.Fingerprint}); err != nil {
			t.Error(err)
		}
	}}
	if _, err := s.Put(t.Context(), kiln.Image{Aliases: alias("a")}, late); !errors.Is(err, kiln.Conflict) {
		t.Errorf("%v", err)
	}
	if err := s.Delete(t.Context(), other.Fingerprint); err != nil {
		t.Fatal(err)
	}
	empty(t, s, dir)
}

// hooked does something before its first file.
type hooked struct {
	*memory
	before func()
}

func (h *hooked) Next() (kiln.File, error) {
	if h.before != nil {
		h.before()
		h.before = nil
	}
	return h.memory.Next()
}

func TestZipBomb(t *testing.T) {
	s := open(t, t.TempDir())
	s.opts.Limits = func(context.Context) (archive.Limits, error) { return archive.Limits{Bytes: 1 << 20}, nil }
	bomb := formattest.Compress(t, formattest.Tar(t, formattest.Meta()[0],
		formattest.File{Name: "rootfs/zeros", Body: strings.Repeat("\x00", 2<<20)}), "zstd")
	if _, err := s.Put(t.Context(), kiln.Image{}, files(bomb)); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("%d bytes unpack to 2 MiB: %v", len(bomb), err)
	}
}

func TestSameImageAtOnce(t *testing.T) {
	s := open(t, t.TempDir())
	img := formattest.Unified(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := 0
	for i := range 6 {
		wg.Go(func() {
			got, err := s.Put(t.Context(), kiln.Image{Aliases: alias(fmt.Sprint("a", i))}, files(img))
			if err != nil && !errors.Is(err, kiln.Conflict) || got.Fingerprint != sumOf(img) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				stored++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	got, err := s.Get(t.Context(), sumOf(img))
	if stored != 1 || err != nil || len(got.Aliases) != 6 {
		t.Errorf("stored %d times, %d aliases, %v", stored, len(got.Aliases), err)
	}
	if err := s.Verify(t.Context(), got.Fingerprint); err != nil {
		t.Error(err)
	}
}

func TestLostFileIsMended(t *testing.T) {
	s := open(t, t.TempDir())
	b := formattest.Tiny(t, "")
	img, err := s.Put(t.Context(), kiln.Image{}, files(b))
	if err != nil {
		t.Fatal(err)
	}
	path := s.blobs.Path(img.Files[0].Hash)
	os.Remove(path)
	if err := s.Verify(t.Context(), img.Fingerprint); !errors.Is(err, kiln.Integrity) {
		t.Errorf("lost: %v", err)
	}
	if has, err := s.Has(t.Context(), img.Fingerprint); has || err != nil {
		t.Errorf("Has: %v, %v", has, err)
	}
	var warned string
	s.With(PutOptions{Warn: func(text string) { warned += text }}).Put(t.Context(), kiln.Image{}, files(b))
	if !strings.Contains(warned, "it is repaired") {
		t.Errorf("said of the repair: %q", warned)
	}
	if err := s.Verify(t.Context(), img.Fingerprint); err != nil {
		t.Errorf("mended: %v", err)
	}
	// Who brings the file back beside the daemon has the image again by verifying it.
	bad := append([]byte("x"), b[1:]...)
	for _, content := range [][]byte{bad, b} {
		if err := errors.Join(os.Remove(path), os.WriteFile(path, content, 0o400)); err != nil {
			t.Fatal(err)
		}
		err := s.Verify(t.Context(), img.Fingerprint)
		if got := get(t, s, img.Fingerprint); (err == nil) != (got.Missing == "") || (err == nil) != bytes.Equal(content, b) {
			t.Errorf("damaged or brought back: %q, %v", got.Missing, err)
		}
	}
}

// TestUnneededFiles deletes an image, and opens the store again, with and without damage
// in the row of another image that has one of the files: nobody knows then which it has.
func TestUnneededFiles(t *testing.T) {
	meta, rootfs := formattest.Split(t)
	other := formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: "architecture: amd64\ncreation_date: 7\n"})
	for _, damaged := range []bool{false, true} {
		dir := t.TempDir()
		s := open(t, dir)
		one, err := s.Put(t.Context(), kiln.Image{}, files(meta, rootfs))
		if err != nil {
			t.Fatal(err)
		}
		two, err := s.Put(t.Context(), kiln.Image{}, files(other, rootfs))
		if err != nil {
			t.Fatal(err)
		}
		stray, err := s.blobs.Put(strings.NewReader("stray"), kiln.Fingerprint{})
		if err != nil {
			t.Fatal(err)
		}
		if damaged {
			damage(t, dir, `UPDATE image_files SET hash = 'x' WHERE position = 1 AND image_id = 2`)
		}
		if err := s.Delete(t.Context(), one.Fingerprint); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		for what, c := range map[string]struct {
			fp   kiln.Fingerprint
			here bool
		}{
			"of the deleted image": {one.Files[0].Hash, damaged},
			"of both":              {one.Files[1].Hash, true},
			"of the other":         {two.Files[0].Hash, true},
			"of none":              {stray, damaged},
		} {
			if _, err := s.blobs.Stat(c.fp); (err == nil) != c.here {
				t.Errorf("damaged %v: the file %s: %v", damaged, what, err)
			}
		}
	}
}

// damage changes rows behind the back of a store.
func damage(t *testing.T, dir, statement string) {
	t.Helper()
	rows, err := sql.Open("sqlite3", filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	if r, err := rows.Exec(statement); err != nil {
		t.Fatal(err)
	} else if n, err := r.RowsAffected(); n == 0 || err != nil {
		t.Fatalf("%s: nothing to change, %v", statement, err)
	}
}

// TestFilesComeBack opens a store whose database, at the last start, was one without some
// image: its files are brought back from where that start put them. One that isn't there
// either is noted.
func TestFilesComeBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	back, err := s.Put(t.Context(), kiln.Image{}, files(formattest.Tiny(t, "back")))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := s.Put(t.Context(), kiln.Image{}, files(formattest.Tiny(t, "gone")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.blobs.Sweep(func(kiln.Fingerprint) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if err := s.blobs.DropLost(gone.Fingerprint); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if err := s.Verify(t.Context(), back.Fingerprint); err != nil {
		t.Error(err)
	}
	if b, g := get(t, s, back.Fingerprint), get(t, s, gone.Fingerprint); b.Missing != "" || g.Missing == "" {
		t.Errorf("missing: %q, %q", b.Missing, g.Missing)
	}
}

func TestSharedFile(t *testing.T) {
	s := open(t, t.TempDir())
	meta, rootfs := formattest.Split(t)
	other := formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: "architecture: amd64\ncreation_date: 7\n"})
	a, err := s.Put(t.Context(), kiln.Image{}, files(meta, rootfs))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Put(t.Context(), kiln.Image{}, files(other, rootfs))
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.Usage(t.Context())
	if err != nil || u.Shared != int64(len(rootfs)) || u.Stored != int64(len(meta)+len(other)+len(rootfs)) {
		t.Errorf("%+v, %v", u, err)
	}
	if err := s.Delete(t.Context(), a.Fingerprint); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), b.Fingerprint); err != nil {
		t.Errorf("the other image lost its file: %v", err)
	}
}

// TestKilled kills an importer again and again at any moment.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for range 8 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "KILN_STORE_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 5))
		time.Sleep(time.Duration(time.Now().UnixNano()%50) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		s, d, err := openDir(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		list, err := s.List(t.Context(), Query{})
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range list {
			if err := s.Verify(t.Context(), img.Fingerprint); err != nil || len(img.Aliases) != 1 {
				t.Errorf("half an image: %v %v", img.Aliases, err)
			}
		}
		d.Close()
	}
}

// TestModel compares aliases and images with a plain map.
func TestModel(t *testing.T) {
	images := [][]byte{formattest.Tiny(t, "0"), formattest.Tiny(t, "1"), formattest.Tiny(t, "2")}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "kiln-store-")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, d, err := openDir(context.Background(), dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer d.Close()
		ctx := context.Background()
		here := map[kiln.Fingerprint]bool{}
		names := map[string]kiln.Fingerprint{}
		name := rapid.SampledFrom([]string{"a", "b", "c/d"})
		which := rapid.SampledFrom(images)
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				b, n, move := which.Draw(rt, "image"), name.Draw(rt, "alias"), rapid.Bool().Draw(rt, "move")
				fp := sumOf(b)
				old, taken := names[n]
				_, err := s.With(PutOptions{MoveAliases: move}).Put(ctx, kiln.Image{Fingerprint: fp, Aliases: alias(n)}, files(b))
				if taken && old != fp && !move {
					if !errors.Is(err, kiln.Conflict) {
						rt.Fatalf("taken: %v", err)
					}
					return
				}
				if (err != nil) != here[fp] || err != nil && !errors.Is(err, kiln.Conflict) {
					rt.Fatalf("put: %v, was here: %v", err, here[fp])
				}
				here[fp], names[n] = true, fp
			},
			"delete": func(rt *rapid.T) {
				fp := sumOf(which.Draw(rt, "image"))
				if err := s.Delete(ctx, fp); (err == nil) != here[fp] {
					rt.Fatal(err)
				}
				delete(here, fp)
				for n, to := range names {
					if to == fp {
						delete(names, n)
					}
				}
			},
			"rename": func(rt *rapid.T) {
				from, to := name.Draw(rt, "from"), name.Draw(rt, "to")
				_, there := names[from]
				_, taken := names[to]
				err := s.RenameAlias(ctx, from, to)
				if (err == nil) != (there && (!taken || from == to)) {
					rt.Fatal(err)
				}
				if err == nil {
					fp := names[from]
					delete(names, from)
					names[to] = fp
				}
			},
			"": func(rt *rapid.T) {
				all, err := s.Aliases(ctx)
				if err != nil || len(all) != len(names) {
					rt.Fatalf("%v, want %v, %v", all, names, err)
				}
				for _, a := range all {
					if names[a.Name] != a.Target {
						rt.Fatalf("%s points to %s", a.Name, a.Target)
					}
				}
				list, err := s.List(ctx, Query{})
				if err != nil || len(list) != len(here) {
					rt.Fatalf("%d images, want %d, %v", len(list), len(here), err)
				}
			},
		})
	})
}

func TestMemory(t *testing.T) {
	s := open(t, t.TempDir())
	// 300 MB that don't compress away.
	r, w := io.Pipe()
	go func() {
		meta := formattest.Tar(t, formattest.Meta()[0], formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755})
		w.Write(meta[:len(meta)-1024])
		chunk := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		body := formattest.Tar(t, formattest.File{Name: "rootfs/x", Body: string(chunk)})
		for i := range 300 {
			b := bytes.Clone(body[:len(body)-1024])
			_ = i
			w.Write(b)
		}
		w.Write(make([]byte, 1024))
		w.Close()
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := s.Put(t.Context(), kiln.Image{}, &piped{r: r}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
		t.Errorf("the heap grew by %s", kiln.FormatSize(grown))
	}
}

type piped struct {
	r    io.Reader
	done bool
}

func (p *piped) Next() (kiln.File, error) {
	if p.done {
		return kiln.File{}, io.EOF
	}
	p.done = true
	return kiln.File{Size: -1}, nil
}
func (p *piped) Read(b []byte) (int, error) { return p.r.Read(b) }
func (p *piped) Close() error               { return nil }

// many is a store with 10,000 images, rows only.
func many(b *testing.B) *Store {
	s := open(b, b.TempDir())
	err := s.db.Tx(b.Context(), func(tx *db.Tx) error {
		for i := range 10_000 {
			fp := sumOf([]byte(fmt.Sprint(i)))
			img := kiln.Image{Fingerprint: fp, Type: "container", Architecture: "x86_64", Properties: map[string]string{},
				Files: []kiln.File{{Hash: fp}}}
			for k := range 8 {
				img.Properties[fmt.Sprint("key", k)] = fmt.Sprint(i % 40)
			}
			if err := tx.CreateImage(b.Context(), img); err != nil {
				return err
			}
			if err := tx.SetAlias(b.Context(), kiln.Alias{Name: fmt.Sprint("image/", i), Target: fp}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkTenThousand(b *testing.B) {
	s := many(b)
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if l, err := s.List(b.Context(), Query{}); len(l) != 10_000 || err != nil {
				b.Fatal(len(l), err)
			}
		}
	})
	b.Run("filter", func(b *testing.B) {
		for b.Loop() {
			if l, err := s.List(b.Context(), Query{Properties: map[string]string{"key1": "7", "key2": "7"}}); len(l) != 250 ||
				err != nil {
				b.Fatal(len(l), err)
			}
		}
	})
	b.Run("alias", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Alias(b.Context(), "image/77"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestWarn has an image that isn't all that its files say, and one that is.
func TestWarn(t *testing.T) {
	s := open(t, t.TempDir())
	var said []string
	warned := s.With(PutOptions{Warn: func(text string) { said = append(said, text) }})
	sloppy := formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: formattest.Metadata + "properties: {os: x}\n"},
		formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755}, formattest.File{Name: "rootfs/node", Type: '3'})
	for range 2 { // the second time it is a Conflict
		img, err := warned.Put(t.Context(), kiln.Image{}, files(sloppy))
		if err != nil && !errors.Is(err, kiln.Conflict) || img.Properties["os"] != "x" {
			t.Errorf("%v: %v", err, img.Properties)
		}
	}
	if len(said) != 2 || !strings.Contains(said[0], `"properties" was there before`) || !strings.Contains(said[0], `"node"`) {
		t.Errorf("%q", said)
	}
	said = nil
	if _, err := warned.Put(t.Context(), kiln.Image{}, files(formattest.Tiny(t, ""))); err != nil || said != nil {
		t.Errorf("%v: %q", err, said)
	}
	if _, err := s.Put(t.Context(), kiln.Image{}, files(sloppy)); !errors.Is(err, kiln.Conflict) {
		t.Error(err) // nobody wants to know
	}
}

// TestSaidOfImages: a signature that is none is refused, that in a file isn't one of the file,
// and an image is cached only as long as nobody has put it here.
func TestSaidOfImages(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := s.Put(t.Context(), kiln.Image{Signature: "by somebody"}, files(formattest.Tiny(t, "")))
	if !errors.Is(err, kiln.Integrity) {
		t.Error(err)
	}
	empty(t, s, dir)
	claims := formattest.Tar(t, formattest.File{Name: "metadata.yaml",
		Body: formattest.Metadata + "properties: {os: x, " + kiln.SignatureProperty + ": forged}\n"},
		formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755})
	img, err := s.Put(t.Context(), kiln.Image{}, files(claims))
	_, has := img.Properties[kiln.SignatureProperty]
	if err != nil || has || img.Signature != "" || img.Properties["os"] != "x" {
		t.Errorf("%v, %q, %v", img.Properties, img.Signature, err)
	}
	for text, order := range map[string][]bool{"a": {true, false}, "b": {false, true}} {
		for _, cached := range order {
			img, err := s.Put(t.Context(), kiln.Image{Cached: cached}, files(formattest.Tiny(t, text)))
			if err != nil && !errors.Is(err, kiln.Conflict) {
				t.Fatal(err)
			}
			if want := cached && order[0]; img.Cached != want {
				t.Errorf("cached %v, want %v, after %v", img.Cached, want, order)
			}
		}
	}
}
