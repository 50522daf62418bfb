package blob

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob/blobtest"
)

func TestDir(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blobtest.Store {
		d, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

func TestWriter(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.Create(-1)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "hello")
	if b, _ := io.ReadAll(io.NewSectionReader(w.File(), 0, w.Size())); string(b) != "hello" {
		t.Errorf("what was written reads as %q", b)
	}
	h, err := w.Hash()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(h, ", not to the writer")
	got, err := w.Hash()
	if sum := sha256.Sum256([]byte("hello")); err != nil || !bytes.Equal(got.Sum(nil), sum[:]) {
		t.Errorf("the hash of \"hello\" is %x (%v)", got.Sum(nil), err)
	}
	w.Close()
	if temps, _ := os.ReadDir(filepath.Join(d.path, "tmp")); len(temps) != 0 {
		t.Errorf("left after Close: %v", temps)
	}
}

func TestSweep(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keep, _ := d.Put(strings.NewReader("keep"), kiln.Fingerprint{})
	drop, _ := d.Put(strings.NewReader("drop"), kiln.Fingerprint{})
	if _, err := d.Create(-1); err != nil { // its owner dies
		t.Fatal(err)
	}
	foreign := filepath.Join(d.path, "tmp", "notes.txt")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-LostTime - time.Hour)
	if err := os.Chtimes(d.Path(drop), old, old); err != nil { // how old it is doesn't say when it was put away
		t.Fatal(err)
	}
	lost, err := d.Sweep(func(fp kiln.Fingerprint) bool { return fp == keep })
	if err != nil || len(lost) != 1 || lost[0] != drop {
		t.Fatal(lost, err)
	}
	if _, err := d.Stat(keep); err != nil {
		t.Error(err)
	}
	if _, err := d.Stat(drop); !errors.Is(err, kiln.NotFound) {
		t.Errorf("%v", err)
	}
	if temps, _ := filepath.Glob(filepath.Join(d.path, "tmp", "*")); len(temps) != 1 || temps[0] != foreign {
		t.Errorf("left: %v", temps)
	}
	// It comes back, or goes when its time is over.
	if err := errors.Join(d.SweepLost(), d.Find(drop)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stat(drop); err != nil {
		t.Error(err)
	}
	if _, err := d.Sweep(func(kiln.Fingerprint) bool { return false }); err != nil {
		t.Fatal(err)
	}
	unset := time.Unix(100, 0) // a clock that says so isn't believed
	if err := errors.Join(os.Chtimes(filepath.Join(d.path, "lost", drop.String()), unset, unset), d.SweepLost()); err != nil {
		t.Fatal(err)
	}
	if at, _, _, err := d.StatLost(drop); err != nil || time.Since(at) > time.Hour {
		t.Errorf("%v, %v", at, err)
	}
	if err := errors.Join(os.Chtimes(filepath.Join(d.path, "lost", drop.String()), old, old), d.SweepLost()); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Lost(); err != nil || len(list) != 1 || list[0] != keep {
		t.Errorf("%v, %v", list, err)
	}
	if err := d.Find(drop); !errors.Is(err, kiln.NotFound) {
		t.Errorf("%v", err)
	}
}

// TestDiskFull has a file system of one megabyte.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "kiln-test", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount needs root: %s", out)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(258_000_000); !errors.Is(err, kiln.NoSpace) ||
		!strings.Contains(err.Error(), "need 258 MB, 983 kB free in "+dir) {
		t.Errorf("before: %v", err)
	}
	if _, err := d.Put(bytes.NewReader(make([]byte, 2<<20)), kiln.Fingerprint{}); !errors.Is(err, kiln.NoSpace) ||
		!strings.Contains(err.Error(), "free in "+dir) {
		t.Errorf("on the way: %v", err)
	}
	if free, err := d.Free(); err != nil || free < 900_000 {
		t.Errorf("left behind: %d free, %v", free, err)
	}
}

// TestHeadroom makes sure that a blob of unknown size stops before the disk is full.
func TestHeadroom(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256m", "kiln-test", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount needs root: %s", out)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.Create(-1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	piece := make([]byte, 1<<20)
	for err == nil && w.Size() < 300<<20 {
		_, err = w.Write(piece)
	}
	var st unix.Statfs_t
	serr := unix.Statfs(dir, &st)
	if free := int64(st.Bavail) * st.Bsize; !errors.Is(err, kiln.NoSpace) || serr != nil || free < pushStep {
		t.Errorf("%v, with %d bytes free (%v)", err, free, serr)
	}
}

func TestConcurrentPuts(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("x"), 1<<20)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if fp, err := d.Put(bytes.NewReader(content), sha256.Sum256(content)); err != nil || fp != sha256.Sum256(content) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	d.List(func(kiln.Fingerprint, int64) error { n++; return nil })
	if n != 1 {
		t.Errorf("%d blobs", n)
	}
}

func TestResume(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	whole := bytes.Repeat([]byte("0123456789"), 1000)
	fp := kiln.Fingerprint(sha256.Sum256(whole))
	begin := func() *Writer {
		t.Helper()
		w, err := d.Resume(fp, int64(len(whole)))
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := begin()
	w.Write(whole[:4000])
	// Meanwhile somebody else writes a file of his own.
	if other := begin(); other.Have() != 0 || other.partial {
		t.Errorf("two write one partial file")
	} else {
		other.Close()
	}
	w.Close()
	if w = begin(); w.Have() != 4000 || d.Partial(fp) != 4000 {
		t.Fatalf("%d bytes are left of 4000", w.Have())
	}
	w.Close() // without a look at it
	w = begin()
	if b, err := io.ReadAll(rereader{w}); err != nil || !bytes.Equal(b, whole[:4000]) {
		t.Errorf("%d bytes read again, %v", len(b), err)
	}
	w.Write(whole[4000:])
	if _, err := w.Commit(fp); err != nil {
		t.Error(err)
	}
	again := begin()
	w.Close()
	if again.Write(whole[:1]); d.Partial(fp) != 1 {
		t.Error("the end of one writer took the file of the next")
	}
	again.Close()
	// What is wrong isn't kept.
	w = begin()
	io.Copy(io.Discard, rereader{w})
	io.WriteString(w, "wrong")
	if _, err := w.Commit(fp); !errors.Is(err, kiln.Integrity) {
		t.Errorf("wrong: %v", err)
	}
	w.Close()
	if d.Partial(fp) != 0 {
		t.Error("a wrong file is kept to go on with")
	}
	w = begin()
	w.Write(whole)
	w.Write(whole) // longer than it can be
	w.Close()
	if w = begin(); w.Have() != 0 {
		t.Errorf("%d bytes of %d are gone on with", w.Have(), len(whole))
	}
	w.Write(whole[:1])
	if err := d.SweepPartial(0); err != nil || d.Partial(fp) != 1 {
		t.Errorf("swept while it is written: %v", err)
	}
	w.Close()
	if err := d.SweepPartial(0); err != nil || d.Partial(fp) != 0 {
		t.Errorf("not swept: %v", err)
	}
}

type rereader struct{ w *Writer }

func (r rereader) Read(b []byte) (int, error) { return r.w.Reread(b) }
