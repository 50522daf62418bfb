package faults

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/test/machine"
)

// small is more than the calls of the API before a download take on a connection,
// and their handshake.
const small = 64 << 10

// pair is two hosts of which one knows the other by a bad network.
func pair(t *testing.T) (from, to *host, net *proxy) {
	t.Helper()
	from, to = newHost(t), newHost(t)
	net = newProxy(t, from.Address)
	to.knows("a", from, net.address)
	return from, to, net
}

// TestCut cuts connections at random places: every image arrives whole, for not
// more bytes than it has.
func TestCut(t *testing.T) {
	t.Parallel()
	const size, cuts = 16 << 20, 10
	from, to, net := pair(t)
	images := map[string]image{"unified": unified(t, "u", size), "split": split(t, "s", size),
		"reset": unified(t, "r", size)}
	for name, img := range images {
		fp := from.holds(img, "--public", "--alias", name)
		made := 0
		net.set(func(int) fault {
			if made == cuts {
				return fault{}
			}
			made++
			return fault{cut: small + rand.Int64N(size/cuts-small), reset: name == "reset"}
		})
		wire := net.count(func() { to.ok("image", "copy", "a:"+name, "local:", "--alias", name, "--mode", "pull") })
		if made != cuts {
			t.Errorf("%s: %d cuts", name, made)
		}
		most := img.size() * 102 / 100
		if name == "reset" {
			most = img.size() * 3 / 2 // what arrived and wasn't read is lost by that
		}
		if wire > most {
			t.Errorf("%s: %d bytes for an image of %d after %d cuts", name, wire, img.size(), cuts)
		}
		if got := to.ok("image", "info", name).Out; !strings.Contains(got, fp.String()) {
			t.Errorf("%s: %s", name, got)
		}
	}
	if n := len(to.images()); n != len(images) {
		t.Errorf("%d images", n)
	}
	if left := to.sound(); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}
}

// TestCutEarly cuts at the first bytes, where the handshake and the questions are:
// that heals, or is told.
func TestCutEarly(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	img := unified(t, "early", 100<<10)
	fp := from.holds(img, "--public", "--alias", "x")
	for range 8 {
		at := 1 + rand.Int64N(12<<10)
		net.every(fault{cut: at})
		if s := to.kiln("image", "copy", "a:x", "local:", "--mode", "pull"); s.Code == 0 {
			to.sound(fp)
			to.ok("image", "delete", fp.String())
		} else if s.Code != 6 || !strings.Contains(s.Err, net.address) {
			t.Errorf("cut at %d: exit %d: %s", at, s.Code, s.Err)
		}
		to.sound(none()...)
	}
	net.set(nil)
	to.ok("image", "copy", "a:x", "local:")
	to.sound(fp)
}

// TestDown has a server that isn't there any more in the middle of a download, and
// comes back: what was loaded isn't loaded again.
func TestDown(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	img := unified(t, "down", 4<<20)
	fp := from.holds(img, "--public", "--alias", "x")
	net.set(func(n int) fault {
		if net.bytes.Load() > 2<<20 {
			return fault{cut: 1}
		}
		return fault{cut: 2<<20 + small}
	})
	to.fails(6, []string{net.address, "given up after", "kept"}, "image", "copy", "a:x", "local:", "--mode", "pull")
	if left := to.sound(none()...); left < 1<<20 {
		t.Errorf("%d bytes are kept for the next attempt", left)
	}
	net.set(nil)
	if wire := net.count(func() { to.ok("image", "copy", "a:x", "local:") }); wire > img.size()*6/10 {
		t.Errorf("the second attempt took %d bytes", wire)
	}
	to.sound(fp)
	net.down()
	to.fails(6, []string{net.address, "refused"}, "image", "copy", "a:y", "local:")
	net.up(t)
}

// TestPieces has a large image come so slowly that it is asked for in pieces, and
// cuts those.
func TestPieces(t *testing.T) {
	t.Parallel()
	const size = 44 << 20
	from, to, net := pair(t)
	img := unified(t, "pieces", size)
	fp := from.holds(img, "--public", "--alias", "x")
	net.set(func(n int) fault {
		if n > 4 && n < 15 {
			return fault{rate: 16 << 20, cut: small + rand.Int64N(4<<20)}
		}
		return fault{rate: 16 << 20}
	})
	before := net.connections.Load()
	wire := net.count(func() { to.ok("image", "copy", "a:x", "local:", "--mode", "pull") })
	if n := net.connections.Load() - before; n < 8 {
		t.Errorf("only %d connections", n)
	}
	if most := img.size() * 105 / 100; wire > most { // one connection ends for the others
		t.Errorf("%d bytes for an image of %d", wire, img.size())
	}
	if left := to.sound(fp); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}
}

// TestUpload cuts images that are sent instead of fetched: by the daemon that has
// them, and through the command line.
func TestUpload(t *testing.T) {
	t.Parallel()
	from, to := newHost(t), newHost(t)
	net := newProxy(t, to.Address)
	token := to.ok("config", "trust", "add", "--name", "from").Word()
	from.ok("remote", "add", "b", "https://"+net.address, "--fingerprint", to.certificate(), "--token", token)
	for name, img := range map[string]image{"one": unified(t, "sent", 2<<20), "two": split(t, "sent", 2<<20)} {
		fp := from.holds(img, "--alias", name)
		for _, mode := range []string{"push", "relay"} {
			for range 3 {
				net.every(fault{up: small + rand.Int64N(2<<20-2*small)})
				from.fails(6, []string{net.address}, "image", "copy", name, "b:", "--mode", mode)
				if left := to.sound(none()...); left != 0 {
					t.Errorf("%s: %d bytes are left over", mode, left)
				}
			}
			net.set(nil)
			from.ok("image", "copy", name, "b:", "--mode", mode)
			to.sound(fp)
			to.ok("image", "delete", fp.String())
		}
	}
}

