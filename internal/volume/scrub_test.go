package volume

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
)

// TestScrubDirectory has a tree that is a directory: whatever is changed of it is found, and
// nothing is when it was only read. One that an older version made has its digests from then
// on.
func TestScrubDirectory(t *testing.T) {
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.erofs = false
	fp := kiln.Fingerprint{1}
	p.Refill = func(context.Context, kiln.Fingerprint) (Content, error) {
		return Content{Unpack: func(_ context.Context, rootfs, meta archive.TreeWriter) error {
			return errors.Join(
				rootfs.Add(&archive.Entry{Path: "etc", Type: archive.Dir, Mode: 0o755}, nil),
				rootfs.Add(&archive.Entry{Path: "etc/file", Type: archive.Regular, Mode: 0o640, UID: 7, Size: 2},
					strings.NewReader("hi")),
				rootfs.Add(&archive.Entry{Path: "etc/link", Type: archive.Symlink, Link: "file"}, nil),
				rootfs.Add(&archive.Entry{Path: "etc/same", Type: archive.Hardlink, Link: "etc/file"}, nil))
		}}, nil
	}
	if err := errors.Join(p.ensure(t.Context(), fp), p.Settle(fp)); err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(p.imageDir(fp), "rootfs/etc")
	sound := func(when string) {
		t.Helper()
		if damage, err := p.ScrubTree(t.Context(), fp, nil); damage != nil || err != nil {
			t.Fatalf("%s: %v, %v", when, damage, err)
		}
	}
	sound("new")
	if _, err := os.ReadFile(etc + "/file"); err != nil {
		t.Fatal(err)
	}
	sound("read")
	old := time.Unix(1, 1)
	for what, change := range map[string]func() error{
		"a byte":     func() error { return os.WriteFile(etc+"/file", []byte("ho"), 0o640) },
		"more":       func() error { return os.WriteFile(etc+"/new", nil, 0o640) },
		"less":       func() error { return os.Remove(etc + "/link") },
		"a mode":     func() error { return os.Chmod(etc+"/file", 0o644) },
		"an owner":   func() error { return os.Chown(etc+"/file", 7, 7) },
		"a time":     func() error { return os.Chtimes(etc+"/file", old, old) },
		"a target":   func() error { return errors.Join(os.Remove(etc+"/link"), os.Symlink("fils", etc+"/link")) },
		"an xattr":   func() error { return unix.Setxattr(etc+"/file", "user.x", []byte("y"), 0) },
		"a name":     func() error { return os.Rename(etc+"/file", etc+"/fil") },
		"all":        func() error { return os.RemoveAll(filepath.Dir(etc)) },
		"its digest": func() error { return os.WriteFile(filepath.Join(p.imageDir(fp), digestFile), nil, 0o600) },
		"its record": func() error { return os.WriteFile(filepath.Join(p.imageDir(fp), imageFile), nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(what, err)
		}
		if damage, err := p.ScrubTree(t.Context(), fp, nil); !errors.Is(damage, kiln.Integrity) || err != nil {
			t.Errorf("%s: %v, %v", what, damage, err)
		}
		sound("made again after " + what)
	}
	if err := os.Remove(filepath.Join(p.imageDir(fp), digestFile)); err != nil {
		t.Fatal(err)
	}
	sound("of an older version")
	if err := os.WriteFile(etc+"/file", []byte("ho"), 0o640); err != nil {
		t.Fatal(err)
	}
	if damage, err := p.ScrubTree(t.Context(), fp, nil); !errors.Is(damage, kiln.Integrity) || err != nil {
		t.Errorf("changed after its digest was noted: %v, %v", damage, err)
	}
}

// small is a tree of one file, with metadata.
func small(context.Context, kiln.Fingerprint) (Content, error) {
	return Content{Unpack: func(_ context.Context, rootfs, meta archive.TreeWriter) error {
		return errors.Join(rootfs.Add(&archive.Entry{Path: "etc", Type: archive.Dir, Mode: 0o755}, nil),
			meta.Add(&archive.Entry{Path: "metadata.yaml", Type: archive.Regular, Mode: 0o640, Size: 2},
				strings.NewReader("hi")))
	}}, nil
}

// settled gives a pool with a small tree that is on the disk.
func settled(t *testing.T) (*Pool, kiln.Fingerprint) {
	t.Helper()
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	fp := kiln.Fingerprint{1}
	p.Refill = small
	if err := errors.Join(p.ensure(t.Context(), fp), p.Settle(fp)); err != nil {
		t.Fatal(err)
	}
	return p, fp
}

// TestCantRead: a tree that the disk can't read is damaged, and so are its metadata; what can't
// be read for now isn't.
func TestCantRead(t *testing.T) {
	p, fp := settled(t)
	for no, damaged := range map[unix.Errno]bool{unix.EIO: true, unix.EUCLEAN: true, unix.EMFILE: false,
		unix.ENOMEM: false} {
		read := func(context.Context, *os.File, io.Writer) error { return &os.PathError{Op: "read", Err: no} }
		for what, err := range map[string]error{"metadata": p.verifyMeta(t.Context(), fp, read),
			"tree": p.verifyFile(t.Context(), fp, read)} {
			if !errors.Is(err, no) || errors.Is(err, kiln.Integrity) != damaged {
				t.Errorf("%s, %v: %v", what, no, err)
			}
		}
	}
}

// TestNotedDigests: digests that a scrub notes of an older version's tree are on the disk before
// they have their names, and none are noted of a tree that another takes the place of, nor after
// the scrub was stopped. Nobody waits for the reading.
func TestNotedDigests(t *testing.T) {
	p, fp := settled(t)
	dir := p.imageDir(fp)
	names := []string{filepath.Join(dir, digestFile), filepath.Join(dir, metaDigestFile)}
	old := func() {
		t.Helper()
		if err := errors.Join(os.Remove(names[0]), os.Remove(names[1])); err != nil {
			t.Fatal(err)
		}
	}
	noted := func() bool { return len(names) == count(names) }
	old()
	ctx, cancel := context.WithCancel(t.Context())
	stopped := func(ctx context.Context, f *os.File, w io.Writer) error {
		cancel()
		return disk.ReadTo(ctx, f, w)
	}
	if err := p.noteDigests(ctx, fp, stopped); !errors.Is(err, context.Canceled) || count(names) > 0 {
		t.Errorf("stopped: %v, %d are noted", err, count(names))
	}
	var steps []string
	end := disk.Record(func(s disk.Step) { steps = append(steps, s.Kind+" "+s.Path) })
	settles := func(ctx context.Context, f *os.File, w io.Writer) error { // as who detaches instances does
		if !p.settling.TryLock() {
			t.Error("others wait while it is read")
		} else {
			p.settling.Unlock()
		}
		return disk.ReadTo(ctx, f, w)
	}
	err := p.noteDigests(t.Context(), fp, settles)
	end()
	if err != nil || !noted() {
		t.Fatal(err)
	}
	for _, name := range names {
		at := slices.Index(steps, disk.Renamed+" "+name)
		if at < 1 || !strings.HasPrefix(steps[at-1], disk.SyncedFile) ||
			!slices.Contains(steps[at:], disk.SyncedDir+" "+dir) {
			t.Errorf("%s: %q", filepath.Base(name), steps)
		}
	}
	old()
	replaced := func(ctx context.Context, f *os.File, w io.Writer) error {
		if err := os.Rename(dir, dir+"-was"); err == nil {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
			}
		}
		return disk.ReadTo(ctx, f, w)
	}
	_ = p.noteDigests(t.Context(), fp, replaced)
	if count(names) > 0 {
		t.Error("the digests of another tree are noted")
	}
}

