package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/simplestreams"
)

// served gives the images in the products, by fingerprint.
func (p *peer) served() map[kiln.Fingerprint]simplestreams.Image {
	p.t.Helper()
	w := p.untrusted("/streams/v1/images.json")
	list, err := simplestreams.ParseProducts(bytes.NewReader(w.Body.Bytes()))
	if err != nil {
		p.t.Fatal(err, w.Body)
	}
	m := map[kiln.Fingerprint]simplestreams.Image{}
	for _, img := range list.Images() {
		m[img.Fingerprint] = img
	}
	return m
}

// listed reports whether an untrusted client, or a trusted one, sees an image in the list.
func (p *peer) listed(fp kiln.Fingerprint, trusted bool) bool {
	p.t.Helper()
	w := p.untrusted("/1.0/images").Body.Bytes()
	if trusted {
		_, w = p.do("GET", "/1.0/images", "")
	}
	if !json.Valid(w) {
		p.t.Fatalf("%s", w)
	}
	return bytes.Contains(w, []byte(fp.String()))
}

// TestWithdrawnVersions rolls an alias back: the version that it points to again has the
// name of the product, and the one it left is its owner's alone, until it has an alias.
func TestWithdrawnVersions(t *testing.T) {
	p := start(t)
	if resp, b := p.do("PATCH", "/1.0", `{"config":{"images.keep_versions":"5"}}`); resp.StatusCode != 200 {
		t.Fatalf("%s", b)
	}
	var fps []kiln.Fingerprint
	for _, seed := range []string{"1", "2"} {
		b := formattest.Tiny(t, seed)
		p.upload(b, "X-LXD-aliases", "alias=web", "X-Kiln-Move-Aliases", "true", "X-LXD-public", "true")
		fps = append(fps, kiln.Fingerprint(sha256.Sum256(b)))
	}
	good, bad := fps[0], fps[1]
	product := p.served()[bad].Product
	check := func(step string, served bool) {
		t.Helper()
		now := p.served()
		if img, ok := now[good]; !ok || !served && img.Product != product {
			t.Errorf("%s: the good version is served as %q, want %q", step, img.Product, product)
		}
		want := 404
		if served {
			want = 200
		}
		path := "/1.0/images/" + bad.String()
		for _, path := range []string{path, path + "/export", "/streams/files/" + bad.String() + "/unified.tar"} {
			if w := p.untrusted(path); w.Code != want {
				t.Errorf("%s: %s: %d %.200s", step, path, w.Code, w.Body)
			}
		}
		if _, ok := now[bad]; ok != served || p.listed(bad, false) != served || !p.listed(bad, true) {
			t.Errorf("%s: the bad version is in streams: %v, in the list for others: %v, for its owner: %v", step, ok,
				p.listed(bad, false), p.listed(bad, true))
		}
		if resp, b := p.do("GET", path+"/export", ""); resp.StatusCode != 200 {
			t.Errorf("%s: its owner gets %d %.200s", step, resp.StatusCode, b)
		}
	}
	check("published", true)
	if _, _, err := p.d.RollBackAlias(t.Context(), "web", 1); err != nil {
		t.Fatal(err)
	}
	check("rolled back", false)
	p.upload(formattest.Tiny(t, "3"), "X-LXD-aliases", "alias=web", "X-Kiln-Move-Aliases", "true")
	if w := p.untrusted("/1.0/images/" + bad.String()); w.Code != 404 {
		t.Errorf("after the next version: %d %.200s", w.Code, w.Body)
	}
	if err := p.d.CreateAlias(t.Context(), kiln.Alias{Name: "again", Target: bad}); err != nil {
		t.Fatal(err)
	}
	check("with an alias", true)
}
