package trust

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// Peer says how a client knows that a server is the one it wants.
type Peer struct {
	// Pin is the certificate the server must show, in PEM form. Nothing else of
	// it counts then, so that servers can be reached by any address.
	Pin string
	// CA are certificates of authorities in PEM form, besides those of the
	// system.
	CA string
	// Own is what the client shows; nil: nothing.
	Own *tls.Certificate
}

// TLS gives the configuration for connections to the peer. The error is Invalid
// for a pin or an authority that can't be read. Connecting gives Denied when the
// server shows another certificate than the one pinned, or one that is expired.
func (p Peer) TLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.Own != nil {
		c.Certificates = []tls.Certificate{*p.Own}
	}
	if p.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(p.CA)) {
			return nil, kiln.Errorf(kiln.Invalid, "the file of the certificate authority has no certificate in PEM form")
		}
		c.RootCAs = pool
	}
	if p.Pin == "" {
		return c, nil
	}
	pin, err := Parse([]byte(p.Pin))
	if err != nil {
		return nil, err
	}
	c.MinVersion = tls.VersionTLS13
	c.InsecureSkipVerify = true // the next line is stricter
	c.VerifyConnection = func(s tls.ConnectionState) error { return checkPin(pin, s.PeerCertificates[0], time.Now()) }
	return c, nil
}

func checkPin(pin, shown *x509.Certificate, now time.Time) error {
	if !pin.Equal(shown) {
		return kiln.Errorf(kiln.Denied, "the server's certificate changed: the one with the fingerprint %s is pinned, it "+
			"shows %s (made %s for %s). If you expected that, accept the new one with: kiln remote add <name> <address> "+
			"--fingerprint %s",
			Fingerprint(pin), Fingerprint(shown), shown.NotBefore.UTC().Format(time.DateOnly),
			strings.Join(shown.DNSNames, ", "), Fingerprint(shown))
	}
	if now.After(shown.NotAfter) {
		return kiln.Errorf(kiln.Denied, "the server's certificate %s expired on %s; have a new one made there (remove "+
			"server.crt and server.key and restart the daemon) and accept it with: kiln remote add <name> <address> "+
			"--fingerprint <its fingerprint>",
			Fingerprint(shown), shown.NotAfter.UTC().Format(time.DateOnly))
	}
	return nil
}
