package faults

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// dribble begins a request and then sends a byte now and then, until the server has
// enough. The error says that it hadn't.
func dribble(address, begin string) error {
	raw, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer raw.Close()
	conn := raw
	if begin != "" {
		conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		if _, err := io.WriteString(conn, begin); err != nil {
			return err
		}
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn) // an answer, or the end
		close(ended)
	}()
	for start := time.Now(); time.Since(start) < 5*stall; {
		select {
		case <-ended:
			return nil
		case <-time.After(stall / 10):
			if begin != "" {
				_, _ = io.WriteString(conn, "x") // it may be over
			}
		}
	}
	return fmt.Errorf("%q holds a connection for ever", begin[:min(len(begin), 20)])
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSilentServers has servers of images that say nothing at different points:
// who asks is told, or goes on elsewhere, before they lose patience themselves.
func TestSilentServers(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	img := unified(t, "silent", 300<<10)
	s.publish(t, published{image: img, alias: "x"})
	to.streams("s", s, s.URL)
	silent := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for _, path := range []string{indexPath, productsPath} {
		s.lie(path, silent)
		err := to.operate("/1.0/instances", map[string]any{"name": "c1", "source": s.source("x")})
		if kiln.KindOf(err) != kiln.Network || !strings.Contains(err.Error(), s.Listener.Addr().String()) {
			t.Errorf("%s: %v", path, err)
		}
		s.lie(path, nil)
	}
	to.sound(none()...)
	to.ok("init", "s:x", "c1")
	to.ok("delete", "c1")
	to.sound(img.fingerprint())
}

// TestCancelSilent cancels who waits for the index that somebody else waits for.
func TestCancelSilent(t *testing.T) {
	t.Parallel()
	to, s := newHost(t), newImageServer(t)
	s.lie(indexPath, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	to.streams("s", s, s.URL)
	done := make(chan error, 2)
	launch := func(name string) {
		go func() {
			done <- to.operate("/1.0/instances", map[string]any{"name": name, "source": s.source("x")})
		}()
	}
	launch("c1")
	for s.asked(indexPath) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	first := to.running("Creating instance")[0].ID
	launch("c2")
	for len(to.running("Creating instance")) < 2 {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	for _, o := range to.running("Creating instance") {
		if o.ID != first {
			to.ok("operation", "cancel", o.ID)
		}
	}
	if err := <-done; kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("%v", err)
	}
	to.ok("operation", "cancel", first)
	if err := <-done; kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("%v", err)
	}
}
