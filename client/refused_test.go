package client_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

// TestDownloadRefused downloads what isn't there: the error is the server's, and what it
// answers is not taken for the file.
func TestDownloadRefused(t *testing.T) {
	c := connect(t)
	for _, path := range []string{"/1.0/images/" + strings.Repeat("ab", 32) + "/export",
		"/1.0/instances/none/logs/lxc.log"} {
		err := c.Download(t.Context(), path, func(r io.Reader) error {
			b, err := io.ReadAll(r)
			t.Errorf("%s: it reads %q, %v", path, b, err)
			return err
		})
		if !errors.Is(err, kiln.NotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestSecretsStayOutOfErrors has a client with a secret find nobody: the error names the
// server, and not the secret that is in the URL.
func TestSecretsStayOutOfErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil { // nobody listens there now
		t.Fatal(err)
	}
	c := client.HTTPS("https://"+address, &http.Client{}).WithSecret("s3cr3t")
	_, _, err = c.Do(t.Context(), client.Request{Method: http.MethodGet, Path: "/1.0"}, nil)
	if !errors.Is(err, kiln.Network) || !strings.Contains(err.Error(), address) ||
		strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("%v", err)
	}
}

// TestRefusedHandshake has servers refuse a websocket: one says why, one answers something else.
func TestRefusedHandshake(t *testing.T) {
	for body, want := range map[string]struct {
		kind kiln.Kind
		text string
	}{
		`{"type":"error","error":"say which: --project web","error_code":403}`: {kiln.Denied, "say which: --project web"},
		"<html>": {kiln.Network, "403"},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, body)
		}))
		defer web.Close()
		_, err := client.HTTPS(web.URL, web.Client()).Connect(t.Context(), "op", "s3cr3t")
		if !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.text) ||
			strings.Contains(err.Error(), "websocket") || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", body, err)
		}
	}
}
