package box

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

const firstID = 1_000_000

// TestMain runs a child of the test that starts a container and is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KILN_BOX_CHILD"); dir != "" {
		if _, err := Start(context.Background(), childSpec(dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("started")
		select {}
	}
	os.Exit(m.Run())
}

func childSpec(dir string) Spec {
	fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(dir, "tree"), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		panic(err)
	}
	return Spec{
		ID: "test-" + strconv.Itoa(os.Getppid()), Hostname: "guest", Dir: filepath.Join(dir, "box"), Arch: "x86_64",
		Rootfs: os.NewFile(uintptr(fd), "rootfs"), IDMap: []IDMap{{0, firstID, 65536}},
	}
}

// busybox makes a tree with a static busybox and its init, owned by the ids of
// the host that stand for a container's.
func busybox(t testing.TB, script string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers are started by root: run the tests as root")
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "sbin", "etc/init.d", "dev", "proc", "sys", "tmp", "root", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal("busybox-static is needed: ", err)
	}
	write := func(name, content string, mode fs.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/busybox", string(bin), 0o755)
	write("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n", 0o644)
	write("etc/inittab", "::sysinit:/etc/init.d/rcS\n::respawn:/bin/sleep 100000\n", 0o644)
	write("etc/init.d/rcS", "#!/bin/sh\n"+script+"\n", 0o755)
	if out, err := exec.Command("/bin/busybox", "--list").Output(); err == nil {
		for _, applet := range strings.Fields(string(out)) {
			if applet != "busybox" {
				os.Symlink("busybox", filepath.Join(dir, "bin", applet))
			}
		}
	}
	os.Symlink("/bin/busybox", filepath.Join(dir, "sbin/init"))
	filepath.WalkDir(dir, func(p string, _ fs.DirEntry, _ error) error { return os.Lchown(p, firstID, firstID) })
	return dir
}

func spec(t testing.TB, tree string) Spec {
	t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, tree, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "rootfs")
	t.Cleanup(func() { f.Close() })
	id := strings.NewReplacer("/", "-", "#", "-").Replace(t.Name()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	return Spec{ID: id, Hostname: "guest", Dir: filepath.Join(t.TempDir(), "box"), Rootfs: f, Arch: "x86_64",
		IDMap: []IDMap{{0, firstID, 65536}}}
}

// start starts a container and makes sure that nothing of it is left.
func start(t testing.TB, s Spec) *Box {
	t.Helper()
	b, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, b) })
	return b
}

func end(t testing.TB, b *Box) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.Kill(ctx); err != nil {
		t.Error(err)
	}
	if e, err := b.Next(ctx); err != nil || e.Kind != Stopped {
		t.Errorf("after Kill: %v, %v", e, err)
	}
	checkGone(t, b)
	b.Close()
}

func checkGone(t testing.TB, b *Box) {
	t.Helper()
	for _, h := range hierarchies() {
		for _, top := range []string{payloadCgroup, monitorCgroup} {
			if _, err := os.Stat(filepath.Join(h, top, b.state.ID)); err == nil {
				t.Errorf("cgroup left in %s/%s", h, top)
			}
		}
	}
	if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(b.dir)) {
		t.Errorf("mounts left:\n%s", mounts)
	}
	if _, err := os.Stat(filepath.Join("/run/lxc/lock", runDir, "."+b.state.ID)); err == nil {
		t.Errorf("lock left of %s", b.state.ID)
	}
}

