// Package volumetest says what every pool of volumes must do. It is for tests only.
package volumetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Image is the fingerprint that the tests give their image.
var Image = kiln.Fingerprint{0xab}

const first = 1_000_000

// ids are those of an unprivileged container.
var ids = []volume.IDMap{{Container: 0, Host: first, Size: 65536}}

// Content unpacks a small tree, and counts how often.
func Content(filled *atomic.Int32) func(context.Context) (volume.Content, error) {
	return func(context.Context) (volume.Content, error) {
		return volume.Content{Unpack: func(_ context.Context, rootfs, meta archive.TreeWriter) error {
			filled.Add(1)
			if err := meta.Add(&archive.Entry{Path: "metadata.yaml", Type: archive.Regular, Mode: 0o644, Size: 2},
				strings.NewReader("a\n")); err != nil || rootfs == nil {
				return err
			}
			for _, e := range []struct {
				archive.Entry
				body string
			}{
				{archive.Entry{Path: ".", Type: archive.Dir, Mode: 0o755}, ""},
				{archive.Entry{Path: "bin", Type: archive.Dir, Mode: 0o755}, ""},
				{archive.Entry{Path: "bin/su", Type: archive.Regular, Mode: 0o4755}, "root's"},
				{archive.Entry{Path: "home", Type: archive.Dir, Mode: 0o700, UID: 1000, GID: 1000}, ""},
				{archive.Entry{Path: "home/file", Type: archive.Regular, Mode: 0o600, UID: 1000, GID: 1000}, "user's"},
				{archive.Entry{Path: "home/link", Type: archive.Hardlink, Link: "home/file"}, ""},
				{archive.Entry{Path: "gone", Type: archive.Regular, Mode: 0o644}, "to be deleted"},
			} {
				e.Size = int64(len(e.body))
				if err := rootfs.Add(&e.Entry, strings.NewReader(e.body)); err != nil {
					return err
				}
			}
			return nil
		}}, nil
	}
}

// Mount mounts a volume and gives a path to it.
func Mount(t testing.TB, v *volume.Volume, mapped bool) (string, func()) {
	t.Helper()
	var m []volume.IDMap
	if mapped {
		m = ids
	}
	f, err := v.Mount(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd()), func() { f.Close() }
}

// owner gives who a file belongs to.
func owner(t testing.TB, path string) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return [2]uint32{st.Uid, st.Gid}
}