// TestCorrupt changes bytes on the way: nobody ever sees them.
func TestCorrupt(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	fp := from.holds(unified(t, "corrupt", 4<<20), "--public", "--alias", "x")
	net.set(func(n int) fault {
		if n > 8 {
			return fault{}
		}
		return fault{corrupt: small + rand.Int64N(300<<10)}
	})
	to.ok("image", "copy", "a:x", "local:", "--mode", "pull")
	to.sound(fp)
}

// TestStall has a server that goes silent: others than it are patient for a while
// only.
func TestStall(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	fp := from.holds(unified(t, "stall", 1<<20), "--public", "--alias", "x")
	net.set(func(n int) fault {
		if n > 4 {
			return fault{}
		}
		return fault{stall: small + 100_000}
	})
	start := time.Now()
	to.ok("image", "copy", "a:x", "local:", "--mode", "pull")
	if d := time.Since(start); d < stall {
		t.Errorf("it took %v", d)
	}
	to.sound(fp)
}

// TestCancel stops a download at once, and goes on with it later.
func TestCancel(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	img := unified(t, "cancel", 6<<20)
	fp := from.holds(img, "--public", "--alias", "x")
	net.every(fault{rate: 2 << 20})
	var copied machine.Said
	var wg sync.WaitGroup
	wg.Go(func() { copied = to.kiln("image", "copy", "a:x", "local:", "--mode", "pull") })
	to.waitPartial(fp, 2<<20)
	id := to.running("Downloading image")[0].ID
	to.ok("operation", "cancel", id)
	wg.Wait()
	if copied.Code != 9 { // it came to its end by itself
		t.Errorf("exit %d: %s", copied.Code, copied.Err)
	}
	net.set(nil)
	// At once: what is kept is not in the way of the next.
	if wire := net.count(func() { to.ok("image", "copy", "a:x", "local:") }); wire > img.size()-1<<20 {
		t.Errorf("%d bytes for the rest", wire)
	}
	if left := to.sound(fp); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}
}

// waitPartial waits until some of a file was loaded, if not all of it.
func (h *host) waitPartial(file kiln.Fingerprint, n int64) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if fi, err := os.Stat(filepath.Join(h.Dir, "blobs", "partial", file.String())); err == nil && fi.Size() >= n {
			return
		}
		if _, err := os.Stat(filepath.Join(h.Dir, "blobs", "sha256", file.String()[:2], file.String())); err == nil {
			return
		}
	}
	h.t.Fatal("nothing is loaded")
}

// running gives the operations under way that do something.
func (h *host) running(what string) []api.Operation {
	h.t.Helper()
	var byStatus map[string][]api.Operation
	if _, err := h.Client().Get(h.t.Context(), "/1.0/operations", map[string][]string{"recursion": {"1"}}, &byStatus); err != nil {
		h.t.Fatal(err)
	}
	var list []api.Operation
	for _, o := range byStatus["running"] {
		if o.Description == what {
			list = append(list, o)
		}
	}
	return list
}

// TestWaiters has many want one image: it comes once for all, and who has enough of
// waiting leaves the others alone.
func TestWaiters(t *testing.T) {
	t.Parallel()
	const n = 20
	from, to, net := pair(t)
	img := unified(t, "waiters", 6<<20)
	fp := from.holds(img, "--public", "--alias", "x")
	net.every(fault{rate: 3 << 20})
	var wg sync.WaitGroup
	codes := make([]int, n)
	wire := net.count(func() {
		for i := range n {
			wg.Go(func() { codes[i] = to.post(fp, net) })
		}
		for end := time.Now().Add(10 * time.Second); len(to.running("Downloading image")) < n && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		to.ok("operation", "cancel", to.running("Downloading image")[0].ID)
		wg.Wait()
	})
	cancelled := 0
	for _, c := range codes {
		switch c {
		case 9:
			cancelled++
		case 0:
		default:
			t.Errorf("a waiter ends with %d", c)
		}
	}
	if cancelled != 1 {
		t.Errorf("%d waiters were cancelled", cancelled)
	}
	if most := img.size() + n*20<<10; wire > most {
		t.Errorf("%d bytes for one image of %d", wire, img.size())
	}
	to.sound(fp)
}

// post copies by a request of its own, without the questions of the command line.
func (h *host) post(fp kiln.Fingerprint, net *proxy) int {
	text, err := os.ReadFile(filepath.Join(h.Home, "conf", "servercerts", "a.crt"))
	if err != nil {
		h.t.Error(err)
	}
	src := api.ImagesPostSource{Type: "image", Mode: "pull", Protocol: "lxd", Server: "https://" + net.address,
		Fingerprint: fp.String(), Certificate: string(text)}
	err = h.operate("/1.0/images", api.ImagesPost{Source: &src})
	switch kind := kiln.KindOf(err); {
	case err == nil:
		return 0
	case kind == kiln.Cancelled:
		return 9
	default:
		h.t.Error(err)
		return 1
	}
}
