package volume_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestMain can be a process that takes snapshots, or lands volumes, until it is
// killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KILN_LANDING_CHILD"); dir != "" {
		fmt.Println("child failed:", landChild(dir))
		os.Exit(1)
	}
	if dir := os.Getenv("KILN_FEW_FILES_CHILD"); dir != "" {
		if err := fewFiles(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv("KILN_VOLUME_CHILD"); dir != "" {
		fmt.Println("child failed:", child(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child snapshots, restores and deletes for ever. In everything that it snapshots
// the files x and y are the same.
func child(dir string) error {
	ctx := context.Background()
	p, err := volume.Open(dir)
	if err != nil {
		return err
	}
	v, err := p.Get("v")
	if errors.Is(err, kiln.NotFound) {
		v, err = p.Clone(ctx, "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for i := time.Now().UnixNano(); ; i++ {
		if err := writePair(ctx, v, i); err != nil {
			return err
		}
		name := strconv.FormatInt(i, 10)
		if i%3 == 0 {
			_, err = p.Snapshot(ctx, "v", name, func(context.Context) (func() error,
				error) {
				return func() error { return nil }, nil
			})
		} else {
			_, err = p.Snapshot(ctx, "v", name, nil)
		}
		if err != nil {
			return err
		}
		names, err := p.Snapshots()
		if err != nil {
			return err
		}
		if len(names) > 12 {
			err = errors.Join(p.Restore(ctx, "v", names[i%12]), p.DeleteSnapshots(ctx, names[(i+5)%12]))
		}
		if err != nil {
			return err
		}
	}
}

func writePair(ctx context.Context, v *volume.Volume, i int64) error {
	f, err := v.Mount(ctx, nil)
	if err != nil {
		return err
	}
	defer f.Close()
	root := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	return errors.Join(os.WriteFile(root+"/x", fmt.Append(nil, i), 0o644),
		os.WriteFile(root+"/y", fmt.Append(nil, i), 0o644))
}

// TestKilled kills a process that takes snapshots again and again at any moment.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for range 10 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "KILN_VOLUME_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 6))
		time.Sleep(time.Duration(time.Now().UnixNano()%200) * time.Millisecond)
		cmd.Process.Kill()
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		if len(rest) > 0 {
			t.Fatalf("%s", rest)
		}
		checkPool(t, dir)
	}
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	names, err := p.Snapshots()
	if err := errors.Join(err, p.Delete(t.Context(), "v"), p.DeleteSnapshots(t.Context(), names...)); err != nil {
		t.Fatal(err)
	}
	p.Quiet() // Close would leave the rest to the next Open
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"layers", "volumes", "snapshots", "tmp"} {
		if left, err := os.ReadDir(dir + "/" + sub); len(left) != 0 || err != nil {
			t.Errorf("left in %s: %v, %v", sub, left, err)
		}
	}
}

// checkPool opens what a process that was killed left behind.
func checkPool(t *testing.T, dir string) {
	t.Helper()
	p, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	names, err := p.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		s, err := p.GetSnapshot(n)
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.Mount(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		root := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		x, err1 := os.ReadFile(root + "/x")
		y, err2 := os.ReadFile(root + "/y")
		if string(x) != string(y) || len(x) == 0 || err1 != nil || err2 != nil {
			t.Errorf("snapshot %s: %q, %q, %v %v", n, x, y, err1, err2)
		}
		f.Close()
	}
	if v, err := p.Get("v"); err == nil {
		f, err := v.Mount(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}
