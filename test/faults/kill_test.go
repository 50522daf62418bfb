package faults

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

// TestKill kills a daemon in the middle of copies, and of what comes after their
// last byte. The next daemon has whole images only, and goes on where it was.
func TestKill(t *testing.T) {
	t.Parallel()
	const rounds = 10
	from, to, net := pair(t)
	wentOn := 0
	for round := range rounds {
		img := unified(t, fmt.Sprint("kill", round), 2<<20)
		if round%2 == 0 {
			img = split(t, fmt.Sprint("kill", round), 2<<20)
		}
		last := image{img[len(img)-1]}.fingerprint() // of the largest file
		name := fmt.Sprint("x", round)
		fp := from.holds(img, "--public", "--alias", name)
		net.every(fault{rate: 8 << 20})
		var copied sync.WaitGroup
		copied.Go(func() { to.kiln("image", "copy", "a:"+name, "local:", "--alias", "x", "--mode", "pull") })
		to.waitPartial(last, rand.Int64N(2<<20-64<<10))
		if round%3 == 0 { // when it is about to be complete, or just was
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		}
		to.End(os.Kill)
		copied.Wait()
		net.set(nil)
		to.start()
		to.sound()
		var kept int64
		if fi, err := os.Stat(to.Dir + "/blobs/partial/" + last.String()); err == nil {
			kept = fi.Size()
		}
		wire := net.count(func() { to.ok("image", "copy", "a:"+name, "local:", "--alias", "x") })
		if most := img.size() - kept + small; wire > most {
			t.Errorf("round %d: %d bytes were here, and %d of %d came", round, kept, wire, img.size())
		}
		if kept > 0 {
			wentOn++
		}
		if out := to.ok("image", "info", "x").Out; !strings.Contains(out, fp.String()) {
			t.Errorf("round %d: %s", round, out)
		}
	}
	if left := to.sound(); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}
	if wentOn == 0 {
		t.Error("no round was in the middle of a download")
	}
}

// TestKillRefresh kills a daemon while an alias goes over to a new version: it is
// that of the old one or of the new one, which is whole.
func TestKillRefresh(t *testing.T) {
	t.Parallel()
	const rounds = 8
	from, to, net := pair(t)
	versions := map[string]bool{}
	to.ok("config", "set", "images.auto_update_interval", "0") // a start would refresh, too
	img := unified(t, "refresh", 1<<20)
	from.holds(img, "--public", "--alias", "x")
	to.ok("image", "copy", "a:x", "local:", "--alias", "x", "--auto-update")
	for round := range rounds {
		versions[img.fingerprint().String()] = true
		img = unified(t, fmt.Sprint("refresh", round), 1<<20)
		from.ok("image", "alias", "delete", "x")
		fp := from.holds(img, "--public", "--alias", "x")
		versions[fp.String()] = true
		net.every(fault{rate: 16 << 20})
		var refreshed sync.WaitGroup
		refreshed.Go(func() { to.kiln("image", "refresh", "x") })
		time.Sleep(time.Duration(30+rand.IntN(150)) * time.Millisecond)
		to.End(os.Kill)
		refreshed.Wait()
		net.set(nil)
		to.start()
		to.sound()
		if out := to.ok("image", "info", "x").Out; !versions[fingerprintIn(out)] {
			t.Errorf("round %d: x is %s", round, out)
		}
		to.ok("image", "refresh", "x")
		if out := to.ok("image", "info", "x").Out; fingerprintIn(out) != fp.String() {
			t.Errorf("round %d: x is not refreshed: %s", round, out)
		}
	}
	if n := len(to.images()); n > 2 {
		t.Errorf("%d versions are kept", n)
	}
	to.sound()
}

// fingerprintIn finds the fingerprint in what "image info" says.
func fingerprintIn(out string) string {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "Fingerprint:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// TestKillUpload kills a daemon while somebody sends it an image, and that of which
// nobody knows the hash yet.
func TestKillUpload(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	body, sender := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		_, _, err := h.Client().Do(t.Context(), client.Request{Method: http.MethodPost, Path: "/1.0/images",
			Body: io.Reader(body)}, nil)
		body.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		sent <- err
	}()
	if _, err := sender.Write(unified(t, "kill upload", 1<<20)[0][:1<<20]); err != nil {
		t.Fatal(err)
	}
	for {
		if list, err := os.ReadDir(h.Dir + "/blobs/tmp"); err != nil || len(list) > 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	h.End(os.Kill)
	sender.Close()
	if err := <-sent; kiln.KindOf(err) != kiln.Network {
		t.Errorf("%v", err)
	}
	h.start()
	if left := h.sound(none()...); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}
}

// TestDeleteAndCopy has some delete an image while others copy it: each succeeds or
// is told why not, and what is left is whole.
func TestDeleteAndCopy(t *testing.T) {
	t.Parallel()
	const rounds = 12
	from, to, _ := pair(t)
	img := split(t, "both", 200<<10)
	fp := from.holds(img, "--public", "--alias", "x")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range rounds {
				if s := to.kiln("image", "copy", "a:x", "local:", "--alias", "x", "--mode", "pull"); s.Code != 0 && s.Code != 3 &&
					s.Code != 4 {
					t.Errorf("copy: exit %d: %s", s.Code, s.Err)
				}
			}
		})
		wg.Go(func() {
			for range rounds {
				if s := to.kiln("image", "delete", fp.String()); s.Code != 0 && s.Code != 3 {
					t.Errorf("delete: exit %d: %s", s.Code, s.Err)
				}
			}
		})
	}
	wg.Wait()
	to.sound()
	to.ok("image", "copy", "a:x", "local:", "--alias", "x")
	if left := to.sound(fp); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}
}
