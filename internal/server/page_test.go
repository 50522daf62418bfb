package server

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestPage opens the server as a browser and as clients do, which are answered as ever.
func TestPage(t *testing.T) {
	p := start(t)
	public := p.upload(formattest.Tiny(t, "1"), "X-LXD-public", "true", "X-LXD-aliases", "alias=web%3Cb%3E",
		"X-LXD-properties", "description=all%20may%20see").Metadata["fingerprint"].(string)
	private := p.upload(formattest.Tiny(t, "2"), "X-LXD-properties", "description=nobody%20may%20see").
		Metadata["fingerprint"].(string)
	p.admin(t, "POST", "/1.0/images/aliases", `{"name":"hidden","target":"`+private+`"}`)
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	look := func(host, accept string, trusted bool) *httptest.ResponseRecorder {
		t.Helper()
		r := httptest.NewRequest("GET", "https://"+host+"/", nil)
		r.Host = host
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		if trusted {
			r.TLS = nil // as by the socket
		}
		w := httptest.NewRecorder()
		p.s.ServeHTTP(w, r)
		return w
	}
	for _, trusted := range []bool{false, true} {
		w := look("images.example:8443", browser, trusted)
		body := w.Body.String()
		if h := w.Header(); w.Code != 200 || h.Get("Content-Type") != "text/html; charset=utf-8" ||
			!strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; style-src 'sha256-") ||
			!strings.Contains(strings.Join(h.Values("Vary"), ","), "Accept") {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		for _, part := range []string{public, "all may see", "https://images.example:8443", "web&lt;b&gt;",
			"streams/files/" + public + "/unified.tar"} {
			if !strings.Contains(body, part) {
				t.Errorf("no %q in %s", part, body)
			}
		}
		for _, part := range []string{private, private[:12], "nobody", "hidden", "<b>"} {
			if strings.Contains(body, part) {
				t.Errorf("%q in %s", part, body)
			}
		}
	}
	if w := p.ask(nil, "GET", "/streams/files/"+public+"/unified.tar", ""); w.Code != 200 {
		t.Errorf("the link: %d", w.Code)
	}
	if body := look("$(reboot)", browser, false).Body.String(); strings.Contains(body, "reboot") {
		t.Error("what a request calls the server is in the page")
	}
	for _, accept := range []string{"", "*/*", "application/json"} { // of lxc, incus, kiln and curl
		if w := look("images.example", accept, false); !strings.Contains(w.Body.String(), `"metadata":["/1.0"]`) ||
			w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%q: %s", accept, w.Body)
		}
	}
	// A page of before an image was made private isn't shown again.
	p.admin(t, "PATCH", "/1.0/images/"+public, `{"public":false}`)
	if body := look("images.example:8443", browser, false).Body.String(); strings.Contains(body, public) {
		t.Error("a private image is shown")
	}
}
