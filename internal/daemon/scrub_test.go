package daemon

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/volume"
)

// scrubNow scrubs everything anew.
func scrubNow(t testing.TB, d *Daemon) (Scrub, error) {
	t.Helper()
	o, joined, err := d.StartScrub(t.Context(), true)
	if err != nil || joined {
		t.Fatal(joined, err)
	}
	s := o.Wait(t.Context())
	now, err := d.Scrub(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if now.Status != ScrubFinished {
		t.Fatalf("%+v, %v", now, s.Err)
	}
	return now, s.Err
}

// flip changes one bit of a file, on the disk.
func flip(t testing.TB, path string, at int64, bit int) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << bit
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// positions are some bytes of a file, with the first and the last.
func positions(size, some int64) (list []int64) {
	step := max(1, size/some)
	for at := int64(0); at < size; at += step {
		list = append(list, at)
	}
	return append(list, size-1)
}

// TestEveryByte flips a bit of every byte of what is kept of a small image, by what a scrub looks at
// each of it with: none is missed.
func TestEveryByte(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "tiny")
	if err := errors.Join(d.fillImage(t.Context(), fp), d.pool.Settle(fp)); err != nil {
		t.Fatal(err)
	}
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 { // now there are digests of all
		t.Fatalf("%+v, %v", s, err)
	}
	img, err := d.Images.Get(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	each := func(path string, look func() error) {
		t.Helper()
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at, b := range was {
			n++
			if _, err := f.WriteAt([]byte{b ^ 1<<(n%8)}, int64(at)); err != nil {
				t.Fatal(err)
			}
			if err := look(); !errors.Is(err, kiln.Integrity) {
				t.Fatalf("byte %d of %s: %v", at, path, err)
			}
			if _, err := f.WriteAt([]byte{b}, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
		if err := look(); err != nil {
			t.Fatalf("%s as it was: %v", path, err)
		}
	}
	each(d.blobs.Path(img.Files[0].Hash), func() error { return d.Images.Scrub(t.Context(), img.Files[0].Hash, nil) })
	files := n
	dir := filepath.Join(d.cfg.Dir, "volumes/images", fp.String())
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && filepath.Base(path) != "shared" { // that only counts
			each(path, func() error { return d.pool.VerifyTree(t.Context(), fp) })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes of the file and %d of the tree were damaged, and each was found", files, n-files)
}

// TestScrubFindsDamage flips a bit in ever another byte of what is kept of an image: each
// is found by a scrub. A damaged file is told, and a damaged tree made again.
func TestScrubFindsDamage(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "tiny")
	if err := errors.Join(d.fillImage(t.Context(), fp), d.pool.Settle(fp)); err != nil {
		t.Fatal(err)
	}
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 || s.Files != 1 || s.Trees != 1 || s.Bytes == 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	img, err := d.Images.Get(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	blob := d.blobs.Path(img.Files[0].Hash)
	n := 0
	for _, at := range positions(img.Files[0].Size, 20) {
		n++
		flip(t, blob, at, n%8)
		s, err := scrubNow(t, d)
		if !errors.Is(err, kiln.Integrity) || len(s.Found) != 1 || s.Found[0].Kind != "file" || s.Found[0].Repaired != "" {
			t.Fatalf("byte %d of the file: %+v, %v", at, s, err)
		}
		flip(t, blob, at, n%8)
	}
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	dir := filepath.Join(d.cfg.Dir, "volumes/images", fp.String())
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err != nil || filepath.Base(path) == "shared" { // it only counts
			return err
		}
		for _, at := range positions(fi.Size(), 20) {
			n++
			flip(t, path, at, n%8)
			s, err := scrubNow(t, d)
			if err != nil || len(s.Found) != 1 || s.Found[0].Kind != "tree" || s.Found[0].Repaired == "" {
				t.Fatalf("byte %d of %s: %+v, %v", at, path, s, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
		t.Fatalf("%+v, %v", s, err)
	}
}

// TestScrubWarns has a tree that is damaged, and can't be made again since its image is, too:
// nothing is launched of either until the image is imported again.
func TestScrubWarns(t *testing.T) {
	d := fresh(t)
	content := formattest.Tiny(t, "tiny")
	fp := cached(t, d, "tiny")
	if err := errors.Join(d.fillImage(t.Context(), fp), d.pool.Settle(fp)); err != nil {
		t.Fatal(err)
	}
	img, err := d.Images.Get(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	create := func() error {
		o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Fingerprint: fp.String()}})
		if err != nil {
			return err
		}
		return o.Wait(t.Context()).Err
	}
	flip(t, d.blobs.Path(img.Files[0].Hash), 5, 0)
	flip(t, filepath.Join(d.cfg.Dir, "volumes/images", fp.String(), "rootfs.erofs"), 1100, 0)
	s, err := scrubNow(t, d)
	if !errors.Is(err, kiln.Integrity) || len(s.Found) != 2 || !strings.Contains(err.Error(), fp.Short()) {
		t.Fatalf("%+v, %v", s, err)
	}
	is := func(status string) {
		t.Helper()
		list, err := d.Warnings(t.Context(), "default")
		if err != nil || len(list) != 2 || list[0].Status != status || list[1].Status != status {
			t.Errorf("%+v, %v", list, err)
		}
	}
	is(db.WarningNew)
	if err := create(); !errors.Is(err, kiln.Integrity) {
		t.Errorf("launched: %v", err)
	}
	if s := importFiles(t, d, ImportSpec{}, content).Wait(t.Context()); s.Err != nil && !errors.Is(s.Err, kiln.Conflict) {
		t.Fatal(s.Err)
	}
	if err := create(); err != nil {
		t.Errorf("after it was imported again: %v", err)
	}
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
		t.Errorf("%+v, %v", s, err)
	}
	is(db.WarningResolved)
}

// TestScrubGoesOn stops a scrub, ends the daemon in the middle of it, and has it end.
func TestScrubGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	defer func() { end(t, d) }()
	for _, seed := range []string{"a", "b", "c", "d"} {
		cached(t, d, seed)
	}
	set := func(rate string) {
		t.Helper()
		if err := d.SetSettings(t.Context(), map[string]string{scrubRate: rate}, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.StopScrub(t.Context()); !errors.Is(err, kiln.Conflict) {
		t.Errorf("stopped what isn't: %v", err)
	}
	set("1B")
	start := func() *op.Operation {
		t.Helper()
		o, joined, err := d.StartScrub(t.Context(), false)
		if err != nil || joined {
			t.Fatal(joined, err)
		}
		return o
	}
	o := start()
	if same, joined, err := d.StartScrub(t.Context(), true); same != o || !joined || err != nil {
		t.Errorf("two at a time: %v, %v", joined, err)
	}
	if err := d.StopScrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	status := func(want string) Scrub {
		t.Helper()
		s, err := d.Scrub(t.Context())
		if err != nil || s.Status != want {
			t.Errorf("%+v, %v", s, err)
		}
		return s
	}
	began := status(ScrubStopped).StartedAt
	start()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	eventually(t, func() bool { s, err := d.Scrub(t.Context()); return err == nil && s.Operation != "" })
	if s := status(ScrubRunning); !s.StartedAt.Equal(began) {
		t.Errorf("began anew: %+v", s)
	}
	set("off")
	eventually(t, func() bool { s, err := d.Scrub(t.Context()); return err == nil && s.Operation == "" })
	s := status(ScrubFinished)
	if s.Files != 4 || !s.StartedAt.Equal(began) || !s.NextAt.Equal(s.EndedAt.AddDate(0, 0, 30)) {
		t.Errorf("%+v", s)
	}
	d.scrubIfDue(time.Now())
	status(ScrubFinished)
	d.scrubIfDue(time.Now().AddDate(0, 0, 31))
	eventually(t, func() bool { s, err := d.Scrub(t.Context()); return err == nil && s.StartedAt.After(began) })
	for v, want := range map[string]error{"off": nil, "12H": nil, "30M": kiln.Invalid, "often": kiln.Invalid} {
		if err := d.SetSettings(t.Context(), map[string]string{scrubInterval: v}, false); !errors.Is(err, want) {
			t.Errorf("every %s: %v", v, err)
		}
	}
	for v, want := range map[string]error{"off": nil, "1MiB": nil, "0": kiln.Invalid, "fast": kiln.Invalid} {
		if err := d.SetSettings(t.Context(), map[string]string{scrubRate: v}, false); !errors.Is(err, want) {
			t.Errorf("%s a second: %v", v, err)
		}
	}
}

// TestScrubAfterClock has a scrub that ended before the clock was set: how long ago that was isn't
// known, so it counts from now, and none begins.
func TestScrubAfterClock(t *testing.T) {
	d := fresh(t)
	if err := d.saveScrub(Scrub{Status: ScrubFinished, EndedAt: time.Unix(1000, 0)}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	d.scrubIfDue(now)
	if s, err := d.Scrub(t.Context()); err != nil || s.Status != ScrubFinished || !s.StartedAt.IsZero() ||
		!s.EndedAt.Equal(now) {
		t.Errorf("%+v, %v; it counts from %v", s, err, now)
	}
}

// TestScrubOfRecords: of what instances have changed, and of storage volumes, a scrub checks what
// kiln wrote, and finds what is damaged or lost of that.
func TestScrubOfRecords(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Tiny(t, "1")), nil)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb"}})
	wait(t, o, err)
	o, err = d.CreateSnapshot(t.Context(), "c1", instance.NewSnapshot{Name: "s"})
	wait(t, o, err)
	if err := d.CreateVolume(t.Context(), "data", volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	volumes := filepath.Join(d.cfg.Dir, "volumes")
	for pattern, about := range map[string]string{"volumes/*/volume.json": "what instances and snapshots stand on",
		"snapshots/*/snapshot.json": "what instances and snapshots stand on", "layers/*": "what instances and snapshots stand on",
		"custom/default/data/custom.json": "the record of storage volume data"} {
		list, err := disk.Glob(volumes, pattern)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v, %v", pattern, list, err)
		}
		away := filepath.Join(t.TempDir(), "away")
		if err := os.Rename(list[0], away); err != nil {
			t.Fatal(err)
		}
		for _, write := range []bool{false, true} {
			if write && pattern != "layers/*" {
				if err := os.WriteFile(list[0], []byte(`{"base":`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s, err := scrubNow(t, d)
			if !errors.Is(err, kiln.Integrity) || len(s.Found) != 1 || s.Found[0].Kind != "record" || s.Found[0].About != about ||
				strings.Contains(err.Error(), "import or copy") {
				t.Errorf("%s, written: %v: %+v, %v", pattern, write, s.Found, err)
			}
		}
		if err := os.Rename(away, list[0]); err != nil {
			t.Fatal(err)
		}
		if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
			t.Fatalf("%s: %+v, %v", pattern, s, err)
		}
	}
}

// BenchmarkLaunchBesideScrub launches instances, each second one while a scrub reads a large
// image at the rate that it has unless somebody sets another. "ratio" is the median of these by
// that of the others.
func BenchmarkLaunchBesideScrub(b *testing.B) {
	d := fresh(b)
	wait(b, importFiles(b, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(b)), nil)
	large := make([]byte, 512<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large) // never fails
	wait(b, importFiles(b, d, ImportSpec{}, formattest.Tar(b, formattest.File{Name: "metadata.yaml",
		Body: formattest.Metadata}, formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755},
		formattest.File{Name: "rootfs/large", Body: string(large)})), nil)
	one := func() time.Duration {
		begun := time.Now()
		launch(b, d, "c", "bb")
		took := time.Since(begun)
		o, err := d.SetInstanceState(b.Context(), "c", "stop", 0, true)
		wait(b, o, err)
		o, err = d.DeleteInstance(b.Context(), "c")
		wait(b, o, err)
		return took
	}
	one()
	var alone, beside []time.Duration
	for b.Loop() {
		alone = append(alone, one())
		o, _, err := d.StartScrub(b.Context(), true)
		if err != nil {
			b.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // until it reads the large one
		beside = append(beside, one())
		if o.Snapshot().Status != op.Running {
			b.Fatal("the scrub was over before the launch")
		}
		if err := d.StopScrub(b.Context()); err != nil {
			b.Fatal(err)
		}
		o.Wait(b.Context())
	}
	median := func(list []time.Duration) float64 {
		slices.Sort(list)
		return list[len(list)/2].Seconds() * 1000
	}
	b.ReportMetric(median(alone), "alone-ms")
	b.ReportMetric(median(beside), "beside-ms")
	b.ReportMetric(median(beside)/median(alone), "ratio")
}

// TestScrubUnread: what can't be read now isn't damaged, and is said to be neither that nor sound.
func TestScrubUnread(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "tiny")
	f, err := os.OpenFile(d.blobs.Path(fp), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil { // who opens it has to wait
		t.Fatal(err)
	}
	s, err := scrubNow(t, d)
	if errors.Is(err, kiln.Integrity) || err == nil || !strings.Contains(err.Error(), "nobody knows whether") ||
		len(s.Found) != 1 || !s.Found[0].Unread || s.Found[0].Repaired != "" {
		t.Errorf("%+v, %v", s, err)
	}
	if img, err := d.Images.Get(t.Context(), fp); err != nil || img.Missing != "" {
		t.Errorf("%q, %v", img.Missing, err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
		t.Errorf("once it can be read: %+v, %v", s, err)
	}
}

// TestScrubDamagedRate: a setting that is damaged says nothing of what is read.
func TestScrubDamagedRate(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "tiny")
	must(t, d.fillImage(t.Context(), fp), d.pool.Settle(fp),
		d.db.EditConfig(t.Context(), func(set map[string]string) (map[string]string, error) {
			set[scrubRate] = "quick"
			return set, nil
		}))
	if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestStoppedScrubStays: the next daemon doesn't go on with a scrub that somebody stopped.
func TestStoppedScrubStays(t *testing.T) {
	d := fresh(t)
	eventually(t, func() bool { // it has looked by itself
		_, err := os.Stat(filepath.Join(d.cfg.Dir, scrubFile))
		return err == nil
	})
	must(t, d.saveScrub(Scrub{Status: ScrubStopped, StartedAt: time.Now(), EndedAt: time.Now()}))
	d.resumeScrub()
	if s, err := d.Scrub(t.Context()); err != nil || s.Status != ScrubStopped || s.Operation != "" {
		t.Errorf("%+v, %v", s, err)
	}
}
