package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln/internal/network/nettest"
)

// A node is a daemon of its own that others reach over the network.
type node struct {
	b       *bench
	kind    string // "kiln" or "lxd"
	env     string // for every command
	client  string
	dir     string
	address string
	pid     int
}

// node starts a daemon that listens on a free port of this host.
func (b *bench) node(kind, name string) *node {
	n := &node{b: b, kind: kind, dir: filepath.Join(b.dir, name), address: freeAddress(b)}
	conf := n.dir + "-conf"
	b.must("mkdir -p " + n.dir + " " + conf)
	n.env, n.client = fmt.Sprintf("env KILN_DIR=%s KILN_CONF=%s ", n.dir, conf), "bin/kiln "
	if kind == "lxd" {
		n.env, n.client = fmt.Sprintf("env LXD_DIR=%s LXD_CONF=%s ", n.dir, conf), "lxc "
	}
	n.start()
	n.do("config set core.https_address " + n.address)
	return n
}

func (n *node) start() {
	daemon := "bin/kiln "
	if n.kind == "lxd" {
		daemon = "lxd "
	}
	run := "daemon"
	if n.kind == "lxd" {
		run = "--group root"
	}
	n.pid = n.b.start(n.env+daemon+run, n.env+daemon+"shutdown")
	n.b.must(n.env + "timeout 60 " + daemon + "waitready")
}

// command is a command line of the node's client.
func (n *node) command(args string) string { return n.env + n.client + args }

func (n *node) do(args string) string { return n.b.must(n.command(args) + " </dev/null") }

// knows gives the node a public remote.
func (n *node) knows(name, address string) {
	n.do("remote add " + name + " https://" + address + " --public --accept-certificate")
}

// add imports an image that everybody may fetch.
func (n *node) add(file string) {
	n.do("image import " + file + " --public")
}

// drop is a command that removes every image.
func (n *node) drop() string {
	return n.command("image list -f csv -c F") + " | xargs -r -n1 " + n.command("image delete") + " && sync"
}

func freeAddress(b *bench) string {
	address, err := nettest.FreeAddress()
	if err != nil {
		b.fail("%v", err)
	}
	return address
}

// image makes an image that compresses as little as one that is compressed
// already, and gives its path, fingerprint and size in bytes.
func (b *bench) image(name string, megabytes int) (path, fingerprint string, size int64) {
	path = filepath.Join(b.images, name+".tar.zst")
	b.must(fmt.Sprintf(`cd %s && mkdir -p %[2]s/rootfs/etc && printf 'architecture: %%s\ncreation_date: 1700000000\nproperties: {os: %[2]s}\n' $(uname -m) > %[2]s/metadata.yaml &&
		for i in $(seq 25); do head -c $((%[3]d*1000000/25)) /dev/urandom > %[2]s/rootfs/$i; done && ln -s 1 %[2]s/rootfs/init &&
		tar -C %[2]s -c metadata.yaml rootfs | zstd -q -1 -o %[4]s && rm -rf %[2]s`, b.images, name, megabytes, path))
	fi, err := os.Stat(path)
	if err != nil {
		b.fail("%v", err)
	}
	return path, strings.Fields(b.must("sha256sum " + path))[0], fi.Size()
}

// resident gives the memory of a process and its children in MB.
func resident(pid int) float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	total := 0.0
	for line := range strings.Lines(string(status)) {
		if kB, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			total, _ = strconv.ParseFloat(strings.Fields(kB)[0], 64)
			total /= 1 << 10
		}
	}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for child := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(child); err == nil {
			total += resident(pid)
		}
	}
	return total
}

// most watches the memory of a process while f runs, and gives the most of it in MB.
func most(pid int, f func()) float64 {
	done := make(chan struct{})
	peak := make(chan float64)
	go func() {
		m := resident(pid)
		for {
			select {
			case <-done:
				peak <- m
				return
			case <-time.After(20 * time.Millisecond):
				m = max(m, resident(pid))
			}
		}
	}()
	f()
	close(done)
	return <-peak
}
