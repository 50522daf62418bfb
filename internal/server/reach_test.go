package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestForwardsOfOthers: a restricted client sees the forwards that lead to instances of its
// own projects, and to no others.
func TestForwardsOfOthers(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"x"}`)
	guest := p.restrictedTo(t, "x")
	p.admin(t, "PATCH", "/1.0/networks/kilnbr0", `{"config":{"ipv4.address":"10.99.93.1/24"}}`)
	const forwards = "/1.0/networks/kilnbr0/forwards"
	p.admin(t, "POST", forwards, `{"listen_address":"192.0.2.1","description":"hidden","ports":[
		{"protocol":"tcp","listen_port":"5432","target_address":"10.99.93.7"}]}`)
	if _, b := p.do("GET", forwards+"/192.0.2.1", ""); !strings.Contains(string(b), "hidden") {
		t.Fatalf("%s", b)
	}
	for path, code := range map[string]int{"?recursion=1&project=x": http.StatusOK, "?project=x": http.StatusOK,
		"/192.0.2.1?project=x": http.StatusNotFound, "/192.0.2.2?project=x": http.StatusNotFound} {
		w := p.ask(guest, "GET", forwards+path, "")
		body := strings.ReplaceAll(w.Body.String(), `forward of \"192.0.2.1\"`, "")
		if w.Code != code || strings.Contains(body, "hidden") || strings.Contains(body, "192.0.2.1") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	to := func(config string, ports ...string) (f db.Forward) {
		f.Config = map[string]string{"target_address": config}
		for _, a := range ports {
			f.Ports = append(f.Ports, db.ForwardPort{Address: a})
		}
		return f
	}
	all := map[string]db.Forward{"mine": to("10.0.0.1"), "ports": to("", "10.0.0.1", "fd00::1"), "nowhere": to(""),
		"partly": to("10.0.0.1", "10.0.0.2"), "theirs": to("10.0.0.2"), "nobody's": to("", "10.0.0.3")}
	got := caller{restricted: true, projects: []string{"x"}}.own(all, []db.Lease{
		{Project: "x", IPv4: netip.MustParseAddr("10.0.0.1"), IPv6: netip.MustParseAddr("fd00::1")},
		{Project: "y", IPv4: netip.MustParseAddr("10.0.0.2")}})
	if _, ok := got["mine"]; !ok || len(got) != 2 || len(got["ports"].Ports) != 2 {
		t.Errorf("%v", got)
	}
}

// TestSourcesOfOthers has a restricted client make things of what it may not use.
func TestSourcesOfOthers(t *testing.T) {
	p := start(t)
	for _, body := range []string{`{"name":"own"}`, `{"name":"other"}`,
		`{"name":"shared","config":{"features.storage.volumes":"false"}}`} {
		p.admin(t, "POST", "/1.0/projects", body)
	}
	const volumes = "/1.0/storage-pools/default/volumes/custom"
	p.admin(t, "POST", volumes, `{"name":"data"}`)
	p.admin(t, "POST", "/1.0/instances?project=other", `{"name":"c1","source":{"type":"none"}}`)
	guest := p.restrictedTo(t, "own", "shared")
	for _, c := range []struct {
		path, body string
		code       int
	}{
		{"/1.0/instances?project=own", `{"name":"c2","source":{"type":"copy","source":"c1","project":"other"}}`,
			http.StatusNotFound},
		{volumes + "?project=own", `{"name":"x","source":{"type":"copy","name":"data","project":"default"}}`,
			http.StatusNotFound},
		{volumes + "?project=own", `{"name":"x","source":{"type":"copy","name":"data","project":"shared"}}`,
			http.StatusForbidden},
	} {
		if w := p.ask(guest, "POST", c.path, c.body); w.Code != c.code {
			t.Errorf("%s %s: %d %s", c.path, c.body, w.Code, w.Body)
		}
	}
	if w := p.ask(guest, "DELETE", "/1.0/instances/c1?all-projects=true", ""); w.Code != http.StatusBadRequest {
		t.Errorf("about all projects: %d %s", w.Code, w.Body)
	}
	c := caller{restricted: true, fingerprint: "f", projects: []string{"own"}}
	for _, o := range []struct {
		owner, project string
		may            bool
	}{{"f", "own", true}, {"f", "other", false}, {"g", "own", false}} {
		if c.maySee(op.Snapshot{Owner: o.owner, Project: o.project}) != o.may {
			t.Errorf("%+v", o)
		}
	}
}

// TestPrivateBeside has everybody ask for a patch from a private file to a public one, and
// instances for a private image: the answers are those about what isn't there.
func TestPrivateBeside(t *testing.T) {
	p := start(t)
	public := p.upload(formattest.Tiny(t, "a")).Metadata["fingerprint"].(string)
	private := p.upload(formattest.Tiny(t, "b")).Metadata["fingerprint"].(string)
	p.admin(t, "PATCH", "/1.0/images/"+public, `{"public":true}`)
	fp, err := kiln.ParseFingerprint(public)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	img, err := p.d.Images.Get(project.InDefault(r.Context()), fp)
	if err != nil || len(img.Files) != 1 {
		t.Fatal(err, img.Files)
	}
	ask := func(base string) string {
		f := img.Files[0]
		_, err := p.s.streamsBeside(httptest.NewRecorder(), r.WithContext(project.InDefault(r.Context())), img,
			string(f.Role)+f.Ext+".kpatch-"+base)
		if !errors.Is(err, kiln.NotFound) {
			t.Errorf("from %s: %v", base, err)
			return ""
		}
		return err.Error()
	}
	if a, b := ask(private), ask(strings.Repeat("7", 64)); a != b {
		t.Errorf("%q, and of what isn't there %q", a, b)
	}
	for image, code := range map[string]int{public: http.StatusOK, private: http.StatusNotFound} {
		w := httptest.NewRecorder()
		p.s.sendImageToInstance(w, r.WithContext(project.InDefault(r.Context())), image)
		if w.Code != code {
			t.Errorf("an instance asks for %s: %d", image, w.Code)
		}
	}
}

// TestExecTrustEnds: a command isn't begun for who lost trust while it connected.
func TestExecTrustEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := &session{ctx: ctx, conns: map[string]chan conn{"0": make(chan conn)}}
	if _, err := x.wait(t.Context()); !errors.Is(err, kiln.Denied) {
		t.Error(err)
	}
}

// TestCapped: what is recorded is the beginning, however it is written; the rest is taken and
// dropped.
func TestCapped(t *testing.T) {
	var b strings.Builder
	c := &capped{w: &b, left: 3}
	for _, part := range []string{"ab", "cde", "f"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Error(n, err)
		}
	}
	if b.String() != "abc" {
		t.Errorf("%q", b.String())
	}
}
