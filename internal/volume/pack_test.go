package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// describe tells everything of a tree that a copy must have, by path.
func describe(t *testing.T, root string) map[string]string {
	t.Helper()
	tree, first := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := lstat(path)
		if err != nil {
			return err
		}
		list, err := readXattrs(path)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d %v %v %v", st.Mode, st.Uid, st.Gid, st.Mtim, st.Rdev, list)
		if link, err := os.Readlink(path); err == nil {
			text += " -> " + link
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
			if int64(len(b)) > st.Blocks*512+1<<18 {
				text += " sparse"
			}
		}
		if st.Nlink > 1 && !isDir(st) && !isWhiteout(st) {
			if first[st.Ino] == "" {
				first[st.Ino] = path
			}
			text += " is " + strings.TrimPrefix(first[st.Ino], root)
		}
		tree[strings.TrimPrefix(path, root)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// grow makes a tree of all that an upper layer can have.
func grow(t *testing.T, r *rand.Rand, root string) {
	t.Helper()
	dirs, files := []string{root}, []string{}
	if err := unix.Mknod(root+"/was", unix.S_IFCHR, 0); err != nil { // from where directories were moved
		t.Fatal(err)
	}
	names := func() string {
		return [...]string{"a", "b c", "\xff\xfe", "ü", "line\nfeed", strings.Repeat("x", 255), "=%", "-",
			"c"}[r.IntN(9)] + fmt.Sprint(r.IntN(40))
	}
	must := func(err error) {
		t.Helper()
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENAMETOOLONG) {
			t.Fatal(err)
		}
	}
	for range 150 {
		path := filepath.Join(dirs[r.IntN(len(dirs))], names())
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch r.IntN(12) {
		case 0, 1, 2:
			if err := os.Mkdir(path, 0o700); err == nil {
				dirs = append(dirs, path)
			}
		case 3, 4:
			must(os.WriteFile(path, bytes.Repeat([]byte{byte(r.IntN(3))}, r.IntN(20_000)), 0o600))
		case 5:
			f, err := os.Create(path)
			if err != nil {
				continue
			}
			must(f.Truncate(int64(r.IntN(5 << 20))))
			for range r.IntN(4) {
				_, err := f.WriteAt([]byte("data"), int64(r.IntN(6<<20)))
				must(err)
			}
			must(f.Close())
		case 6:
			must(os.Symlink([]string{"../../..", "/etc/passwd", "\xff", strings.Repeat("y", 3000)}[r.IntN(4)], path))
		case 7:
			must(unix.Mknod(path, unix.S_IFCHR, 0))
		case 8:
			must(unix.Mknod(path, unix.S_IFBLK|0o640, int(unix.Mkdev(uint32(r.IntN(4096)), uint32(r.IntN(1<<20))))))
		case 9:
			must(unix.Mknod(path, []uint32{unix.S_IFIFO, unix.S_IFSOCK}[r.IntN(2)]|0o600, 0))
		default:
			if len(files) > 0 {
				must(os.Link(files[r.IntN(len(files))], path))
			}
		}
		if fi, err := os.Lstat(path); err == nil && !fi.IsDir() {
			files = append(files, path)
		}
	}
	for i, path := range append(files, dirs...) {
		decorate(t, r, path, i >= len(files))
	}
}

func decorate(t *testing.T, r *rand.Rand, path string, dir bool) {
	t.Helper()
	if err := os.Lchown(path, r.IntN(70_000), r.IntN(1<<31)); err != nil {
		t.Fatal(err)
	}
	st, err := lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(path, uint32(r.IntN(0o10000))); err != nil {
			t.Fatal(err)
		}
	}
	set := func(name, value string) {
		if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
			t.Fatalf("%s of %q: %v", name, path, err)
		}
	}
	switch {
	case isWhiteout(st):
	case dir && r.IntN(3) == 0:
		set("trusted.overlay.opaque", "y")
	case dir && r.IntN(2) == 0:
		set("trusted.overlay.redirect", fmt.Sprintf("/was/there%d", st.Ino))
	case st.Mode&unix.S_IFMT == unix.S_IFREG && r.IntN(2) == 0:
		set("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
		set("user.a=b%41", "")
		set("user.zero", "\x00=\n\x00")
	case r.IntN(2) == 0:
		set("trusted.note", strings.Repeat("z", r.IntN(2000)))
	}
	at := unix.NsecToTimespec(r.Int64N(4e18) - 1e18)
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
}

// TestPackUnpack takes trees to another place and back to the same.
func TestPackUnpack(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			grow(t, rand.New(rand.NewPCG(seed, 2)), from)
			var first, again bytes.Buffer
			if err := pack(t.Context(), from, &first, nil); err != nil {
				t.Fatal(err)
			}
			if err := pack(t.Context(), from, &again, nil); err != nil || !bytes.Equal(first.Bytes(), again.Bytes()) {
				t.Errorf("packed again it is another: %v", err)
			}
			left := int64(1 << 30)
			if err := unpack(t.Context(), &first, to, false, &left); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(describe(t, from), describe(t, to)); d != "" {
				t.Errorf("-packed +unpacked:\n%s", d)
			}
		})
	}
}

