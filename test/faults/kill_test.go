package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
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

// TestKillHeal kills a daemon in the middle of a repair, which takes the bytes of a damaged or
// lost file from the server that the image came from. What is in the file's place is what was
// there, or the whole file; nothing is half-made, and the next scrub repairs it.
func TestKillHeal(t *testing.T) {
	t.Parallel()
	const rounds = 6
	from, to, net := pair(t)
	img := unified(t, "heal", 2<<20)
	fp := from.holds(img, "--public", "--alias", "x")
	to.ok("config", "set", "storage.scrub_rate", "off")
	to.ok("image", "copy", "a:x", "local:", "--alias", "x", "--mode", "pull")
	path := filepath.Join(to.Dir, "blobs/sha256", fp.String()[:2], fp.String())
	there := func() []byte {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return b
	}
	good := there()
	unfinished := 0
	for round := range rounds {
		bad := bytes.Clone(good)
		bad[rand.IntN(len(bad))] ^= 1
		if round%4 == 3 {
			bad = nil
		}
		err := os.Remove(path)
		if err == nil && bad != nil {
			err = os.WriteFile(path, bad, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		net.every(fault{rate: 4 << 20})
		before := net.bytes.Load()
		var scrubbed sync.WaitGroup
		scrubbed.Go(func() { to.kiln("scrub", "start", "--wait") })
		want := before + small + rand.Int64N(int64(len(good))-small)
		for end := time.Now().Add(40 * time.Second); net.bytes.Load() < want; {
			if time.Now().After(end) {
				t.Fatal("nothing repairs the file")
			}
			time.Sleep(time.Millisecond)
		}
		to.End(os.Kill)
		scrubbed.Wait()
		switch got := there(); {
		case bytes.Equal(got, bad):
			unfinished++
		case !bytes.Equal(got, good):
			t.Errorf("round %d: neither the damaged nor the whole file is there, but %d bytes", round, len(got))
		}
		net.set(nil)
		to.start()
		to.ok("scrub", "start", "--wait") // or what the last one had left
		if !bytes.Equal(there(), good) {
			t.Errorf("round %d: the file isn't repaired: %s", round, to.ok("scrub", "status").Out)
		}
		to.sound(fp)
	}
	if unfinished == 0 {
		t.Error("no round was in the middle of a repair")
	}
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
