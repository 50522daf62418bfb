package trust

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

func ensure(t *testing.T, dir, name string, use Use) tls.Certificate {
	t.Helper()
	pair, err := Ensure(dir, name, use)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestEnsure(t *testing.T) {
	dir := t.TempDir()
	a, b := ensure(t, dir, "server", Server), ensure(t, dir, "server", Server)
	if !a.Leaf.Equal(b.Leaf) {
		t.Error("made anew")
	}
	if len(a.Leaf.DNSNames) == 0 || a.Leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("names %v, usage %v", a.Leaf.DNSNames, a.Leaf.ExtKeyUsage)
	}
	fi, err := os.Stat(filepath.Join(dir, "server.key"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", fi.Mode(), err)
	}
	// What a first start leaves that was killed between the two files.
	os.Remove(filepath.Join(dir, "server.crt"))
	c := ensure(t, dir, "server", Server)
	if again := ensure(t, dir, "server", Server); !c.Leaf.Equal(again.Leaf) ||
		!a.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(c.Leaf.PublicKey) {
		t.Error("the key without a certificate was not gone on with")
	}
	for _, file := range []string{"server.crt", "server.key"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Ensure(dir, "server", Server); !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), file) {
			t.Errorf("only a %s: %v", file, err)
		}
	}
}

// shake lets a client with a configuration talk to a server with a certificate.
func shake(t *testing.T, server tls.Certificate, c *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{server}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c = c.Clone()
	c.ServerName = "localhost"
	return tls.Client(raw, c).Handshake()
}

func TestPeer(t *testing.T) {
	mine, other := ensure(t, t.TempDir(), "server", Server), ensure(t, t.TempDir(), "server", Server)
	pinned, err := Peer{Pin: PEM(mine.Leaf)}.TLS()
	if err != nil {
		t.Fatal(err)
	}
	if err := shake(t, mine, pinned); err != nil {
		t.Errorf("the pinned server: %v", err)
	}
	err = shake(t, other, pinned)
	if !errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), Fingerprint(other.Leaf)) ||
		!strings.Contains(err.Error(), "--fingerprint") {
		t.Errorf("another server: %v", err)
	}
	if plain, err := (Peer{}).TLS(); err != nil || shake(t, mine, plain) == nil {
		t.Error("a server nobody vouches for passes")
	}
	if plain, err := (Peer{}).TLS(); err != nil || plain.MinVersion != tls.VersionTLS12 ||
		pinned.MinVersion != tls.VersionTLS13 {
		t.Error("a server of this kind, or of LXD, has TLS 1.3; others may not")
	}
	ca, err := Peer{CA: PEM(mine.Leaf)}.TLS()
	if err != nil || shake(t, mine, ca) != nil {
		t.Errorf("a server of the authority: %v", err)
	}
	if _, err := (Peer{CA: "x"}).TLS(); !errors.Is(err, kiln.Invalid) {
		t.Errorf("no authority: %v", err)
	}
	if err := checkPin(mine.Leaf, mine.Leaf, time.Now().Add(2*life)); !errors.Is(err, kiln.Denied) ||
		!strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
}

func TestToken(t *testing.T) {
	want := Token{ClientName: "laptop", Fingerprint: "ab", Addresses: []string{"10.0.0.1:8443"}, Secret: NewSecret()}
	got, err := ParseToken(want.String() + "\n")
	if err != nil || got.Secret != want.Secret || got.Addresses[0] != want.Addresses[0] {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "xyz", "e30="} {
		if _, err := ParseToken(bad); !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPassword(t *testing.T) {
	h, err := HashPassword("secret")
	if err != nil || strings.Contains(h, "secret") {
		t.Fatal(h, err)
	}
	if !CheckPassword(h, "secret") || CheckPassword(h, "Secret") || CheckPassword("", "") || CheckPassword("x", "x") ||
		CheckPassword("pbkdf2", "x") || CheckPassword("x:y:z", "x") {
		t.Error("passwords are mixed up")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{Secret: "s"}.String())
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if tok.Secret == "" {
			t.Error("a token without a secret")
		}
		again, err := ParseToken(tok.String())
		if err != nil || again.Secret != tok.Secret || !again.ExpiresAt.Equal(tok.ExpiresAt) {
			t.Errorf("%+v became %+v, %v", tok, again, err)
		}
	})
}

// FuzzParse reads what somebody says is a certificate. One that is taken has a
// fingerprint, and is itself when it is written and read again.
func FuzzParse(f *testing.F) {
	pair, err := Ensure(f.TempDir(), "client", Client)
	if err != nil {
		f.Fatal(err)
	}
	text := PEM(pair.Leaf)
	f.Add([]byte(text))
	f.Add([]byte("words\n" + text + text))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			if !errors.Is(err, kiln.Invalid) {
				t.Errorf("%v is of no kind", err)
			}
			return
		}
		again, err := Parse([]byte(PEM(c)))
		if err != nil || Fingerprint(again) != Fingerprint(c) || len(Fingerprint(c)) != 64 {
			t.Errorf("%s: %v", Fingerprint(c), err)
		}
	})
}
