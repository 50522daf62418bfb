package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// forget makes the user's command line and the daemon ask for documents anew.
func (h *host) forget() {
	h.t.Helper()
	h.ok("remote", "remove", "s")
}

// TestLyingFiles has servers send other bytes than the index says: no image of
// that name is ever here, and the next attempt works.
func TestLyingFiles(t *testing.T) {
	t.Parallel()
	to := newHost(t)
	good, other := unified(t, "good", 300<<10), unified(t, "other", 300<<10)
	two := split(t, "two", 300<<10)
	truth := fileURL(good[0])
	body := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
	}
	bent := append([]byte{}, good[0]...)
	bent[len(bent)/2] ^= 1
	for name, c := range map[string]struct {
		img  image
		path string
		lie  http.HandlerFunc
		code int
		word string
	}{
		"another image":  {good, truth, body(other[0]), 7, "hash"},
		"a bit is other": {good, truth, body(bent), 7, "hash"},
		"garbage":        {good, truth, body([]byte(noise("garbage", len(good[0])))), 7, "hash"},
		"a page":         {good, truth, body([]byte("<html>log in to the hotel</html>")), 6, "bytes"},
		"too short":      {good, truth, body(good[0][:100_000]), 6, "100000 bytes"},
		"too long":       {good, truth, body(append(append([]byte{}, good[0]...), "more"...)), 0, ""},
		"nothing":        {good, truth, body(nil), 6, "0 bytes"},
		"broken": {good, truth,
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, 6, "500"},
		"forbidden": {good, truth, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
			5, "403"},
		"gone":           {good, truth, http.NotFound, 3, "404"},
		"other rootfs":   {two, fileURL(two[1]), body(split(t, "another", 300<<10)[1]), 7, "hash"},
		"other metadata": {two, fileURL(two[0]), body(split(t, "another", 300<<10)[0]), 7, "hash"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newImageServer(t)
			h := *to
			h.t = t
			s.publish(t, published{image: c.img, alias: "x"})
			s.lie(c.path, c.lie)
			h.streams("s", s, s.URL)
			defer h.forget()
			if c.code == 0 {
				h.ok("image", "copy", "s:x", "local:", "--mode", "pull")
			} else {
				h.fails(c.code, []string{c.word}, "image", "copy", "s:x", "local:", "--mode", "pull")
				h.sound(none()...)
			}
			s.lie(c.path, nil)
			h.ok("image", "copy", "s:x", "local:")
			if left := h.sound(c.img.fingerprint()); left > 0 {
				t.Errorf("%d bytes are left over", left)
			}
			h.ok("image", "delete", c.img.fingerprint().String())
		})
	}
}

// TestPoison has an index claim the fingerprint of one image for the bytes of
// another: nobody gets those by that name.
func TestPoison(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	evil, wanted := split(t, "evil", 10<<10), split(t, "wanted", 10<<10).fingerprint()
	s.publish(t, published{image: evil, alias: "x", claims: wanted})
	to.streams("s", s, s.URL)
	to.fails(7, []string{wanted.String(), evil.fingerprint().String()}, "image", "copy", "s:x", "local:", "--mode", "pull")
	to.fails(7, []string{wanted.String()}, "init", "s:x", "c1")
	to.fails(7, []string{wanted.String()}, "image", "copy", "s:"+wanted.String(), "local:")
	to.sound(none()...)
	if out := to.ok("list").Out; strings.Contains(out, "c1") {
		t.Errorf("an instance is left: %s", out)
	}
}

// TestRedirects has a server send clients elsewhere.
func TestRedirects(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	plain := newPlainServer(t)
	img := unified(t, "redirected", 10<<10)
	s.publish(t, published{image: img, alias: "x"})
	to.streams("s", s, s.URL)
	path := fileURL(img[0])
	plain.says(path, string(img[0]))
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	copies := []string{"image", "copy", "s:x", "local:", "--mode", "pull"}
	s.lie(path, redirect(path))
	to.fails(6, []string{"circle", s.Listener.Addr().String()}, copies...)
	if n := s.asked(path); n > 24 { // twice ten: with the old index, and with a new one
		t.Errorf("a circle was gone round in %d requests", n)
	}
	s.lie(path, redirect(plain.URL+path))
	to.fails(5, []string{"redirects to http://"}, copies...)
	if n := plain.asked(path); n > 0 {
		t.Error("somebody asked over plain http")
	}
	to.sound(none()...)
	s.lie(path, redirect("/elsewhere"))
	s.says("/elsewhere", string(img[0]))
	to.ok(copies...)
	to.sound(img.fingerprint())

	s.lie(indexPath, redirect(plain.URL+indexPath))
	other := newHost(t)
	other.streams("s", s, s.URL)
	other.fails(5, []string{"redirects to http://"}, copies...)
	s.lie(indexPath, redirect(indexPath))
	other.fails(6, []string{"circle"}, copies...)
}

