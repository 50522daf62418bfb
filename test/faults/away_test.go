package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"
)

// TestAway has a server that isn't there while its image is here.
func TestAway(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	fp := from.holds(unified(t, "away", 10<<10), "--public", "--alias", "x")
	to.ok("init", "a:x", "c1")
	before := net.connections.Load()
	to.ok("init", "a:x", "c2", "--offline")
	to.fails(3, []string{`"y"`, "--offline"}, "init", "a:y", "c0", "--offline")
	if n := net.connections.Load() - before; n != 0 {
		t.Errorf("--offline made %d connections", n)
	}
	for _, way := range []string{"down", "stall"} {
		if way == "down" {
			net.down()
		} else {
			net.up(t)
			net.every(fault{stall: 1})
		}
		if s := to.ok("init", "a:x", "away-"+way); !strings.Contains(s.Err, "warning") ||
			!strings.Contains(s.Err, net.address) {
			t.Errorf("%s: %s", way, s.Err)
		}
		to.fails(6, []string{net.address}, "init", "a:y", "c0")
	}
	to.fails(6, []string{net.address}, "image", "copy", "a:x", "local:")
	to.fails(6, []string{net.address}, "image", "list", "a:")
	net.set(nil)
	if s := to.ok("init", "a:x", "c3"); s.Err != "" && strings.Contains(s.Err, "warning") {
		t.Error(s.Err)
	}
	to.sound(fp)
	to.fails(6, []string{"kiln.invalid"}, "remote", "add", "none", "https://kiln.invalid", "--protocol", "simplestreams")
	to.ok("remote", "add", "none", "https://"+net.address, "--protocol", "simplestreams", "--accept-certificate")
	to.ok("remote", "set-url", "none", "https://kiln.invalid")
	to.fails(6, []string{"kiln.invalid", "no such host"}, "image", "copy", "none:x", "local:")
	to.fails(6, []string{"kiln.invalid"}, "init", "none:x", "c0")
	for _, c := range []string{"c1", "c2", "c3", "away-down", "away-stall"} {
		to.ok("delete", c)
	}
}

// TestStreamsAway is TestAway for a server without an API: what was read of it is
// good for a copy, too.
func TestStreamsAway(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	net := newProxy(t, s.Listener.Addr().String())
	img := unified(t, "streams away", 10<<10)
	s.publish(t, published{image: img, alias: "x"})
	to.streams("s", s, "https://"+net.address)
	to.ok("init", "s:x", "c1")
	before := net.connections.Load()
	to.ok("init", "s:x", "c2", "--offline")
	if n := net.connections.Load() - before; n != 0 {
		t.Errorf("--offline made %d connections", n)
	}
	to.ok("image", "list", "s:")
	net.down()
	to.age() // the index is too old to be used without asking
	for _, words := range [][]string{{"init", "s:x", "c3"}, {"image", "copy", "s:x", "local:", "--alias", "x"},
		{"image", "list", "s:"}} {
		if s := to.ok(words...); !strings.Contains(s.Err, net.address) {
			t.Errorf("%v: no warning in %q", words, s.Err)
		}
	}
	to.fails(3, []string{`"y"`}, "init", "s:y", "c0")
	to.sound(img.fingerprint())
	for _, c := range []string{"c1", "c2", "c3"} {
		to.ok("delete", c)
	}
}

