package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Mounter is a volume or a snapshot.
type Mounter interface {
	Mount(ctx context.Context, ids []volume.IDMap) (*os.File, error)
}

// Tree describes every file of a tree: what it is, whose, and what is in it. A file
// with several names has the first of them under each. How many links a file says
// it has isn't compared: overlayfs counts those that a layer above hides.
func Tree(t testing.TB, m Mounter) map[string]string {
	t.Helper()
	f, err := m.Mount(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return TreeAt(t, f)
}

// TreeAt is Tree for a directory that is open, which may be deeper than any path is long.
func TreeAt(t testing.TB, f *os.File) map[string]string {
	t.Helper()
	root := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	type inode struct{ dev, ino uint64 } // of an overlay, whose layers may have the same numbers
	tree, first := map[string]string{}, map[inode]string{}
	err := filepath.WalkDir(root+"/.", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch {
		case e.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %q %d", b, st.Mtim.Sec)
		case e.Type()&fs.ModeSymlink != 0:
			link, _ := os.Readlink(path)
			text += " -> " + link
		}
		note := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "trusted.note", note); err == nil {
			text += " note " + string(note[:n])
		}
		if st.Nlink > 1 && !e.IsDir() {
			id := inode{st.Dev, st.Ino}
			if first[id] == "" {
				first[id] = name
			}
			if first[id] != name {
				text += " is " + first[id]
			}
		}
		tree[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// same compares two trees.
func same(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// change does something to every kind of file in a volume.
func change(t *testing.T, v *volume.Volume) {
	t.Helper()
	root, end := Mount(t, v, true)
	defer end()
	steps(t, root)
}

func steps(t *testing.T, root string) {
	t.Helper()
	err := errors.Join(
		os.Remove(root+"/gone"),
		os.Rename(root+"/bin", root+"/sbin"),
		os.WriteFile(root+"/home/file", []byte("changed"), 0o600),
		os.Chown(root+"/sbin/su", first+5, first+5),
		os.Mkdir(root+"/new", 0o750),
		os.WriteFile(root+"/new/a", []byte("a"), 0o644),
		os.Link(root+"/new/a", root+"/b"),
		os.Symlink("nowhere", root+"/new/link"),
		unix.Mkfifo(root+"/fifo", 0o600),
		unix.Lsetxattr(root+"/new", "trusted.note", []byte("hi"), 0),
		os.Chmod(root, 0o711),
		give(root, "new", "new/a", "new/link", "fifo"),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// give makes new files the container's root's, as they would be if it had made
// them: the host's has no id in there.
func give(root string, names ...string) error {
	for _, n := range names {
		if err := os.Lchown(root+"/"+n, first, first); err != nil {
			return err
		}
	}
	return nil
}

// more changes it again.
func more(t *testing.T, v *volume.Volume) {
	t.Helper()
	root, end := Mount(t, v, true)
	defer end()
	err := errors.Join(
		os.Rename(root+"/sbin", root+"/new/bin"),
		os.WriteFile(root+"/b", []byte("b"), 0o644),
		os.RemoveAll(root+"/home"),
		os.Mkdir(root+"/home", 0o755),
		os.WriteFile(root+"/gone", []byte("here again"), 0o644),
		give(root, "home", "gone"),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func snapshots(t *testing.T, open func(*testing.T) *volume.Pool, clone func(*testing.T, *volume.Pool,
	string) *volume.Volume) {
	take := func(t *testing.T, p *volume.Pool, from, name string, pause volume.Pause) *volume.Snapshot {
		t.Helper()
		s, err := p.Snapshot(t.Context(), from, name, pause)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("stay as the volume was", func(t *testing.T) {
		p := open(t)
		v := clone(t, p, "a")
		change(t, v)
		first := Tree(t, v)
		s0 := take(t, p, "a", "s0", nil)
		same(t, "the volume after a snapshot", first, Tree(t, v))
		more(t, v)
		second := Tree(t, v)
		s1 := take(t, p, "a", "s1", nil)
		same(t, "the first snapshot", first, Tree(t, s0))
		same(t, "the second snapshot", second, Tree(t, s1))
		same(t, "the volume after two", second, Tree(t, v))
		if first["home/link"] != first["home/file"]+" is home/file" || !strings.Contains(first["home/link"], "changed") {
			t.Errorf("%s and %s were one file", first["home/file"], first["home/link"])
		}
		if err := p.Restore(t.Context(), "a", "s0"); err != nil {
			t.Fatal(err)
		}
		same(t, "restored", first, Tree(t, v))
		if err := p.DeleteSnapshots(t.Context(), "s0", "nothing"); err != nil {
			t.Fatal(err)
		}
		same(t, "restored, without its snapshot", first, Tree(t, v))
		same(t, "the other snapshot", second, Tree(t, s1))
		if err := errors.Join(p.Restore(t.Context(), "a", "s1"), p.DeleteSnapshots(t.Context(), "s1")); err != nil {
			t.Fatal(err)
		}
		same(t, "restored the second", second, Tree(t, v))
	})
	t.Run("of a volume in use", func(t *testing.T) {
		p := open(t)
		v := clone(t, p, "a")
		root, end := Mount(t, v, true)
		steps(t, root)
		paused := 0
		pause := func(context.Context) (func() error, error) {
			paused++
			return func() error { paused++; return os.WriteFile(root+"/later", nil, 0o644) }, nil // as whoever goes on would
		}
		s := take(t, p, "a", "s", pause)
		end()
		want := Tree(t, v)
		if _, ok := want["later"]; !ok || paused != 2 {
			t.Errorf("paused %d times", paused)
		}
		delete(want, "later")
		same(t, "the snapshot", want, Tree(t, s))
		if err := p.Restore(t.Context(), "a", "s"); err != nil {
			t.Fatal(err)
		}
		same(t, "restored", want, Tree(t, v))
	})
	t.Run("make volumes", func(t *testing.T) {
		p := open(t)
		v := clone(t, p, "a")
		edit, err := v.EditMeta(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(edit.WriteFile("metadata.yaml", []byte("own"), 0o644), edit.Close()); err != nil {
			t.Fatal(err)
		}
		change(t, v)
		want := Tree(t, v)
		s := take(t, p, "a", "s", nil)
		if s.Base() != Image {
			t.Errorf("base %s", s.Base())
		}
		b, err := p.Copy(t.Context(), "a", "b", nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.CloneSnapshot(t.Context(), "s", "c")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.CopySnapshot(t.Context(), "s", "s2"), p.DeleteSnapshots(t.Context(), "s"),
			p.Delete(t.Context(), "a")); err != nil {
			t.Fatal(err)
		}
		s2, err := p.GetSnapshot("s2")
		if err != nil {
			t.Fatal(err)
		}
		for what, m := range map[string]Mounter{"a copy": b, "a clone of a snapshot": c, "a copy of a snapshot": s2} {
			same(t, what, want, Tree(t, m))
			meta, err := m.(interface{ Meta() (*os.Root, error) }).Meta()
			if err != nil {
				t.Fatal(err)
			}
			if b, err := meta.ReadFile("metadata.yaml"); string(b) != "own" || err != nil {
				t.Errorf("%s: metadata %q, %v", what, b, err)
			}
			meta.Close()
		}
		more(t, b)
		same(t, "the other copy", want, Tree(t, c))
	})
	t.Run("names", func(t *testing.T) {
		p := open(t)
		clone(t, p, "a")
		take(t, p, "a", "s", nil)
		for what, f := range map[string]struct {
			do   func() error
			kind kiln.Kind
		}{
			"taken":       {func() error { _, err := p.Snapshot(t.Context(), "a", "s", nil); return err }, kiln.Conflict},
			"bad":         {func() error { _, err := p.Snapshot(t.Context(), "a", "../s", nil); return err }, kiln.Invalid},
			"no volume":   {func() error { _, err := p.Snapshot(t.Context(), "b", "s2", nil); return err }, kiln.NotFound},
			"no snapshot": {func() error { return p.Restore(t.Context(), "a", "s2") }, kiln.NotFound},
			"not there":   {func() error { _, err := p.CloneSnapshot(t.Context(), "s2", "b"); return err }, kiln.NotFound},
			"volume":      {func() error { _, err := p.CloneSnapshot(t.Context(), "s", "a"); return err }, kiln.Conflict},
		} {
			if err := f.do(); !errors.Is(err, f.kind) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := p.RemoveImage(Image); !errors.Is(err, kiln.Conflict) {
			t.Errorf("the image: %v", err)
		}
		if names, err := p.Snapshots(); len(names) != 1 || err != nil {
			t.Errorf("%v, %v", names, err)
		}
	})
	t.Run("many", func(t *testing.T) { many(t, open(t), clone) })
}

// many takes more snapshots than a stack should have layers.
func many(t *testing.T, p *volume.Pool, clone func(*testing.T, *volume.Pool, string) *volume.Volume) {
	v := clone(t, p, "a")
	const n = 70
	var trees []map[string]string
	for i := range n {
		root, end := Mount(t, v, false)
		if i > 0 {
			if err := os.Rename(fmt.Sprintf("%s/bin%d", root, i-1), fmt.Sprintf("%s/bin%d", root, i)); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Rename(root+"/bin", root+"/bin0"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(root+"/home/file", fmt.Append(nil, i), 0o600),
			os.WriteFile(fmt.Sprintf("%s/f%d", root, i%5), fmt.Append(nil, i), 0o600)); err != nil {
			t.Fatal(err)
		}
		end()
		trees = append(trees, Tree(t, v))
		if _, err := p.Snapshot(t.Context(), "a", fmt.Sprint("s", i), nil); err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprint("the volume after snapshot ", i), trees[i], Tree(t, v))
	}
	for i := 0; i < n; i += 3 {
		if err := p.DeleteSnapshots(t.Context(), fmt.Sprint("s", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if i%3 == 0 {
			continue
		}
		s, err := p.GetSnapshot(fmt.Sprint("s", i))
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprint("snapshot ", i), trees[i], Tree(t, s))
		if err := p.Restore(t.Context(), "a", fmt.Sprint("s", i)); err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprint("restored snapshot ", i), trees[i], Tree(t, v))
	}
}
