package server

import (
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/trust"
)

func (b *budget) now() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// connection is a counted one, of a budget of its own.
func connection(t *testing.T) (*counted, *budget) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	b := new(budget)
	c := newCounted(ours, b)
	t.Cleanup(func() { c.Close() })
	return c, b
}

// TestCounted counts what comes in small pieces, and gives it back: when it is answered,
// when it isn't kept, and when the connection ends.
func TestCounted(t *testing.T) {
	c, b := connection(t)
	for what, end := range map[string]func(){
		"answered": func() { c.answered(false) },
		"free":     func() { c.setFree(true); c.setFree(false) },
		"closed":   func() { c.Close() },
	} {
		c.setFree(false)
		for range 64 {
			if !c.count(1 << 10) {
				t.Fatal("there is no room for 1 KiB")
			}
		}
		if n := b.now(); n != 64<<10-untrustedFree {
			t.Errorf("before it is %s, 64 KiB take %d bytes", what, n)
		}
		if end(); b.now() != 0 {
			t.Errorf("%s: %d bytes are still taken", what, b.now())
		}
	}
}

// TestDrainedIsFree: the rest of an upload that failed is read and thrown away.
func TestDrainedIsFree(t *testing.T) {
	c, b := connection(t)
	r := httptest.NewRequestWithContext(withConn(t.Context(), c), http.MethodPost, "/1.0/images", strings.NewReader("x"))
	if err := drained(httptest.NewRecorder(), r, io.ErrUnexpectedEOF); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if !c.count(1<<20) || b.now() != 0 {
		t.Errorf("%d bytes are taken", b.now())
	}
}

// TestSecondRequestIsCounted: that a request of an untrusted client was answered makes the
// next on its connection no cheaper.
func TestSecondRequestIsCounted(t *testing.T) {
	p := startPatient(t)
	n := p.listeners(t)
	address, _ := freeAddress(t)
	if err := n.Listen([]string{address}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, address)
	if _, err := io.WriteString(c, "GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if code, err := statusOf(c); code != http.StatusOK {
		t.Fatal(code, err)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nX: "+strings.Repeat("a", 40<<10)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); n.conns.budget.now() < 20<<10; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("40 KiB take %d bytes", n.conns.budget.now())
		}
	}
}

// TestUntrustedLimitIsTheirs: what a trusted client may send is too much of another one.
func TestUntrustedLimitIsTheirs(t *testing.T) {
	p := start(t)
	body := `{"name":"` + strings.Repeat("a", maxUntrustedJSON) + `"}`
	for cert, want := range map[*x509.Certificate]bool{nil: true, p.friend(t): false} {
		w := p.ask(cert, "POST", "/1.0/certificates", body)
		if large := w.Code == http.StatusRequestEntityTooLarge; large != want {
			t.Errorf("trusted %v: %d %s", cert != nil, w.Code, w.Body)
		}
	}
}

// TestUntrustedBodyIsNotWaitedFor: a body that never comes doesn't hold its connection.
func TestUntrustedBodyIsNotWaitedFor(t *testing.T) {
	p := startPatient(t)
	p.s.Stall = 200 * time.Millisecond
	c := dial(t, p.network(t))
	if err := begin(c, 1000, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection is kept: %v", err)
	}
}

// TestHoldLooksAgain: the trust may end between the look at it and the note of who holds a
// connection by it.
func TestHoldLooksAgain(t *testing.T) {
	p := start(t)
	cert := p.friend(t)
	who := p.s.whose(t.Context(), cert)
	for _, trusted := range []bool{true, false} {
		if !trusted {
			if err := p.d.RemoveClient(t.Context(), trust.Fingerprint(cert)); err != nil {
				t.Fatal(err)
			}
		}
		c, _ := connection(t)
		p.s.hold(withConn(t.Context(), c), who)
		if c.closed == trusted {
			t.Errorf("trusted %v: closed %v", trusted, c.closed)
		}
	}
}

// TestHoldersChange: who asks last on a connection is who holds it, with what it may do by
// then. What it may do less afterwards ends the connection.
func TestHoldersChange(t *testing.T) {
	p := start(t)
	cert := p.friend(t)
	c, _ := connection(t)
	for _, restricted := range []bool{true, false, true} {
		err := p.d.UpdateClient(t.Context(), trust.Fingerprint(cert), func(c *daemon.Client) error {
			c.Restricted, c.Projects = restricted, []string{"default"}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !c.closed {
			p.s.hold(withConn(t.Context(), c), p.s.whose(t.Context(), cert))
		}
	}
	if !c.closed {
		t.Error("a client that was restricted again keeps what it opened before")
	}
}

// TestBudget: what all have together is never more than there is, and nobody has a part of
// what there is no room for.
func TestBudget(t *testing.T) {
	c, b := connection(t)
	for _, step := range []struct {
		n  int64
		ok bool
	}{{untrustedFree + untrustedBudget - 1, true}, {2, false}} {
		if ok := c.count(step.n); ok != step.ok {
			t.Fatalf("%d bytes: %v", step.n, ok)
		}
	}
	if b.take(2) || !b.take(1) || b.take(1) || b.now() != untrustedBudget {
		t.Errorf("%d bytes of %d are taken", b.now(), untrustedBudget)
	}
}