// count is how many of some files there are.
func count(names []string) (n int) {
	for _, name := range names {
		if _, err := os.Stat(name); err == nil {
			n++
		}
	}
	return n
}

// TestWaitsForAnother: who waits for a tree that somebody else makes has one though that one gives
// up, and fails with it when it can't be made.
func TestWaitsForAnother(t *testing.T) {
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	broken := errors.New("broken")
	for n, fails := range []error{context.Canceled, context.DeadlineExceeded, broken} {
		fp := kiln.Fingerprint{byte(n + 1)}
		state := func() error { return p.hasImage(fp) }
		begun, waits := make(chan bool), make(chan bool)
		first := make(chan error)
		go func() {
			first <- p.fill(t.Context(), fp, state, func(context.Context) (Content, error) {
				close(begun)
				<-waits
				time.Sleep(50 * time.Millisecond) // until it has seen that the tree is being made
				return Content{}, fails
			})
		}()
		<-begun
		looks := 0
		err := p.fill(t.Context(), fp, func() error {
			if looks++; looks == 1 {
				close(waits)
			}
			return state()
		}, func(ctx context.Context) (Content, error) { return small(ctx, fp) })
		if got := <-first; !errors.Is(got, fails) {
			t.Errorf("%v: the first has %v", fails, got)
		}
		if want := errors.Is(fails, broken); want && !errors.Is(err, broken) || !want && (err != nil || state() != nil) {
			t.Errorf("%v: the other has %v, %v", fails, err, state())
		}
	}
}
