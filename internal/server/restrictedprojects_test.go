package server

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/op"
)

// restrictedTo gives the certificate of a client that may use some projects.
func (p *peer) restrictedTo(t *testing.T, projects ...string) *x509.Certificate {
	t.Helper()
	cert := clientCert(t)
	c := daemon.Client{Name: "some", Restricted: true, Projects: projects}
	if err := p.d.AddClient(t.Context(), cert, c); err != nil {
		t.Fatal(err)
	}
	return cert
}

// hidden are the names of what a project has, none of which anybody else may be told.
type hidden struct {
	image string
	file  string // the hash of its file
}

// project makes a project with one of everything, called hidden-….
func (p *peer) project(t *testing.T, name string) hidden {
	t.Helper()
	if name != "default" {
		p.admin(t, "POST", "/1.0/projects", `{"name":"`+name+`"}`)
	}
	in := "?project=" + name
	p.admin(t, "POST", "/1.0/profiles"+in, `{"name":"hidden-profile"}`)
	p.admin(t, "POST", "/1.0/instances"+in, `{"name":"hidden-instance","source":{"type":"none"},
		"profiles":["default","hidden-profile"]}`)
	p.admin(t, "POST", "/1.0/instances/hidden-instance/snapshots"+in, `{"name":"hidden-snapshot"}`)
	p.admin(t, "POST", "/1.0/storage-pools/default/volumes/custom"+in, `{"name":"hidden-volume"}`)
	p.admin(t, "POST", "/1.0/storage-pools/default/volumes/custom/hidden-volume/snapshots"+in, `{"name":"hidden-snapshot"}`)
	for _, of := range []string{"instances/hidden-instance", "storage-pools/default/volumes/custom/hidden-volume"} {
		p.admin(t, "POST", "/1.0/"+of+"/backups"+in, `{"name":"hidden-backup"}`)
	}
	body := formattest.Tiny(t, "hidden-image of "+name)
	fp := p.uploadTo(t, name, body, "X-LXD-properties", "os=hidden-os")
	p.admin(t, "POST", "/1.0/images/aliases"+in, `{"name":"hidden-alias","target":"`+fp+`"}`)
	return hidden{image: fp, file: fp}
}

// uploadTo brings an image into a project, and gives its fingerprint.
func (p *peer) uploadTo(t *testing.T, project string, body []byte, header ...string) string {
	t.Helper()
	_, b := p.do("POST", "/1.0/images?project="+project, string(body), append([]string{"Content-Type",
		"application/octet-stream"}, header...)...)
	var a api.Response
	if err := json.Unmarshal(b, &a); err != nil || a.Operation == "" {
		t.Fatalf("upload: %s", b)
	}
	o := get[api.Operation](p, a.Operation+"/wait")
	fp, _ := o.Metadata["fingerprint"].(string)
	if o.Err != "" || fp == "" {
		t.Fatalf("upload: %+v", o)
	}
	return fp
}

// contents is what a project has, as who may sees it.
func (p *peer) contents(name string) string {
	var all []string
	for _, path := range []string{"instances", "images", "images/aliases", "profiles", "instances/hidden-instance/snapshots",
		"kiln/alias-history/hidden-alias", "storage-pools/default/volumes", "storage-pools/default/volumes/custom/hidden-volume/snapshots",
		"storage-pools/default/volumes/custom/hidden-volume/backups", "instances/hidden-instance/backups"} {
		_, b := p.do("GET", "/1.0/"+path+"?recursion=1&project="+name, "")
		all = append(all, string(b))
	}
	return strings.Join(all, "\n")
}

