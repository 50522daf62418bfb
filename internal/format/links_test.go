package format

import (
	"fmt"
	"testing"

	"github.com/kiln-containers/kiln/internal/archive"
)

// TestManyLinks has a tree of nothing but symlinks that could lead to the shell.
func TestManyLinks(t *testing.T) {
	i := inspector{links: map[string]string{}}
	for n := range 10 * maxLinks {
		e := &archive.Entry{Path: fmt.Sprintf("rootfs/%d/sh", n), Type: archive.Symlink, Link: "busybox"}
		if err := i.entry(e, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(i.links) > maxLinks {
		t.Errorf("%d links are remembered", len(i.links))
	}
}
