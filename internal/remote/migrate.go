package remote

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/fetch"
	"github.com/kiln-containers/kiln/internal/migrate"
)

// A Migration is how to reach the other server of a migration: the URL of its operation, its
// certificate, and the secrets of the websockets "control" and "fs".
type Migration struct {
	Operation, Certificate string
	Secrets                map[string]string
}

// CheckMigration says whether a server can be reached so, without asking it. The error is
// Invalid.
func (o *Opener) CheckMigration(m Migration) error {
	_, err := o.migration(m)
	return err
}

func (o *Opener) migration(m Migration) (*http.Client, error) {
	u, err := url.Parse(m.Operation)
	if err != nil || u.Host == "" || !strings.Contains(u.Path, "/operations/") {
		return nil, kiln.Errorf(kiln.Invalid, "%q is not the URL of an operation, as "+
			"https://server.example:8443/1.0/operations/… is", m.Operation)
	}
	for _, name := range []string{"control", "fs"} {
		if m.Secrets[name] == "" {
			return nil, kiln.Errorf(kiln.Invalid, "the secret %q of the other server's operation is missing", name)
		}
	}
	return o.HTTP(kiln.Remote{Server: u.Scheme + "://" + u.Host, Certificate: m.Certificate})
}

// Migration connects to the other server of a migration. The caller closes the peer.
// Errors: Invalid, Network, Denied.
func (o *Opener) Migration(ctx context.Context, m Migration) (*migrate.Peer, error) {
	hc, err := o.migration(m)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 4*o.stall())
	defer cancel()
	open := func(name string) (*websocket.Conn, error) {
		u, err := url.Parse(m.Operation)
		if err != nil {
			return nil, err
		}
		q := u.Query()
		q.Set("secret", m.Secrets[name])
		u = u.JoinPath("websocket")
		u.RawQuery = q.Encode()
		conn, _, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: hc,
			CompressionMode: websocket.CompressionDisabled, HTTPHeader: http.Header{"User-Agent": {o.UserAgent}}})
		if err != nil {
			return nil, kiln.Errorf(kiln.Network, "connect to %s: %w", fetch.Shown(m.Operation), fetch.Cause(err))
		}
		conn.SetReadLimit(-1) // messages are read in pieces
		return conn, nil
	}
	p := &migrate.Peer{Silence: migrate.Silence}
	if p.Control, err = open("control"); err != nil {
		return nil, err
	}
	if p.Files, err = open("fs"); err != nil {
		_ = p.Control.CloseNow()
		return nil, err
	}
	return p, nil
}