// TestRestrictedOnEveryRoute has a client of one project ask for what is in two others, on
// every route, in every way to say which project is meant: it is told of nothing, and
// nothing changes.
func TestRestrictedOnEveryRoute(t *testing.T) {
	p := start(t)
	theirs := map[string]hidden{"other": p.project(t, "other"), "default": p.project(t, "default")}
	p.admin(t, "POST", "/1.0/projects", `{"name":"own"}`)
	guest := p.restrictedTo(t, "own")
	before := p.contents("other") + p.contents("default")
	for _, to := range p.s.routes() {
		if strings.HasPrefix(to.path, "/1.0/events") || strings.HasSuffix(to.path, "/websocket") {
			continue
		}
		for method := range to.methods() {
			for in, has := range theirs {
				path := to.path
				for part, value := range map[string]string{"{name...}": "hidden-alias", "{snap}": "hidden-snapshot", "{backup}": "hidden-backup",
					"{hash}": has.file, "{base}": has.file, "{other}": has.image, "{file}": "lxc.log", "{id}": "x",
					"{fingerprint}": "0", "{type}": "custom", "{volume}": "hidden-volume", "{name}": nameFor(to.path, has)} {
					path = strings.ReplaceAll(path, part, value)
				}
				for _, query := range []string{"?recursion=2", "?recursion=2&project=own", "?recursion=2&project=" + in,
					"?recursion=2&all-projects=true", "?recursion=2&project=own&path=hidden.tpl"} {
					body := `{"name":"moved","target":"` + has.image + `","config":{"user.x":"y"},"restore":"hidden-snapshot",
						"source":{"type":"copy","source":"hidden-instance","project":"` + in + `","fingerprint":"` + has.image + `"}}`
					w := p.ask(guest, method, path+query, body)
					if w.Code < 400 && strings.Contains(w.Body.String(), "hidden") {
						t.Errorf("%s %s: %d %s", method, path+query, w.Code, w.Body)
					}
				}
			}
		}
	}
	if after := p.contents("other") + p.contents("default"); after != before {
		t.Errorf("changed:\n%s\nwas:\n%s", after, before)
	}
}

func nameFor(path string, has hidden) string {
	switch {
	case strings.Contains(path, "/images/"):
		return has.image
	case strings.Contains(path, "/profiles/"):
		return "hidden-profile"
	case strings.Contains(path, "/storage-pools/"):
		return "default"
	case strings.Contains(path, "/projects/"):
		return "other"
	}
	return "hidden-instance"
}

// TestImagesOfOtherProjects has a client name another project's private image in every way
// that gives or uses one. The same words for an image that nobody has get the same answers.
func TestImagesOfOtherProjects(t *testing.T) {
	p := start(t)
	other := p.project(t, "other")
	p.admin(t, "POST", "/1.0/projects", `{"name":"own"}`)
	guest := p.restrictedTo(t, "own")
	own := p.uploadTo(t, "own", formattest.Tiny(t, "mine"))
	nobody := strings.Repeat("7", 64)
	answer := func(fp, method, path, body string) string {
		path, body = strings.ReplaceAll(path, "FP", fp), strings.ReplaceAll(body, "FP", fp)
		path, body = strings.ReplaceAll(path, "OWN", own), strings.ReplaceAll(body, "OWN", own)
		w := p.ask(guest, method, path, body)
		text := p.outcome(guest, method, path, body)
		for _, s := range []string{fp, fp[:12]} {
			text = strings.ReplaceAll(text, s, "FP")
		}
		if w.Code < 400 && !strings.Contains(text, `"Failure"`) {
			t.Errorf("%s %s %s is done: %d %s", method, path, body, w.Code, text)
		}
		return fmt.Sprint(w.Code, masked(text))
	}
	for _, c := range [][3]string{
		{"GET", "/1.0/images/FP?project=own", ""}, {"GET", "/1.0/images/FP/export?project=own", ""},
		{"POST", "/1.0/images/FP/secret?project=own", "{}"}, {"POST", "/1.0/images/FP/refresh?project=own", "{}"},
		{"POST", "/1.0/images/FP/verify?project=own", "{}"}, {"DELETE", "/1.0/images/FP?project=own", ""},
		{"POST", "/1.0/images/aliases?project=own", `{"name":"a","target":"FP"}`},
		{"GET", "/1.0/kiln/images/FP/files/FP?project=own", ""}, {"GET", "/1.0/kiln/images/OWN/files/FP?project=own", ""},
		{"GET", "/1.0/kiln/images/FP/files/FP/index?project=own", ""},
		{"GET", "/1.0/kiln/images/OWN/files/OWN/patch/FP?project=own", ""},
		{"GET", "/1.0/kiln/images/FP/files/FP/patch/OWN?project=own", ""},
		{"GET", "/1.0/kiln/images/OWN/diff/FP?project=own", ""}, {"GET", "/1.0/kiln/images/FP/diff/OWN?project=own", ""},
		{"POST", "/1.0/instances?project=own", `{"name":"i","source":{"type":"image","fingerprint":"FP"}}`},
		{"POST", "/1.0/instances?project=own", `{"name":"i","source":{"type":"image","alias":"FP"}}`},
		{"POST", "/1.0/instances?project=own", `{"name":"i","source":{"type":"copy","source":"FP","project":"other"}}`},
	} {
		has, none := answer(other.image, c[0], c[1], c[2]), answer(nobody, c[0], c[1], c[2])
		if has != none {
			t.Errorf("%s %s %s tells whether somebody has the image:\n%s\n%s", c[0], c[1], c[2], has, none)
		}
	}
	// Who has the bytes has the image, once on the disk.
	body := formattest.Tiny(t, "hidden-image of other")
	p.uploadTo(t, "own", body)
	p.admin(t, "DELETE", "/1.0/images/"+other.image+"?project=other", "")
	if w := p.ask(guest, "GET", "/1.0/images/"+other.image+"/export?project=own", ""); w.Code != 200 ||
		w.Body.String() != string(body) {
		t.Errorf("the image went with another project's: %d", w.Code)
	}
}