// Run tests pools. dir gives an empty directory on the file system to test.
func Run(t *testing.T, dir func(*testing.T) string) {
	open := func(t *testing.T, d string) *volume.Pool {
		t.Helper()
		p, err := volume.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if mounts, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(mounts), d+"/") {
				t.Errorf("mounts left:\n%s", mounts)
			}
		})
		return p
	}
	clone := func(t *testing.T, p *volume.Pool, name string) *volume.Volume {
		t.Helper()
		v, err := p.Clone(t.Context(), name, Image, Content(new(atomic.Int32)))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Run("snapshots", func(t *testing.T) {
		snapshots(t, func(t *testing.T) *volume.Pool { return open(t, dir(t)) },
			clone)
	})
	t.Run("ids are mapped and kept as they are inside", func(t *testing.T) {
		p := open(t, dir(t))
		v := clone(t, p, "a")
		root, end := Mount(t, v, true)
		for path, want := range map[string]uint32{"bin/su": first, "home/file": first + 1000} {
			if got := owner(t, root+"/"+path); got[0] != want {
				t.Errorf("%s belongs to %v, not %d", path, got, want)
			}
		}
		if b, err := os.ReadFile(root + "/home/link"); string(b) != "user's" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		if err := os.Chown(root+"/home/file", first+5, first+5); err != nil {
			t.Error(err)
		}
		if err := errors.Join(os.Remove(root+"/gone"), os.Rename(root+"/bin", root+"/sbin")); err != nil {
			t.Error(err)
		}
		end()
		root, end = Mount(t, v, false)
		defer end()
		if got := owner(t, root+"/home/file"); got != [2]uint32{5, 5} {
			t.Errorf("inside it belongs to %v", got)
		}
		if fi, err := os.Stat(root + "/sbin/su"); err != nil || fi.Mode()&os.ModeSetuid == 0 {
			t.Errorf("after a rename: %v, %v", fi, err)
		}
		if _, err := os.Stat(root + "/gone"); !os.IsNotExist(err) {
			t.Errorf("deleted: %v", err)
		}
	})
	t.Run("what one changes no other sees", func(t *testing.T) {
		p := open(t, dir(t))
		a, end := Mount(t, clone(t, p, "a"), false)
		defer end()
		b, end := Mount(t, clone(t, p, "b"), false)
		defer end()
		if err := os.WriteFile(a+"/new", []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(b + "/new"); !os.IsNotExist(err) {
			t.Errorf("%v", err)
		}
	})
	t.Run("many clones fill once", func(t *testing.T) {
		p := open(t, dir(t))
		var filled atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if _, err := p.Clone(t.Context(), fmt.Sprint("v", i), Image, Content(&filled)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := filled.Load(); n != 1 {
			t.Errorf("filled %d times", n)
		}
		if names, err := p.List(); len(names) != 8 || err != nil {
			t.Errorf("%v, %v", names, err)
		}
	})
	t.Run("a fill that fails leaves nothing", func(t *testing.T) {
		d := dir(t)
		p := open(t, d)
		bad := errors.New("the archive is bad")
		_, err := p.Clone(t.Context(), "a", Image, func(context.Context) (volume.Content, error) {
			return volume.Content{Unpack: func(context.Context, archive.TreeWriter, archive.TreeWriter) error { return bad }},
				nil
		})
		if !errors.Is(err, bad) {
			t.Error(err)
		}
		for _, sub := range []string{"images", "volumes", "tmp"} {
			if left, _ := os.ReadDir(d + "/" + sub); len(left) != 0 {
				t.Errorf("left in %s: %v", sub, left)
			}
		}
		clone(t, p, "a")
	})
	t.Run("names", func(t *testing.T) {
		p := open(t, dir(t))
		for _, bad := range []string{"", ".", "..", "a/b", "../a"} {
			if _, err := p.Empty(t.Context(), bad); !errors.Is(err, kiln.Invalid) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		clone(t, p, "a")
		if _, err := p.Empty(t.Context(), "a"); !errors.Is(err, kiln.Conflict) {
			t.Errorf("twice: %v", err)
		}
		if _, err := p.Get("b"); !errors.Is(err, kiln.NotFound) {
			t.Errorf("absent: %v", err)
		}
		clone(t, p, "b")
		if err := p.Rename("a", "b"); !errors.Is(err, kiln.Conflict) {
			t.Errorf("rename onto another: %v", err)
		}
		if err := errors.Join(p.Rename("a", "c"), p.Delete(t.Context(), "b"), p.Delete(t.Context(), "nothing")); err != nil {
			t.Error(err)
		}
		if names, err := p.List(); len(names) != 1 || names[0] != "c" || err != nil {
			t.Errorf("%v, %v", names, err)
		}
	})
	t.Run("a copy has what the volume changed", func(t *testing.T) {
		p := open(t, dir(t))
		v := clone(t, p, "a")
		root, end := Mount(t, v, true)
		if err := errors.Join(os.Remove(root+"/gone"), os.WriteFile(root+"/sparse", nil, 0o644),
			os.Truncate(root+"/sparse", 1<<30),
			unix.Setxattr(root+"/sparse", "user.note", []byte("hi"), 0), os.Link(root+"/sparse", root+"/sparse2")); err != nil {
			t.Fatal(err)
		}
		end()
		c, err := p.Copy(t.Context(), "a", "b", nil)
		if err != nil {
			t.Fatal(err)
		}
		root, end = Mount(t, c, true)
		defer end()
		var st unix.Stat_t
		note := make([]byte, 10)
		n, xerr := unix.Getxattr(root+"/sparse", "user.note", note)
		if err := unix.Stat(root+"/sparse2", &st); err != nil || st.Size != 1<<30 || st.Blocks > 100 || st.Nlink != 2 ||
			xerr != nil || string(note[:n]) != "hi" {
			t.Errorf("%+v, %v, %v", st, err, xerr)
		}
		if _, err := os.Stat(root + "/gone"); !os.IsNotExist(err) {
			t.Errorf("the whiteout is lost: %v", err)
		}
	})
	t.Run("metadata are the image's until they are edited", func(t *testing.T) {
		p := open(t, dir(t))
		v, w := clone(t, p, "a"), clone(t, p, "b")
		edit, err := v.EditMeta(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(edit.WriteFile("metadata.yaml", []byte("b\n"), 0o644), edit.Close()); err != nil {
			t.Fatal(err)
		}
		for v, want := range map[*volume.Volume]string{v: "b\n", w: "a\n"} {
			m, err := v.Meta()
			if err != nil {
				t.Fatal(err)
			}
			if b, err := m.ReadFile("metadata.yaml"); string(b) != want || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			m.Close()
		}
	})
	t.Run("a tree stays while it is used", func(t *testing.T) {
		d := dir(t)
		p := open(t, d)
		clone(t, p, "a")
		if err := p.RemoveImage(Image); !errors.Is(err, kiln.Conflict) {
			t.Errorf("in use: %v", err)
		}
		none := func(kiln.Fingerprint) bool { return false }
		if err := p.Sweep(none); err != nil {
			t.Error(err)
		}
		if list, err := p.Images(); len(list) != 1 || len(list[0].Users) != 1 || list[0].Bytes == 0 || err != nil {
			t.Errorf("%+v, %v", list, err)
		}
		if err := errors.Join(p.Delete(t.Context(), "a"), p.Sweep(none)); err != nil {
			t.Error(err)
		}
		if list, err := p.Images(); len(list) != 0 || err != nil {
			t.Errorf("%+v, %v", list, err)
		}
	})
	t.Run("a volume outlives the pool's owner", func(t *testing.T) {
		d := dir(t)
		p, err := volume.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		root, end := Mount(t, clone(t, p, "a"), false)
		defer end()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(root + "/home/file"); string(b) != "user's" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		end()
		p = open(t, d)
		v, err := p.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		_, end = Mount(t, v, false)
		end()
	})
	t.Run("an empty volume", func(t *testing.T) {
		p := open(t, dir(t))
		v, err := p.Empty(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		root, end := Mount(t, v, false)
		defer end()
		if names, err := os.ReadDir(root); len(names) != 0 || err != nil {
			t.Errorf("%v, %v", names, err)
		}
	})
	t.Run("a lost tree is told", func(t *testing.T) {
		d := dir(t)
		p := open(t, d)
		v := clone(t, p, "a")
		if err := os.RemoveAll(d + "/images/" + Image.String()); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Mount(t.Context(), nil); !errors.Is(err, kiln.Integrity) {
			t.Errorf("%v", err)
		}
	})
}
