package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
)

// websocketTo opens a websocket to a handler.
func websocketTo(t *testing.T, h func(*websocket.Conn)) *websocket.Conn {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := accept(w, r)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		h(c)
	}))
	t.Cleanup(s.Close)
	c, _, err := websocket.Dial(t.Context(), s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// TestHugeMessages: one message of a client takes little memory, however long it is.
func TestHugeMessages(t *testing.T) {
	got := make(chan error, 1)
	c := websocketTo(t, func(c *websocket.Conn) {
		_, err := readMessage(t.Context(), c)
		got <- err
	})
	if err := c.Write(t.Context(), websocket.MessageText, make([]byte, 1<<20)); err != nil {
		t.Error(err)
	}
	if err := <-got; !errors.Is(err, kiln.TooLarge) {
		t.Errorf("a message of control of 1 MiB: %v", err)
	}

	const size = 128 << 20
	counted, ends := &counter{}, make(chan int64, 2)
	c = websocketTo(t, func(ws *websocket.Conn) {
		receive(t.Context(), conn{ws, t.Context()}, counted, func() { ends <- counted.n })
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w, err := c.Writer(t.Context(), websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, io.LimitReader(zeros{}, size)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), c.Write(t.Context(), websocket.MessageText, nil)); err != nil {
		t.Fatal(err)
	}
	if n := <-ends; n != size {
		t.Errorf("%d bytes came", n)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > size/4 {
		t.Errorf("%d MiB of memory for a message of %d MiB", used>>20, size>>20)
	}
}

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestDrainedEnds: a client that neither sends the rest of a refused upload nor goes away
// is answered all the same.
func TestDrainedEnds(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = drained(w, r, nil)
		w.WriteHeader(http.StatusTeapot)
	}))
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64)
	if n, err := c.Read(answer); err != nil || !bytes.Contains(answer[:n], []byte("418")) {
		t.Errorf("%q, %v", answer[:n], err)
	}
}

// TestManyArchitectures: an untrusted client that says that it runs the same ones again and
// again has each looked for once.
func TestManyArchitectures(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/i/x", nil)
	r.Header.Set("LXD-Server-Architectures", strings.Repeat("x86_64,amd64,", 10_000))
	r.Header.Set("Incus-Server-Architectures", "aarch64, x86_64,nonsense")
	if archs := architecturesOf(r); len(archs) != 2 {
		t.Errorf("%d: %.200q", len(archs), archs)
	}
}