// masked leaves out what differs between any two answers.
func masked(text string) string {
	var words []string
	for _, w := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(` ",{}`, r) }) {
		if strings.Contains(w, "T0") || strings.Contains(w, "T1") || strings.Contains(w, "T2") || strings.Count(w, "-") == 4 {
			continue
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// TestSharedImages: a project that uses the default one's images can't be used to change
// them by a client that may not use that.
func TestSharedImages(t *testing.T) {
	p := start(t)
	shared := p.project(t, "default")
	p.admin(t, "POST", "/1.0/projects", `{"name":"own","config":{"features.images":"false"}}`)
	guest := p.restrictedTo(t, "own")
	if w := p.ask(guest, "GET", "/1.0/images/"+shared.image+"?project=own", ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, c := range [][3]string{{"DELETE", "/1.0/images/" + shared.image, ""},
		{"POST", "/1.0/images/aliases", `{"name":"a","target":"` + shared.image + `"}`},
		{"DELETE", "/1.0/images/aliases/hidden-alias", ""}, {"PATCH", "/1.0/images/" + shared.image, `{"public":true}`},
		{"POST", "/1.0/kiln/images/prune", `{"all":true}`}, {"POST", "/1.0/images", `{}`}} {
		if w := p.ask(guest, c[0], c[1]+"?project=own", c[2]); w.Code != http.StatusForbidden {
			t.Errorf("%s %s: %d %s", c[0], c[1], w.Code, w.Body)
		}
	}
	if all := get[[]api.Image](p, "/1.0/images?recursion=1"); len(all) != 1 || all[0].Public {
		t.Errorf("%+v", all)
	}
}

// TestEventsOfProjects: who listens hears of the projects it asked for and may know of.
func TestEventsOfProjects(t *testing.T) {
	p := start(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"own"}`)
	p.admin(t, "POST", "/1.0/projects", `{"name":"other"}`)
	guest := p.restrictedTo(t, "own")
	for _, c := range []struct {
		as    *x509.Certificate
		query string
		want  []string
	}{
		{nil, "", []string{"default"}}, {nil, "?project=own", []string{"own"}},
		{nil, "?all-projects=true", []string{"default", "other", "own"}},
		{guest, "?project=own", []string{"own"}}, {guest, "?all-projects=true", []string{"own"}},
	} {
		r, err := http.NewRequest("GET", "/1.0/events"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		who := caller{trusted: true}
		if c.as != nil {
			who = p.s.whose(t.Context(), c.as)
		}
		r = r.WithContext(withCaller(t.Context(), who))
		r, err = p.s.inProject(r, route{path: "/1.0/events", several: true}, "GET")
		if err != nil {
			t.Fatal(err)
		}
		var heard []string
		for _, name := range []string{"default", "other", "own"} {
			if hears(r, event.Event{Type: "lifecycle", Metadata: daemon.Lifecycle{Project: name}}) {
				heard = append(heard, name)
			}
		}
		if !slices.Equal(heard, c.want) {
			t.Errorf("%q hears of %v, want %v", c.query, heard, c.want)
		}
		for _, o := range []struct {
			project, owner string
			want           bool
		}{
			{"own", who.fingerprint, slices.Contains(c.want, "own")}, {"own", "x", slices.Contains(c.want, "own") && c.as == nil},
			{"other", who.owner(), slices.Contains(c.want, "other")},
		} {
			e := event.Event{Type: "operation", Metadata: op.Snapshot{Project: o.project, Owner: o.owner}}
			if got := hears(r, e); got != o.want {
				t.Errorf("%q hears of the operation of %q in %q: %v", c.query, o.owner, o.project, got)
			}
		}
		if got := hears(r, event.Event{Type: "lifecycle", Metadata: daemon.Lifecycle{}}); got != (c.as == nil) {
			t.Errorf("%q hears of the server: %v", c.query, got)
		}
	}
	who := p.s.whose(t.Context(), guest)
	for name, want := range map[string]bool{"own": true, "other": false} {
		if got := who.maySee(op.Snapshot{Project: name, Owner: who.fingerprint}); got != want {
			t.Errorf("a client sees what it began in %q: %v", name, got)
		}
	}
	if w := p.ask(guest, "GET", "/1.0/events", ""); w.Code != http.StatusForbidden {
		t.Errorf("events of the default project: %d", w.Code)
	}
	c, _, err := websocket.Dial(t.Context(), "ws://x/1.0/events?"+url.Values{"project": {"own"}}.Encode(),
		&websocket.DialOptions{HTTPClient: p.Client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	p.admin(t, "POST", "/1.0/instances?project=other", `{"name":"there","source":{"type":"none"}}`)
	p.admin(t, "POST", "/1.0/instances?project=own", `{"name":"here","source":{"type":"none"}}`)
	for {
		_, b, err := c.Read(t.Context())
		if err != nil || strings.Contains(string(b), "there") || !strings.Contains(string(b), `"project":"own"`) {
			t.Fatalf("%s, %v", b, err)
		}
		if strings.Contains(string(b), "instance-created") {
			return
		}
	}
}

// TestRestrictedMove has a client give its instance to a project that isn't its own: it is
// told that there is none, and the instance stays.
func TestRestrictedMove(t *testing.T) {
	p := start(t)
	for _, name := range []string{"own", "second", "other"} {
		p.admin(t, "POST", "/1.0/projects", `{"name":"`+name+`"}`)
	}
	p.admin(t, "POST", "/1.0/profiles?project=own", `{"name":"extra"}`)
	p.admin(t, "POST", "/1.0/profiles?project=second", `{"name":"extra","devices":{"host":{"type":"disk",
		"source":"`+t.TempDir()+`","path":"/host"}}}`)
	p.admin(t, "POST", "/1.0/instances?project=own", `{"name":"mine","source":{"type":"none"},
		"profiles":["default","extra"]}`)
	guest := p.restrictedTo(t, "own", "second")
	move := func(to string, more ...string) int {
		w := p.ask(guest, "POST", "/1.0/instances/mine?project=own", `{"name":"mine","migration":true,"project":"`+to+`"`+
			strings.Join(more, "")+`}`)
		if w.Code != http.StatusAccepted {
			return w.Code
		}
		var a api.Response
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		o := get[api.Operation](p, a.Operation+"/wait")
		if kind, _ := o.Metadata[api.KindKey].(string); kind == string(kiln.Denied) {
			return http.StatusForbidden
		}
		return o.StatusCode
	}
	for _, to := range []string{"other", "nowhere", "default"} {
		if code := move(to); code != http.StatusNotFound {
			t.Errorf("to %s: %d", to, code)
		}
	}
	if n := get[[]string](p, "/1.0/instances?project=own"); len(n) != 1 {
		t.Errorf("left are %v", n)
	}
	// There, a profile of the same name gives files of the host.
	if code := move("second"); code != http.StatusForbidden {
		t.Errorf("to where it would reach the host: %d", code)
	}
	if code := move("second", `,"profiles":["default"]`); code != http.StatusOK {
		t.Errorf("to its other project: %d", code)
	}
}
