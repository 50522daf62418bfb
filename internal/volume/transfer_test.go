package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

func openPool(t *testing.T, dir string) *volume.Pool {
	t.Helper()
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// carry takes the parts of stacks from one pool to another.
func carry(ctx context.Context, from, to *volume.Pool, stacks ...kiln.Stack) (*volume.Receiver, error) {
	parts, err := from.Parts(stacks)
	if err != nil {
		return nil, err
	}
	l, err := to.Receive(parts)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		var b bytes.Buffer
		if err := errors.Join(from.Export(ctx, p.ID, &b, nil), l.Add(ctx, p.ID, &b)); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// leftover tells what a pool has that nobody should need.
func leftover(t *testing.T, dir string) {
	t.Helper()
	for _, sub := range []string{"layers", "volumes", "snapshots", "tmp"} {
		if left, err := os.ReadDir(dir + "/" + sub); len(left) != 0 || err != nil {
			t.Errorf("left in %s: %v, %v", sub, left, err)
		}
	}
}

// TestTransferLooksTheSame takes stacks that came about by chance, of one volume and
// its snapshots, to another pool.
func TestTransferLooksTheSame(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := t.TempDir()
			from, to := openPool(t, t.TempDir()), openPool(t, dir)
			r := rand.New(rand.NewPCG(seed, 3))
			v, err := from.Clone(t.Context(), "v", volumetest.Image, deep)
			if err != nil {
				t.Fatal(err)
			}
			var stacks []kiln.Stack
			want := map[string]map[string]string{}
			snapshots := map[string]kiln.Stack{}
			for i := range 4 {
				root, end := volumetest.Mount(t, v, false)
				for range 25 {
					if err := work(r, root); err != nil {
						t.Fatal(err)
					}
				}
				end()
				s, err := from.Snapshot(t.Context(), "v", fmt.Sprint(i), nil)
				if err != nil {
					t.Fatal(err)
				}
				want[fmt.Sprint("theirs", i)] = volumetest.Tree(t, s)
				snapshots[fmt.Sprint("theirs", i)] = s.Stack()
				stacks = append(stacks, s.Stack())
			}
			if err := to.Fill(t.Context(), volumetest.Image, deep); err != nil {
				t.Fatal(err)
			}
			l, err := carry(t.Context(), from, to, stacks...)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(l.Commit(t.Context(), "copy", stacks[3], snapshots), l.Close()); err != nil {
				t.Fatal(err)
			}
			for name, tree := range want {
				s, err := to.GetSnapshot(name)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tree, volumetest.Tree(t, s)); d != "" {
					t.Errorf("%s (-there +here):\n%s", name, d)
				}
			}
			c, err := to.Get("copy")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want["theirs3"], volumetest.Tree(t, c)); d != "" {
				t.Errorf("the volume (-there +here):\n%s", d)
			}
			names, _ := to.Snapshots()
			if err := errors.Join(to.Delete(t.Context(), "copy"), to.DeleteSnapshots(t.Context(), names...)); err != nil {
				t.Fatal(err)
			}
			to.Quiet()
			leftover(t, dir)
		})
	}
}

