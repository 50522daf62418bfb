package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// manyFiles makes so many files in a directory, and gives their names in order.
func manyFiles(t *testing.T, dir string, n int) (names []string) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("%07d%s", i, strings.Repeat("x", 60))
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFREG|0o600, 0); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// TestListing reads a directory of several pieces, also with nothing in memory in between, and
// in order in pieces of few names.
func TestListing(t *testing.T) {
	dir := t.TempDir()
	want := manyFiles(t, dir, 2000)
	c, err := openCursor(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, every := range []int{1, 37, 1 << 20} {
		var got []string
		var l listing
		for {
			name, err := l.next(c.fd)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, name); len(got)%every == 0 {
				l.drop()
			}
		}
		l.drop()
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("dropped at each %d: %d names", every, len(got))
		}
	}
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		names, err := c.smallest(after, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, names...); len(names) < 64 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("in order: %d names", len(got))
	}
	c.above = make([]inode, manyAbove) // so deep that there are few names at once
	got = nil
	if err := c.eachSorted(func(name string) error { got = append(got, name); return nil }); err != nil ||
		!slices.Equal(got, want) {
		t.Errorf("in order, deep down: %d names, %v", len(got), err)
	}
}

// TestWalkOfManyDeep goes through a tree that has directories beside each other in each
// directory, deeper than directories stay open: all are seen once, and few files are open.
func TestWalkOfManyDeep(t *testing.T) {
	dir := t.TempDir()
	c, err := openCursor(dir)
	if err != nil {
		t.Fatal(err)
	}
	const depth, beside = openListings + 40, 5
	for range depth {
		for i := range beside {
			if err := unix.Mkdirat(c.fd, fmt.Sprint("d", i), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.enter("d2"); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if c, err = openCursor(dir); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen, open := map[uint64]int{}, 0
	err = c.walk(t.Context(), func(_ string, st *unix.Stat_t) error {
		seen[st.Ino]++
		if len(c.above) == depth-1 && open == 0 {
			fds, err := os.ReadDir("/proc/self/fd")
			for _, fd := range fds {
				if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, dir) {
					open++
				}
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for ino, n := range seen {
		if n != 1 {
			t.Errorf("inode %d was seen %d times", ino, n)
		}
	}
	if len(seen) != depth*beside || open > openListings+2 {
		t.Errorf("%d directories, %d of them open at once", len(seen), open)
	}
	to := filepath.Join(t.TempDir(), "merged")
	if err := mergeTrees(t.Context(), []string{dir, t.TempDir()}, to, nil); err != nil {
		t.Fatal(err)
	}
	merged, err := usage(t.Context(), to)
	if n, uerr := usage(t.Context(), dir); err != nil || uerr != nil || n != merged {
		t.Errorf("merged: %d and %d bytes, %v, %v", n, merged, err, uerr)
	}
}

// TestWalksAreCounted has a client whose share of the memory is full: what would remember many
// files, directories or links is refused, what needs to remember none isn't.
func TestWalksAreCounted(t *testing.T) {
	crowd, guest := archive.NewCrowd(0, nil), archive.Client{Name: "a", Restricted: true}
	full, err := crowd.Share(guest)
	for err == nil { // until there is no more
		err = full.Add(1 << 20)
	}
	other, err := crowd.Share(archive.Client{Name: "b", Restricted: true}) // so that all have none left
	for err == nil {
		err = other.Add(1 << 20)
	}
	many, links := t.TempDir(), t.TempDir()
	manyFiles(t, many, 16_000)
	manyFiles(t, links, 5000)
	for i := range 5000 {
		name := filepath.Join(links, fmt.Sprintf("%07d%s", i, strings.Repeat("x", 60)))
		if err := os.Link(name, name+"link"); err != nil {
			t.Fatal(err)
		}
	}
	deep := deepTree(t, 600)
	counted := func(what string, busy bool, f func(to string, visit *archive.Visit) error) {
		t.Helper()
		visit := crowd.Walk(guest, false)
		defer visit.Leave()
		err := f(filepath.Join(t.TempDir(), "to"), visit)
		if busy && !errors.Is(err, kiln.Busy) || !busy && err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	several := func(from string) func(string, *archive.Visit) error {
		return func(to string, visit *archive.Visit) error {
			if err := os.Mkdir(to, 0o755); err != nil {
				return err
			}
			m := mirror{from: from, to: to, visit: visit}
			_, err := m.early(t.Context())
			return err
		}
	}
	once := func(from string) func(string, *archive.Visit) error {
		return func(to string, visit *archive.Visit) error { return copyTree(t.Context(), from, to, visit) }
	}
	merge := func(from string) func(string, *archive.Visit) error {
		return func(to string, visit *archive.Visit) error {
			return mergeTrees(t.Context(), []string{from, from}, to, visit)
		}
	}
	shared := func(_ string, visit *archive.Visit) error {
		c, err := openCursor(links)
		if err != nil {
			return err
		}
		defer c.Close()
		c.visit = visit
		var list []fileName
		return c.shared(t.Context(), &folder{}, &list)
	}
	counted("passes over many files", true, several(many))
	counted("a copy of many files", false, once(many))
	counted("a merge of many files", false, merge(many))
	counted("passes over few files", false, several(t.TempDir()))
	counted("a copy of links", true, once(links))
	counted("a merge of links", true, merge(links))
	counted("a look for links", true, shared)
	counted("a deep copy", true, once(deep))
	counted("a deep merge", true, merge(deep))
}

// TestMirrorOfDirectoryThatComesBack has a directory be away for one pass, and be back with files
// that didn't change: they are copied again.
func TestMirrorOfDirectoryThatComesBack(t *testing.T) {
	base := t.TempDir()
	from, to := base+"/from", base+"/to"
	if err := errors.Join(os.MkdirAll(from+"/d/e", 0o755), os.Mkdir(to, 0o755),
		os.WriteFile(from+"/d/e/f", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	m := mirror{from: from, to: to}
	pass := func() {
		t.Helper()
		if _, err := m.early(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * clockStep) // so that the times are sure
	pass()
	if err := os.Rename(from+"/d", base+"/away"); err != nil {
		t.Fatal(err)
	}
	pass()
	if err := os.Rename(base+"/away", from+"/d"); err != nil {
		t.Fatal(err)
	}
	if err := m.last(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, from, to)
}
