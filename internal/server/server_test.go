package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/trust"
)

// peer is a server and a plain client of it.
type peer struct {
	t testing.TB
	*http.Client
	s   *Server
	d   *daemon.Daemon
	dir string // of the daemon
}

func start(t testing.TB) *peer { return startWith(t, nil) }

// startWith starts a daemon that finds some files in its directory.
func startWith(t testing.TB, files map[string][]byte) *peer {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	d, err := daemon.Open(t.Context(), daemon.Config{Dir: dir, Log: log, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := New(d, log, cancel)
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var n net.Dialer
		return n.DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return &peer{t, &http.Client{Transport: transport}, s, d, dir}
}

// do sends a request and gives the answer with its body.
func (p *peer) do(method, path, body string, header ...string) (*http.Response, []byte) {
	p.t.Helper()
	r, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := p.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, b
}

// get decodes the metadata of an answer.
func get[T any](p *peer, path string) (v T) {
	p.t.Helper()
	_, b := p.do("GET", path, "")
	var a api.Response
	if err := json.Unmarshal(b, &a); err != nil {
		p.t.Fatalf("%s: %s", path, b)
	}
	if err := json.Unmarshal(a.Metadata, &v); err != nil {
		p.t.Fatalf("%s: %s", path, b)
	}
	return v
}

// upload sends an image and gives the operation it became.
func (p *peer) upload(body []byte, header ...string) api.Operation {
	p.t.Helper()
	_, b := p.do("POST", "/1.0/images", string(body), append([]string{"Content-Type", "application/octet-stream"},
		header...)...)
	var a api.Response
	var o api.Operation
	if err := json.Unmarshal(b, &a); err != nil || json.Unmarshal(a.Metadata, &o) != nil {
		p.t.Fatalf("%s", b)
	}
	return get[api.Operation](p, a.Operation+"/wait")
}

func TestEnvelopes(t *testing.T) {
	p := start(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		has                string
	}{
		{"GET", "/", "", 200, `"metadata":["/1.0"]`},
		{"GET", "/1.0", "", 200,
			`"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":""`},
		{"GET", "/1.0/", "", 200, `"api_version":"1.0"`},
		{"GET", "/nowhere", "", 404, `"type":"error"`},
		{"GET", "/1.0/images", "", 200, `"metadata":[]`},
		{"GET", "/1.0/images?recursion=1&filter=", "", 200, `"metadata":[]`},
		{"GET", "/1.0/images?filter=name", "", 400, "Invalid filter: clause has no operator"},
		{"GET", "/1.0/images/%25", "", 404, "Image not found"},
		{"GET", "/1.0/images/abc", "", 404, "Image not found"},
		{"GET", "/1.0/images/aliases/x", "", 404, "Image alias not found"},
		{"POST", "/1.0/images/aliases", `{"name":"x"}`, 400, "name and target are required"},
		{"POST", "/1.0/images/aliases", `{`, 400, "not the JSON"},
		{"GET", "/1.0/instances/c1", "", 404, "not found"},
		{"GET", "/1.0/containers", "", 200, `"metadata":[]`},
		{"GET", "/1.0/operations", "", 200, `"metadata":{}`},
		{"GET", "/1.0/operations/x", "", 404, "Operation not found"},
		{"POST", "/1.0/instances", `{"name":"c1","source":{"type":"zip"}}`, 400, "Unknown source type zip"},
		{"POST", "/1.0/instances", `{"name":"c1"}`, 400, "source"},
		{"POST", "/1.0/instances", `{"name":"a_b","source":{"type":"none"}}`, 400, "Invalid instance name"},
		{"DELETE", "/1.0/images", "", 405, "not possible"},
		{"PUT", "/1.0/events", "", 405, "not possible"},
		{"GET", "/1.0?project=other", "", 404, "Project not found"},
		{"GET", "/1.0/profiles/default", "", 200, `"root"`},
		{"POST", "/1.0/profiles", `{"name":"p"}`, 201, `"metadata":null`},
		{"POST", "/1.0/profiles", `{"name":"p"}`, 409, "already exists"},
		{"DELETE", "/1.0/profiles/default", "", 400, "can't be deleted"},
		{"PUT", "/1.0", `{"config":{"images.bogus":"1"}}`, 400, "cannot set 'images.bogus' to '1': unknown key"},
		{"PATCH", "/1.0", `{"config":{"images.remote_cache_expiry":"3"}}`, 200, `"metadata":{}`},
		{"POST", "/1.0/images", `{}`, 400, "source"},
		{"PATCH", "/1.0", `{"config":{"x":"` + strings.Repeat("y", maxJSON) + `"}}`, 413, "larger than"},
		{"GET", "/1.0/events?type=x", "", 400, "type of event"},
		{"GET", "/1.0/cluster", "", 404, "not found"},
		{"GET", "/1.0/projects?recursion=1", "", 200, "features.images"},
		{"GET", "/1.0/storage-pools/default/resources", "", 200, "inodes"},
	} {
		header := []string{}
		if c.method == "POST" {
			header = []string{"Content-Type", "application/json"}
		}
		resp, b := p.do(c.method, c.path, c.body, header...)
		if resp.StatusCode != c.status || !strings.Contains(string(b), c.has) {
			t.Errorf("%s %s: %d %.300s; want %d with %q", c.method, c.path, resp.StatusCode, b, c.status, c.has)
		}
		if c.status >= 400 {
			var a api.Response
			if err := json.Unmarshal(b, &a); err != nil || a.ErrorCode != c.status || a.StatusCode != 0 {
				t.Errorf("%s %s: %s", c.method, c.path, b)
			}
		}
		if c.status == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
	}
}

// TestEveryPathAndMethod has every known path answer every method with sense.
func TestEveryPathAndMethod(t *testing.T) {
	p := start(t)
	for _, to := range p.s.routes() {
		path := strings.NewReplacer("{name}", "x", "{name...}", "x", "{id}", "x", "{file}", "x").Replace(to.path)
		if path == "/1.0/events" || path == "/1.0/kiln/shutdown" {
			continue
		}
		for _, m := range []string{"GET", "PUT", "PATCH", "POST", "DELETE", "TRACE"} {
			resp, b := p.do(m, path, "{}", "Content-Type", "application/json")
			if _, known := to.methods()[m]; known == (resp.StatusCode == 405) {
				t.Errorf("%s %s: %d", m, path, resp.StatusCode)
			}
			if resp.StatusCode >= 500 {
				t.Errorf("%s %s: %d %s", m, path, resp.StatusCode, b)
			}
		}
	}
}

func TestUploadAndExport(t *testing.T) {
	p := start(t)
	img := formattest.Compress(t, formattest.Tiny(t, "a"), "gzip")
	o := p.upload(img, "X-Incus-filename", "a.tar.gz", "X-Incus-public", "true", "X-Incus-properties", "os=mine",
		"X-LXD-aliases", "alias=deep%2Fname&alias=b")
	if o.StatusCode != 200 || o.Metadata["size"] != fmt.Sprint(len(img)) {
		t.Fatalf("%+v", o)
	}
	fp := o.Metadata["fingerprint"].(string)
	got := get[api.Image](p, "/1.0/images/"+fp[:12])
	if !got.Public || got.Properties["os"] != "mine" || got.Filename != "a.tar.gz" || len(got.Aliases) != 2 ||
		!got.ExpiresAt.IsZero() {
		t.Errorf("%+v", got)
	}
	for _, path := range []string{"/1.0/images/aliases/deep/name", "/1.0/images/aliases/deep%2Fname"} {
		if a := get[api.ImageAliasesEntry](p, path); a.Target != fp {
			t.Errorf("%s: %+v", path, a)
		}
	}
	if o := p.upload(img); o.StatusCode != 400 || o.Err != "Image with same fingerprint already exists" ||
		o.Metadata["fingerprint"] != fp || o.Metadata[api.KindKey] != string(kiln.Conflict) {
		t.Errorf("again: %+v", o)
	}
	resp, b := p.do("GET", "/1.0/images/"+fp+"/export", "")
	if !bytes.Equal(b, img) || resp.Header.Get("Content-Disposition") != "inline;filename="+fp+".tar.gz" ||
		resp.ContentLength != int64(len(img)) {
		t.Errorf("export: %v", resp.Header)
	}
	resp, b = p.do("GET", "/1.0/images/"+fp+"/export", "", "Range", "bytes=10-19")
	if resp.StatusCode != 206 || !bytes.Equal(b, img[10:20]) {
		t.Errorf("range: %d %d bytes", resp.StatusCode, len(b))
	}
	resp, _ = p.do("HEAD", "/1.0/images/"+fp+"/export", "")
	if resp.StatusCode != 200 || resp.ContentLength != int64(len(img)) {
		t.Errorf("HEAD: %d %d", resp.StatusCode, resp.ContentLength)
	}
	resp, _ = p.do("GET", "/1.0/images/"+fp+"/export", "", "If-None-Match", `"`+fp+`"`)
	if resp.StatusCode != 304 {
		t.Errorf("conditional: %d", resp.StatusCode)
	}
}

func TestETags(t *testing.T) {
	p := start(t)
	fp := p.upload(formattest.Tiny(t, "a")).Metadata["fingerprint"].(string)
	path := "/1.0/images/" + fp
	resp, _ := p.do("GET", path, "")
	tag := resp.Header.Get("ETag")
	if resp, b := p.do("PUT", path, `{"properties":{"a":"1","empty":""},"public":true}`, "If-Match",
		strings.Trim(tag, `"`)); resp.StatusCode != 200 {
		t.Fatalf("%s", b)
	}
	if resp, b := p.do("PUT", path, `{}`, "If-Match", tag); resp.StatusCode != 412 ||
		!strings.Contains(string(b), "ETag doesn't match") {
		t.Errorf("stale: %d %s", resp.StatusCode, b)
	}
	if i := get[api.Image](p, path); len(i.Properties) != 1 || !i.Public || i.Profiles[0] != "default" {
		t.Errorf("%+v", i)
	}
	p.do("PATCH", path, `{"properties":{"b":"2","a":""},"auto_update":true}`)
	if i := get[api.Image](p, path); i.Properties["b"] != "2" || len(i.Properties) != 1 || !i.AutoUpdate || !i.Public {
		t.Errorf("%+v", i)
	}
	if resp, b := p.do("PUT", path, `{"profiles":["none"]}`); resp.StatusCode != 404 ||
		!strings.Contains(string(b), "Profile 'none' doesn't exist") {
		t.Errorf("%s", b)
	}
	if resp, b := p.do("PATCH", "/1.0/images/aliases/none", `{}`); resp.StatusCode != 404 {
		t.Errorf("%s", b)
	}
	p.do("POST", "/1.0/images/aliases", `{"name":"x","target":"`+fp[:10]+`"}`)
	if resp, b := p.do("POST", "/1.0/images/aliases", `{"name":"x","target":"`+fp+`"}`); resp.StatusCode != 409 {
		t.Errorf("the same alias again: %s", b)
	}
	if resp, b := p.do("PATCH", "/1.0/images/aliases/x", `{"description":"d"}`); resp.StatusCode != 200 {
		t.Errorf("%s", b)
	}
	if a := get[api.ImageAliasesEntry](p, "/1.0/images/aliases/x"); a.Description != "d" || a.Target != fp {
		t.Errorf("%+v", a)
	}
}

func form(t testing.TB, parts ...string) (body []byte, contentType string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for i := 0; i+1 < len(parts); i += 2 {
		w, err := m.CreateFormFile(parts[i], parts[i]+".tar")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, parts[i+1])
	}
	m.Close()
	return b.Bytes(), m.FormDataContentType()
}

func TestForms(t *testing.T) {
	p := start(t)
	m, r := formattest.Split(t)
	meta, rootfs := string(m), string(r)
	for what, c := range map[string]struct {
		parts []string
		text  string
	}{
		"split":     {[]string{"metadata", meta, "rootfs", rootfs}, ""},
		"swapped":   {[]string{"metadata", rootfs, "rootfs", meta}, "already exists"}, // the same image
		"order":     {[]string{"rootfs", rootfs, "metadata", meta}, "in this order"},
		"machine":   {[]string{"metadata", meta, "rootfs.img", "x"}, "virtual machine"},
		"three":     {[]string{"metadata", meta, "rootfs", rootfs, "rootfs", rootfs}, "in this order"},
		"none":      {nil, "no file"},
		"one":       {[]string{"metadata", meta}, "give the file with its root filesystem"},
		"not a tar": {[]string{"metadata", "hello", "rootfs", "world"}, "Unsupported compression"},
	} {
		if what == "swapped" {
			continue // after split
		}
		body, content := form(t, c.parts...)
		if o := p.upload(body, "Content-Type", content); !strings.Contains(o.Err, c.text) || (o.Err == "") != (c.text == "") {
			t.Errorf("%s: %q", what, o.Err)
		}
	}
	body, content := form(t, "metadata", rootfs, "rootfs", meta)
	if o := p.upload(body, "Content-Type", content); !strings.Contains(o.Err, "already exists") {
		t.Errorf("swapped: %q", o.Err)
	}
	for n := 1; n < len(body); n += len(body) / 20 {
		if o := p.upload(body[:n], "Content-Type", content); o.Err == "" {
			t.Errorf("a form cut at %d passes", n)
		}
	}
	if all := get[[]string](p, "/1.0/images"); len(all) != 1 {
		t.Errorf("%v", all)
	}
	_, b := p.do("GET", all(p)+"/export", "")
	if !bytes.Contains(b, []byte(`name="metadata"; filename="meta-`)) {
		t.Errorf("export: %.200s", b)
	}
}

func all(p *peer) string { return get[[]string](p, "/1.0/images")[0] }

// TestClientGoesAway breaks an upload off in the middle.
func TestClientGoesAway(t *testing.T) {
	p := start(t)
	r, w := io.Pipe()
	go func() {
		w.Write(formattest.Unified(t)[:200_000])
		w.CloseWithError(fmt.Errorf("gone"))
	}()
	req, _ := http.NewRequest("POST", "http://x/1.0/images", r)
	if resp, err := p.Do(req); err == nil {
		resp.Body.Close()
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		u, err := p.s.d.ImageUsage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Images) == 0 && u.Stored == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("half an image is kept")
		}
	}
}

