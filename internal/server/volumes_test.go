package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/api"
)

// TestSharedVolumes has a client of a project that has the default project's storage
// volumes, which it may not use: it can neither see nor change them, nor give them to an
// instance. One that may use both can.
func TestSharedVolumes(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"guest","config":{"features.storage.volumes":"false"}}`)
	p.admin(t, "POST", "/1.0/storage-pools/default/volumes/custom", `{"name":"data"}`)
	p.admin(t, "POST", "/1.0/storage-pools/default/volumes/custom/data/backups", `{"name":"b","compression_algorithm":"none"}`)
	p.admin(t, "POST", "/1.0/instances?project=guest", `{"name":"c1","source":{"type":"none"}}`)
	p.admin(t, "POST", "/1.0/instances", `{"name":"c2","source":{"type":"none"},
		"devices":{"data":{"type":"disk","pool":"default","source":"data","path":"/data"}}}`)
	guest, both := p.restrictedTo(t, "guest"), p.restrictedTo(t, "guest", "default")
	const in = "?project=guest"
	const one = "/1.0/storage-pools/default/volumes/custom/data" + in
	attach := `{"devices":{"data":{"type":"disk","pool":"default","source":"data","path":"/data"}}}`
	for _, c := range []struct {
		method, path, body string
		both               int
	}{
		{"GET", one, "", http.StatusOK},
		{"GET", strings.Replace(one, "data", "data/state", 1), "", http.StatusOK},
		{"GET", strings.Replace(one, "data", "data/snapshots", 1), "", http.StatusOK},
		{"PATCH", one, `{"description":"x"}`, http.StatusOK},
		{"POST", "/1.0/storage-pools/default/volumes/custom" + in, `{"name":"more"}`, http.StatusCreated},
		{"PATCH", "/1.0/instances/c1" + in, attach, http.StatusOK},
		{"GET", strings.Replace(one, "data", "data/backups", 1), "", http.StatusOK},
		{"GET", strings.Replace(one, "data", "data/backups/b/export", 1), "", http.StatusOK},
		{"POST", strings.Replace(one, "data", "data/backups", 1), `{"name":"b2"}`, http.StatusAccepted},
		{"DELETE", one, "", http.StatusConflict},
	} {
		if w := p.ask(guest, c.method, c.path, c.body); w.Code != http.StatusForbidden {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
		if w := p.ask(both, c.method, c.path, c.body); w.Code != c.both {
			t.Errorf("%s %s by who may: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	w := p.ask(guest, "GET", "/1.0/storage-pools/default/volumes"+in+"&recursion=1", "")
	if body := w.Body.String(); w.Code != http.StatusOK || strings.Contains(body, `"data"`) || !strings.Contains(body, "c1") {
		t.Errorf("%d %s", w.Code, body)
	}
	// Who else uses a volume is nobody's business.
	p.admin(t, "POST", "/1.0/profiles"+in, `{"name":"theirs",`+attach[1:])
	def := p.restrictedTo(t, "default")
	p.admin(t, "DELETE", "/1.0/instances/c2", "")
	w = p.ask(def, "DELETE", strings.TrimSuffix(one, in), "")
	if body := w.Body.String(); w.Code != http.StatusConflict || strings.Contains(body, "guest") ||
		!strings.Contains(body, "2 of other projects") {
		t.Errorf("%d %s", w.Code, body)
	}
	w = p.ask(def, "GET", strings.TrimSuffix(one, in), "")
	if body := w.Body.String(); w.Code != http.StatusOK || strings.Contains(body, "guest") ||
		strings.Contains(body, "theirs") {
		t.Errorf("%d %s", w.Code, body)
	}
	w = p.ask(both, "GET", strings.TrimSuffix(one, in), "")
	if body := w.Body.String(); !strings.Contains(body, "/1.0/instances/c1?project=guest") ||
		!strings.Contains(body, "/1.0/profiles/theirs?project=guest") {
		t.Errorf("who may know isn't told: %d %s", w.Code, body)
	}
}

// TestVolumeFiles has clients bring a backup of a storage volume: one that is restricted to a
// project makes a volume there, and nowhere else.
func TestVolumeFiles(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"own"}`)
	p.admin(t, "POST", "/1.0/projects", `{"name":"shared","config":{"features.storage.volumes":"false"}}`)
	const volumes = "/1.0/storage-pools/default/volumes/custom"
	p.admin(t, "POST", volumes, `{"name":"data"}`)
	p.admin(t, "POST", volumes+"/data/backups", `{"name":"b","compression_algorithm":"none"}`)
	resp, file := p.do("GET", volumes+"/data/backups/b/export", "")
	if resp.StatusCode != http.StatusOK || len(file) == 0 {
		t.Fatal(resp.StatusCode)
	}
	guest := p.restrictedTo(t, "own", "shared")
	send := func(path string, header ...string) string {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(file))
		r.Header.Set("Content-Type", "application/octet-stream")
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{guest}}
		w := httptest.NewRecorder()
		p.s.ServeHTTP(w, r)
		var a api.Response
		if err := json.Unmarshal(w.Body.Bytes(), &a); err == nil && a.Operation != "" {
			w = p.ask(guest, "GET", a.Operation+"/wait", "")
		}
		return w.Body.String()
	}
	for _, c := range []struct {
		path, text string
		header     []string
	}{
		{volumes + "?project=own", `"Success"`, nil},
		{volumes + "?project=own", `already exists`, nil},
		{volumes + "?project=own", `"Success"`, []string{"X-LXD-name", "second"}},
		{volumes + "?project=own", `"Success"`, []string{"X-Incus-name", "third", "X-Incus-type", "backup"}},
		{volumes + "?project=own", `Invalid volume name`, []string{"X-LXD-name", "../x"}},
		{volumes + "?project=own", `of type \"iso\"`, []string{"X-Incus-name", "x", "X-Incus-type", "iso"}},
		{volumes + "?project=shared", "not authorized", []string{"X-LXD-name", "x"}},
		{volumes + "?project=default", "Project not found", []string{"X-LXD-name", "x"}},
		{volumes, "not authorized", []string{"X-LXD-name", "x"}},
		{strings.Replace(volumes, "custom", "container", 1) + "?project=own", "kiln copy", []string{"X-LXD-name", "x"}},
		{strings.Replace(volumes, "default", "fast", 1) + "?project=own", "no storage pool", []string{"X-LXD-name", "x"}},
	} {
		if got := send(c.path, c.header...); !strings.Contains(got, c.text) {
			t.Errorf("%s %q: %s", c.path, c.header, got)
		}
	}
	_, all := p.do("GET", "/1.0/storage-pools/default/volumes/custom?all-projects=true", "")
	if n := strings.Count(string(all), "/custom/"); n != 4 {
		t.Errorf("%d volumes: %s", n, all)
	}
}