// TestTransferWithoutImage has the tree of the image go as one more layer.
func TestTransferWithoutImage(t *testing.T) {
	from, to := openPool(t, t.TempDir()), openPool(t, t.TempDir())
	v, err := from.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	root, end := volumetest.Mount(t, v, false)
	if err := errors.Join(os.WriteFile(root+"/home/file", []byte("changed"), 0o600), os.Rename(root+"/bin", root+"/sbin")); err != nil {
		t.Fatal(err)
	}
	end()
	s, err := from.Snapshot(t.Context(), "v", "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := from.ImageParts(volumetest.Image)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := from.Parts([]kiln.Stack{s.Stack()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := to.Receive(append(parts, layers...))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(parts, layers...) {
		var b bytes.Buffer
		if err := errors.Join(from.Export(t.Context(), p.ID, &b, nil), l.Add(t.Context(), p.ID, &b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Commit(t.Context(), "v", volume.WithoutImage(s.Stack()), nil), l.Close()); err != nil {
		t.Fatal(err)
	}
	c, err := to.Get("v")
	if err != nil {
		t.Fatal(err)
	}
	want := volumetest.Tree(t, s)
	for name, text := range want { // the image's files have no time, which tar doesn't know
		want[name] = strings.ReplaceAll(text, " -62135596800", " 0")
	}
	if d := cmp.Diff(want, volumetest.Tree(t, c)); d != "" {
		t.Errorf("-there +here:\n%s", d)
	}
	meta, err := c.Meta()
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	if b, err := meta.ReadFile("metadata.yaml"); string(b) != "a\n" || err != nil {
		t.Errorf("metadata %q, %v", b, err)
	}
}

// TestReceiveRefuses what names layers that didn't come, and what is too large.
func TestReceiveRefuses(t *testing.T) {
	dir := t.TempDir()
	from, to := openPool(t, t.TempDir()), openPool(t, dir)
	if _, err := from.Empty(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	s, err := from.Snapshot(t.Context(), "v", "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	good := s.Stack()
	for what, bad := range map[string]kiln.Stack{
		"none": {}, "another": {Layers: []string{"x"}}, "twice": {Layers: []string{good.Layers[0], good.Layers[0]}},
		"metadata": {Layers: good.Layers, Meta: "meta-x"}, "a layer for metadata": {Layers: good.Layers,
			Meta: good.Layers[0]},
		"many": {Layers: strings.Split(strings.Repeat(good.Layers[0]+" ", 100), " ")},
	} {
		for _, inSnapshot := range []bool{false, true} {
			l, err := carry(t.Context(), from, to, good)
			if err != nil {
				t.Fatal(err)
			}
			if inSnapshot {
				err = l.Commit(t.Context(), "v", good, map[string]kiln.Stack{"s": bad})
			} else {
				err = l.Commit(t.Context(), "v", bad, nil)
			}
			if !errors.Is(err, kiln.Invalid) {
				t.Errorf("%s: %v", what, err)
			}
			l.Close()
		}
	}
	for _, size := range []int64{1 << 60, -1} {
		if _, err := to.Receive([]kiln.Part{{ID: "x", Size: size}}); !errors.Is(err, kiln.NoSpace) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, id := range []string{"..", "a/b", "nothing", "meta-..", "image-x", ""} {
		if err := from.Export(t.Context(), id, io.Discard, nil); err == nil && id != "meta-.." {
			t.Errorf("%q is exported", id)
		}
	}
	to.Quiet()
	leftover(t, dir)
}

// landChild lands a volume again and again, and deletes it, until it is killed.
func landChild(dir string) error {
	ctx := context.Background()
	from, err := volume.Open(dir + "/from")
	if err != nil {
		return err
	}
	s, err := from.GetSnapshot("s")
	if err != nil {
		return err
	}
	to, err := volume.Open(dir + "/to")
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		l, err := carry(ctx, from, to, s.Stack())
		if err != nil {
			return err
		}
		if err := errors.Join(l.Commit(ctx, "v", s.Stack(), map[string]kiln.Stack{"s": s.Stack()}), l.Close()); err != nil {
			return err
		}
		if err := errors.Join(to.Delete(ctx, "v"), to.DeleteSnapshots(ctx, "s")); err != nil {
			return err
		}
	}
}

// TestReceiveKilled kills a process that lands volumes: after the next start there is
// all of one, or nothing.
func TestReceiveKilled(t *testing.T) {
	dir := t.TempDir()
	from := openPool(t, dir+"/from")
	v, err := from.Empty(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	root, end := volumetest.Mount(t, v, false)
	for i := range 100 {
		if err := os.WriteFile(fmt.Sprint(root, "/", i), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	end()
	s, err := from.Snapshot(t.Context(), "v", "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := volumetest.Tree(t, s)
	for range 8 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "KILN_LANDING_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 6))
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		cmd.Process.Kill()
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		if len(rest) > 0 {
			t.Fatalf("%s", rest)
		}
		to, err := volume.Open(dir + "/to")
		if err != nil {
			t.Fatal(err)
		}
		if c, err := to.Get("v"); err == nil {
			if d := cmp.Diff(want, volumetest.Tree(t, c)); d != "" {
				t.Errorf("-there +here:\n%s", d)
			}
		}
		if err := errors.Join(to.Delete(t.Context(), "v"), to.DeleteSnapshots(t.Context(), "s")); err != nil {
			t.Fatal(err)
		}
		to.Quiet() // Close would leave the rest to the next Open
		if err := to.Close(); err != nil {
			t.Fatal(err)
		}
		leftover(t, dir+"/to")
	}
}