// TestIndexes has a server with documents that can't be.
func TestIndexes(t *testing.T) {
	t.Parallel()
	to := newHost(t)
	img := unified(t, "indexed", 10<<10)
	endless := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"format":"index:1.0","index":{"x":"`)
		for range 20 << 10 { // KiB
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<10)); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(*imageServer)
		code  int
		word  string
	}{
		"garbage":       {func(s *imageServer) { s.says(indexPath, "<html>") }, 6, "not JSON"},
		"half":          {func(s *imageServer) { s.says(indexPath, `{"index":{`) }, 6, "ends in the middle"},
		"empty":         {func(s *imageServer) { s.says(indexPath, "") }, 6, "ends in the middle"},
		"too large":     {func(s *imageServer) { s.lie(indexPath, endless) }, 1, "larger than"},
		"none":          {func(s *imageServer) { s.lie(indexPath, http.NotFound) }, 3, "simplestreams"},
		"no products":   {func(s *imageServer) { s.lie(productsPath, http.NotFound) }, 3, productsPath},
		"bad products":  {func(s *imageServer) { s.says(productsPath, "[1]") }, 6, "not an object"},
		"without items": {func(s *imageServer) { s.edit(`"items"`, `"nothing"`) }, 6, "no file of an image"},
		"unknown ftype": {func(s *imageServer) { s.edit("_combined.tar.gz", ".flan") }, 6, "no file of an image"},
		"escape":        {func(s *imageServer) { s.edit(`"files/`, `"../../etc/`) }, 6, "path"},
		"absolute":      {func(s *imageServer) { s.edit(`"files/`, `"https://elsewhere/`) }, 6, "path"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newImageServer(t)
			h := *to
			h.t = t
			s.publish(t, published{image: img, alias: "x"})
			c.spoil(s)
			h.streams("s", s, s.URL)
			defer h.forget()
			said := h.fails(c.code, []string{c.word, s.Listener.Addr().String()}, "image", "copy", "s:x", "local:", "--mode",
				"pull")
			if len(said.Err) > 2000 {
				t.Errorf("the error has %d bytes", len(said.Err))
			}
			// The daemon says the same to who asks it without the command line.
			err := h.operate("/1.0/instances", map[string]any{"name": "c1", "source": s.source("x")})
			if err == nil || !strings.Contains(err.Error(), c.word) {
				t.Errorf("the daemon: %v", err)
			}
			h.sound(none()...)
			s.lie(indexPath, nil)
			s.lie(productsPath, nil)
			s.publish(t, published{image: img, alias: "x"})
			h.ok("image", "copy", "s:x", "local:", "--mode", "pull")
			h.sound(img.fingerprint())
			h.ok("image", "delete", img.fingerprint().String())
		})
	}
}

// source is what an instance is made from, as the API has it.
func (s *imageServer) source(alias string) map[string]any {
	return map[string]any{"type": "image", "mode": "pull", "protocol": "simplestreams", "server": s.URL, "alias": alias,
		"ca": s.authority()}
}

// TestTwins has one alias in two products: the newest version is meant.
func TestTwins(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	old, now := unified(t, "old twin", 10<<10), unified(t, "new twin", 10<<10)
	s.publish(t, published{image: old, alias: "x", version: "20250101", release: "a"},
		published{image: now, alias: "y", version: "20260101", release: "b"})
	s.edit(`"aliases":"y"`, `"aliases":"x"`)
	to.streams("s", s, s.URL)
	to.ok("image", "copy", "s:x", "local:")
	to.sound(now.fingerprint())
}

// TestNames has a server name its file as a path: only the last element counts.
func TestNames(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	img := unified(t, "named", 10<<10)
	fp := img.fingerprint()
	wire := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			b, _ := json.Marshal(map[string]any{"type": "sync", "status": "Success", "status_code": 200, "metadata": v})
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(b)
		}
	}
	s.lie("/1.0", wire(map[string]any{"auth": "untrusted", "public": true}))
	s.lie("/1.0/images/"+fp.String(),
		wire(map[string]any{"fingerprint": fp.String(), "public": true, "type": "container"}))
	s.lie("/1.0/images/aliases/"+fp.String(), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"type":"error","error":"Image alias not found","error_code":404}`)
	})
	to.streams("ca", s, s.URL)
	to.ok("remote", "add", "n", s.URL, "--public", "--ca", filepath.Join(to.Home, "ca.ca"))
	names := []string{"../../../../tmp/kf-evil", "/tmp/kf-evil", `..\..\kf-evil`, "..", "../.bashrc", ""}
	for n, name := range names {
		s.lie("/1.0/images/"+fp.String()+"/export", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Content-Disposition", fmt.Sprintf("inline;filename=%q", name))
			_, _ = w.Write(img[0])
		})
		dir := filepath.Join(to.Home, fmt.Sprintf("deep/er/export%d", n))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		to.ok("image", "export", "n:"+fp.String(), dir)
		in, err := os.ReadDir(dir)
		if err != nil || len(in) != 1 || !in[0].Type().IsRegular() {
			t.Errorf("%q: %v, %v", name, in, err)
		}
	}
	around, err := os.ReadDir(filepath.Join(to.Home, "deep/er"))
	if err != nil || len(around) != len(names) {
		t.Errorf("beside the directories: %v, %v", around, err)
	}
	if _, err := os.Stat("/tmp/kf-evil"); err == nil {
		t.Error("a file was written where the server said")
	}
}