// run runs a command and gives its exit code and output.
func run(t testing.TB, b *Box, s ExecSpec) (int, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if s.Env == nil {
		s.Env = map[string]string{"PATH": "/bin:/sbin"}
	}
	s.Stdout, s.Stderr = w, w
	p, err := b.Exec(t.Context(), s)
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

func sh(command string) ExecSpec { return ExecSpec{Command: []string{"sh", "-c", command}} }

// eventually waits until f holds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

func TestExec(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	for _, c := range []struct {
		spec ExecSpec
		code int
		out  string
	}{
		{sh("exit 0"), 0, ""},
		{sh("exit 3"), 3, ""},
		{sh("kill -9 $$"), 137, ""},
		{ExecSpec{Command: []string{"no-such-command"}}, 127, "kiln: no-such-command: No such file or directory\n"},
		{ExecSpec{Command: []string{"/etc/passwd"}}, 126, "kiln: /etc/passwd: Permission denied\n"},
		{sh("echo out; echo err >&2; cat"), 0, "out\nerr\n"},
		{sh("hostname; id -u; id -g; pwd"), 0, "guest\n0\n0\n/\n"},
		{ExecSpec{Command: []string{"sh", "-c", "id -u; id -g; pwd"}, UID: 1000, GID: 1001, Cwd: "/tmp"}, 0,
			"1000\n1001\n/tmp\n"},
		{ExecSpec{Command: []string{"env"}, Env: map[string]string{"A": "b c", "PATH": "/bin", "LD_PRELOAD": "/x"}}, 0,
			"PATH=/bin\ncontainer=lxc\nA=b c\nLD_PRELOAD=/x\n"},
		{ExecSpec{Command: []string{"/bin/pwd"}, Cwd: "/nowhere"}, 126,
			"kiln: working directory \"/nowhere\": No such file or directory\n"},
	} {
		code, out := run(t, b, c.spec)
		if code != c.code || c.out != "" && out != c.out {
			t.Errorf("%v: %d, %q; want %d, %q", c.spec.Command, code, out, c.code, c.out)
		}
	}
}

func TestTerminal(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	for range 5 {
		p, err := b.Exec(t.Context(), ExecSpec{
			Command: []string{"/bin/sh", "-c", "tty; stty size; ls -l /dev/pts/ | grep -c root; seq 1 2000"},
			Env:     map[string]string{"PATH": "/bin"}, TTY: true, Width: 81, Height: 25,
		})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Drain(&out, p.PTY()); err != nil {
			t.Fatal(err)
		}
		code, err := p.Wait()
		p.Close()
		got := strings.ReplaceAll(out.String(), "\r", "")
		if code != 0 || err != nil || !strings.HasPrefix(got, "/dev/pts/") || !strings.Contains(got, "\n25 81\n") ||
			!strings.HasSuffix(got, "\n1999\n2000\n") {
			t.Fatalf("%d, %v, %d bytes: %.80q … %q", code, err, len(got), got, got[max(0, len(got)-20):])
		}
	}
}

func TestSignal(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	p, err := b.Exec(t.Context(), ExecSpec{Command: []string{"/bin/sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(15); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 143 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	if err := p.Signal(15); err != nil {
		t.Errorf("signal to what is gone: %v", err)
	}
}

func TestUnprivileged(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	if uid := statusField(b.InitPID(), "Uid"); len(uid) == 0 || uid[0] != strconv.Itoa(firstID) {
		t.Errorf("init runs as %v on the host", uid)
	}
	for _, c := range []string{"mknod /tmp/x c 1 3", "mount -t ext4 /dev/vda /tmp", "echo 1 > /proc/sys/kernel/panic",
		"insmod /x.ko", "cat /proc/kcore"} {
		if code, _ := run(t, b, sh(c)); code == 0 {
			t.Errorf("%q worked", c)
		}
	}
	if code, out := run(t, b, sh("mkdir /sys/fs/cgroup/x && rmdir /sys/fs/cgroup/x && grep -c cgroup2 /proc/mounts")); code != 0 {
		t.Errorf("its cgroup isn't its own: %s", out)
	}
}

// TestNoSubuid starts one where subuid(5) gives root no ids, and newuidmap is installed.
func TestNoSubuid(t *testing.T) {
	script := `for f in /etc/subuid /etc/subgid; do mount --bind /dev/null $f || exit; done
exec "$0" -test.run '^TestUnprivileged$'`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, os.Args[0])
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestPoweroffAndReboot(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	before := b.InitPID()
	run(t, b, sh("reboot -f & sleep 10"))
	e, err := b.Next(t.Context())
	if err != nil || e.Kind != Rebooted || b.InitPID() == before {
		t.Fatalf("after reboot: %v, %v, init %d then %d", e, err, before, b.InitPID())
	}
	if code, out := run(t, b, sh("echo up")); code != 0 || out != "up\n" {
		t.Fatalf("after the reboot: %d %q", code, out)
	}
	run(t, b, sh("poweroff -f & sleep 10"))
	if e, err := b.Next(t.Context()); err != nil || e.Kind != Stopped {
		t.Fatalf("after poweroff: %v, %v", e, err)
	}
}

func TestShutdown(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	// Let init come as far as setting its handlers.
	eventually(t, "init runs its table",
		func() bool { _, out := run(t, b, sh("ps")); return strings.Contains(out, "sleep 100000") })
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, err := b.Next(t.Context()); err != nil || e.Kind != Stopped {
		t.Fatalf("%v, %v", e, err)
	}
	if _, err := Open(b.dir); !errors.Is(err, kiln.NotFound) {
		t.Errorf("Open of what stopped: %v", err)
	}
}

// TestShutdownSysvinit stops an init that listens at sysvinit's pipe, and does nothing when
// it gets a signal, as the one of Debian.
func TestShutdownSysvinit(t *testing.T) {
	tree := busybox(t, "")
	init := filepath.Join(tree, "sbin/init")
	if err := os.Remove(init); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(init, []byte(`#!/bin/sh
mkfifo /run/initctl && exec 3<>/run/initctl
asked=$(dd bs=1000 count=1 <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \n')
[ "${#asked} $asked" = "768 69190903010000003$(printf %0751d 0)" ] || sleep 100000
`), 0o755); err != nil {
		t.Fatal(err)
	}
	b := start(t, spec(t, tree))
	eventually(t, "init listens", func() bool { _, out := run(t, b, sh("ps")); return strings.Contains(out, "od -An") })
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if e, err := b.Next(ctx); err != nil || e.Kind != Stopped {
		t.Fatalf("%v, %v", e, err)
	}
}

func TestInitCrash(t *testing.T) {
	tree := busybox(t, "")
	os.Remove(filepath.Join(tree, "sbin/init"))
	s := spec(t, tree)
	b, err := Start(t.Context(), s)
	if err == nil { // init was found missing only after the fact
		e, err := b.Next(t.Context())
		if err != nil || e.Kind != Stopped {
			t.Fatalf("%v, %v", e, err)
		}
		b.Close()
		return
	}
	if !strings.Contains(err.Error(), "init") {
		t.Errorf("the error doesn't say what is wrong: %v", err)
	}
	checkGone(t, &Box{dir: s.Dir, state: state{ID: s.ID}})
}

func TestDaemonKilled(t *testing.T) {
	dir := t.TempDir()
	if err := os.Rename(busybox(t, ""), filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "KILN_BOX_CHILD="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	b, err := Open(filepath.Join(dir, "box"))
	if err != nil {
		t.Fatal(err)
	}
	if code, out := run(t, b, sh("echo alive")); code != 0 || out != "alive\n" {
		t.Errorf("%d %q", code, out)
	}
	end(t, b)
}

func TestMonitorKilled(t *testing.T) {
	s := spec(t, busybox(t, ""))
	b, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	// Until init is on its own, liblxc has it die with the monitor.
	eventually(t, "init runs its table",
		func() bool { _, out := run(t, b, sh("ps")); return strings.Contains(out, "sleep 100000") })
	b.monitor.signal(unix.SIGKILL)
	b.monitor.wait(t.Context())
	if _, err := b.Exec(t.Context(), sh("true")); !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("exec when the monitor has just died: %v", err)
	}
	b.Close()
	again, err := Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Exec(t.Context(), sh("true")); !errors.Is(err, kiln.Conflict) {
		t.Errorf("exec without a monitor: %v", err)
	}
	end(t, again)
}

// TestOpenBetween takes over a container while it reboots: its init has ended, and the
// monitor has none yet. An unshare(1) is one here.
func TestOpenBetween(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "between-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	begin := func(command ...string) *exec.Cmd {
		cmd := exec.Command(command[0], command[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	open := func(monitor *exec.Cmd) (*Box, error) {
		before := begin("sleep", "1000")
		b := &Box{dir: dir, state: state{ID: filepath.Base(dir), Monitor: identify(monitor.Process.Pid),
			Init: identify(before.Process.Pid), Dir: idOf(dir)}}
		before.Process.Kill()
		before.Wait()
		if err := b.save(); err != nil {
			t.Fatal(err)
		}
		return Open(dir)
	}
	monitor := begin("sh", "-c", "sleep 0.5; exec unshare --pid --fork --kill-child sleep 1000")
	b, err := open(monitor)
	if err != nil {
		t.Fatal(err)
	}
	if pid := b.InitPID(); pid == 0 || pid != findInit(monitor.Process.Pid) {
		t.Errorf("its init is %d", pid)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := open(begin("sleep", "0.5")); !errors.Is(err, kiln.NotFound) { // one that ends
		t.Errorf("a monitor that started no other: %v", err)
	}
	os.Remove(linkTo(filepath.Base(dir)))
}

func TestFreeze(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	if b.Frozen() {
		t.Error("frozen at the start")
	}
	for range 3 {
		if err := b.Freeze(t.Context()); err != nil || !b.Frozen() {
			t.Fatal("not frozen: ", err)
		}
		if err := b.Thaw(t.Context()); err != nil || b.Frozen() {
			t.Fatal("not thawed: ", err)
		}
	}
	b.Freeze(t.Context()) // and killed frozen
}

func TestLimits(t *testing.T) {
	s := spec(t, busybox(t, ""))
	s.Limits = Limits{MemoryBytes: 64 << 20, Processes: 50, CPUs: CPUs{Count: 1}, CPUQuota: 50_000, CPUPeriod: 100_000}
	b := start(t, s)
	if code, _ := run(t, b, sh("dd if=/dev/zero of=/dev/null bs=200M count=1")); code == 0 {
		t.Error("200 MB fit into 64 MB")
	}
	if code, out := run(t, b, sh("for i in $(seq 100); do sleep 5 & done; echo done")); code == 0 &&
		!strings.Contains(out, "fork") {
		t.Errorf("100 processes fit into 50: %d %q", code, out)
	}
	if _, out := run(t, b, sh("nproc")); out != "1\n" {
		t.Errorf("nproc: %q", out)
	}
	run(t, b, sh("dd if=/dev/zero of=/tmp/file bs=1M count=10"))
	u, err := b.Usage()
	if err != nil || u.MemoryBytes == 0 || u.Processes == 0 || u.CPUNanoseconds == 0 {
		t.Errorf("Usage: %+v, %v", u, err)
	}
}

// TestSetLimits changes every bound of a container that runs, and lifts them.
func TestSetLimits(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	read := func(controller, v1, v2 string) string {
		file := v2
		if onV1(controller) {
			file = v1
		}
		return readString(filepath.Join(controllerDir(controller, b.state.ID), file))
	}
	_, all := run(t, b, sh("nproc"))
	free := read("memory", "memory.limit_in_bytes", "memory.max")
	disks, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(disks) == 0 {
		t.Fatal("no block device: ", err)
	}
	disk := readString(disks[0])
	if err := b.SetLimits(Limits{MemoryBytes: 64 << 20, Processes: 50, CPUs: CPUs{Set: "0"}, CPUQuota: 250_000,
		CPUPeriod: 500_000, Disks: []DiskLimit{{Device: disk, ReadBytes: 1 << 20, WriteOperations: 100}}}); err != nil {
		t.Fatal(err)
	}
	traffic := func() string {
		return read("blkio", "ns/blkio.throttle.read_bps_device", "io.max") +
			read("blkio", "ns/blkio.throttle.write_iops_device", "")
	}
	if has := traffic(); has != disk+" 1048576"+disk+" 100" && has != disk+" rbps=1048576 wbps=max riops=max wiops=100" {
		t.Errorf("traffic: %q", has)
	}
	if _, out := run(t, b, sh("nproc")); out != "1\n" {
		t.Errorf("nproc: %q", out)
	}
	for want, has := range map[string]string{
		"67108864": read("memory", "memory.limit_in_bytes", "memory.max"),
		"50":       read("pids", "pids.max", "pids.max"),
	} {
		if has != want {
			t.Errorf("%q, not %q", has, want)
		}
	}
	if has := read("cpu", "cpu.cfs_quota_us", "cpu.max"); has != "250000" && has != "250000 500000" {
		t.Errorf("allowance: %q", has)
	}
	if code, _ := run(t, b, sh("dd if=/dev/zero of=/dev/null bs=200M count=1")); code == 0 {
		t.Error("200 MB fit into 64 MB")
	}
	if err := b.SetLimits(Limits{CPUs: CPUs{Set: "4000"}}); err == nil {
		t.Error("there is a processor 4000")
	}
	for limit := range 4 { // where a command's beginning fails depends on how many are there
		if err := b.SetLimits(Limits{Processes: int64(limit + 1)}); err != nil {
			t.Fatal(err)
		}
		p, err := b.Exec(t.Context(), ExecSpec{Command: []string{"true"}})
		if err == nil && limit == 0 || err != nil && (!errors.Is(err, kiln.Conflict) ||
			!strings.Contains(err.Error(), "limits.processes allows, "+fmt.Sprint(limit+1))) {
			t.Errorf("with %d processes: %v", limit+1, err)
		}
		if err == nil {
			_, err = p.Wait()
			if err := errors.Join(err, p.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	if err := b.SetLimits(Limits{}); err != nil {
		t.Fatal(err)
	}
	if has := traffic(); has != "" {
		t.Errorf("traffic without bounds: %q", has)
	}
	if _, out := run(t, b, sh("nproc")); out != all {
		t.Errorf("nproc: %q, before %q", out, all)
	}
	for want, has := range map[string]string{
		free:  read("memory", "memory.limit_in_bytes", "memory.max"),
		"max": read("pids", "pids.max", "pids.max"),
	} {
		if has != want {
			t.Errorf("%q, not %q", has, want)
		}
	}
}

func TestNetwork(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	run(t, b, sh("ping -c 1 127.0.0.1"))
	list, err := b.Network(t.Context())
	if err != nil || len(list) == 0 || list[0].Name != "lo" || len(list[0].Addresses) == 0 || list[0].BytesIn == 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestMounts(t *testing.T) {
	src := filepath.Join(t.TempDir(), "a b")
	os.WriteFile(src, []byte("hello"), 0o644)
	s := spec(t, busybox(t, ""))
	s.Mounts = []Mount{{Source: src, Target: "/mnt/x y", ReadOnly: true},
		{Source: "/nowhere", Target: "/mnt/z", Optional: true}}
	b := start(t, s)
	if code, out := run(t, b, sh("cat '/mnt/x y' && ! echo > '/mnt/x y'")); code != 0 || !strings.HasPrefix(out, "hello") {
		t.Errorf("%d %q", code, out)
	}
}

func TestPrivileged(t *testing.T) {
	tree := busybox(t, "")
	filepath.WalkDir(tree, func(p string, _ fs.DirEntry, _ error) error { return os.Lchown(p, 0, 0) })
	s := spec(t, tree)
	s.IDMap, s.Nesting = nil, true
	b := start(t, s)
	if code, out := run(t, b, sh("id -u; ls /dev/.lxc/proc/1/status")); code != 0 {
		t.Errorf("%d %q", code, out)
	}
	if code, _ := run(t, b, sh("mknod /tmp/d b 254 0 && dd if=/tmp/d of=/dev/null count=1")); code == 0 {
		t.Error("a privileged container reads the host's disk")
	}
}

func TestParallel(t *testing.T) {
	tree := busybox(t, "")
	var wg sync.WaitGroup
	for i := range 10 {
		s := spec(t, tree)
		s.ID += strconv.Itoa(i)
		wg.Go(func() {
			b, err := Start(t.Context(), s)
			if err != nil {
				t.Error(err)
				return
			}
			end(t, b)
		})
	}
	wg.Wait()
}

// TestMonitorIsSmall looks at what one more container costs.
func TestMonitorIsSmall(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", b.monitor.PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kb, _ := strconv.Atoi(f[1])
			t.Logf("monitor: %d kB PSS", kb)
			if kb > 4096 {
				t.Errorf("a monitor takes %d kB", kb)
			}
		}
	}
}

func BenchmarkStart(b *testing.B) {
	tree := busybox(b, "")
	s := spec(b, tree)
	for b.Loop() {
		box, err := Start(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		end(b, box)
		s = spec(b, tree)
		b.StartTimer()
	}
}

func BenchmarkExec(b *testing.B) {
	box := start(b, spec(b, busybox(b, "")))
	for b.Loop() {
		run(b, box, ExecSpec{Command: []string{"/bin/true"}})
	}
}

// TestPureV2 runs the tests of life again where cgroup v2 is all there is, as on
// hosts of today: in a mount namespace that shows nothing else.
func TestPureV2(t *testing.T) {
	if unified() == cgroupRoot {
		return // this host is one
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c",
		`umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$0" -test.v -test.run '^(TestExec|TestTerminal|TestFreeze|TestShutdown|TestPoweroffAndReboot|TestDaemonKilled|TestUnprivileged)$'`,
		"/proc/"+strconv.Itoa(os.Getpid())+"/exe")
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS")) != 7 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSystemd boots a real Debian to the end.
func TestSystemd(t *testing.T) {
	tree := t.TempDir()
	if out, err := exec.Command("tar", "-C", tree, "--numeric-owner", "-xf", formattest.Debian(t)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	filepath.WalkDir(tree, func(p string, e fs.DirEntry, _ error) error {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if err := os.Lchown(p, int(st.Uid)+firstID, int(st.Gid)+firstID); err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return unix.Chmod(p, st.Mode&0o7777)
	})
	b := start(t, spec(t, tree))
	var state string
	eventually(t, "systemd is up", func() bool {
		_, state = run(t, b, ExecSpec{Command: []string{"/bin/systemctl", "is-system-running"}})
		state = strings.TrimSpace(state)
		return state == "running" || state == "degraded"
	})
	if state != "running" {
		_, failed := run(t, b, ExecSpec{Command: []string{"/bin/systemctl", "--failed", "--no-pager"}})
		t.Errorf("systemd is %s:\n%s", state, failed)
	}
	if log, err := os.ReadFile(b.ConsoleLog()); err != nil || !strings.Contains(string(log), "Reached target") {
		t.Errorf("the console's log: %q, %v", log, err)
	}
	logIn(t, b)
	before := b.InitPID()
	run(t, b, ExecSpec{Command: []string{"/bin/systemctl", "reboot"}})
	if e, err := b.Next(t.Context()); err != nil || e.Kind != Rebooted || b.InitPID() == before {
		t.Errorf("after reboot: %v, %v", e, err)
	}
	eventually(t, "it is up again", func() bool {
		_, s := run(t, b, ExecSpec{Command: []string{"/bin/systemctl", "is-system-running"}})
		return strings.TrimSpace(s) == "running"
	})
	logIn(t, b)
	from := time.Now()
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, err := b.Next(t.Context()); err != nil || e.Kind != Stopped {
		t.Errorf("after shutdown: %v, %v", e, err)
	}
	t.Logf("a clean stop took %v", time.Since(from))
}
