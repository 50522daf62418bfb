package fetch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestCrawl: a server that sends a byte whenever it would be given up isn't waited for
// without end.
func TestCrawl(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		for range 100000 {
			if _, err := w.Write([]byte("x")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}))
	defer srv.Close()
	defer srv.CloseClientConnections()
	c := &Client{HTTP: srv.Client(), Stall: 500 * time.Millisecond}
	r := c.Open(t.Context(), File{URLs: []string{srv.URL}, Size: 100000})
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	if !errors.Is(err, kiln.Timeout) || n == 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestContinueForEver: a server that only says "100 Continue" has sent nothing.
func TestContinueForEver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				for err == nil {
					_, err = fmt.Fprint(conn, "HTTP/1.1 100 Continue\r\n\r\n")
					time.Sleep(20 * time.Millisecond)
				}
			}
			conn.Close()
		}
	}()
	tr := &http.Transport{}
	c := &Client{HTTP: &http.Client{Transport: tr}, Stall: 300 * time.Millisecond, Pause: time.Millisecond, Tries: 2}
	r := c.Open(t.Context(), File{URLs: []string{"http://" + l.Addr().String()}, Size: 10})
	if _, err := io.ReadAll(r); !errors.Is(err, kiln.Network) {
		t.Errorf("%v", err)
	}
	r.Close()
	tr.CloseIdleConnections()
	l.Close()
	<-done
}
