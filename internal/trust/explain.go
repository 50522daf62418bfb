package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// A Transport is an http.Transport whose errors about certificates say what to do.
type Transport struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err != nil {
		err = Explain(r.URL.Scheme+"://"+r.URL.Host, err)
	}
	return resp, err
}

// Explain says what to do about the certificate of the server at a URL, if that is
// what an error is about; the error is Denied then. Others stay what they are.
func Explain(server string, err error) error {
	var v *tls.CertificateVerificationError
	if !errors.As(err, &v) || len(v.UnverifiedCertificates) == 0 {
		return err
	}
	shown := v.UnverifiedCertificates[0]
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(v.Err, &host):
		names := shown.DNSNames
		for _, ip := range shown.IPAddresses {
			names = append(names, ip.String())
		}
		return kiln.Errorf(kiln.Denied, "the certificate of %s is for %s, not for that name; use a name it has, or accept "+
			"this certificate: kiln remote add <name> %s --fingerprint %s", server, orNothing(names), server, Fingerprint(shown))
	case errors.As(v.Err, &invalid) && invalid.Reason == x509.Expired:
		return kiln.Errorf(kiln.Denied, "the certificate of %s is valid from %s to %s; renew it there, or set the clock of "+
			"this host", server, shown.NotBefore.UTC().Format(time.DateOnly), shown.NotAfter.UTC().Format(time.DateOnly))
	}
	return kiln.Errorf(kiln.Denied, "the certificate of %s is not signed by a trusted CA (%w); if its fingerprint "+
		"is right, %s, add the server with: kiln remote add <name> %s --fingerprint <fingerprint>, or give its CA "+
		"with --ca <file> (kiln image import has both flags, too); to trust the CA on the whole host, add it to "+
		"/usr/local/share/ca-certificates and run update-ca-certificates", server, v.Err, Fingerprint(shown), server)
}

func orNothing(names []string) string {
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}