// age makes the documents of image servers that are kept old. The daemon has to be
// started again to see it.
func (h *host) age() {
	h.t.Helper()
	for _, dir := range []string{h.Dir + "/cache", h.Home + "/.cache/kiln/indexes"} {
		list, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.t.Fatal(err)
		}
		for _, e := range list {
			path := dir + "/" + e.Name()
			text, err := os.ReadFile(path)
			if err != nil || !strings.HasSuffix(path, ".json") {
				continue
			}
			year := time.Now().Format(`"fetched":"2006-`)
			text = []byte(strings.ReplaceAll(string(text), year, `"fetched":"2001-`))
			if err := os.WriteFile(path, text, 0o600); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	h.restart()
}

// TestOneIndex launches many times: the documents are asked for once, and later
// only whether they changed.
func TestOneIndex(t *testing.T) {
	t.Parallel()
	const n = 8
	to, s := newHost(t), newImageServer(t)
	img := unified(t, "one index", 10<<10)
	s.publish(t, published{image: img, alias: "x"})
	to.streams("s", s, s.URL)
	done := make(chan error, n)
	for i := range n {
		go func() {
			done <- to.operate("/1.0/instances", map[string]any{"name": fmt.Sprintf("c%d", i), "source": s.source("x")})
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{indexPath, productsPath, fileURL(img[0])} {
		if got := s.asked(path); got != 1 {
			t.Errorf("%s was asked for %d times", path, got)
		}
	}
	to.ok("image", "copy", "s:x", "local:", "--alias", "x", "--auto-update") // the command line has a copy of its own
	index, products := s.unchanged(indexPath), s.unchanged(productsPath)
	for i := range 2 {
		to.ok("image", "refresh", "x")
		if s.unchanged(indexPath) != index+i+1 || s.unchanged(productsPath) != products+i+1 {
			t.Errorf("refresh %d: %d and %d answers say that nothing changed", i, s.unchanged(indexPath)-index,
				s.unchanged(productsPath)-products)
		}
	}
	if got := s.asked(fileURL(img[0])); got != 1 {
		t.Errorf("the image was asked for %d times", got)
	}
	for i := range n {
		to.ok("delete", fmt.Sprintf("c%d", i))
	}
}

// TestStaleIndex has a server replace its images while the index that is here is
// still young: the new version is what people get.
func TestStaleIndex(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	old, now, last := unified(t, "v1", 10<<10), unified(t, "v2", 10<<10), split(t, "v3", 10<<10)
	s.publish(t, published{image: old, alias: "x", version: "20260101"})
	to.streams("s", s, s.URL)
	to.ok("image", "list", "s:")
	to.ok("init", "s:x", "c1")
	to.ok("image", "delete", old.fingerprint().String())
	s.publish(t, published{image: now, alias: "x", version: "20260202"})
	to.ok("image", "copy", "s:x", "local:", "--alias", "x", "--auto-update", "--mode", "pull")
	to.sound(now.fingerprint())
	s.publish(t, published{image: last, alias: "x", version: "20260303"})
	to.ok("image", "refresh", "x")
	if out := to.ok("image", "info", "x").Out; !strings.Contains(out, last.fingerprint().String()) {
		t.Error(out)
	}
	to.sound(now.fingerprint(), last.fingerprint())
	s.publish(t) // nothing at all
	to.ok("image", "delete", last.fingerprint().String(), now.fingerprint().String())
	to.fails(3, nil, "image", "copy", "s:x", "local:", "--mode", "pull")
	to.sound(none()...)
	to.ok("delete", "c1")
}

// TestMirrors has a server with mirrors of which only the last is any good.
func TestMirrors(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	address := s.Listener.Addr().String()
	refused, broken, good := newProxy(t, address), newProxy(t, address), newProxy(t, address)
	img := unified(t, "mirrored", 2<<20)
	s.publish(t, published{image: img, alias: "x"})
	mirrors := []string{"--mirror", "https://" + broken.address, "--mirror", "https://" + good.address}
	to.streams("s", s, "https://"+refused.address, mirrors...)
	refused.down()
	broken.every(fault{cut: small + 300_000})
	to.ok("image", "copy", "s:x", "local:", "--mode", "pull")
	to.sound(img.fingerprint())
	if good.bytes.Load() == 0 {
		t.Error("the good one wasn't asked")
	}
	to.ok("image", "delete", img.fingerprint().String())
	refused.up(t)
	refused.every(fault{cut: 1})
	broken.down()
	to.ok("image", "copy", "s:x", "local:", "--mode", "pull")
	to.sound(img.fingerprint())
}
