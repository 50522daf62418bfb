package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// TestDiskLimits bounds what an instance reads of a disk, while it has files of it open.
func TestDiskLimits(t *testing.T) {
	mount, img := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{{"truncate", "-s", "64M", img}, {"mkfs.ext4", "-q", img},
		{"mount", "-o", "loop", img, mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err, unix.Unmount(mount, unix.MNT_DETACH))
		}
	})
	dir := filepath.Join(mount, "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const megabytes = 3
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, megabytes<<20)); err != nil {
		t.Fatal(err)
	}
	d, ctx := open(t, t.TempDir()), t.Context()
	t.Cleanup(func() { end(t, d) })
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	set := func(disk map[string]string) error {
		_, err := d.UpdateInstance(ctx, "c1", func(i instance.Instance) (instance.Config, error) {
			i.Devices = map[string]map[string]string{"data": disk}
			return i.Config, nil
		})
		return err
	}
	read := func() time.Duration {
		t.Helper()
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if code, out := run(t, d, "c1", "cat /srv/file | wc -c"); code != 0 || out != "3145728\n" {
			t.Fatalf("%d %q", code, out)
		}
		return time.Since(begun)
	}
	disk := func(limits ...string) map[string]string {
		d := map[string]string{"type": "disk", "source": dir, "path": "/srv"}
		for _, l := range limits {
			key, value, _ := strings.Cut(l, "=")
			d[key] = value
		}
		return d
	}
	if err := set(disk()); err != nil {
		t.Fatal(err)
	}
	mounted := func() string {
		t.Helper()
		_, out := run(t, d, "c1", "grep ' /srv ' /proc/self/mountinfo")
		return out
	}
	before := mounted()
	if err := set(disk("limits.read=1MiB")); err != nil {
		t.Fatal(err)
	}
	// Of what is read in the first moment nothing waits; it can't be faster than half of this.
	if took := read(); took < megabytes*time.Second/2 {
		t.Errorf("%d MiB at one MiB in a second took %v", megabytes, took)
	}
	if err := set(disk("limits.max=600iops")); err != nil {
		t.Fatal(err)
	}
	if after := mounted(); after != before {
		t.Errorf("the disk was mounted again: %q, %q", before, after)
	}

	// The limits are there after a start, too, and what can't be bounded isn't.
	if err := set(disk("limits.read=1MiB")); err != nil {
		t.Fatal(err)
	}
	if err := d.instances.Stop(ctx, "c1", 0, true); err != nil {
		t.Fatal(err)
	}
	if err := d.instances.Start(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if took := read(); took < megabytes*time.Second/2 {
		t.Errorf("after a start %d MiB took %v", megabytes, took)
	}
	nowhere := disk("limits.read=1MiB")
	nowhere["source"] = "/proc"
	if err := set(nowhere); kiln.KindOf(err) != kiln.Unsupported || !strings.Contains(err.Error(), "type proc") {
		t.Errorf("a disk that isn't on a block device: %v", err)
	}
	if code, out := run(t, d, "c1", "ls /srv"); code != 0 || !strings.Contains(out, "file") {
		t.Errorf("a refused change took the disk away: %d %q", code, out)
	}

	// A disk whose files are gone holds up no other change, and keeps its bounds.
	throttled := func() string {
		t.Helper()
		all, err := filepath.Glob("/sys/fs/cgroup/blkio/kiln.payload/*/ns/blkio.throttle.read_bps_device")
		if err != nil {
			t.Fatal(err)
		}
		var text []byte
		for _, file := range all {
			b, _ := os.ReadFile(file)
			text = append(text, b...)
		}
		return string(text)
	}
	was := throttled()
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	_, err = d.UpdateInstance(ctx, "c1", func(i instance.Instance) (instance.Config, error) {
		i.Options["limits.processes"] = "77"
		return i.Config, nil
	})
	if has := throttled(); err != nil || has != was {
		t.Errorf("%q, %q, %v", was, has, err)
	}
	if err := set(disk("limits.read=2MiB")); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a disk that is gone: %v", err)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}

	// One whose disk is slow ends at once all the same.
	if err := set(disk("limits.read=64KiB")); err != nil {
		t.Fatal(err)
	}
	run(t, d, "c1", "dd if=/srv/file of=/dev/null bs=3M count=1 iflag=direct >/dev/null 2>&1 & sleep 1")
	if err := d.instances.Stop(ctx, "c1", 0, true); err != nil {
		t.Error(err)
	}
}
