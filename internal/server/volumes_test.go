package server

import (
	"net/http"
	"strings"
	"testing"
)

// TestSharedVolumes has a client of a project that has the default project's storage
// volumes, which it may not use: it can neither see nor change them, nor give them to an
// instance. One that may use both can.
func TestSharedVolumes(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"guest","config":{"features.storage.volumes":"false"}}`)
	p.admin(t, "POST", "/1.0/storage-pools/default/volumes/custom", `{"name":"data"}`)
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
		{"PATCH", one, `{"description":"x"}`, http.StatusOK},
		{"POST", "/1.0/storage-pools/default/volumes/custom" + in, `{"name":"more"}`, http.StatusCreated},
		{"PATCH", "/1.0/instances/c1" + in, attach, http.StatusOK},
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
