// Package trust has the certificates by which servers and clients know each
// other, the tokens that introduce a client, and hashes of passwords. It doesn't
// know who is trusted, nor what for.
package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Fingerprint is what people compare a certificate by: the SHA-256 of its DER
// form in hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Parse reads the first certificate of a PEM text. The error is Invalid.
func Parse(text []byte) (*x509.Certificate, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, kiln.Errorf(kiln.Invalid, "there is no certificate in PEM form")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "the certificate can't be read: %w", err)
		}
		return c, nil
	}
}

// PEM writes a certificate as text.
func PEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// A Use says which side of a connection shows a certificate.
type Use int

// The two sides.
const (
	Server Use = iota
	Client
)

// life is how long a certificate that kiln makes is good for, as with LXD: who
// pins it has nothing else to go by.
const life = 10 * 365 * 24 * time.Hour

// Ensure reads <name>.crt and <name>.key in a directory, or makes them: a key on
// the curve P-384 and a certificate signed by itself. What is there is used as it
// is, so that people can put their own in place.
func Ensure(dir, name string, use Use) (tls.Certificate, error) {
	crt, key := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	pair, err := loadPair(crt, key)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			err = fmt.Errorf("read the certificate %s and its key %s: %w", crt, key, err)
		}
		return pair, err
	}
	if _, err := os.Stat(crt); err == nil {
		return pair, kiln.Errorf(kiln.Invalid, "there is a certificate %s, but not its key %s; put the key there, or remove "+
			"the certificate and a new pair is made", crt, key)
	}
	signer, keyPEM, err := ensureKey(key)
	if err != nil {
		return pair, err
	}
	certPEM, err := certify(signer, use, time.Now())
	if err != nil {
		return pair, err
	}
	if err := disk.WriteBytes(crt, 0o644, certPEM); err != nil {
		return pair, err
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

func loadPair(crt, key string) (pair tls.Certificate, err error) {
	c, err := disk.ReadFile(crt)
	if err != nil {
		return pair, err
	}
	k, err := disk.ReadFile(key)
	if err != nil {
		return pair, err
	}
	return tls.X509KeyPair(c, k)
}

// ensureKey reads a key, or makes it. One without a certificate is what a first start
// leaves that was interrupted between the two. The error is Invalid for a file that
// is no key of kiln.
func ensureKey(path string) (crypto.Signer, []byte, error) {
	b, err := disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, err
		}
		b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		return key, b, disk.WriteBytes(path, 0o600, b)
	}
	if err != nil {
		return nil, nil, err
	}
	if block, _ := pem.Decode(b); block != nil {
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if signer, ok := key.(crypto.Signer); ok {
				return signer, b, nil
			}
		}
	}
	return nil, nil, kiln.Errorf(kiln.Invalid, "there is no certificate for %s, and it is not a key that one can be made "+
		"for; put the certificate beside it, or remove it and a new pair is made", path)
}

// certify makes a certificate for this host that a key signs itself.
func certify(key crypto.Signer, use Use, now time.Time) (certPEM []byte, err error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "kiln"
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"kiln"}, CommonName: "root@" + host},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(life), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if use == Server {
		// Clients that pin a certificate ask for its first DNS name.
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		t.DNSNames = []string{host}
		if host != "localhost" {
			t.DNSNames = append(t.DNSNames, "localhost")
		}
		t.IPAddresses = hostAddresses()
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func hostAddresses() []net.IP {
	var list []net.IP
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			list = append(list, n.IP)
		}
	}
	return list
}