func TestEvents(t *testing.T) {
	p := start(t)
	conn, _, err := websocket.Dial(t.Context(), "ws://x/1.0/events", &websocket.DialOptions{HTTPClient: p.Client})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	p.upload(formattest.Tiny(t, "a"))
	var seen []string
	for !strings.Contains(strings.Join(seen, " "), "Success") {
		_, b, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var e api.Event
		var m map[string]any
		if json.Unmarshal(b, &e) != nil || json.Unmarshal(e.Metadata, &m) != nil {
			t.Fatalf("%s", b)
		}
		switch e.Type {
		case "lifecycle":
			seen = append(seen, m["action"].(string))
		case "operation":
			seen = append(seen, m["status"].(string))
		}
	}
	if got := strings.Join(seen, " "); got != "image-created Pending Running Success" {
		t.Errorf("%s", got)
	}
}

// TestRequestorsOnTheWire: events name the local user of a request by the socket, and the
// certificate and the address of one from the network.
func TestRequestorsOnTheWire(t *testing.T) {
	p := start(t)
	friend := clientCert(t)
	if err := p.d.AddClient(t.Context(), friend, daemon.Client{Name: "friend"}); err != nil {
		t.Fatal(err)
	}
	conn, _, err := websocket.Dial(t.Context(), "ws://x/1.0/events?type=lifecycle",
		&websocket.DialOptions{HTTPClient: p.Client})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	next := func() (l api.Lifecycle) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, b, err := conn.Read(ctx)
		var e api.Event
		if err != nil || json.Unmarshal(b, &e) != nil || json.Unmarshal(e.Metadata, &l) != nil {
			t.Fatalf("%s: %v", b, err)
		}
		return l
	}
	me := userName(uint32(os.Getuid()))
	p.do("POST", "/1.0/profiles", `{"name":"p1"}`)
	if l := next(); l.Requestor == nil || *l.Requestor != (api.Requestor{Username: me, Protocol: "unix", Address: "@"}) {
		t.Errorf("%+v", l.Requestor)
	}
	p.ask(friend, "DELETE", "/1.0/profiles/p1", "")
	if l := next(); l.Requestor == nil || l.Requestor.Username != trust.Fingerprint(friend) ||
		l.Requestor.Protocol != "tls" || l.Requestor.Address != "192.0.2.1:1234" {
		t.Errorf("%+v", l.Requestor)
	}
	if err := p.d.SetSettings(t.Context(), map[string]string{"user.x": "y"}, false); err != nil {
		t.Fatal(err)
	}
	if l := next(); l.Action != "config-updated" || l.Requestor != nil {
		t.Errorf("%+v", l)
	}
	if got := userName(4_294_967_294); got != "uid=4294967294" {
		t.Error(got)
	}
}

// FuzzUpload sends bodies of every sort.
func FuzzUpload(f *testing.F) {
	body, content := form(f, "metadata", "x", "rootfs", "y")
	f.Add(body, content)
	f.Add([]byte("hello"), "application/octet-stream")
	f.Fuzz(func(t *testing.T, body []byte, content string) {
		r := httptest.NewRequest("POST", "/1.0/images", bytes.NewReader(body))
		r.Header.Set("Content-Type", content)
		u, err := newUpload(r, "")
		if err != nil {
			return
		}
		for range 10 {
			if _, err := u.Next(); err != nil {
				break
			}
			if _, err := io.Copy(io.Discard, u); err != nil {
				break
			}
		}
	})
}
