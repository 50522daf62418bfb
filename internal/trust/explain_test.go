package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// Errors about certificates say what is wrong with which, and what to do.
func TestExplain(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	for want, config := range map[string]*tls.Config{
		"not signed by a trusted CA": {RootCAs: x509.NewCertPool()},
		"is for example.com":         {RootCAs: pool, ServerName: "other.example"},
		"is valid from":              {RootCAs: pool, Time: func() time.Time { return time.Unix(9e9, 0) }},
	} {
		c := &http.Client{Transport: Transport{&http.Transport{TLSClientConfig: config}}}
		_, err := c.Get(srv.URL)
		if !errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), strings.TrimPrefix(srv.URL, "https://")) {
			t.Errorf("%s: %v", want, err)
		}
		c.CloseIdleConnections()
	}
	c := &http.Client{Transport: Transport{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := errors.New("other"); Explain("https://x", err) != err { //nolint:errorlint // the same error
		t.Error("another error was changed")
	}
}
