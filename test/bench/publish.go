package main

import (
	"fmt"
	"os"
	"strconv"
)

// stopped makes a container of Debian on either side that has run before.
func (b *bench) stopped(name string) {
	b.must(dropInstances + dropImages)
	file := b.images + "/d.tar.zst --alias d"
	b.must("bin/kiln image import " + file + " && lxc image import " + file)
	for _, client := range []string{"bin/kiln", "lxc"} {
		b.must(client + " launch d " + name + " </dev/null && " + up(client, name))
		b.must(client + " stop " + name)
	}
}

// publish makes images of a stopped container.
func (b *bench) publish() {
	b.stopped("p")
	defer b.must(dropInstances + dropImages)
	const drop = "bin/kiln image delete p 2>/dev/null; lxc image delete p 2>/dev/null; sync"
	var m []float64
	peak := most(b.kiln, func() {
		m = b.timed([]string{drop, drop, drop}, []string{
			"bin/kiln publish p --alias p", "lxc publish p --alias p", "lxc publish p --alias p --compression zstd",
		})
	})
	fmt.Println("\nPublish of a stopped container (s)")
	row("", "kiln", "lxd", "lxd zstd", "faster", "than zstd")
	row("as each does without being told", m[0], m[1], m[2], m[1]/m[0], m[2]/m[0])
	row("kiln's daemon at most, MB", peak)
	b.must(drop + "; bin/kiln publish p --alias p")
	b.must("bin/kiln image export p " + b.dir + "/published")
	size := b.number("stat -c %s " + b.dir + "/published*")
	plain := b.number("zstd -qdc " + b.dir + "/published* | zstd -q -3 | wc -c")
	gzip := b.number("lxc publish p --alias p >/dev/null && lxc image list p -f json | grep -o '\"size\":[0-9]*' | cut " +
		"-d: -f2")
	fmt.Println("\nSize of what is published (MB)")
	row("", "kiln", "zstd -3", "lxd", "/ zstd -3", "/ lxd")
	row("", size/1e6, plain/1e6, gzip/1e6, size/plain, size/gzip)
	if err := os.Remove(b.must("ls " + b.dir + "/published*")); err != nil {
		b.fail("%v", err)
	}
}

// number runs a command that prints one.
func (b *bench) number(command string) float64 {
	n, err := strconv.ParseFloat(b.must(command), 64)
	if err != nil {
		b.fail("%s: %v", command, err)
	}
	return n
}
