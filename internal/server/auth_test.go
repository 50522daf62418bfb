package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/trust"
)

// ask sends a request as somebody on the network who shows a certificate, or none.
func (p *peer) ask(cert *x509.Certificate, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.TLS = &tls.ConnectionState{}
	if cert != nil {
		r.TLS.PeerCertificates = []*x509.Certificate{cert}
	}
	w := httptest.NewRecorder()
	p.s.ServeHTTP(w, r)
	return w
}

func clientCert(t *testing.T) *x509.Certificate {
	t.Helper()
	pair, err := trust.Ensure(t.TempDir(), "client", trust.Client)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// friend is the certificate of a client that is trusted from now on.
func (p *peer) friend(t *testing.T) *x509.Certificate {
	t.Helper()
	cert := clientCert(t)
	if err := p.d.AddClient(t.Context(), cert, daemon.Client{Name: "friend"}); err != nil {
		t.Fatal(err)
	}
	return cert
}

// examples fill in the wildcards of patterns.
var examples = strings.NewReplacer("{name...}", "x/y", "{name}", "x", "{hash}", strings.Repeat("a", 64), "{base}",
	strings.Repeat("b", 64),
	"{id}", "x", "{fingerprint}", "x", "{file}", "x", "{snap}", "x", "{other}", "x", "{backup}", "x",
	"{address}", "192.0.2.1", "{type}", "custom", "{volume}", "x")

// TestUntrustedMayDoLittle asks every route as an untrusted client: only those that say so
// answer, and every one that is added is shut until it says so.
func TestUntrustedMayDoLittle(t *testing.T) {
	p := start(t)
	for _, to := range p.s.routes() {
		pattern, path := to.path, examples.Replace(to.path)
		if strings.Contains(path, "{") {
			t.Fatalf("no example for %s", pattern)
		}
		for method := range to.methods() {
			open := to.open(method)
			w := p.ask(nil, method, path, "{}")
			if !open && (w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"not authorized"`)) {
				t.Errorf("%s %s answers an untrusted client %d %.200s", method, pattern, w.Code, w.Body)
			}
			if open && w.Code == http.StatusInternalServerError {
				t.Errorf("%s %s: %d %.200s", method, pattern, w.Code, w.Body)
			}
		}
	}
	for _, to := range p.s.routes() {
		for _, method := range append(to.untrusted, to.admin...) {
			if to.methods()[method] == nil {
				t.Errorf("%s says who may %s, which nobody can", to.path, method)
			}
		}
	}
}

func TestClients(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"other"}`)
	friend, guest, elsewhere := clientCert(t), clientCert(t), clientCert(t)
	for cert, c := range map[*x509.Certificate]daemon.Client{
		friend: {Name: "friend"}, guest: {Name: "guest", Restricted: true, Projects: []string{"default"}},
		elsewhere: {Restricted: true, Projects: []string{"other"}},
	} {
		if err := p.d.AddClient(t.Context(), cert, c); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		who          *x509.Certificate
		method, path string
		status       int
	}{
		{friend, "GET", "/1.0/instances", 200},
		{friend, "PATCH", "/1.0", 200},
		{friend, "GET", "/1.0/certificates", 200},
		{guest, "GET", "/1.0/instances", 200},
		{guest, "PATCH", "/1.0", 403},
		{guest, "GET", "/1.0/certificates", 403},
		{guest, "DELETE", "/1.0/certificates/" + trust.Fingerprint(friend), 403},
		{guest, "POST", "/1.0/kiln/shutdown", 403},
		{elsewhere, "GET", "/1.0/instances", 403},
		{clientCert(t), "GET", "/1.0/instances", 403},
	} {
		if w := p.ask(c.who, c.method, c.path, "{}"); w.Code != c.status {
			t.Errorf("%s %s as %s: %d, want %d", c.method, c.path, c.who.Subject, w.Code, c.status)
		}
	}
	// Nor do untrusted and restricted clients let anybody in.
	for _, who := range []*x509.Certificate{nil, clientCert(t)} {
		if w := p.ask(who, "POST", "/1.0/certificates", `{"name":"x","token":true}`); w.Code != http.StatusForbidden {
			t.Errorf("a token for an untrusted client: %d %s", w.Code, w.Body)
		}
	}
	for _, body := range []string{`{"name":"x","token":true}`, `{"name":"x"}`,
		`{"certificate":"` + base64.StdEncoding.EncodeToString(clientCert(t).Raw) + `"}`} {
		if w := p.ask(guest, "POST", "/1.0/certificates", body); w.Code != http.StatusForbidden {
			t.Errorf("%s by a restricted client: %d %s", body, w.Code, w.Body)
		}
	}
	if w := p.ask(nil, "GET", "/1.0", ""); !strings.Contains(w.Body.String(), `"untrusted"`) ||
		strings.Contains(w.Body.String(), "environment") {
		t.Errorf("an untrusted client is told %s", w.Body)
	}
	if err := p.d.RemoveClient(t.Context(), trust.Fingerprint(friend)); err != nil {
		t.Fatal(err)
	}
	if w := p.ask(friend, "GET", "/1.0/instances", ""); w.Code != 403 {
		t.Errorf("a client that was removed: %d", w.Code)
	}
}

// TestAuthority trusts whom the daemon's own authority vouches for, if told to.
func TestAuthority(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	make := func(name string, parent *x509.Certificate) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter:    time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: parent == nil, BasicConstraintsValid: true,
		}
		if parent == nil {
			parent, c.KeyUsage = c, x509.KeyUsageCertSign
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	ca := make("authority", nil)
	p := startWith(t, map[string][]byte{"server.ca": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})})
	member, other := make("member", ca), clientCert(t)
	if w := p.ask(member, "GET", "/1.0/instances", ""); w.Code != 403 {
		t.Errorf("before it is asked for: %d", w.Code)
	}
	if err := p.d.SetSettings(t.Context(), map[string]string{"core.trust_ca_certificates": "true"}, false); err != nil {
		t.Fatal(err)
	}
	if w := p.ask(member, "GET", "/1.0/instances", ""); w.Code != 200 {
		t.Errorf("a member: %d %s", w.Code, w.Body)
	}
	if w := p.ask(other, "GET", "/1.0/instances", ""); w.Code != 403 {
		t.Errorf("somebody else: %d", w.Code)
	}
}
