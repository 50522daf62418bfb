package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadThrough reads files of sizes around those of pieces and of blocks, on a disk and
// on a file system without one.
func TestReadThrough(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		for _, size := range []int{0, 1, aligns - 1, aligns, aligns + 1, piece - 1, piece, piece + 1, 3*piece + 7} {
			want := make([]byte, size)
			rand.Read(want)
			path := filepath.Join(dir, "kiln-"+rand.Text())
			if err := os.WriteFile(path, want, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			paced := 0
			pace := func(_ context.Context, n int) error {
				if paced += n; !bypassed(t, f) {
					t.Errorf("%d bytes in %s are read from the memory", size, dir)
				}
				return nil
			}
			if err := ReadThrough(t.Context(), f, pace, &got); err != nil || !bytes.Equal(got.Bytes(), want) || paced != size {
				t.Errorf("%d bytes in %s: %d came, %d announced, %v", size, dir, got.Len(), paced, err)
			}
			f.Close()
			os.Remove(path)
		}
	}
}

// TestReadThroughEnds has whoever reads, paces or takes the bytes give up.
func TestReadThroughEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 5*piece), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	broken := errors.New("broken")
	if err := ReadThrough(t.Context(), f, nil, writer(func() error { return broken })); !errors.Is(err, broken) {
		t.Error(err)
	}
	pace := func(context.Context, int) error { return broken }
	if err := ReadThrough(t.Context(), f, pace, new(bytes.Buffer)); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := ReadThrough(ctx, f, nil, writer(func() error { cancel(); return nil })); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type writer func() error

func (w writer) Write(b []byte) (int, error) { return len(b), w() }

// TestReadThroughChanges has a file be shorter and longer than when it was opened.
func TestReadThroughChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	content := make([]byte, 9*piece+5)
	rand.Read(content)
	for _, size := range []int{0, 1, piece, piece + 1, 5*piece + aligns + 1, len(content)} {
		if err := os.WriteFile(path, content[:6*piece+9], 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		first := true
		pace := func(context.Context, int) error {
			if !first {
				return nil
			}
			first = false
			return os.WriteFile(path, content[:size], 0o600)
		}
		var got bytes.Buffer
		if err := ReadThrough(t.Context(), f, pace, &got); err != nil || !bytes.Equal(got.Bytes(), content[:size]) {
			t.Errorf("%d bytes: %d came, %v", size, got.Len(), err)
		}
		f.Close()
	}
}

// BenchmarkReadThrough hashes a file of 256 MiB: from the disk, which is also read without
// hashing it, as dd(1) does with iflag=direct, and what is in memory.
func BenchmarkReadThrough(b *testing.B) {
	const size = 256 << 20
	path := filepath.Join(b.TempDir(), "file")
	block := make([]byte, size)
	rand.Read(block)
	if err := os.WriteFile(path, block, 0o600); err != nil {
		b.Fatal(err)
	}
	through := func(w func() io.Writer) func(*testing.B) {
		return func(b *testing.B) {
			b.SetBytes(size)
			for range b.N {
				f, err := Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if err := ReadThrough(b.Context(), f, nil, w()); err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		}
	}
	b.Run("scrub", through(func() io.Writer { return sha256.New() }))
	b.Run("disk", func(b *testing.B) {
		b.SetBytes(size)
		buf := aligned(piece)
		for range b.N {
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
			if err != nil {
				b.Fatal(err)
			}
			for at := int64(0); at < size; at += piece {
				if _, err := unix.Pread(int(f.Fd()), buf, at); err != nil {
					b.Fatal(err)
				}
			}
			f.Close()
		}
	})
	b.Run("disk ahead", through(func() io.Writer { return io.Discard }))
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(size)
		for range b.N {
			sha256.Sum256(block)
		}
	})
}

// bypassed says whether a file is read past the memory, if its file system can do that.
func bypassed(t *testing.T, f *os.File) bool {
	t.Helper()
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.OpenFile(f.Name(), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return true
	}
	return errors.Join(other.Close()) == nil && flags&unix.O_DIRECT != 0
}
