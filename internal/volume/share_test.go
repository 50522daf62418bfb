package volume_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/volume"
)

// treeOf is an image of some files of a megabyte, each made from a number.
func treeOf(seeds ...uint64) func(context.Context) (volume.Content, error) {
	return func(context.Context) (volume.Content, error) {
		return volume.Content{Unpack: func(_ context.Context, rootfs, _ archive.TreeWriter) error {
			for i, seed := range seeds {
				r := rand.New(rand.NewPCG(seed, 1))
				b := make([]byte, 1<<20)
				for k := range b {
					b[k] = byte(r.Uint32())
				}
				e := &archive.Entry{Path: string(rune('a' + i)), Type: archive.Regular, Mode: 0o644, Size: int64(len(b))}
				if err := rootfs.Add(e, strings.NewReader(string(b))); err != nil {
					return err
				}
			}
			return rootfs.Close()
		}}, nil
	}
}

// TestShare makes trees that have most of their files in common.
func TestShare(t *testing.T) {
	for kind, shares := range map[string]bool{"": false, "xfs": true, "btrfs": true} {
		t.Run(kind, func(t *testing.T) {
			p, err := volume.Open(filesystem(t, kind))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			old, now := kiln.Fingerprint{1}, kiln.Fingerprint{2}
			for fp, content := range map[kiln.Fingerprint]func(context.Context) (volume.Content, error){old: treeOf(1, 2, 3, 4),
				now: treeOf(1, 9, 3, 4)} {
				if _, err := p.Clone(t.Context(), fp.Short(), fp, content); err != nil {
					t.Fatal(err)
				}
				if err := p.Settle(fp); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Share(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			list, err := p.Images()
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range list {
				want := int64(0)
				if i.Fingerprint == now && shares {
					want = 3 << 20
				}
				if i.Shared < want || i.Shared > want+1<<20 {
					t.Errorf("%s shares %d bytes, want %d", i.Fingerprint.Short(), i.Shared, want)
				}
			}
			// The trees are what they were.
			for fp, seed := range map[kiln.Fingerprint]uint64{old: 2, now: 9} {
				checkTree(t, p, fp.Short(), seed)
			}
		})
	}
}

func checkTree(t *testing.T, p *volume.Pool, name string, seed uint64) {
	t.Helper()
	v, err := p.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := v.Mount(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d/b", tree.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for k := range got {
		if got[k] != byte(r.Uint32()) {
			t.Fatalf("%s: byte %d of a file is another", name, k)
		}
	}
}
