package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
)

// TestExpensiveFilters sends what would take memory by the gigabyte to compile: it
// is refused, and costs next to nothing.
func TestExpensiveFilters(t *testing.T) {
	p := start(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, n := range []int{20, 2_000} {
		filter := "fingerprint eq " + strings.Repeat("a{1000},", n)
		if resp, b := p.do("GET", "/1.0/images?filter="+url.QueryEscape(filter), ""); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%d alternatives: %d %.100s", n, resp.StatusCode, b)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("refusing took %d bytes", n)
	}
	if resp, _ := p.do("GET", "/1.0/images?filter="+strings.Repeat("a", 200_000), ""); resp.StatusCode !=
		http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a URL of 200 kB: %d", resp.StatusCode)
	}
}

// TestRequestID names every answer: as the client did, if that is a name.
func TestRequestID(t *testing.T) {
	p := start(t)
	for given, kept := range map[string]bool{"abc-1.2_X": true, "": false, "a b": false, "a\tb": false,
		strings.Repeat("x", 65): false} {
		resp, _ := p.do("GET", "/1.0", "", requestHeader, given)
		if got := resp.Header.Get(requestHeader); got == "" || (got == given) != kept {
			t.Errorf("%q: %q", given, got)
		}
	}
}

// TestOtherSitesPages refuses what a browser asks for on behalf of another site, whatever
// the method. What a user asks a browser for, and a program, is answered.
func TestOtherSitesPages(t *testing.T) {
	p := start(t)
	friend := p.friend(t)
	for site, want := range map[string]int{"cross-site": 403, "same-origin": 200, "none": 200, "": 200} {
		for _, path := range []string{"/1.0", "/1.0/images", "/1.0/instances", "/1.0/operations"} {
			r := httptest.NewRequest("GET", path, nil)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{friend}}
			if site != "" {
				r.Header.Set("Sec-Fetch-Site", site)
			}
			w := httptest.NewRecorder()
			p.s.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s, Sec-Fetch-Site %q: %d", path, site, w.Code)
			}
			if w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s may be taken for another type of content", path)
			}
		}
	}
}

// TestStopTimeout says for how long a stop may take what nobody can mean.
func TestStopTimeout(t *testing.T) {
	p := start(t)
	p.empty("c1")
	const taken, refused = http.StatusAccepted, http.StatusBadRequest
	for timeout, status := range map[int]int{-1: taken, -1 << 62: taken, 0: taken, 3600: taken, 3601: refused,
		9_300_000_000: refused, 1 << 62: refused} {
		for _, action := range []string{"stop", "restart"} {
			resp, b := p.do("PUT", "/1.0/instances/c1/state", fmt.Sprintf(`{"action":%q,"timeout":%d}`, action, timeout))
			if resp.StatusCode != status || status == refused && !strings.Contains(string(b), "3600 seconds") {
				t.Errorf("%s within %d: %d %s", action, timeout, resp.StatusCode, b)
			}
		}
	}
}
