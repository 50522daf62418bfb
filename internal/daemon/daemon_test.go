package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/remote"
)

func open(t testing.TB, dir string) *Daemon {
	t.Helper()
	d, err := Open(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fresh is a daemon that leaves nothing behind.
func fresh(t testing.TB) *Daemon {
	t.Helper()
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	t.Cleanup(func() { end(t, d) })
	return d
}

func end(t testing.TB, d *Daemon) {
	list, err := d.Instances(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, i := range list {
		if i.Status != instance.Stopped {
			if err := d.instances.Stop(context.Background(), i.Name, 0, true); err != nil && !errors.Is(err, kiln.Conflict) {
				t.Error(err)
			}
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(d.cfg.Dir)) {
		t.Errorf("mounts left:\n%s", mounts)
	}
}

// wait is for operations that should succeed.
func wait(t testing.TB, o *op.Operation, err error) op.Snapshot {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s := o.Wait(t.Context())
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	return s
}

// streamOf is an image in files, on its way.
func streamOf(t testing.TB, files ...[]byte) kiln.Stream {
	t.Helper()
	var paths []string
	for _, b := range files {
		paths = append(paths, formattest.Write(t, "image", b))
	}
	s, err := remote.Files{Paths: paths}.Open(t.Context(), kiln.Image{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func importFiles(t testing.TB, d *Daemon, spec ImportSpec, files ...[]byte) *op.Operation {
	t.Helper()
	s := streamOf(t, files...)
	defer s.Close()
	return d.ImportImage(t.Context(), spec, s)
}

func aliases(names ...string) (list []kiln.Alias) {
	for _, n := range names {
		list = append(list, kiln.Alias{Name: n})
	}
	return list
}

// launch makes and starts an instance of an image.
func launch(t testing.TB, d *Daemon, name, image string) {
	t.Helper()
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Start: true,
		Source: Source{Type: "image", Alias: image}})
	wait(t, o, err)
}

// run runs a shell command in an instance.
func run(t testing.TB, d *Daemon, name, command string) (int, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := d.Exec(t.Context(), name, box.ExecSpec{Command: []string{"sh", "-c", command}, Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	code, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return code, string(out)
}

// TestLaunchEveryFormat has images in every form; compressions are the business of package
// archive, whose tests have them all.
func TestLaunchEveryFormat(t *testing.T) {
	unified := formattest.Unified(t)
	meta, rootfs := formattest.Split(t)
	for name, files := range map[string][][]byte{
		"tar":            {unified},
		"xz":             {formattest.Compress(t, unified, "xz")},
		"zst":            {formattest.Compress(t, unified, "zstd")},
		"squashfs":       {formattest.Squashfs(t, unified)},
		"split":          {meta, formattest.Compress(t, rootfs, "zstd")},
		"swapped":        {rootfs, formattest.Compress(t, meta, "xz")},
		"split-squashfs": {formattest.Compress(t, meta, "gzip"), formattest.Squashfs(t, rootfs)},
		"bare":           {formattest.Compress(t, rootfs, "gzip")},
		"bare-squashfs":  {formattest.Squashfs(t, rootfs)},
	} {
		for _, mount := range []string{"never", "always"} {
			if mount == "always" && !strings.Contains(name, "squashfs") {
				continue
			}
			t.Run(name+"-"+mount, func(t *testing.T) {
				d := fresh(t)
				if err := d.SetSettings(t.Context(), map[string]string{mountSquashfs: mount}, false); err != nil {
					t.Fatal(err)
				}
				wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, files...), nil)
				launch(t, d, "c1", "bb")
				code, out := run(t, d, "c1", "hostname; cat /etc/os-release | head -1; cat /etc/hostname /etc/started "+
					"2>/dev/null; stat -c %u:%g /bin/busybox")
				want := "c1\nID=busybox\nc1\nhello start nobody\n0:0\n"
				if strings.HasPrefix(name, "bare") {
					want = "c1\nID=busybox\nc1\n0:0\n" // no other templates but the ones for its name
				}
				if code != 0 || out != want {
					t.Errorf("%d %q, want %q", code, out, want)
				}
			})
		}
	}
}

func TestLifeOfAnInstance(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "c1", "bb")
	if _, err := d.DeleteInstance(t.Context(), "c1"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("deleted while it runs: %v", err)
	}
	run(t, d, "c1", "echo kept > /root/file")
	state := func(action string, force bool) {
		t.Helper()
		o, err := d.SetInstanceState(t.Context(), "c1", action, 10*time.Second, force)
		wait(t, o, err)
	}
	eventually(t, func() bool { _, out := run(t, d, "c1", "ps"); return strings.Contains(out, "sleep 100000") })
	state("freeze", false)
	if err := d.CheckExec(t.Context(), "c1"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("exec in a paused instance: %v", err)
	}
	state("unfreeze", false)
	state("restart", false)
	if _, out := run(t, d, "c1", "cat /root/file"); out != "kept\n" {
		t.Errorf("after a restart: %q", out)
	}
	state("stop", true)
	if _, err := d.Exec(t.Context(), "c1", box.ExecSpec{Command: []string{"true"}}); !errors.Is(err, kiln.Conflict) {
		t.Errorf("exec in a stopped instance: %v", err)
	}
	o, err := d.RenameInstance(t.Context(), "c1", "c2")
	wait(t, o, err)
	o, err = d.CreateInstance(t.Context(), CreateSpec{Name: "c3", Start: true,
		Source: Source{Type: "copy", Instance: "c2"}})
	wait(t, o, err)
	if _, out := run(t, d, "c3", "cat /root/file /etc/hostname"); out != "kept\nc3\n" {
		t.Errorf("the copy has %q", out)
	}
	o, err = d.DeleteInstance(t.Context(), "c2")
	wait(t, o, err)
	if _, err := d.Instance(t.Context(), "c2"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("after delete: %v", err)
	}
}

func eventually(t testing.TB, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited too long")
		}
	}
}

// TestRestart has instances live through the end of the daemon, and end while
// nobody looks.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	launch(t, d, "stays", "bb")
	launch(t, d, "ends", "bb")
	run(t, d, "ends", "(sleep 0.3; poweroff -f) >/dev/null 2>&1 </dev/null &")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	d = open(t, dir)
	defer end(t, d)
	for name, want := range map[string]instance.Status{"stays": instance.Running, "ends": instance.Stopped} {
		if i, err := d.Instance(t.Context(), name); err != nil || i.Status != want {
			t.Errorf("%s: %v, %v; want %v", name, i.Status, err, want)
		}
	}
	if _, out := run(t, d, "stays", "echo alive"); out != "alive\n" {
		t.Errorf("%q", out)
	}
	run(t, d, "stays", "poweroff -f & sleep 5")
	eventually(t, func() bool { i, _ := d.Instance(t.Context(), "stays"); return i.Status == instance.Stopped })
}

func TestSameImageAgain(t *testing.T) {
	d := fresh(t)
	img := formattest.Tiny(t, "a")
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("one")}, img), nil)
	s := importFiles(t, d, ImportSpec{Aliases: aliases("two"), Public: true, Properties: map[string]string{"new": "yes"}},
		img).Wait(t.Context())
	if kiln.KindOf(s.Err) != kiln.Conflict || s.Metadata["fingerprint"] == nil {
		t.Fatalf("%+v", s)
	}
	got, err := d.Images.Find(t.Context(), "two")
	if err != nil || len(got.Aliases) != 2 || !got.Public || got.Properties["new"] != "yes" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBadCreate(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("debian/12")}, formattest.Tiny(t, "a")), nil)
	foreign := formattest.Tar(t, formattest.File{Name: "metadata.yaml", Body: "architecture: s390x\ncreation_date: 1\n"},
		formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755})
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("foreign")}, foreign), nil)
	image := func(name string) Source { return Source{Type: "image", Alias: name} }
	for what, c := range map[string]struct {
		spec CreateSpec
		kind kiln.Kind
		text string
	}{
		"no such image": {CreateSpec{Name: "c", Source: image("debain/12")}, kiln.NotFound, `did you mean "debian/12"?`},
		"bad name":      {CreateSpec{Name: "a_b", Source: image("debian/12")}, kiln.Invalid, "Invalid instance name"},
		"foreign":       {CreateSpec{Name: "c", Source: image("foreign")}, kiln.Unsupported, "is for s390x; this host runs"},
		"unknown key": {CreateSpec{Name: "c", Source: image("debian/12"),
			Config: instance.Config{Options: map[string]string{"limits.memoy": "1GB"}}}, kiln.Invalid,
			`did you mean "limits.memory"?`},
		"bad value": {CreateSpec{Name: "c", Source: image("debian/12"),
			Config: instance.Config{Options: map[string]string{"limits.memory": "lots"}}}, kiln.Invalid, "limits.memory"},
		"no profile": {CreateSpec{Name: "c", Source: image("debian/12"),
			Config: instance.Config{Profiles: []string{"x"}}}, kiln.NotFound, "Profile 'x' doesn't exist"},
		"no root disk": {CreateSpec{Name: "c", Source: image("debian/12"), Config: instance.Config{Profiles: []string{}}},
			kiln.Invalid, "No root device could be found"},
		"unknown source": {CreateSpec{Name: "c", Source: Source{Type: "zip"}}, kiln.Invalid, "Unknown source type zip"},
		"machine": {CreateSpec{Name: "c", Type: "virtual-machine", Source: image("debian/12")}, kiln.Unsupported,
			"virtual-machine"},
		"nic": {CreateSpec{Name: "c", Source: image("debian/12"),
			Config: instance.Config{Devices: map[string]map[string]string{"eth0": {"type": "nic"}}}}, kiln.Invalid, "eth0"},
		"network": {CreateSpec{Name: "c", Source: image("debian/12"), Config: instance.Config{
			Devices: map[string]map[string]string{"eth0": {"type": "nic", "network": "kilnbr1"}}}}, kiln.NotFound,
			`did you mean "kilnbr0"`},
	} {
		_, err := d.CreateInstance(t.Context(), c.spec)
		if kiln.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%s)", what, err, kiln.KindOf(err))
		}
	}
	if list, err := d.Instances(t.Context()); len(list) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

