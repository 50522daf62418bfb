package blob

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// mended are the bytes that the child of TestMendKilled damages and mends.
func mended() []byte { return bytes.Repeat([]byte("kiln"), 64<<10) }

// TestMain can be a process that damages a blob and mends it, until it is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KILN_MEND_CHILD"); dir != "" {
		fmt.Println("child failed:", mendForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func mendForEver(path string) error {
	d, err := Open(path)
	if err != nil {
		return err
	}
	good := mended()
	fp := kiln.Fingerprint(sha256.Sum256(good))
	for n := 0; ; n++ {
		if n == 1 {
			fmt.Println("ready")
		}
		w, err := d.Create(-1)
		if err != nil {
			return err
		}
		if _, err := w.Write(good); err != nil {
			return err
		}
		if err := w.Mend(fp); err != nil {
			return err
		}
		w.Close()
		f, err := os.OpenFile(d.Path(fp), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("X"), 5)
			f.Close()
		}
		if err == nil {
			err = d.sweepAllOdd() // so that the disk doesn't fill up
		}
		if err != nil {
			return err
		}
	}
}

// sweepAllOdd is for who makes very many.
func (d *Dir) sweepAllOdd() error {
	list, err := d.Odd()
	for _, o := range list {
		if err == nil {
			err = d.DropOdd(o.Name)
		}
	}
	return err
}

// TestMendKilled kills a process that mends a blob at any moment: there is always the damaged
// one or the whole one in its place, and nothing else is left once the next owner has swept.
func TestMendKilled(t *testing.T) {
	dir := t.TempDir()
	good := mended()
	fp := kiln.Fingerprint(sha256.Sum256(good))
	bad := bytes.Clone(good)
	bad[5] = 'X'
	for range 25 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "KILN_MEND_CHILD="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		time.Sleep(time.Duration(rand.IntN(int(20 * time.Millisecond))))
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		d, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		f, err := d.Open(fp)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(b, good) && !bytes.Equal(b, bad) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		odd, err := d.Odd()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range odd {
			if o.Blob != fp || o.Size != int64(len(good)) {
				t.Errorf("put away: %+v", o)
			}
		}
		if _, err := d.Sweep(func(kiln.Fingerprint) bool { return true }); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir + "/tmp"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// TestMendKeepsDamaged: what is put away has its name on the disk before the whole one takes its
// place, and is there for a while, however old its file is.
func TestMendKeepsDamaged(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fp, err := d.Put(bytes.NewReader(mended()), kiln.Fingerprint{})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * LostTime)
	if err := errors.Join(os.Truncate(d.Path(fp), 5), os.Chtimes(d.Path(fp), old, old)); err != nil {
		t.Fatal(err)
	}
	w, err := d.Create(-1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(mended()); err != nil {
		t.Fatal(err)
	}
	var steps []disk.Step
	stop := disk.Record(func(s disk.Step) { steps = append(steps, s) })
	err = w.Mend(fp)
	stop()
	if err != nil {
		t.Fatal(err)
	}
	away := slices.IndexFunc(steps, func(s disk.Step) bool {
		return s.Kind == disk.SyncedDir && filepath.Base(s.Path) == "lost"
	})
	place := slices.IndexFunc(steps, func(s disk.Step) bool { return s.Kind == disk.Renamed && s.Path == d.Path(fp) })
	if away < 0 || place < away {
		t.Errorf("%v", steps)
	}
	if err := d.SweepLost(); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Odd(); err != nil || len(list) != 1 {
		t.Errorf("after a sweep: %v, %v", list, err)
	}
}

// TestScrubCantRead: a file that the disk can't read is damaged; one that can't be read for now
// isn't.
func TestScrubCantRead(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fp, err := d.Put(bytes.NewReader(mended()), kiln.Fingerprint{})
	if err != nil {
		t.Fatal(err)
	}
	for no, damaged := range map[unix.Errno]bool{unix.EIO: true, unix.EUCLEAN: true, unix.EBADMSG: true,
		unix.EMFILE: false, unix.ENOMEM: false} {
		err := d.Scrub(t.Context(), fp, func(context.Context, int) error { return &os.PathError{Op: "read", Err: no} })
		if !errors.Is(err, no) || errors.Is(err, kiln.Integrity) != damaged {
			t.Errorf("%v: %v", no, err)
		}
	}
}
