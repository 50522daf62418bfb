package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// A version is an image that others may have an older version of.
type version struct {
	name string
	file string // the image
	fp   string
	size float64
}

// update moves new versions of an image to who has the old one.
func (b *bench) update() {
	server := b.node("kiln", "update-a") // has every version
	other := b.node("kiln", "update-b")  // has none but the new ones
	to := b.node("kiln", "update-c")
	old, versions := b.versions(server)
	direct, without := b.proxy(server.address), b.proxy(other.address)
	to.knows("patches", direct.address())
	to.knows("frames", without.address())
	fmt.Println("\nWhat comes over the wire to who has the version before (MB)")
	row("", "whole", "patches", "/ whole", "frames", "/ whole")
	first, seconds := map[string]float64{}, map[string]float64{}
	for _, v := range versions {
		other.add(v.file)
		patches, took := b.updated(to, old, v, "patches", direct)
		frames, _ := b.updated(to, old, v, "frames", without)
		first[v.name] = took[0]
		seconds[v.name] = median(took)
		row(v.name, v.size/1e6, patches/1e6, patches/v.size, frames/1e6, frames/v.size)
	}
	fmt.Println("\nThe same by xdelta3 (MB)")
	row("", "tar", "squashfs")
	for _, v := range versions {
		tar, squashfs := b.xdelta(old, v)
		row(v.name, tar/1e6, squashfs/1e6)
	}
	fmt.Println("\nUpdate, all of the command, with nothing in the way (s)")
	row("", "the first", "later")
	for _, v := range versions {
		row(v.name, first[v.name], seconds[v.name])
	}
	b.slowLine(to, old, versions[0], direct)
}

// versions gives an image that was published, and later versions of it.
func (b *bench) versions(n *node) (old version, list []version) {
	cache := formattest.CacheDir()
	const packages = "systemd,systemd-sysv,dbus,perl,openssl,python3,tzdata"
	const release, updates = "'deb http://deb.debian.org/debian bookworm main'",
		"'deb http://deb.debian.org/debian bookworm-updates main' 'deb http://security.debian.org/debian-security " +
			"bookworm-security main'"
	first, second := cache+"/bookworm-released.tar", cache+"/bookworm-updated.tar"
	for file, args := range map[string]string{
		first:  "--include=" + packages + " bookworm FILE " + release,
		second: "--include=" + packages + ",curl bookworm FILE " + release + " " + updates,
	} {
		if _, err := os.Stat(file); err != nil {
			b.must("mkdir -p " + cache + " && mmdebstrap --quiet --variant=minbase --format=tar " +
				strings.ReplaceAll(args, "FILE", file+".new") + " && mv " + file + ".new " + file)
		}
	}
	fmt.Fprintln(os.Stderr, "making versions ...")
	old = b.version(n, "as released", first, "true")
	const byHand = "head -c 1000000 /dev/urandom > usr/local/lib/tool && seq 300000 > var/log/tool.log && echo " +
		"192.0.2.1 host >> etc/hosts && rm -f usr/bin/chattr"
	const again = "find . -print0 | awk 'BEGIN{RS=ORS=\"\\0\"} NR%5<2' | xargs -0 touch -h"
	return old, []version{
		b.version(n, "with security updates and more packages", second, "true"),
		b.version(n, "changed by hand", first, byHand),
		b.version(n, "built again: 40 % of the times", first, again),
	}
}

// version publishes a tree after a script has changed it.
func (b *bench) version(n *node, name, tar, script string) version {
	v := version{name: name,
		file: filepath.Join(b.images, strings.Join(strings.Fields(strings.ReplaceAll(name, ":", "")), "-")+".tar.zst")}
	v.file = strings.ReplaceAll(v.file, "%", "")
	b.must(fmt.Sprintf(`cd %s && mkdir tree tree/rootfs && printf 'architecture: %%s\ncreation_date: 1700000000\nproperties: {os: debian, release: bookworm}\n' $(uname -m) > tree/metadata.yaml &&
		tar -C tree/rootfs --numeric-owner --xattrs --xattrs-include='*' -xf %s && (cd tree/rootfs && %s) &&
		tar -C tree --numeric-owner --xattrs --xattrs-include='*' -cf tree.tar metadata.yaml rootfs && rm -rf tree`, b.images, tar, script))
	n.do("image import " + b.images + "/tree.tar --alias tree")
	n.do("init tree c")
	n.do("publish c --public --alias version")
	n.do("image export version " + strings.TrimSuffix(v.file, ".tar.zst"))
	n.do("image alias delete version")
	n.do("delete c")
	n.do("image delete tree")
	b.must("rm " + b.images + "/tree.tar")
	v.fp = strings.Fields(b.must("sha256sum " + v.file))[0]
	v.size = b.number("stat -c %s " + v.file)
	return v
}

// updated fetches a version where an older one is, and gives the bytes that came
// and the seconds it took each time. The first time the server makes the patch.
func (b *bench) updated(to *node, old, v version, remote string, p *proxy) (wire float64, took []float64) {
	var all []float64
	for range b.n {
		b.must(to.drop())
		to.add(old.file)
		p.reset(1, 0)
		start := time.Now()
		to.do("image copy " + remote + ":" + v.fp + " local: --mode pull")
		took = append(took, time.Since(start).Seconds())
		all = append(all, float64(p.sent.Load()))
	}
	return median(all), took
}

// xdelta gives the sizes of what xdelta3 makes of two versions: of their tars, and
// of them as squashfs, as image servers offer it to LXD.
func (b *bench) xdelta(old, v version) (tar, squashfs float64) {
	for _, f := range []version{old, v} {
		b.must("zstd -qdfc " + f.file + " > " + f.file + ".tar && tar2sqfs -q -f -c zstd " + f.file + ".squashfs < " +
			f.file + ".tar")
	}
	size := func(ext string) float64 {
		return b.number(fmt.Sprintf("xdelta3 -e -c -9 -S none -B 536870912 -s %s%s %s%[2]s | wc -c", old.file, ext, v.file))
	}
	tar, squashfs = size(".tar"), size(".squashfs")
	b.must("rm -f " + v.file + ".tar " + v.file + ".squashfs")
	return tar, squashfs
}

// slowLine updates over 100 Mbit/s.
func (b *bench) slowLine(to *node, old, v version, p *proxy) {
	from, lxd := b.node("lxd", "update-d"), b.node("lxd", "update-e")
	from.add(v.file)
	slow := b.proxy(from.address)
	lxd.knows("slow", slow.address())
	const line = 100e6 / 8
	p.limit(line)
	slow.limit(line)
	defer p.limit(0)
	_, patches := b.updated(to, old, v, "patches", p)
	_, whole := b.updated(lxd, old, v, "slow", slow)
	fmt.Println("\nUpdate over 100 Mbit/s (s)")
	row("", "kiln", "lxd", "ratio")
	row(v.name, median(patches), median(whole), median(patches)/median(whole))
}
