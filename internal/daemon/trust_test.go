package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// FuzzRevoked reads what somebody put in the place of a list of revoked certificates.
func FuzzRevoked(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1),
		ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Now()}},
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}, key)
	if err != nil {
		f.Fatal(err)
	}
	if got, err := parseRevoked(list); err != nil || !got["7"] || len(got) != 1 {
		f.Errorf("%v, %v", got, err)
	}
	f.Add(list)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}))
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseRevoked(b)
		if err == nil && got == nil {
			t.Error("a list that is nothing")
		}
	})
}

// FuzzAddresses reads core.https_address: what is taken can be listened on as it is
// written, and means the same when it is read again.
func FuzzAddresses(f *testing.F) {
	for _, s := range []string{":8443", "127.0.0.1", "[::]:1,::1", "a:b:c", "localhost:https, 10.0.0.1:", "[", "%", ",",
		"[fe80::1%eth0]:1", "::%["} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseAddresses(s, DefaultPort)
		if err != nil {
			return
		}
		for _, a := range list {
			again, err := parseAddresses(a, DefaultPort)
			if err != nil || len(again) != 1 || again[0] != a {
				t.Errorf("%q: %q became %q, %v", s, a, again, err)
			}
		}
		withoutCovered(list)
	})
}