func TestDamagedImageIsNotLaunched(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	img, err := d.Images.Find(t.Context(), "bb")
	if err != nil {
		t.Fatal(err)
	}
	path := d.blobs.Path(img.Files[0].Hash)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("xyz"), img.Size/2)
	f.Close()
	if s := d.VerifyImage(t.Context(), img.Fingerprint).Wait(t.Context()); kiln.KindOf(s.Err) != kiln.Integrity {
		t.Errorf("verify: %v", s.Err)
	}
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb"}})
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Wait(t.Context()); kiln.KindOf(s.Err) != kiln.Integrity {
		t.Errorf("launch: %v", s.Err)
	}
	// The same file again mends it.
	importFiles(t, d, ImportSpec{}, formattest.Unified(t)).Wait(t.Context())
	wait(t, d.VerifyImage(t.Context(), img.Fingerprint), nil)
	launch(t, d, "c1", "bb")
}

func TestTreeGoesWithLastUser(t *testing.T) {
	d := fresh(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	img, err := d.Images.Find(t.Context(), "bb")
	if err != nil {
		t.Fatal(err)
	}
	launch(t, d, "c1", "bb")
	wait(t, d.DeleteImage(t.Context(), img.Fingerprint), nil)
	if _, out := run(t, d, "c1", "echo on"); out != "on\n" {
		t.Errorf("the instance lost its image: %q", out)
	}
	o, err := d.SetInstanceState(t.Context(), "c1", "restart", 0, true)
	wait(t, o, err)
	o, err = d.SetInstanceState(t.Context(), "c1", "stop", 0, true)
	wait(t, o, err)
	o, err = d.DeleteInstance(t.Context(), "c1")
	wait(t, o, err)
	if list, err := d.pool.Images(); len(list) != 0 || err != nil {
		t.Errorf("trees left: %v, %v", list, err)
	}
}
