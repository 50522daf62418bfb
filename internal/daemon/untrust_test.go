package daemon

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln/internal/trust"
)

// trusted makes clients that a daemon trusts, and counts how often it says that the trust
// may have changed.
func trusted(t *testing.T, d *Daemon, names ...string) (certs []*x509.Certificate, changes *int) {
	t.Helper()
	for _, name := range names {
		pair, err := trust.Ensure(t.TempDir(), name, trust.Client)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.AddClient(t.Context(), pair.Leaf, Client{Name: name}); err != nil {
			t.Fatal(err)
		}
		certs = append(certs, pair.Leaf)
	}
	changes = new(int)
	d.WatchClients(func(ctx context.Context) {
		if *changes++; ctx.Err() != nil {
			t.Error("who is told has the context of a request that is over")
		}
	})
	return certs, changes
}

// TestUntrustAfterCancel: a client that was removed isn't trusted, also if the request for
// it was cancelled when the row was gone.
func TestUntrustAfterCancel(t *testing.T) {
	d := fresh(t)
	certs, changes := trusted(t, d, "one")
	if err := d.db.DeleteCertificate(t.Context(), trust.Fingerprint(certs[0])); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.loadClients(ctx); err != nil {
		t.Error(err)
	}
	if _, ok := d.Trusted(t.Context(), certs[0]); ok || *changes != 1 {
		t.Errorf("trusted %v, told %d times", ok, *changes)
	}
}

// TestUntrustWithDamagedFiles removes clients while the files beside the rows can't be
// read: that is an error, but nobody stays trusted for it. What the files said before
// goes on to hold.
func TestUntrustWithDamagedFiles(t *testing.T) {
	for _, name := range []string{"server.ca", "ca.crl"} {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			certs, changes := trusted(t, d, "one", "two")
			ca := x509.NewCertPool()
			d.clients.mu.Lock()
			d.clients.ca, d.clients.revoked = ca, map[string]bool{certs[0].SerialNumber.String(): true}
			d.clients.mu.Unlock()
			if err := os.WriteFile(filepath.Join(d.cfg.Dir, name), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.RemoveClient(t.Context(), trust.Fingerprint(certs[0])); err == nil {
				t.Error("it is said that all is well")
			}
			change := func(c *Client) error { c.Restricted = true; return nil }
			if err := d.UpdateClient(t.Context(), trust.Fingerprint(certs[1]), change); err == nil {
				t.Error("it is said that all is well")
			}
			if _, ok := d.Trusted(t.Context(), certs[0]); ok {
				t.Error("it is still trusted")
			}
			if c, ok := d.Trusted(t.Context(), certs[1]); !ok || !c.Restricted || *changes < 2 {
				t.Errorf("trusted %v, restricted %v, told %d times", ok, c.Restricted, *changes)
			}
			if d.clients.ca != ca || len(d.clients.revoked) != 1 {
				t.Error("what was read before is forgotten")
			}
		})
	}
}

// TestDamagedClient: whose row can't be read isn't trusted, since what it may do isn't
// known; the others are as before.
func TestDamagedClient(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	certs, _ := trusted(t, d, "one", "two")
	end(t, d)
	execute(t, dir, "UPDATE certificates SET restricted = "+noTruth+" WHERE name = 'one'")
	d = open(t, dir)
	defer end(t, d)
	for i, want := range []bool{false, true} {
		if _, ok := d.Trusted(t.Context(), certs[i]); ok != want {
			t.Errorf("client %d is trusted: %v", i+1, ok)
		}
	}
}
