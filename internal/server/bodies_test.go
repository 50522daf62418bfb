package server

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// network has the peer listen on the loopback and gives the address.
func (p *peer) network(t *testing.T) string {
	t.Helper()
	address, _ := freeAddress(t)
	if err := p.listeners(t).Listen([]string{address}); err != nil {
		t.Fatal(err)
	}
	return address
}

// startPatient starts a server that gives untrusted clients much time.
func startPatient(t *testing.T) *peer {
	p := start(t)
	p.s = New(p.d, slog.New(slog.DiscardHandler), func() {})
	p.s.Stall = time.Hour
	return p
}

// dial connects as somebody without a certificate. The connection ends with the test.
func dial(t *testing.T, address string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) // the server is this process
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// begin sends the head of a request with a body of some length, and a part of the body.
func begin(c io.Writer, length, part int) error {
	_, err := fmt.Fprintf(c, "POST /1.0/certificates HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n{\"name\":\"%s", length, strings.Repeat("a", part))
	return err
}

func statusOf(c io.Reader) (int, error) {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// TestLargeBodyIsNotWaitedFor: an untrusted client hears at once that it wants to send too
// much.
func TestLargeBodyIsNotWaitedFor(t *testing.T) {
	p := startPatient(t)
	c := dial(t, p.network(t))
	if err := begin(c, 10_000_000, 0); err != nil {
		t.Fatal(err)
	}
	if code, err := statusOf(c); code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d, %v", code, err)
	}
}

// TestUntrustedShareABudget: bodies and headers of untrusted clients that aren't whole yet
// take no more memory than they may, and short requests are answered meanwhile.
func TestUntrustedShareABudget(t *testing.T) {
	p := startPatient(t)
	address := p.network(t)
	before := heap()
	const many = untrustedBudget/(maxUntrustedJSON-20<<10) + 100
	for i := range many {
		c := dial(t, address)
		if i%2 == 0 { // once there is no room any more it is answered and closed, whatever is still to be sent
			_ = begin(c, maxUntrustedJSON, maxUntrustedJSON-10<<10)
		} else {
			_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nX: %s", strings.Repeat("a", maxHeader-10<<10))
		}
	}
	// What comes now is more than there may be, once the server has seen the others.
	code := 0
	for range 50 {
		last := dial(t, address)
		_ = begin(last, maxUntrustedJSON, maxUntrustedJSON-10<<10)
		_ = last.SetReadDeadline(time.Now().Add(2 * time.Second))
		if code, _ = statusOf(last); code != 0 {
			break
		}
	}
	if code != http.StatusServiceUnavailable {
		t.Errorf("one more long request: %d", code)
	}
	if grown := heap() - before; grown > 8*untrustedBudget {
		t.Errorf("%d connections take %d MB", many, grown>>20)
	}
	short := dial(t, address)
	if _, err := io.WriteString(short, "GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if code, err := statusOf(short); code != http.StatusOK {
		t.Errorf("a short request: %d, %v", code, err)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
