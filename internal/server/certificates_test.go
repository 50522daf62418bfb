package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/trust"
)

// TestMetricsCertificates: whose certificate is for metrics sees no more than somebody
// without one, until its type is changed.
func TestMetricsCertificates(t *testing.T) {
	p := start(t)
	cert := clientCert(t)
	body, err := json.Marshal(api.CertificatesPost{CertificatePut: api.CertificatePut{Name: "prometheus", Type: "metrics",
		Certificate: trust.PEM(cert)}})
	if err != nil {
		t.Fatal(err)
	}
	if resp, b := p.do("POST", "/1.0/certificates", string(body)); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, b)
	}
	path := "/1.0/certificates/" + trust.Fingerprint(cert)
	if c := get[api.Certificate](p, "/1.0/certificates/prometheus"); c.Type != "metrics" {
		t.Errorf("by its name: %+v", c)
	}
	if resp, b := p.do("DELETE", "/1.0/certificates/nobody", ""); resp.StatusCode != 404 ||
		!strings.Contains(string(b), "nobody") {
		t.Errorf("%s: %s", resp.Status, b)
	}
	if c := get[api.Certificate](p, path); c.Type != "metrics" || c.Name != "prometheus" {
		t.Errorf("%+v", c)
	}
	for _, to := range p.s.routes() {
		for method := range to.methods() {
			if to.open(method) {
				continue
			}
			if w := p.ask(cert, method, examples.Replace(to.path), "{}"); w.Code != http.StatusForbidden {
				t.Errorf("%s %s: %d", method, to.path, w.Code)
			}
		}
	}
	if w := p.ask(cert, "GET", "/1.0", ""); !strings.Contains(w.Body.String(), `"untrusted"`) {
		t.Errorf("%s", w.Body)
	}
	if resp, b := p.do("PATCH", path, `{"type":"admin"}`); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a type that there isn't: %d %s", resp.StatusCode, b)
	}
	if resp, b := p.do("PATCH", path, `{"type":"client"}`); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	if w := p.ask(cert, "GET", "/1.0/instances", ""); w.Code != http.StatusOK {
		t.Errorf("as a client: %d", w.Code)
	}
}
