package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestStalledUploads has trusted clients send a part of something and then nothing more: they
// hear why that ends, and nothing of it is kept.
func TestStalledUploads(t *testing.T) {
	p := start(t)
	p.empty("c")
	s := New(p.d, slog.New(slog.DiscardHandler), func() {})
	s.Stall = 20 * time.Millisecond
	h := httptest.NewServer(s)
	defer h.Close()
	image := formattest.Unified(t)
	const stream = "application/octet-stream"
	form := "--b\r\nContent-Disposition: form-data; name=\"instance\"\r\n\r\n"
	for _, c := range []struct{ path, kind, body string }{
		{"/1.0/images", stream, string(image[:len(image)/2])},
		{"/1.0/images", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-da"},
		{"/1.0/instances", stream, string(image[:16])},
		{"/1.0/storage-pools/default/volumes/custom", stream, string(image[:16])},
		{"/1.0/instances/c/files?path=f", stream, "a part"},
		{"/1.0/kiln/instances", "multipart/form-data; boundary=b", form + `{"name": "d"`},
		{"/1.0/kiln/instances", "multipart/form-data; boundary=b", form + strings.Repeat(" ", smallArrival)},
		{"/1.0/profiles", "application/json", `{"name":`},
	} {
		conn, err := net.Dial("tcp", h.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(arrivalTime / 2)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", c.path, c.kind,
			len(c.body)+1000, c.body)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusAccepted {
			var a struct{ Operation string }
			if err := json.Unmarshal(b, &a); err != nil {
				t.Fatal(err)
			}
			o := get[api.Operation](p, a.Operation+"/wait")
			resp.StatusCode, b = o.StatusCode, []byte(o.Err)
		}
		if resp.StatusCode < 400 || !bytes.Contains(b, []byte("sent nothing more for 200ms")) {
			t.Errorf("%s: %d %s", c.path, resp.StatusCode, b)
		}
	}
	if list := get[[]string](p, "/1.0/images"); len(list) > 0 {
		t.Error(list)
	}
}
