package server

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"testing"

	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/trust"
)

// TestRestrictedToOtherProjects: whoever may use no project is as good as untrusted.
func TestRestrictedToOtherProjects(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"other"}`)
	for name, c := range map[string]struct {
		client              daemon.Client
		trusted, restricted bool
	}{
		"all":     {daemon.Client{}, true, false},
		"default": {daemon.Client{Restricted: true, Projects: []string{project.Default}}, true, true},
		"other":   {daemon.Client{Restricted: true, Projects: []string{"other"}}, true, true},
		"none":    {daemon.Client{Restricted: true}, false, true},
	} {
		cert, err := trust.Ensure(t.TempDir(), "client", trust.Client)
		if err != nil {
			t.Fatal(err)
		}
		c.client.Name = name
		if err := p.d.AddClient(t.Context(), cert.Leaf, c.client); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/1.0", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}
		if got := callerOf(p.s.identify(r)); got.trusted != c.trusted || got.restricted != c.restricted {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
