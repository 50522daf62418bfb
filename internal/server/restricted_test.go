package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/trust"
)

// guest adds a client that is restricted to the default project.
func (p *peer) guest(t *testing.T) *x509.Certificate {
	t.Helper()
	cert := clientCert(t)
	c := daemon.Client{Name: "guest", Restricted: true, Projects: []string{"default"}}
	if err := p.d.AddClient(t.Context(), cert, c); err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestRestrictedSeesNoHost: the host's interfaces, and where its images come from, are
// nothing for restricted clients.
func TestRestrictedSeesNoHost(t *testing.T) {
	p := start(t)
	guest := p.guest(t)
	for path, code := range map[string]int{"/1.0/kiln/mirrors": http.StatusForbidden, "/1.0/networks/lo": http.StatusNotFound,
		"/1.0/networks/lo/state": http.StatusNotFound,
		"/1.0/resources":         http.StatusForbidden} {
		if w := p.ask(guest, "GET", path, ""); w.Code != code {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := p.ask(guest, "GET", "/1.0/networks", ""); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "/lo") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// Nor the settings of the server, of which one may be the password of a proxy.
	p.admin(t, "PATCH", "/1.0", `{"config":{"core.proxy_https":"http://user:hidden@proxy.example:3128"}}`)
	if _, b := p.do("GET", "/1.0", ""); !strings.Contains(string(b), "hidden") {
		t.Errorf("the server's administrator doesn't see it: %s", b)
	}
	if w := p.ask(guest, "GET", "/1.0", ""); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "hidden") ||
		!strings.Contains(w.Body.String(), `"auth":"trusted"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestRestrictedStaysOffTheHost tries every way to reach the host that configuration gives.
func TestRestrictedStaysOffTheHost(t *testing.T) {
	p := start(t)
	guest := p.guest(t)
	o, err := p.d.CreateInstance(t.Context(), daemon.CreateSpec{Name: "c", Source: daemon.Source{Type: "none"}})
	if err == nil {
		err = o.Wait(t.Context()).Err
	}
	if err != nil {
		t.Fatal(err)
	}
	const image = `"source":{"type":"image","alias":"nothing"}`
	for _, part := range []string{
		`"config":{"raw.lxc":"lxc.hook.pre-start=/bin/true"}`, `"config":{"raw.idmap":"both 0 0"}`,
		`"config":{"security.privileged":"true"}`, `"config":{"security.nesting":"true"}`,
		`"CONFIG":{"security.privileged":"true"}`, `"config":{"security.syscalls.allow":"mount"}`,
		`"config":{"linux.kernel_modules":"x"}`, `"config":{"limits.kernel.nofile":"1"}`,
		`"devices":{"d":{"type":"disk","source":"/","path":"/mnt"}}`,
		`"devices":{"root":{"type":"disk","source":"/","path":"/"}}`,
		`"devices":{"d":{"type":"unix-block","source":"/dev/sda"}}`, `"devices":{"d":{"type":"proxy"}}`,
	} {
		for _, c := range [][2]string{{"POST", "/1.0/instances"}, {"PUT", "/1.0/instances/c"}, {"PATCH", "/1.0/instances/c"},
			{"POST", "/1.0/containers"}, {"PATCH", "/1.0/containers/c"}, {"PATCH", "/1.0/instances/c/"}} {
			w := p.ask(guest, c[0], c[1], `{"name":"c",`+image+`,`+part+`}`)
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "restricted client") {
				t.Errorf("%s %s %s: %d %s", c[0], c[1], part, w.Code, w.Body)
			}
		}
	}
	for _, c := range [][2]string{{"POST", "/1.0/profiles"}, {"PUT", "/1.0/profiles/default"},
		{"PATCH", "/1.0/profiles/default"}, {"POST", "/1.0/profiles/default"}, {"DELETE", "/1.0/profiles/default"}} {
		if w := p.ask(guest, c[0], c[1], "{}"); w.Code != http.StatusForbidden {
			t.Errorf("%s %s: %d %s", c[0], c[1], w.Code, w.Body)
		}
	}
	harmless := `{"config":{"limits.memory":"1GiB"},"devices":{"root":{"type":"disk","path":"/","pool":"default"}}}`
	if w := p.ask(guest, "PATCH", "/1.0/instances/c", harmless); w.Code != http.StatusOK {
		t.Errorf("a harmless change: %d %s", w.Code, w.Body)
	}
}

// TestRestrictedSeesNoJoinToken: whoever saw it could become an unrestricted client.
func TestRestrictedSeesNoJoinToken(t *testing.T) {
	p := start(t)
	guest := p.guest(t)
	o := p.d.Ops.Start(t.Context(), "token", op.Options{Class: op.Token, Metadata: map[string]any{"secret": "joinme"}, MayCancel: true},
		func(ctx context.Context, _ *op.Operation) error { <-ctx.Done(); return nil })
	for _, path := range []string{"/1.0/operations", "/1.0/operations?recursion=1"} {
		if w := p.ask(guest, "GET", path, ""); w.Code != 200 || strings.Contains(w.Body.String(), "joinme") ||
			strings.Contains(w.Body.String(), o.ID()) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, c := range [][2]string{{"GET", ""}, {"GET", "/wait?timeout=0"}, {"DELETE", ""}} {
		if w := p.ask(guest, c[0], "/1.0/operations/"+o.ID()+c[1], ""); w.Code != http.StatusNotFound {
			t.Errorf("%s %s: %d %s", c[0], c[1], w.Code, w.Body)
		}
	}
	if _, b := p.do("GET", "/1.0/operations/"+o.ID(), ""); !json.Valid(b) || !strings.Contains(string(b), "joinme") {
		t.Errorf("the administrator isn't told: %s", b)
	}
}

// TestCertificatesEnd: a certificate that was trusted counts for as long as it is valid.
func TestCertificatesEnd(t *testing.T) {
	p := start(t)
	cert := clientCert(t)
	if err := p.d.AddClient(t.Context(), cert, daemon.Client{Name: "friend"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.d.Trusted(t.Context(), cert); !ok {
		t.Error("a valid certificate isn't trusted")
	}
	expired, early := *cert, *cert
	expired.NotAfter, early.NotBefore = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	for name, c := range map[string]*x509.Certificate{"expired": &expired, "not yet valid": &early} {
		if trust.Fingerprint(c) != trust.Fingerprint(cert) {
			t.Fatal("not the same certificate")
		}
		if w := p.ask(c, "GET", "/1.0/instances", ""); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestBounds(t *testing.T) {
	p := start(t)
	for ranges, want := range map[int]int{1: 404, maxRanges: 404, maxRanges + 1: 400} {
		resp, b := p.do("GET", "/streams/files/x/y", "", "Range", "bytes=0-0"+strings.Repeat(",0-0", ranges-1))
		if resp.StatusCode != want {
			t.Errorf("%d ranges: %d %s", ranges, resp.StatusCode, b)
		}
	}
	friend := clientCert(t)
	if err := p.d.AddClient(t.Context(), friend, daemon.Client{Name: "friend"}); err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]int{"": 200, "https://example.com": 200, "https://evil.example": 403} {
		r := httptest.NewRequest("PATCH", "/1.0", strings.NewReader("{}")) // of example.com
		r.Header.Set("Content-Type", "text/plain")
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{friend}}
		w := httptest.NewRecorder()
		p.s.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("a page of %q: %d %s", origin, w.Code, w.Body)
		}
	}
}

// TestNetworkIsBounded: however many connect, the unix socket answers, and no page
// of another site opens a websocket.
func TestNetworkIsBounded(t *testing.T) {
	p := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	n := p.s.Listeners(t.Context())
	t.Cleanup(n.Wait)
	if err := n.Listen([]string{address}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Listen(nil) })

	dir := t.TempDir()
	pair, err := trust.Ensure(dir, "client", trust.Client)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.d.AddClient(t.Context(), pair.Leaf, daemon.Client{Name: "browser"}); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair},
		InsecureSkipVerify: true}} // the server is this process
	defer transport.CloseIdleConnections()
	for origin, want := range map[string]int{"https://evil.example": 403, "https://" + address: 101} {
		c, resp, err := websocket.Dial(t.Context(), "wss://"+address+"/1.0/events", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: transport}, HTTPHeader: http.Header{"Origin": {origin}}})
		if resp == nil || resp.StatusCode != want {
			t.Errorf("a websocket from %s: %v, %v", origin, resp, err)
		}
		if err == nil {
			c.CloseNow()
		}
	}

	for range mostFromOne + 100 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	get := func(when string) *http.Response {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			late := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			resp, err := late.Get("https://" + address + "/1.0")
			if err == nil {
				resp.Body.Close()
				late.CloseIdleConnections()
				return resp
			}
			if time.Now().After(deadline) {
				t.Fatal(when, err)
			}
		}
	}
	// Those that only wait make room.
	if resp := get("silent ones keep others out"); resp.StatusCode != http.StatusOK {
		t.Errorf("beside silent ones: %+v", resp)
	}
	// Some of those for whom there is no room are told so, when they ask at once.
	for n.conns.take("127.0.0.1") || n.conns.makeRoom("127.0.0.1") {
	}
	if resp := get("nobody is told that there is no room"); resp.StatusCode != http.StatusServiceUnavailable ||
		resp.Header.Get("Retry-After") == "" || !resp.Close {
		t.Errorf("one more connection than there may be: %+v", resp)
	}
	if resp, b := p.do("GET", "/1.0", ""); resp.StatusCode != 200 {
		t.Errorf("the unix socket answers %d %s", resp.StatusCode, b)
	}
}
