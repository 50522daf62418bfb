package server

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/trust"
)

func certificate(c daemon.Client) api.Certificate {
	return api.Certificate{CertificatePut: certificatePut(c), Fingerprint: c.Fingerprint}
}

// certificatePut is what a certificate's ETag stands for.
func certificatePut(c daemon.Client) api.CertificatePut {
	return api.CertificatePut{Name: c.Name, Type: c.Type, Restricted: c.Restricted, Projects: orNone(c.Projects),
		Certificate: c.PEM, Description: described(c.Description, c.Damage)}
}

func (s *Server) getCertificates(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Clients(r.Context())
	if err != nil {
		return nil, err
	}
	certificates := []api.Certificate{}
	for _, c := range all {
		certificates = append(certificates, certificate(c))
	}
	return list(r, certificates, func(c api.Certificate) string { return "/1.0/certificates/" + c.Fingerprint })
}

// postCertificates trusts a client: whom somebody trusted names, or who shows a
// token or the password. It also makes tokens.
func (s *Server) postCertificates(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.CertificatesPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	c := callerOf(r)
	entry := daemon.Client{Name: post.Name, Type: post.Type, Description: post.Description, Restricted: post.Restricted,
		Projects: post.Projects}
	if post.Token {
		if !c.trusted { // restricted clients don't get here
			return nil, kiln.Errorf(kiln.Denied, "not authorized")
		}
		return s.d.IssueToken(r.Context(), entry)
	}
	cert, err := shown(c, post.Certificate)
	if err != nil {
		return nil, err
	}
	at := created("/1.0/certificates/" + trust.Fingerprint(cert))
	if c.trusted {
		if post.Certificate == "" && c.protocol == "tls" {
			return nil, kiln.Errorf(kiln.Invalid, "Client is already trusted")
		}
		return at, s.d.AddClient(r.Context(), cert, entry)
	}
	word := post.TrustToken
	if word == "" {
		word = post.Password
	}
	return at, s.d.Introduce(r.Context(), c.address, word, cert, post.Name)
}

// shown is the certificate that a request is about: the one in it, or the one of
// the connection.
func shown(c caller, text string) (*x509.Certificate, error) {
	if text == "" {
		if c.cert == nil {
			return nil, kiln.Errorf(kiln.Invalid, "no certificate is given, and the connection shows none")
		}
		return c.cert, nil
	}
	if strings.Contains(text, "-----BEGIN") {
		return trust.Parse([]byte(text))
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "the certificate is neither PEM nor base64: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "the certificate can't be read: %w", err)
	}
	return cert, nil
}

func (s *Server) getCertificate(w http.ResponseWriter, r *http.Request) (any, error) {
	c, err := s.d.Client(r.Context(), r.PathValue("fingerprint"))
	if err != nil {
		return nil, err
	}
	return tagged{certificate(c), certificatePut(c)}, nil
}

func (s *Server) putCertificate(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.CertificatePut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.changeCertificate(r, func(c *daemon.Client) {
		c.Name, c.Description, c.Restricted, c.Projects = put.Name, put.Description, put.Restricted, put.Projects
		c.Type = cmp.Or(put.Type, c.Type)
	})
}

func (s *Server) patchCertificate(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Name, Description *string
		Type              *string
		Restricted        *bool
		Projects          *[]string
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	return nil, s.changeCertificate(r, func(c *daemon.Client) {
		set(&c.Name, change.Name)
		set(&c.Type, change.Type)
		set(&c.Description, change.Description)
		set(&c.Restricted, change.Restricted)
		set(&c.Projects, change.Projects)
	})
}

func (s *Server) changeCertificate(r *http.Request, change func(*daemon.Client)) error {
	c, err := s.d.Client(r.Context(), r.PathValue("fingerprint"))
	if err != nil {
		return err
	}
	audit.About(r.Context(), "", "/1.0/certificates/"+c.Fingerprint)
	return s.d.UpdateClient(r.Context(), c.Fingerprint, func(c *daemon.Client) error {
		if err := checkETag(r, certificatePut(*c)); err != nil {
			return err
		}
		change(c)
		return nil
	})
}

func (s *Server) deleteCertificate(w http.ResponseWriter, r *http.Request) (any, error) {
	c, err := s.d.Client(r.Context(), r.PathValue("fingerprint"))
	if err != nil {
		return nil, err
	}
	audit.Note(r.Context(), "name", c.Name)
	audit.About(r.Context(), "", "/1.0/certificates/"+c.Fingerprint)
	return nil, s.d.RemoveClient(r.Context(), c.Fingerprint)
}
