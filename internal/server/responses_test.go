package server

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// untrusted sends a request as somebody without a certificate does.
func (p *peer) untrusted(path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.TLS = &tls.ConnectionState{}
	w := httptest.NewRecorder()
	p.s.ServeHTTP(w, r)
	return w
}

// TestUntrustedSeeChanges makes sure that what is remembered for untrusted clients is never
// told after the image has changed, and is what the first of them was told.
func TestUntrustedSeeChanges(t *testing.T) {
	p := start(t)
	p.upload(formattest.Unified(t), "X-LXD-public", "true")
	path := all(p)
	image := func() (img api.Image) {
		t.Helper()
		first, again := p.untrusted(path), p.untrusted(path)
		if first.Code != http.StatusOK || first.Body.String() != again.Body.String() || again.Code != http.StatusOK {
			t.Fatalf("%d %s, then %d %s", first.Code, first.Body, again.Code, again.Body)
		}
		for _, h := range []string{"ETag", "Content-Type"} {
			if v := first.Header().Get(h); v == "" || v != again.Header().Get(h) {
				t.Errorf("%s: %q, then %q", h, v, again.Header().Get(h))
			}
		}
		var a api.Response
		if err := json.Unmarshal(again.Body.Bytes(), &a); err != nil || json.Unmarshal(a.Metadata, &img) != nil {
			t.Fatalf("%s", again.Body)
		}
		return img
	}
	if resp, _ := p.do("GET", path, ""); resp.Header.Get("ETag") != p.untrusted(path).Header().Get("ETag") {
		t.Error("untrusted clients are told another ETag")
	}
	for _, v := range []string{"a", "b"} {
		p.do("PATCH", path, `{"properties": {"os": "`+v+`"}}`)
		if got := image().Properties["os"]; got != v {
			t.Errorf("os is %q after it was made %q", got, v)
		}
	}
	p.do("POST", "/1.0/images/aliases", `{"name": "new", "target": "`+strings.TrimPrefix(path, "/1.0/images/")+`"}`)
	if got := image().Aliases; len(got) != 1 {
		t.Errorf("aliases: %v", got)
	}
	p.do("PATCH", path, `{"public": false}`)
	if w := p.untrusted(path); w.Code != http.StatusNotFound || w.Header().Get(api.KindHeader) != string(kiln.NotFound) {
		t.Errorf("an image that isn't public any more: %d %s", w.Code, w.Body)
	}
	p.do("PATCH", path, `{"public": true}`)
	image()
	_, b := p.do("DELETE", path, "")
	var a api.Response
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	p.do("GET", a.Operation+"/wait", "")
	if w := p.untrusted(path); w.Code != http.StatusNotFound {
		t.Errorf("an image that is deleted: %d %s", w.Code, w.Body)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	a := &responses{}
	for i := range 3 * mostResponses {
		a.add(strconv.Itoa(i), 1, ready{})
	}
	if len(a.ready) > mostResponses {
		t.Errorf("%d answers are remembered", len(a.ready))
	}
	a.add("late", 0, ready{})
	if _, ok := a.get("late", 0); ok {
		t.Error("an answer from before a change is remembered after it")
	}
}
