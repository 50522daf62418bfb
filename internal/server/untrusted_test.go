package server

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/op"
)

// TestUntrustedDontLearnOrigins: lists, and what a filter finds, are as silent as a single image.
func TestUntrustedDontLearnOrigins(t *testing.T) {
	p := start(t)
	p.upload(formattest.Unified(t), "X-LXD-public", "true")
	fp, err := kiln.ParseFingerprint(strings.TrimPrefix(all(p), "/1.0/images/"))
	if err != nil {
		t.Fatal(err)
	}
	const from = "https://images.example"
	if err := p.d.Images.Update(t.Context(), fp, func(img *kiln.Image) error {
		img.Origin = &kiln.Origin{Remote: kiln.Remote{Server: from, Protocol: "simplestreams"}, Alias: "x"}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, b := p.do("GET", "/1.0/images?recursion=1", ""); !strings.Contains(string(b), from) {
		t.Fatalf("trusted clients aren't told: %s", b)
	}
	for _, path := range []string{"/1.0/images?recursion=1", "/1.0/images/" + fp.String(),
		"/1.0/images?filter=update_source.server+eq+" + from} {
		if w := p.untrusted(path); w.Code != 200 || strings.Contains(w.Body.String(), from) ||
			strings.Contains(path, "filter") && strings.Contains(w.Body.String(), fp.String()) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestSecretNeedsTheFingerprint: a secret works for the image it is for, by its whole name.
func TestSecretNeedsTheFingerprint(t *testing.T) {
	p := start(t)
	p.upload(formattest.Unified(t))
	path := all(p)
	fp, err := kiln.ParseFingerprint(strings.TrimPrefix(path, "/1.0/images/"))
	if err != nil {
		t.Fatal(err)
	}
	shared, err := p.d.ShareImage(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	secret := shared.Snapshot().Metadata["secret"].(string)
	for query, want := range map[string]int{
		path + "?secret=" + secret: 200, path + "?secret=wrong": 404, path: 404,
		path[:len(path)-40] + "?secret=" + secret: 404,
	} {
		if w := p.untrusted(query); w.Code != want {
			t.Errorf("%s: %d, want %d", query, w.Code, want)
		}
	}
}

// TestWebsocketsNeedTheirSecret asks for the websocket of a command with another secret.
func TestWebsocketsNeedTheirSecret(t *testing.T) {
	p := start(t)
	o := p.d.Ops.Start(t.Context(), "exec", op.Options{Class: op.Websocket, MayCancel: true},
		func(ctx context.Context, _ *op.Operation) error { <-ctx.Done(); return nil })
	x, err := newSession("0")
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	p.s.sessions.add(o.ID(), x)
	if resp, b := p.do("GET", "/1.0/operations/"+o.ID()+"/websocket?secret="+strings.Repeat("a", 64), ""); resp.StatusCode !=
		http.StatusForbidden {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

// TestTokenIsSpentOnSuccess: a client that couldn't be added leaves the token for the next try.
func TestTokenIsSpentOnSuccess(t *testing.T) {
	p := start(t)
	if err := p.d.Listen(t.Context(), "127.0.0.1:8443", func([]string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	o, err := p.d.IssueToken(t.Context(), daemon.Client{Name: "friend"})
	if err != nil {
		t.Fatal(err)
	}
	secret := o.Snapshot().Metadata["secret"].(string)
	cert := clientCert(t)
	expired := *cert
	expired.NotAfter = time.Now().Add(-time.Hour)
	for _, c := range []struct {
		cert *x509.Certificate
		kind kiln.Kind
	}{{&expired, kiln.Invalid}, {cert, ""}, {clientCert(t), kiln.Denied}} {
		err := p.d.Introduce(t.Context(), "127.0.0.1", secret, c.cert, "")
		if (err == nil) != (c.kind == "") || err != nil && kiln.KindOf(err) != c.kind {
			t.Errorf("%v, want %q", err, c.kind)
		}
	}
	if s := o.Wait(t.Context()); s.Status != op.Success {
		t.Errorf("the token's operation: %v", s.Err)
	}
}

func TestClientNamesArePrintable(t *testing.T) {
	p := start(t)
	bad := daemon.Client{Name: "a\x1b[2J"}
	cert := clientCert(t)
	if err := p.d.AddClient(t.Context(), cert, bad); kiln.KindOf(err) != kiln.Invalid {
		t.Errorf("add: %v", err)
	}
	if _, err := p.d.IssueToken(t.Context(), bad); kiln.KindOf(err) != kiln.Invalid || !strings.Contains(err.Error(), "name") {
		t.Errorf("token: %v", err)
	}
	if list, err := p.d.Clients(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
