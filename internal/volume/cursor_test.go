package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// deepTree makes a directory in a directory, and so on, as anybody can with mkdir and
// chdir, and a file in the last.
func deepTree(t *testing.T, depth int) string {
	t.Helper()
	dir := t.TempDir()
	c, err := openCursor(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range depth {
		if err := errors.Join(unix.Mkdirat(c.fd, "d", 0o755), c.enter("d")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(c.path("file"), make([]byte, 8192), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Linkat(c.fd, "file", c.fd, "link", 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeTree(dir + "/d"); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDeep counts, copies and removes trees that are deeper than a path is long, and
// than a process may have files open.
func TestDeep(t *testing.T) {
	const depth = 8_000 // far more than a path can name, and than files may be open
	from := deepTree(t, depth)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 512
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
	n, err := usage(t.Context(), from)
	if err != nil || n < 8192 || n > depth*4096+1<<20 {
		t.Errorf("usage: %d, %v", n, err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := copyTree(t.Context(), from, to, nil); err != nil {
		t.Fatal(err)
	}
	c, err := openCursor(to)
	if err != nil {
		t.Fatal(err)
	}
	for c.enter("d") == nil {
	}
	st, err := c.lstat("file")
	if err != nil || len(c.above) != depth || st.Mode&0o777 != 0o640 || st.Nlink != 2 || st.Size != 8192 {
		t.Errorf("at depth %d: %+v, %v", len(c.above), st, err)
	}
	c.Close()
	if err := removeTree(to); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestTooDeep has a tree that is deeper than anybody goes: nothing of that is copied, and all
// of it can be counted in part, and removed.
func TestTooDeep(t *testing.T) {
	from := deepTree(t, 1050)
	was := deepest
	deepest = 100
	t.Cleanup(func() { deepest = was })
	if n, err := usage(t.Context(), from); err != nil || n < 100*512 {
		t.Errorf("usage: %d, %v", n, err)
	}
	if err := copyTree(t.Context(), from, filepath.Join(t.TempDir(), "copy"), nil); !errors.Is(err, kiln.Unsupported) {
		t.Errorf("copy: %v", err)
	}
	if _, err := os.Stat(from + "/d"); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(from); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(from); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestMoving counts and copies a tree whose directories are renamed and replaced by
// symlinks all the time. Nothing outside of it is ever looked at.
func TestMoving(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/secret", make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/a/b/c/d/e", 0o755), os.MkdirAll(dir+"/x/y", 0o755),
		os.WriteFile(dir+"/a/b/c/d/e/f", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			os.Rename(dir+"/a/b", dir+"/x/y/b")
			os.Symlink(outside, dir+"/a/b")
			os.Rename(dir+"/x/y/b/c", dir+"/c")
			os.Remove(dir + "/a/b")
			os.Rename(dir+"/c", dir+"/x/y/b/c")
			os.Rename(dir+"/x/y/b", dir+"/a/b")
		}
	})
	defer wg.Wait()
	defer cancel()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	m := mirror{from: dir, to: to}
	for range 200 {
		if n, err := usage(t.Context(), dir); err != nil || n > 1<<20 {
			t.Fatalf("usage: %d, %v", n, err)
		}
		if _, err := m.early(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, err := usage(t.Context(), to); err != nil || n > 1<<20 {
			t.Fatalf("the copy: %d, %v", n, err)
		}
	}
	cancel()
	wg.Wait()
	if err := m.last(t.Context()); err != nil {
		t.Fatal(err)
	}
	want, got := describe(t, dir), describe(t, to)
	for path, text := range want {
		if got[path] != text {
			t.Errorf("%s: %q, want %q", path, got[path], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}
