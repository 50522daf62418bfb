package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// stalledBody is a body that doesn't go on until all do.
type stalledBody struct {
	began chan<- struct{}
	once  sync.Once
	goOn  <-chan struct{}
}

func (s *stalledBody) Read([]byte) (int, error) {
	s.once.Do(func() { s.began <- struct{}{} })
	<-s.goOn
	return 0, io.ErrUnexpectedEOF
}

// TestShareOfMemory has a restricted client send images that don't go on until it may send no
// more, of which kind ever. Others aren't held up, and it may again when they are through.
func TestShareOfMemory(t *testing.T) {
	p := start(t)
	send := func(who *x509.Certificate, path string, body io.Reader, header ...string) string {
		r := httptest.NewRequest("POST", path, body)
		r.Header.Set("Content-Type", "application/octet-stream")
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{who}}
		w := httptest.NewRecorder()
		p.s.ServeHTTP(w, r)
		var a api.Response
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.Operation == "" {
			return w.Body.String()
		}
		return get[api.Operation](p, a.Operation+"/wait").Err
	}
	image := func(who *x509.Certificate, seed string) string {
		return send(who, "/1.0/images", bytes.NewReader(formattest.Tiny(t, seed)))
	}
	p.empty("c1")
	guest, friend, other := p.guest(t), p.friend(t), clientCert(t)
	if err := p.d.AddClient(t.Context(), other, daemon.Client{Name: "other", Restricted: true,
		Projects: []string{"default"}}); err != nil {
		t.Fatal(err)
	}
	goOn, began, refused := make(chan struct{}), make(chan struct{}), make(chan string, 1)
	var wg sync.WaitGroup
	sending := 0
	for why := ""; why == ""; sending++ {
		wg.Go(func() {
			if err := send(guest, "/1.0/images", &stalledBody{began: began, goOn: goOn}); strings.Contains(err, "under way") {
				refused <- err
			}
		})
		select {
		case <-began:
		case why = <-refused:
			if !strings.Contains(why, "this client has") || !strings.Contains(why, "wait until some are done") {
				t.Error(why)
			}
		}
	}
	if sending < 8 || sending > mostOfOne {
		t.Errorf("%d at once", sending)
	}
	for path, header := range map[string][]string{"/1.0/instances": {"X-LXD-name", "c1"},
		"/1.0/storage-pools/default/volumes/custom": {"X-LXD-name", "v1"}} {
		if err := send(guest, path, strings.NewReader("x"), header...); !strings.Contains(err, "under way") {
			t.Errorf("%s: %s", path, err)
		}
	}
	for path, body := range map[string]string{"/1.0/instances/c1/backups": `{"name":"b"}`,
		"/1.0/images": `{"source":{"type":"instance","name":"c1"}}`} {
		var a api.Response
		w := p.ask(guest, "POST", path, body)
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.Operation == "" {
			t.Fatalf("%s: %s", path, w.Body)
		}
		if o := get[api.Operation](p, a.Operation+"/wait"); !strings.Contains(o.Err, "under way") {
			t.Errorf("%s: %q", path, o.Err)
		}
	}
	for name, who := range map[string]*x509.Certificate{"friend": friend, "other": other} {
		if err := image(who, name); err != "" {
			t.Errorf("%s can't send one: %s", name, err)
		}
	}
	if err := image(guest, "guest"); !strings.Contains(err, "under way") {
		t.Errorf("one more: %s", err)
	}
	close(goOn)
	wg.Wait()
	if err := image(guest, "guest"); err != "" {
		t.Errorf("after all are through: %s", err)
	}
	if resp, b := p.do(http.MethodGet, "/1.0/images", ""); strings.Count(string(b), "/1.0/images/") != 3 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}
