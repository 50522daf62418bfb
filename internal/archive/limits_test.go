package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// TestLinkChains: a path may lead through as many symlinks as Linux follows, and no more.
func TestLinkChains(t *testing.T) {
	for links, follows := range map[int]bool{40: true, 41: false} {
		var in strings.Builder
		in.WriteString("l0/")
		for n := range links {
			fmt.Fprintf(&in, " l%d->l%d", n+1, n)
		}
		fmt.Fprintf(&in, " l%d/x", links)
		_, err := count(t.Context(), bytes.NewReader(makeTar(t, parse(in.String())...)), archive.Limits{})
		if follows && err != nil || !follows && !errors.Is(err, kiln.Invalid) {
			t.Errorf("%d symlinks: %v", links, err)
		}
	}
}

// TestFullDirectoryStays: a directory with something in it that comes again still has it,
// and isn't replaced by a file.
func TestFullDirectoryStays(t *testing.T) {
	for in, fits := range map[string]bool{"d/ d": true, "d/ d/ d": true, "d/ d/x d": false, "d/ d/x d/ d": false,
		"d/ d/e/ d/ d": false} {
		_, err := count(t.Context(), bytes.NewReader(makeTar(t, parse(in)...)), archive.Limits{})
		if fits && err != nil || !fits && !errors.Is(err, kiln.Invalid) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// TestLeastSparse: a file is packed with its holes from 1 MiB of them on.
func TestLeastSparse(t *testing.T) {
	const piece = 256 << 10 // as the packer looks at them
	for _, holes := range []int64{mib, mib - piece} {
		dir := t.TempDir()
		writeSparse(t, filepath.Join(dir, "f"), piece+holes, true, 0)
		if got := int64(len(pack(t, dir))); (got < piece+holes) != (holes == mib) {
			t.Errorf("with holes of %d bytes it takes %d of %d", holes, got, piece+holes)
		}
	}
}

// TestRoomOfSparse: what a file with holes takes on a disk is what is between them, to
// the byte.
func TestRoomOfSparse(t *testing.T) {
	dir := t.TempDir()
	writeSparse(t, filepath.Join(dir, "a"), 4*mib, false, 0, 2*mib)
	b := pack(t, dir)
	fits := func(room int64) bool {
		_, err := count(t.Context(), bytes.NewReader(b), archive.Limits{Room: room})
		if err != nil && !errors.Is(err, kiln.NoSpace) {
			t.Fatal(err)
		}
		return err == nil
	}
	least, most := int64(1), int64(4*mib)
	for least < most {
		if half := (least + most) / 2; fits(half) {
			most = half
		} else {
			least = half + 1
		}
	}
	if want := int64(2 * 256 << 10); least != want {
		t.Errorf("it fits into %d bytes, not %d", least, want)
	}
}
