// Command bench runs kiln and LXD 5.0.2 side by side on one machine and prints
// medians and ratios. It takes root, and Debian's packages lxd and lxd-client.
//
// Every command is run as a user would run it, in turn with the other one's. With
// -against, another build of kiln stands in LXD's place: its columns are that one's.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/network/nettest"
)

// bench is one run.
type bench struct {
	dir      string // scratch, removed at the end
	images   string
	n        int
	count    int
	compared bool // both daemons run, and there are images
	kiln     int  // then the daemon's process
	ends     []func()
}

func main() {
	nettest.Isolate()
	if len(os.Args) > 1 && os.Args[1] == worker {
		work(os.Args[2:])
		return
	}
	n := flag.Int("n", 5, "runs of each row")
	only := flag.String("only", "", "parts to run, separated by commas: "+strings.Join(partNames(), ", "))
	count := flag.Int("count", 10_000, "images in the store with many")
	against := flag.String("against", "", "another build of kiln, to run instead of LXD")
	flag.Parse()
	b := &bench{n: *n, count: *count}
	chosen, err := b.choose(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	defer b.end()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		b.end()
		os.Exit(130)
	}()
	b.setUp()
	b.setAgainst(*against)
	for _, p := range chosen {
		if p.pair {
			b.compare()
		}
		p.run()
	}
}

// A part is a table of the report.
type part struct {
	name string
	pair bool // needs the two daemons of compare
	run  func()
}

func (b *bench) parts() []part {
	return []part{
		{"import", true, b.imports}, {"first", true, b.firstLaunch}, {"warm", true, b.warm}, {"many", true, b.many},
		{"memory", true, b.memory}, {"publish", true, b.publish}, {"snapshots", true, b.snapshots},
		{"travel", false, b.travel}, {"update", false, b.update}, {"serve", false, b.serve},
	}
}

func partNames() []string {
	var names []string
	for _, p := range (*bench)(nil).parts() {
		names = append(names, p.name)
	}
	return names
}

// choose gives the parts that a list names, in the order of the report; all for "".
func (b *bench) choose(list string) ([]part, error) {
	if list == "" {
		return b.parts(), nil
	}
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(partNames(), name) {
			return nil, fmt.Errorf("no part %q; the parts are %s", name, strings.Join(partNames(), ", "))
		}
	}
	return slices.DeleteFunc(b.parts(), func(p part) bool { return !slices.Contains(names, p.name) }), nil
}

func (b *bench) end() {
	for _, f := range slices.Backward(b.ends) {
		f()
	}
	b.ends = nil
}

func (b *bench) fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
	b.end()
	os.Exit(1)
}

// must runs a shell command and gives what it prints.
func (b *bench) must(command string) string {
	out, err := b.try(command)
	if err != nil {
		b.fail("%s: %v\n%s", command, err, out)
	}
	return out
}