// fdCounter notes how many descriptors are open whenever something is read.
type fdCounter struct {
	io.Reader
	most int
}

func (c *fdCounter) Read(b []byte) (int, error) {
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		c.most = max(c.most, len(fds))
	}
	return c.Reader.Read(b)
}

// TestUnpackDeep unpacks directories in directories, with files on the way back: it holds
// few of them open, however deep somebody makes them.
func TestUnpackDeep(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	dir := from
	for range 150 {
		dir += "/d"
		if err := errors.Join(os.Mkdir(dir, 0o710), os.WriteFile(filepath.Dir(dir)+"/z", []byte(dir), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := pack(t.Context(), from, &b, nil); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	left, r := int64(1<<30), fdCounter{Reader: &b}
	if err := unpack(t.Context(), &r, to, false, &left); err != nil {
		t.Fatal(err)
	}
	if more := r.most - len(before); more < openDirs || more > openDirs+20 {
		t.Errorf("%d descriptors more", more)
	}
	if d := cmp.Diff(describe(t, from), describe(t, to)); d != "" {
		t.Errorf("-packed +unpacked:\n%s", d)
	}
}

// TestManyHoles has more places with bytes than are told apart.
func TestManyHoles(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	f, err := os.Create(from + "/f")
	if err != nil {
		t.Fatal(err)
	}
	const n = maxSegments + 500
	for i := range int64(n) {
		if _, err := f.WriteAt([]byte{1}, i*8192); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	var b bytes.Buffer
	left := int64(1 << 30)
	if err := errors.Join(pack(t.Context(), from, &b, nil), unpack(t.Context(), &b, to, false, &left)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(describe(t, from), describe(t, to)); d != "" {
		t.Error(d)
	}
}

// entryOf is a header as pack writes it.
func entryOf(kind byte, name string, more ...func(*tar.Header)) *tar.Header {
	h := &tar.Header{Format: tar.FormatPAX, Typeflag: kind, Name: name, Mode: 0o700, ModTime: time.Unix(1, 5),
		AccessTime: time.Unix(1, 5), PAXRecords: map[string]string{}}
	for _, f := range more {
		f(h)
	}
	return h
}

func linked(to string) func(*tar.Header) { return func(h *tar.Header) { h.Linkname = to } }
func recorded(k, v string) func(*tar.Header) {
	return func(h *tar.Header) { h.PAXRecords[k] = v }
}

// hostile are tars that must be refused.
func hostile() map[string][]*tar.Header {
	const d, f, l, s = tar.TypeDir, tar.TypeReg, tar.TypeLink, tar.TypeSymlink
	root := entryOf(d, "./")
	return map[string][]*tar.Header{
		"nothing":                   {},
		"no root":                   {entryOf(f, "a")},
		"up":                        {root, entryOf(f, "../out")},
		"up in the middle":          {root, entryOf(d, "a/"), entryOf(f, "a/../../out")},
		"absolute":                  {root, entryOf(f, "/out")},
		"the root again":            {root, entryOf(d, "./")},
		"dot":                       {root, entryOf(d, "./a/")},
		"dotdot as a directory":     {root, entryOf(d, "../")},
		"empty part":                {root, entryOf(d, "a/"), entryOf(f, "a//b")},
		"no parent":                 {root, entryOf(f, "a/b")},
		"parent left":               {root, entryOf(d, "a/"), entryOf(f, "b"), entryOf(f, "a/b")},
		"through a symlink":         {root, entryOf(s, "a", linked("..")), entryOf(f, "a/out")},
		"a directory for a symlink": {root, entryOf(s, "a", linked("..")), entryOf(d, "a/"), entryOf(f, "a/out")},
		"twice":                     {root, entryOf(f, "a"), entryOf(f, "a")},
		"over a symlink":            {root, entryOf(s, "a", linked("../out")), entryOf(f, "a")},
		"link up":                   {root, entryOf(l, "a", linked("../secret"))},
		"link absolute":             {root, entryOf(l, "a", linked("/etc/passwd"))},
		"link through a symlink":    {root, entryOf(s, "a", linked("..")), entryOf(l, "b", linked("a/secret"))},
		"link to nothing":           {root, entryOf(l, "b", linked("a"))},
		"link to a directory":       {root, entryOf(d, "a/"), entryOf(l, "b", linked("a"))},
		"unknown type":              {root, entryOf('Z', "a")},
		"contiguous":                {root, entryOf(tar.TypeCont, "a")},
		"long name":                 {root, entryOf(f, strings.Repeat("x", 256))},
		"long path":                 {root, entryOf(f, strings.Repeat("x/", 2100)+"x")},
		"long symlink":              {root, entryOf(s, "a", linked(strings.Repeat("x", 5000)))},
		"keeps the owner":           {root, entryOf(f, "a", func(h *tar.Header) { h.Gid = 1<<32 - 1 })},
		"no owner":                  {root, entryOf(f, "a", func(h *tar.Header) { h.Uid = 1 << 40 })},
		"no device":                 {root, entryOf(tar.TypeChar, "a", func(h *tar.Header) { h.Devmajor = 1 << 20 })},
		"a huge file":               {root, entryOf(f, "a", func(h *tar.Header) { h.Size = 1 << 50 })},
		"a huge hole":               {root, entryOf(f, "a", recorded(sizeRecord, "9223372036854775807"))},
		"no size":                   {root, entryOf(f, "a", recorded(sizeRecord, "-1"))},
		"bytes beyond the end":      {root, entryOf(f, "a", recorded(sizeRecord, "10"), recorded(dataRecord, "8+4"))},
		"bytes that aren't there":   {root, entryOf(f, "a", recorded(sizeRecord, "10"), recorded(dataRecord, "0+4"))},
		"bytes over bytes":          {root, entryOf(f, "a", recorded(sizeRecord, "10"), recorded(dataRecord, "4+2 0+4"))},
		"bytes that overflow": {root, entryOf(f, "a", recorded(sizeRecord, "10"),
			recorded(dataRecord, "9223372036854775807+1"))},
		"redirected up":          {root, entryOf(d, "a/", recorded(xattrRecord+"trusted.overlay.redirect", "/../../etc"))},
		"redirected to no name":  {root, entryOf(d, "a/", recorded(xattrRecord+"trusted.overlay.redirect", "../etc"))},
		"redirected to the root": {root, entryOf(d, "a/", recorded(xattrRecord+"trusted.overlay.redirect", "/"))},
		"root redirected":        {entryOf(d, "./", recorded(xattrRecord+"trusted.overlay.redirect", "/.."))},
	}
}

// TestHostile unpacks what means harm: nothing outside of the directory changes.
func TestHostile(t *testing.T) {
	for name, entries := range hostile() {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			to := outside + "/to"
			if err := errors.Join(os.Mkdir(to, 0o700), os.WriteFile(outside+"/secret", []byte("s"), 0o600)); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range entries {
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			w.Flush()
			left := int64(1 << 30)
			err := unpack(t.Context(), &b, to, false, &left)
			switch kind := kiln.KindOf(err); kind {
			case kiln.Invalid, kiln.NoSpace, kiln.Integrity:
			default:
				t.Errorf("it is taken: %v (%s)", err, kind)
			}
			if got, _ := filepath.Glob(outside + "/*"); len(got) != 2 {
				t.Errorf("outside are %v", got)
			}
			if st, err := lstat(outside + "/secret"); err != nil || st.Nlink != 1 {
				t.Errorf("the file outside: %+v, %v", st, err)
			}
		})
	}
}

// TestUnpackLimits stops what is larger than it may be, and what metadata can't be.
func TestUnpackLimits(t *testing.T) {
	from := t.TempDir()
	if err := errors.Join(os.WriteFile(from+"/a", make([]byte, 100_000), 0o600), os.Symlink("a", from+"/b")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(from+"/a", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(bytes.Repeat([]byte("x"), 100_000))
	f.Close()
	var b bytes.Buffer
	if err := pack(t.Context(), from, &b, nil); err != nil {
		t.Fatal(err)
	}
	left := int64(90_000)
	if err := unpack(t.Context(), bytes.NewReader(b.Bytes()), t.TempDir(), false,
		&left); !errors.Is(err, kiln.NoSpace) {
		t.Errorf("too large: %v", err)
	}
	left = 1 << 30
	if err := unpack(t.Context(), bytes.NewReader(b.Bytes()), t.TempDir(), true, &left); !errors.Is(err, kiln.Invalid) {
		t.Errorf("a symlink in metadata: %v", err)
	}
	for _, n := range []int{0, 1, 511, 600, 2000, 50_000} {
		if err := unpack(t.Context(), bytes.NewReader(b.Bytes()[:n]), t.TempDir(),
			false, &left); !errors.Is(err, kiln.Integrity) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(pack(ctx, from, io.Discard, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// FuzzUnpack must neither panic nor write anything outside.
func FuzzUnpack(f *testing.F) {
	for _, entries := range hostile() {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			_ = w.WriteHeader(h)
		}
		w.Flush()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		outside := t.TempDir()
		to := outside + "/to"
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		left := int64(1 << 20)
		_ = unpack(t.Context(), bytes.NewReader(b), to, false, &left)
		if got, _ := os.ReadDir(outside); len(got) != 1 {
			t.Errorf("outside are %v", got)
		}
	})
}
