package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestChangedCertificate has a server show another certificate than before.
func TestChangedCertificate(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	fp := from.holds(unified(t, "changed", 10<<10), "--public", "--alias", "x")
	to.ok("image", "copy", "a:x", "local:", "--alias", "x", "--auto-update")
	old := from.certificate()
	from.End(os.Kill)
	for _, name := range []string{"server.crt", "server.key"} {
		if err := os.Remove(filepath.Join(from.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	from.start()
	now := from.certificate()
	words := []string{"changed", old, now, "kiln remote add", "--fingerprint " + now}
	to.fails(5, words, "image", "copy", "a:x", "local:")
	to.fails(5, words, "image", "list", "a:")
	to.fails(5, words, "image", "refresh", "x")
	to.fails(5, words, "init", "a:x", "c1")
	to.fails(5, []string{now, old}, "remote", "add", "a", "https://"+net.address, "--public", "--fingerprint", old)
	to.fails(5, words, "image", "list", "a:")
	to.ok("remote", "add", "a", "https://"+net.address, "--public", "--fingerprint", now)
	to.ok("image", "list", "a:")
	to.ok("image", "copy", "a:x", "local:", "--alias", "y")
	to.sound(fp)
}

// TestExpiredCertificate has a server whose certificate is over.
func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	from, to, net := pair(t)
	from.holds(unified(t, "expired", 10<<10), "--public", "--alias", "x")
	from.End(os.Kill)
	over := time.Now().Add(6 * time.Second)
	writeCertificate(t, from.Dir, over)
	from.start()
	fp := from.certificate()
	add := []string{"remote", "add", "a", "https://" + net.address, "--public", "--fingerprint", fp}
	to.ok(add...)
	to.ok("image", "list", "a:")
	time.Sleep(time.Until(over) + time.Second)
	words := []string{fp, "expired on", "kiln remote add"}
	to.fails(5, words, "image", "copy", "a:x", "local:")
	to.fails(5, words, add...)
	from.End(os.Kill)
	writeCertificate(t, from.Dir, time.Now().AddDate(1, 0, 0))
	from.start()
	to.fails(5, []string{"changed"}, "image", "copy", "a:x", "local:")
	to.knows("a", from, net.address)
	to.ok("image", "copy", "a:x", "local:")
}

// writeCertificate makes a daemon's certificate that is good until some time.
func writeCertificate(t *testing.T, dir string, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "server.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			0o644),
		os.WriteFile(filepath.Join(dir, "server.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
			0o600))
	if err != nil {
		t.Fatal(err)
	}
}

// TestTokens uses tokens as they are not meant to be used.
func TestTokens(t *testing.T) {
	t.Parallel()
	server, one, two := newHost(t), newHost(t), newHost(t)
	add := func(word string, flag string) []string {
		return []string{"remote", "add", "s", "https://" + server.Address, "--fingerprint", server.certificate(), flag, word}
	}
	token := server.ok("config", "trust", "add", "--name", "one").Word()
	one.ok(add(token, "--token")...)
	one.ok("image", "list", "s:")
	two.fails(5, []string{"token", "once"}, add(token, "--token")...)
	two.fails(3, []string{"s"}, "image", "list", "s:") // nothing half-made
	two.fails(5, []string{"token"}, add(token[:len(token)-12], "--token")...)

	server.ok("config", "set", "core.remote_token_expiry", "1S")
	token = server.ok("config", "trust", "add", "--name", "two").Word()
	time.Sleep(1200 * time.Millisecond)
	two.fails(5, []string{"expires"}, add(token, "--token")...)
	if out := server.ok("config", "trust", "list-tokens").Out; strings.Contains(out, "two") {
		t.Errorf("the token is still listed: %s", out)
	}

	server.ok("config", "set", "core.trust_password", "sesame")
	start := time.Now()
	for range 2 {
		two.fails(5, []string{"password"}, add("open", "--password")...)
	}
	if d := time.Since(start); d < 1500*time.Millisecond {
		t.Errorf("two guesses took %v", d)
	}
	if out := server.ok("config", "get", "core.trust_password").Out; strings.Contains(out, "sesame") {
		t.Errorf("the password is told: %s", out)
	}
	two.ok(add("sesame", "--password")...)
	two.ok("image", "list", "s:")
	if out := server.ok("config", "trust", "list").Out; strings.Count(out, "client") != 2 {
		t.Errorf("there should be two clients: %s", out)
	}
}
