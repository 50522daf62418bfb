package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// moved makes the header of a directory be redirected.
func moved(to string) func(*tar.Header) { return recorded(xattrRecord+"trusted.overlay.redirect", to) }

// layerOf is a layer as pack writes it.
func layerOf(t *testing.T, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range append([]*tar.Header{entryOf(tar.TypeDir, "./")}, entries...) {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return append(b.Bytes(), sum[:]...)
}

// TestShownTwice takes layers as overlayfs makes them, and none that shows a directory of the
// layers below twice.
func TestShownTwice(t *testing.T) {
	dir := func(name string, more ...func(*tar.Header)) *tar.Header {
		return entryOf(tar.TypeDir, name+"/", more...)
	}
	gone := func(name string) *tar.Header { return entryOf(tar.TypeChar, name) }
	opaque := recorded(xattrRecord+"trusted.overlay.opaque", "y")
	for _, c := range []struct {
		what    string
		refused bool
		entries []*tar.Header
	}{
		{"moved", false, []*tar.Header{gone("a"), dir("b", moved("/a"))}},
		{"renamed", false, []*tar.Header{gone("a"), dir("b", moved("a"))}},
		{"moved and back", false, []*tar.Header{dir("a", moved("/a"))}},
		{"swapped", false, []*tar.Header{dir("a", moved("/b")), dir("b", moved("a"))}},
		{"moved out of one that is gone", false, []*tar.Header{gone("a"), dir("b", moved("/a/x/y"))}},
		{"moved out of one that came again", false, []*tar.Header{dir("a", opaque), dir("b", moved("/a/x/y"))}},
		{"moved out of one that was moved", false, []*tar.Header{gone("a"), dir("b", moved("/a")), gone("b/x"),
			dir("c", moved("/a/x"))}},
		{"moved into an opaque one", false, []*tar.Header{gone("a"), dir("b", opaque), dir("b/c", moved("/a"))}},
		{"replaced by a file", false, []*tar.Header{entryOf(tar.TypeReg, "a"), dir("b", moved("/a"))}},
		{"where nothing is looked for", false, []*tar.Header{dir("b", opaque), dir("b/c", moved("a")),
			dir("b/d", moved("a"))}},

		{"twice", true, []*tar.Header{gone("a"), dir("b", moved("/a")), dir("c", moved("/a"))}},
		{"twice, in other words", true, []*tar.Header{gone("a"), dir("b", moved("/a")), dir("c", moved("a"))}},
		{"twice, in one that was moved", true, []*tar.Header{gone("a"), dir("b", moved("/a")), gone("b/x"),
			dir("b/y", moved("x")), dir("c", moved("/a/x"))}},
		{"still there", true, []*tar.Header{dir("b", moved("/a"))}},
		{"still there, far down", true, []*tar.Header{dir("a"), dir("a/x"), dir("b", moved("/a/x/y"))}},
		{"still there, and changed", true, []*tar.Header{dir("a"), dir("b", moved("/a"))}},
		{"still in one that was moved", true, []*tar.Header{gone("a"), dir("b", moved("/a")), dir("c", moved("/a/x"))}},
		{"into itself", true, []*tar.Header{dir("a"), dir("a/b", moved("/a"))}},
		{"into itself, further down", true, []*tar.Header{dir("a"), dir("a/b", moved("/a/c"))}},
	} {
		t.Run(c.what, func(t *testing.T) {
			left := int64(1 << 30)
			err := unpack(t.Context(), bytes.NewReader(layerOf(t, c.entries...)), t.TempDir(), false, &left)
			if c.refused && (!errors.Is(err, kiln.Invalid) || !strings.Contains(fmt.Sprint(err), "twice")) ||
				!c.refused && err != nil {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestMovedMany bounds what is remembered of the directories that were moved.
func TestMovedMany(t *testing.T) {
	u := unpacker{dirs: []openDir{{name: "."}}}
	long := strings.Repeat("/"+strings.Repeat("x", 200), 19)
	for i := range maxMoved/len(long) + 1 {
		d := openDir{name: fmt.Sprint(i)}
		h := entryOf(tar.TypeDir, d.name+"/", moved(fmt.Sprint(long, "/", i)))
		if err := u.place(&d, d.name, h); errors.Is(err, kiln.Invalid) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("there is no bound")
}

// TestMergeMore merges layers that show their directories many times, as they may be there
// already: a merge makes no more than the layers have.
func TestMergeMore(t *testing.T) {
	top, low := t.TempDir(), t.TempDir()
	for i := range 20 {
		dir := fmt.Sprint(top, "/", i)
		if err := errors.Join(os.Mkdir(dir, 0o755), unix.Lsetxattr(dir, overlayXattr+"redirect", []byte("/d"), 0),
			os.MkdirAll(fmt.Sprint(low, "/d/", i), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	err := mergeTrees(t.Context(), []string{top, low}, filepath.Join(t.TempDir(), "to"), nil)
	if !errors.Is(err, kiln.Integrity) {
		t.Errorf("of 41 directories there came more: %v", err)
	}
}

// TestMergesOfOthers has a merge that doesn't end: only who needs its layers waits, for as long
// as it wants to.
func TestMergesOfOthers(t *testing.T) {
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * fanout {
		if err := os.MkdirAll(p.layerTree(fmt.Sprint("l", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	stack := func(from int) (list []string) {
		for i := range fanout {
			list = append(list, fmt.Sprint("l", from+i))
		}
		return list
	}
	busy := strings.Join(stack(0), " ")
	p.merging[busy] = make(chan struct{})
	if got, err := p.mergeAll(t.Context(), stack(fanout)); err != nil || len(got) != 1 {
		t.Errorf("other layers: %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	wait := func(ctx context.Context) {
		_, err := p.mergeAll(ctx, stack(0))
		result <- err
	}
	go wait(ctx)
	select {
	case err := <-result:
		t.Fatalf("it didn't wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go wait(t.Context())
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, kiln.Cancelled) {
		t.Errorf("at the end: %v", err)
	}
	if _, busy := p.merging[busy]; !busy {
		t.Error("who waited took it away")
	}
}

// TestCancelledMerge leaves what a cancelled merge made to be removed beside the caller.
func TestCancelledMerge(t *testing.T) {
	dir := t.TempDir()
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil { // nothing is removed any more
		t.Fatal(err)
	}
	var made string
	_, err = p.prepareLarge(func(temp string) error {
		made = temp
		return errors.Join(os.Mkdir(temp+"/upper", 0o700), context.Canceled)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it failed with %v", err)
	}
	p.wg.Wait()
	if _, err := os.Stat(made + "/upper"); err != nil {
		t.Errorf("the pool was closed, and goes on removing: %v", err)
	}
	if p, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	p.wg.Wait()
	if _, err := os.Stat(made); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next one leaves it: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
