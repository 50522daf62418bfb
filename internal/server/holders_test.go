package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/trust"
)

// pair makes a certificate that is good for some time.
func pair(t *testing.T, life time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	as := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, as, as, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// as is a client on the network that shows a certificate.
func as(t *testing.T, c tls.Certificate) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{c}, InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func listenTo(t *testing.T, hc *http.Client, address string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), "wss://"+address+"/1.0/events?type=lifecycle",
		&websocket.DialOptions{HTTPClient: hc})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// TestTrustEnds: what a client has open ends when it is removed, restricted or expired.
func TestTrustEnds(t *testing.T) {
	p := start(t)
	address := p.network(t)
	for name, end := range map[string]func(fp string) error{
		"removed": func(fp string) error { return p.d.RemoveClient(t.Context(), fp) },
		"restricted": func(fp string) error {
			return p.d.UpdateClient(t.Context(), fp, func(c *daemon.Client) error {
				c.Restricted, c.Projects = true, []string{"default"}
				return nil
			})
		},
		"expired": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			life := time.Hour
			if name == "expired" {
				life = 10 * time.Second
			}
			cert := pair(t, life)
			fp := trust.Fingerprint(cert.Leaf)
			if err := p.d.AddClient(t.Context(), cert.Leaf, daemon.Client{Name: name}); err != nil {
				t.Fatal(err)
			}
			hc := as(t, cert)
			events := listenTo(t, hc, address)
			o := p.d.Ops.Start(t.Context(), "wait", op.Options{MayCancel: true},
				func(ctx context.Context, _ *op.Operation) error { <-ctx.Done(); return nil })
			waited := make(chan error, 1)
			waiter := as(t, cert)
			go func() {
				resp, err := waiter.Get("https://" + address + "/1.0/operations/" + o.ID() + "/wait")
				if err == nil {
					resp.Body.Close()
				}
				waited <- err
			}()
			for deadline := time.Now().Add(time.Minute); len(p.s.holders.list()) < 2; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the connections aren't known")
				}
			}
			if err := end(fp); err != nil {
				t.Fatal(err)
			}
			bound, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for {
				if _, _, err := events.Read(bound); err != nil {
					break
				}
			}
			if bound.Err() != nil {
				t.Error("the events go on")
			}
			select {
			case err := <-waited:
				if err == nil {
					t.Error("the wait is answered")
				}
			case <-bound.Done():
				t.Error("the wait goes on")
			}
			if err := o.Cancel(); err != nil {
				t.Error(err)
			}
			for deadline := time.Now().Add(time.Minute); len(p.s.holders.list()) > 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the connections are kept")
				}
			}
		})
	}
}

// TestRemovesItself: who removes its own certificate is told that it is done.
func TestRemovesItself(t *testing.T) {
	p := start(t)
	address := p.network(t)
	cert := pair(t, time.Hour)
	if err := p.d.AddClient(t.Context(), cert.Leaf, daemon.Client{Name: "me"}); err != nil {
		t.Fatal(err)
	}
	hc := as(t, cert)
	for _, want := range []int{http.StatusOK, http.StatusForbidden} {
		r, err := http.NewRequest("DELETE", "https://"+address+"/1.0/certificates/"+trust.Fingerprint(cert.Leaf), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := hc.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d, want %d", resp.StatusCode, want)
		}
	}
}

// TestSessionsEndWithTheirOwner: websockets of a command may be on connections without
// the certificate of who has asked for it.
func TestSessionsEndWithTheirOwner(t *testing.T) {
	p := start(t)
	cert := p.friend(t)
	x, err := newSession("0")
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	x.owner = p.s.whose(t.Context(), cert)
	p.s.sessions.add("x", x)
	if err := p.d.AddClient(t.Context(), clientCert(t), daemon.Client{}); err != nil || x.ctx.Err() != nil {
		t.Fatalf("another client ends it: %v", err)
	}
	if err := p.d.RemoveClient(t.Context(), trust.Fingerprint(cert)); err != nil {
		t.Fatal(err)
	}
	if x.ctx.Err() == nil {
		t.Error("the websockets of a removed client go on")
	}
}

// TestSessionsOfNobody: the trust may end after a command was asked for, and before its
// websockets are waited for.
func TestSessionsOfNobody(t *testing.T) {
	p := start(t)
	cert := p.friend(t)
	x, err := newSession("0")
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	x.owner = p.s.whose(t.Context(), cert)
	if err := p.d.RemoveClient(t.Context(), trust.Fingerprint(cert)); err != nil {
		t.Fatal(err)
	}
	o := p.s.startSession(t.Context(), "x", op.Options{}, x, func(ctx context.Context, _ *op.Operation) error {
		_, err := x.wait(ctx)
		return err
	})
	if x.ctx.Err() == nil {
		t.Error("the websockets of a removed client are waited for")
		x.close()
	}
	o.Wait(t.Context())
}

// TestRestrictedSeeNoCommands: what others run, with passwords among the arguments maybe.
func TestRestrictedSeeNoCommands(t *testing.T) {
	p := start(t)
	address := p.network(t)
	guest := pair(t, time.Hour)
	if err := p.d.AddClient(t.Context(), guest.Leaf, daemon.Client{Restricted: true,
		Projects: []string{"default"}}); err != nil {
		t.Fatal(err)
	}
	theirs := listenTo(t, as(t, guest), address)
	friend := pair(t, time.Hour)
	if err := p.d.AddClient(t.Context(), friend.Leaf, daemon.Client{}); err != nil {
		t.Fatal(err)
	}
	all := listenTo(t, as(t, friend), address)
	for _, by := range []string{trust.Fingerprint(friend.Leaf), trust.Fingerprint(guest.Leaf)} {
		p.d.Events.Send("lifecycle", daemon.Lifecycle{Action: "instance-exec", Source: "/1.0/instances/c",
			Project: "default", Context: map[string]any{"command": []string{"login"}}, Requestor: &event.Requestor{Protocol: "tls", Username: by}})
	}
	for c, want := range map[*websocket.Conn][]bool{theirs: {false, true}, all: {true, true}} {
		for i, sees := range want {
			l := nextExec(t, c)
			if _, has := l.Context["command"]; has != sees {
				t.Errorf("event %d: %v", i, l)
			}
		}
	}
}

// nextExec gives the next event about a command.
func nextExec(t *testing.T, c *websocket.Conn) (l api.Lifecycle) {
	t.Helper()
	for l.Action != "instance-exec" {
		_, b, err := c.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var e api.Event
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		l = api.Lifecycle{}
		if err := json.Unmarshal(e.Metadata, &l); err != nil {
			t.Fatal(err)
		}
	}
	return l
}
