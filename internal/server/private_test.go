package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"testing"

	"github.com/kiln-containers/kiln/internal/delta"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestPrivateVersions: an untrusted client reaches the versions of an alias that are
// public, by every road that takes the name of an image, and no others.
func TestPrivateVersions(t *testing.T) {
	p := start(t)
	if resp, b := p.do("PATCH", "/1.0", `{"config":{"images.keep_versions":"5"}}`); resp.StatusCode != 200 {
		t.Fatalf("%s", b)
	}
	// app@2 is public, app@1 private, app@0 public; mine is private, mine@1 public.
	for i, public := range []string{"true", "false", "true"} {
		p.upload(formattest.Tiny(t, "app"+string(rune('0'+i))), "X-LXD-aliases", "alias=app", "X-Kiln-Move-Aliases", "true",
			"X-LXD-public", public)
	}
	for i, public := range []string{"true", "false"} {
		p.upload(formattest.Tiny(t, "mine"+string(rune('0'+i))), "X-LXD-aliases", "alias=mine", "X-Kiln-Move-Aliases", "true",
			"X-LXD-public", public)
	}
	for name, public := range map[string]bool{"app": true, "app@0": true, "app@1": false, "app@2": true, "app@3": false,
		"mine": false, "mine@0": false, "mine@1": false} {
		there := http.StatusOK
		if name == "app@3" {
			there = http.StatusNotFound
		}
		if resp, b := p.do("GET", "/1.0/images/aliases/"+name, ""); resp.StatusCode != there {
			t.Errorf("trusted, %s: %d %s", name, resp.StatusCode, b)
		}
		want := http.StatusNotFound
		if public {
			want = http.StatusOK
		}
		for _, path := range []string{"/1.0/images/aliases/" + name, "/i/" + name, "/lxd/" + name} {
			if w := p.untrusted(path); w.Code != want {
				t.Errorf("untrusted, %s: %d %s", path, w.Code, w.Body)
			}
		}
	}
}

// TestPrivateBases: a patch tells much of the file that it begins with. An untrusted
// client gets one between public files only.
func TestPrivateBases(t *testing.T) {
	p := start(t)
	image := func(seed, public string) string {
		var b bytes.Buffer
		if _, err := delta.Compress(t.Context(), &b, bytes.NewReader(formattest.Tiny(t, seed)), delta.Options{}); err != nil {
			t.Fatal(err)
		}
		p.upload(b.Bytes(), "X-LXD-public", public)
		sum := sha256.Sum256(b.Bytes())
		return hex.EncodeToString(sum[:])
	}
	one, two, private := image("1", "true"), image("2", "true"), image("3", "false")
	for _, c := range []struct {
		base, target        string
		trusted, notTrusted int
	}{
		{one, two, 200, 200}, {private, two, 200, 404}, {one, private, 200, 404}, {private, private, 200, 404},
	} {
		path := "/1.0/kiln/images/" + c.target + "/files/" + c.target + "/patch/" + c.base
		if w := p.untrusted(path); w.Code != c.notTrusted {
			t.Errorf("untrusted, %s of %s: %d %.100s", c.target, c.base, w.Code, w.Body)
		}
		if resp, b := p.do("GET", path, ""); resp.StatusCode != c.trusted {
			t.Errorf("trusted, %s of %s: %d %.100s", c.target, c.base, resp.StatusCode, b)
		}
		// Now the patch lies there.
		if w := p.untrusted(path); w.Code != c.notTrusted {
			t.Errorf("untrusted, %s of %s, which was made: %d %.100s", c.target, c.base, w.Code, w.Body)
		}
	}
}