func (b *bench) try(command string) (string, error) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "KILN_DIR="+b.dir+"/kiln", "LXD_DIR="+b.dir+"/lxd", "LXD_CONF="+b.dir+"/conf")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// start runs a daemon until the end.
func (b *bench) start(command string, stop string) int {
	cmd := exec.Command("sh", "-c", "exec "+command)
	cmd.Env = append(os.Environ(), "KILN_DIR="+b.dir+"/kiln", "LXD_DIR="+b.dir+"/lxd", "LXD_CONF="+b.dir+"/conf")
	log, err := os.CreateTemp(b.dir, "log-")
	if err != nil {
		b.fail("%v", err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		b.fail("%v", err)
	}
	b.ends = append(b.ends, func() {
		if out, err := b.try("timeout 60 " + stop); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %s\n", stop, out)
		}
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func (b *bench) setUp() {
	var err error
	if b.dir, err = os.MkdirTemp("/var/tmp", "kiln-bench-"); err != nil {
		b.fail("%v", err)
	}
	b.ends = append(b.ends, func() { os.RemoveAll(b.dir) })
	// LXD's containers must be able to search it.
	if err := os.Chmod(b.dir, 0o711); err != nil {
		b.fail("%v", err)
	}
	b.images = filepath.Join(b.dir, "images")
	b.must("mkdir -p " + b.images)
}

// setAgainst has a kiln be what the commands lxc and lxd run.
func (b *bench) setAgainst(kiln string) {
	if kiln == "" {
		return
	}
	kiln, err := filepath.Abs(kiln)
	if err != nil {
		b.fail("%v", err)
	}
	if _, err := exec.LookPath(kiln); err != nil {
		b.fail("%v", err)
	}
	instead, err := filepath.Abs("test/bench/against")
	if err != nil {
		b.fail("%v", err)
	}
	if err := errors.Join(os.Setenv("KILN_AGAINST", kiln), os.Setenv("PATH", instead+":"+os.Getenv("PATH"))); err != nil {
		b.fail("%v", err)
	}
}

// compare makes images of Debian and starts one daemon of each kind.
func (b *bench) compare() {
	if b.compared {
		return
	}
	b.compared = true
	tar, err := formattest.DebianTar()
	if err != nil {
		b.fail("%v", err)
	}
	b.must("mkdir -p " + b.dir + "/lxd " + b.dir + "/conf")
	fmt.Fprintln(os.Stderr, "making images ...")
	b.must(fmt.Sprintf(`cd %s && mkdir m rootfs && printf 'architecture: %%s\ncreation_date: 1700000000\nproperties: {os: debian}\n' $(uname -m) > m/metadata.yaml &&
		tar -C rootfs --numeric-owner --xattrs --xattrs-include='*' -xf %s && tar -C m -cf d.tar metadata.yaml && tar --numeric-owner --xattrs --xattrs-include='*' -rf d.tar rootfs &&
		gzip -k d.tar && zstd -q -3 d.tar && xz -T0 -k d.tar && tar2sqfs -q -c zstd d.squashfs < d.tar && rm -rf rootfs`, b.images, tar))
	b.kiln = b.start("bin/kiln daemon", "bin/kiln shutdown")
	b.must("bin/kiln waitready --timeout 30")
	b.start("lxd --group root", "lxd shutdown")
	b.must("timeout 60 lxd waitready")
	b.must(`printf 'storage_pools:
- {name: default, driver: dir}
- {name: fast, driver: btrfs, config: {size: 8GiB}}
profiles:
- name: default
  devices: {root: {type: disk, path: /, pool: default}}
- name: fast
  devices: {root: {type: disk, path: /, pool: fast}}
' | lxd init --preseed`)
	b.ends = append(b.ends, func() {
		_, _ = b.try("lxc delete -f $(lxc list -f csv -c n); lxc image delete $(lxc image list -f csv -c f)")
	})
}

// timed runs commands in turn, n times, and gives the median of each in seconds.
// before is run, untimed, before each command.
func (b *bench) timed(before []string, commands []string) []float64 {
	all := make([][]float64, len(commands))
	for range b.n {
		for i, c := range commands {
			if before[i] != "" {
				b.must(before[i])
			}
			start := time.Now()
			b.must(c)
			all[i] = append(all[i], time.Since(start).Seconds())
		}
	}
	medians := make([]float64, len(commands))
	for i := range all {
		medians[i] = median(all[i])
	}
	return medians
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

func row(name string, cells ...any) {
	line := fmt.Sprintf("%-44s", name)
	for _, c := range cells {
		switch c := c.(type) {
		case float64:
			line += fmt.Sprintf(" %9.3f", c)
		default:
			line += fmt.Sprintf(" %9v", c)
		}
	}
	fmt.Println(line)
}

const dropImages = "bin/kiln image list -f csv -c F | xargs -r bin/kiln image delete; lxc image list -f csv -c F | " +
	"xargs -r -n1 lxc image delete; sync"

func (b *bench) imports() {
	fmt.Println("\nImport (s); the limits are the decompressor alone, and sha256 while writing")
	row("format", "kiln", "lxd", "decode", "sha+write", "kiln/max")
	for format, decode := range map[string]string{
		"tar": "cat", "tar.gz": "gzip -dc", "tar.zst": "zstd -qdc", "tar.xz": "xz -T0 -dc", "squashfs": "sqfs2tar",
	} {
		file := b.images + "/d." + format
		m := b.timed([]string{dropImages, dropImages, "", "sync"}, []string{
			"bin/kiln image import " + file, "lxc image import " + file, decode + " " + file + " > /dev/null",
			"tee " + b.dir + "/copy < " + file + " | sha256sum && sync " + b.dir + "/copy",
		})
		row(format, m[0], m[1], m[2], m[3], m[0]/max(m[2], m[3]))
	}
	b.must(dropImages)
	b.must("bin/kiln image import " + b.images + "/d.tar.zst")
	row("bytes in the store / bytes of the image", b.must("du -sb --apparent-size $KILN_DIR/blobs/sha256/*/* | cut -f1"),
		b.must("stat -c %s "+b.images+"/d.tar.zst"))
}

// up waits until systemd answers that it is up.
func up(client, name string) string {
	return fmt.Sprintf("for i in $(seq 2000); do s=$(%s exec %s -- systemctl is-system-running 2>/dev/null "+
		"</dev/null); case $s in running|degraded) exit 0;; esac; done; exit 1", client, name)
}

const dropInstances = "bin/kiln list -f csv -c n | xargs -r bin/kiln delete -f; lxc list -f csv -c n | xargs -r lxc " +
	"delete -f; "

func (b *bench) firstLaunch() {
	fmt.Println("\nImport and first launch until systemctl is-system-running answers (s)")
	row("format", "kiln", "lxd dir", "lxd btrfs", "ratio dir", "ratio btr")
	for _, c := range []struct{ format, mount string }{{"tar.zst", "auto"}, {"tar.gz", "auto"}, {"tar.xz", "auto"},
		{"squashfs", "never"}, {"squashfs", "always"}} {
		b.must("bin/kiln config set images.mount_squashfs " + c.mount)
		file := b.images + "/d." + c.format
		drop := dropInstances + dropImages
		m := b.timed([]string{drop, drop, drop}, []string{
			"bin/kiln image import " + file + " --alias d && bin/kiln launch d c </dev/null && " + up("bin/kiln", "c"),
			"lxc image import " + file + " --alias d && lxc launch d c </dev/null && " + up("lxc", "c"),
			"lxc image import " + file + " --alias d && lxc launch d c -p fast </dev/null && " + up("lxc", "c"),
		})
		row(c.format+" (mount: "+c.mount+")", m[0], m[1], m[2], m[0]/m[1], m[0]/m[2])
	}
	b.must(dropInstances + dropImages)
	b.must("bin/kiln config unset images.mount_squashfs")
}

func (b *bench) warm() {
	fmt.Println("\nWarm (s)")
	row("", "kiln", "lxd dir", "lxd btrfs", "ratio dir", "ratio btr")
	b.must(dropInstances + dropImages)
	file := b.images + "/d.tar.zst --alias d"
	b.must("bin/kiln image import " + file + " && lxc image import " +
		file + " && bin/kiln init d w </dev/null && lxc init d w -p fast </dev/null")
	b.must(dropInstances)
	ready := func(client string) string {
		return " && for i in $(seq 2000); do " + client + " exec c -- true </dev/null && exit 0; done; exit 1"
	}
	drop := []string{dropInstances, dropInstances, dropInstances}
	print := func(name string, m []float64) { row(name, m[0], m[1], m[2], m[0]/m[1], m[0]/m[2]) }
	print("launch until the first exec", b.timed(drop, []string{
		"bin/kiln launch d c </dev/null" + ready("bin/kiln"), "lxc launch d c </dev/null" + ready("lxc"),
		"lxc launch d c -p fast </dev/null" + ready("lxc"),
	}))
	print("init (create alone)",
		b.timed(drop, []string{"bin/kiln init d c </dev/null", "lxc init d c </dev/null", "lxc init d c -p fast </dev/null"}))
	launched := func(client, args string) string {
		return dropInstances + client + " launch d c " + args + " </dev/null && " + up(client, "c")
	}
	print("delete --force of a running one",
		b.timed([]string{launched("bin/kiln", ""), launched("lxc", ""), launched("lxc", "-p fast")},
			[]string{"bin/kiln delete -f c", "lxc delete -f c", "lxc delete -f c"}))
	b.must(dropInstances)
}

// many fills both stores with images.
func (b *bench) many() {
	count := b.count
	fmt.Printf("\n%d images (s, and MB of the daemon)\n", count)
	row("", "kiln", "lxd", "ratio")
	b.must(dropInstances + dropImages)
	upload := func(socket string) {
		b.must(fmt.Sprintf(`cd %s && mkdir -p tiny/rootfs && cat > up.sh <<'X'
for i in $(seq $1 $2); do
  d=$(mktemp -d); mkdir $d/rootfs
  printf 'architecture: x86_64\ncreation_date: %%d\nproperties: {os: os%%d, a: "1", b: "2", c: "3", d: "4", e: "5", f: "6", serial: "%%d"}\n' $((i+1)) $((i%%40)) $i > $d/metadata.yaml
  tar -C $d -cf - metadata.yaml rootfs | curl -s -o /dev/null --unix-socket $3 -X POST -H 'Content-Type: application/octet-stream' --data-binary @- http://x/1.0/images
  rm -rf $d
done
X
(sh up.sh 1 %d %s & sh up.sh %d %d %s; wait)`, b.dir, count/2, socket, count/2+1, count, socket))
	}
	upload(b.dir + "/kiln/unix.socket")
	upload(b.dir + "/lxd/unix.socket")
	query := func(socket, q string) string {
		return fmt.Sprintf("curl -s -o %s/answer --unix-socket %s/%s/unix.socket 'http://x/1.0/images%s'", b.dir, b.dir,
			socket, q)
	}
	none := []string{"", ""}
	for name, q := range map[string]string{
		"GET images?recursion=1":      "?recursion=1",
		"filter properties.os eq os7": "?recursion=1&filter=properties.os%20eq%20os7", "one image": "/0",
	} {
		m := b.timed(none, []string{query("kiln", q), query("lxd", q)})
		row(name, m[0], m[1], m[0]/m[1])
		b.must(query("kiln", q))
		row("  bytes of kiln's answer", b.must("stat -c %s "+b.dir+"/answer"))
	}
	row("daemon, RSS", b.rss("bin/kiln daemon"), b.rss("lxd --group root"))
}

// rss gives the resident memory of a process in MB.
func (b *bench) rss(command string) string {
	pid := b.must("pgrep -n -f '^" + command + "'")
	return b.must("awk '/^VmRSS/{print int($2/1024)}' /proc/" + pid + "/status")
}

// pss sums the memory that processes have for themselves, in kB.
func pss(pids string) int {
	total := 0
	for pid := range strings.FieldsSeq(pids) {
		b, _ := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		for line := range bytes.Lines(b) {
			if f := strings.Fields(string(line)); len(f) > 1 && f[0] == "Pss:" {
				n, _ := strconv.Atoi(f[1])
				total += n
			}
		}
	}
	return total
}

func (b *bench) memory() {
	fmt.Println("\nMemory (MB)")
	row("", "kiln", "lxd")
	b.must("bin/kiln shutdown && (bin/kiln daemon >/dev/null 2>&1 & bin/kiln waitready --timeout 20)")
	row("daemon idle, RSS", b.rss("bin/kiln daemon"), b.rss("lxd --group root"))
	b.must(dropInstances)
	b.must("bin/kiln image import " + b.images + "/d.tar.zst --alias d2 || true; lxc image import " +
		b.images + "/d.tar.zst --alias d2 || true")
	b.must("bin/kiln launch d2 c </dev/null; lxc launch d2 c </dev/null")
	row("per container, PSS of the monitor, kB", pss(b.must(`pgrep -f '^\[lxc monitor\] /run/kiln'`)),
		pss(b.must(`pgrep -f '^\[lxc monitor\] '`+b.dir)))
	b.must(dropInstances)
	idle := b.rss("bin/kiln daemon")
	b.must(fmt.Sprintf(`cd %s && mkdir -p big/rootfs && cp m/metadata.yaml big/ && head -c 1G /dev/urandom > big/rootfs/x && tar -C big -cf big.tar metadata.yaml rootfs && rm -rf big`, b.images))
	peak := b.must("p=$(pgrep -n -f '^bin/kiln daemon'); echo 5 > /proc/$p/clear_refs; bin/kiln image import " +
		b.images + "/big.tar >/dev/null 2>&1; awk '/^VmHWM/{print int($2/1024)}' /proc/$p/status")
	row("daemon idle, and at most importing 1 GB", idle, peak)
}
