package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMirrorOfWhatChanges copies a directory that somebody changes all the time,
// and who wants a file of the host to get into the copy.
func TestMirrorOfWhatChanges(t *testing.T) {
	base := t.TempDir()
	from, to, secret := base+"/from", base+"/to", base+"/secret"
	if err := errors.Join(os.Mkdir(from, 0o755), os.Mkdir(to, 0o755), os.Mkdir(secret, 0o755),
		os.WriteFile(secret+"/f0", []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for ctx.Err() == nil {
			disturb(r, from, secret)
		}
	})
	m := mirror{from: from, to: to}
	for range 30 {
		if _, err := m.early(t.Context()); err != nil {
			t.Error(err)
			break
		}
		err := filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				if b, _ := os.ReadFile(path); bytes.Contains(b, []byte("secret")) {
					return fmt.Errorf("%s has the secret", path)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
	if err := m.last(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, from, to)
}

// disturb does something to one of a few names; errors are of no interest.
func disturb(r *rand.Rand, dir, secret string) {
	sub := fmt.Sprintf("%s/d%d", dir, r.IntN(3))
	name := fmt.Sprintf("%s/f%d", sub, r.IntN(3))
	switch r.IntN(10) {
	case 0:
		_ = os.Mkdir(sub, 0o755)
	case 1, 2, 3:
		if f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NONBLOCK|unix.O_NOFOLLOW,
			0o644); err == nil {
			_, _ = fmt.Fprint(f, r.IntN(1e6))
			f.Close()
		}
	case 4:
		_ = os.RemoveAll(sub)
	case 5:
		_ = os.Remove(sub)
		_ = os.Symlink(secret, sub)
	case 6:
		_ = os.Remove(name)
		_ = os.Symlink(secret+"/f0", name)
	case 7:
		_ = os.Link(name, fmt.Sprintf("%s/f%d", sub, r.IntN(3)))
	case 8:
		_ = unix.Mkfifo(name, 0o600)
	case 9:
		_ = os.Rename(name, fmt.Sprintf("%s/d%d/f%d", dir, r.IntN(3), r.IntN(3)))
	}
}

// compare says how two directories differ.
func compare(t *testing.T, a, b string) {
	t.Helper()
	list := func(dir string) map[string]string {
		m := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			text := fmt.Sprintf("%o %d", st.Mode, st.Mtim.Nano())
			if !e.IsDir() {
				text += fmt.Sprint(" links ", st.Nlink)
			}
			if e.Type().IsRegular() {
				content, _ := os.ReadFile(path)
				text += " " + string(content)
			}
			if e.Type()&fs.ModeSymlink != 0 {
				text, _ = os.Readlink(path)
			}
			rel, _ := filepath.Rel(dir, path)
			m[rel] = text
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	x, y := list(a), list(b)
	for name := range x {
		if x[name] != y[name] {
			t.Errorf("%s: %q, copied as %q", name, x[name], y[name])
		}
		delete(y, name)
	}
	for name := range y {
		t.Errorf("%s is only in the copy", name)
	}
}

// TestMirrorSeesMappedWrites changes a page that was written to before the copy,
// which gives the file no new time.
func TestMirrorSeesMappedWrites(t *testing.T) {
	base := t.TempDir()
	from, to := base+"/from", base+"/to"
	if err := errors.Join(os.Mkdir(from, 0o755), os.Mkdir(to, 0o755),
		os.WriteFile(from+"/f", make([]byte, 4096), 0o600)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(from+"/f", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	m := mirror{from: from, to: to}
	for i := range byte(5) {
		page[0] = i
		time.Sleep(2 * clockStep) // its time is sure, so that only another one has it copied
		if _, err := m.early(t.Context()); err != nil {
			t.Fatal(err)
		}
		page[1] = i + 100
	}
	if err := m.last(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to + "/f"); b[0] != 4 || b[1] != 104 || err != nil {
		t.Errorf("%d %d, %v", b[0], b[1], err)
	}
}

// TestMirrorCopiesOnce copies what didn't change once, unless it is so new that a change
// since might have the same time.
func TestMirrorCopiesOnce(t *testing.T) {
	base := t.TempDir()
	from := base + "/from"
	if err := os.Mkdir(from, 0o755); err != nil {
		t.Fatal(err)
	}
	twice := func(to string, rest time.Duration) int64 {
		t.Helper()
		if err := errors.Join(os.Mkdir(to, 0o755), os.WriteFile(from+"/f", make([]byte, 4096), 0o600)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rest)
		m := mirror{from: from, to: to}
		_, err := m.early(t.Context())
		again, err2 := m.early(t.Context())
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return again
	}
	if n := twice(base+"/old", 2*clockStep); n != 0 {
		t.Errorf("%d bytes of a file that didn't change were copied again", n)
	}
	for try := range 50 { // a slow machine makes it old before it is looked at
		if twice(fmt.Sprint(base, "/new", try), 0) == 4096 {
			return
		}
	}
	t.Error("a new file isn't copied again, whose time says nothing of changes since")
}
