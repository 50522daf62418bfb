package server

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/trust"
)

// A record is what a test reads of a daemon's record.
type record struct {
	t      *testing.T
	path   string
	read   int // lines
	events *websocket.Conn
}

// recordOf begins to read the record of a daemon, and its events.
func recordOf(t *testing.T, p *peer, query string) *record {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), "ws://x/1.0/events?type=security"+query, &websocket.DialOptions{HTTPClient: p.Client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	r := &record{t, filepath.Join(p.dir, "audit", audit.Name), 0, conn}
	p.d.Audit(audit.Event{Action: "test-begins"})
	for r.next().Action != "test-begins" {
	}
	return r
}

// next gives the next event, once it is in the file.
func (r *record) next() api.SecurityEvent {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(r.path)
		if err != nil && !os.IsNotExist(err) {
			r.t.Fatal(err)
		}
		if lines := bytes.SplitAfter(b, []byte("\n")); len(lines) > r.read+1 {
			var e api.SecurityEvent
			if err := json.Unmarshal(lines[r.read], &e); err != nil {
				r.t.Fatalf("%s: %v", lines[r.read], err)
			}
			r.read++
			return e
		}
		if time.Now().After(end) {
			r.t.Fatalf("no more in the record: %s", b)
		}
	}
}

// line is what a test compares of an event.
func line(e api.SecurityEvent) string {
	words := []string{e.Action, e.Result}
	if q := e.Requestor; q != nil {
		words = append(words, q.Method, q.Name)
	}
	if e.Project != "" {
		words = append(words, "in "+e.Project)
	}
	words = append(words, e.Source)
	if len(e.Context) > 0 {
		words = append(words, string(encode(e.Context)))
	}
	if e.Reason != "" {
		words = append(words, "since "+e.Reason)
	}
	return strings.Join(words, " ")
}

// expect compares the next events with patterns.
func (r *record) expect(what string, want ...string) (last api.SecurityEvent) {
	r.t.Helper()
	for _, w := range want {
		last = r.next()
		if got := line(last); !regexp.MustCompile("^" + w + "$").MatchString(got) {
			r.t.Errorf("%s: the record has\n%s\nwant\n%s", what, got, w)
		}
	}
	return last
}

// TestAudit has what matters for security done by clients of every sort, and compares what the
// record has of it.
func TestAudit(t *testing.T) {
	p := start(t)
	r := recordOf(t, p, "")
	me := "unix " + userName(uint32(os.Getuid()))
	local := func(method, path, body string) {
		t.Helper()
		p.do(method, path, body, "X-Request-Id", "test-1")
	}
	cert, other := clientCert(t), clientCert(t)
	fp, encoded := trust.Fingerprint(cert), strings.ReplaceAll(trust.PEM(cert), "\n", `\n`)

	// Trust.
	local("POST", "/1.0/projects", `{"name":"own","config":{"restricted":"true"}}`)
	r.expect("a project", `project-created ok `+me+` /1.0/projects/own \{"keys":\["restricted"\]\}`)
	local("POST", "/1.0/certificates", `{"name":"alice","certificate":"`+encoded+`","restricted":true,"projects":["own"]}`)
	e := r.expect("a client", `certificate-created ok `+me+` /1.0/certificates/`+fp+` \{"name":"alice","restricted_to":\["own"\]\}`)
	if q := e.Requestor; *q.UID != uint32(os.Getuid()) || *q.PID != int32(os.Getpid()) || q.Request != "test-1" || !q.Trusted ||
		q.Address != "@" || e.Time.IsZero() {
		t.Errorf("%+v", q)
	}
	local("POST", "/1.0/certificates", `{"certificate":"`+encoded+`"}`)
	r.expect("a client that is there", `certificate-created failed `+me+` .*since .*already.*`)

	// Who isn't trusted, and who may not.
	p.ask(nil, "GET", "/1.0/instances", "")
	r.expect("nobody", `login-refused refused anonymous  /1.0/instances \{"method":"GET"\} since no certificate was shown`)
	p.ask(other, "GET", "/1.0/instances", "")
	e = r.expect("a stranger", `login-refused refused tls  /1.0/instances .*since the certificate isn't one of a trusted client`)
	if q := e.Requestor; q.Certificate != trust.Fingerprint(other) || q.Address != "192.0.2.1:1234" || q.Trusted || q.UID != nil {
		t.Errorf("%+v", q)
	}
	p.ask(other, "POST", "/1.0/certificates", `{"trust_token":"wrong"}`)
	r.expect("a wrong token", `login-refused refused tls  /1.0/certificates .*since not authorized: the token or password.*`)
	p.ask(cert, "PATCH", "/1.0?project=own", `{"config":{"user.x":"y"}}`)
	e = r.expect("a restricted client", `config-updated refused tls alice /1.0 .*since not authorized: this client is restricted.*`)
	if !e.Requestor.Restricted {
		t.Errorf("%+v", e.Requestor)
	}
	p.ask(cert, "GET", "/1.0/certificates", "")
	r.expect("a restricted client", `request-refused refused tls alice /1.0/certificates .*`)
	p.ask(cert, "GET", "/1.0/instances?project=default", "")
	r.expect("another project", `request-refused refused tls alice /1.0/instances .*Project not found.*`)
	p.ask(cert, "POST", "/1.0/instances/x/exec?project=default", `{"command":["id"]}`)
	r.expect("another project", `instance-exec refused tls alice /1.0/instances/x/exec .*Project not found.*`)
	p.ask(cert, "GET", "/1.0/instances?project=own", "") // is none of these
	p.ask(nil, "GET", "/1.0", "")

	// Settings: never a value.
	local("PATCH", "/1.0", `{"config":{"core.trust_password":"hunter2","user.x":"hunter3","user.same":""}}`)
	r.expect("settings", `config-updated ok `+me+` /1.0 \{"keys":\["core.trust_password","user.x"\]\}`)
	local("PUT", "/1.0", `{"config":{"core.trust_password":true}}`)
	r.expect("settings", `config-updated ok `+me+` /1.0 \{"keys":\["user.x"\]\}`)
	local("PATCH", "/1.0", `{"config":{"images.keep_versions":"hunter"}}`)
	r.expect("a wrong setting", `config-updated failed `+me+` /1.0 since cannot set 'images.keep_versions'.*`)
	p.ask(other, "POST", "/1.0/certificates", `{"password":"hunter2","name":"bob"}`)
	r.expect("the password", `certificate-created ok tls  /1.0/certificates/`+trust.Fingerprint(other)+
		` \{"by":"core.trust_password","name":"bob"\}`)
	p.ask(other, "PATCH", "/1.0/certificates/"+fp, `{"name":"alicia"}`)
	r.expect("a changed client", `certificate-updated ok tls bob /1.0/certificates/`+fp+` \{"name":"alicia","restricted_to":\["own"\]\}`)
	local("DELETE", "/1.0/certificates/"+fp[:12], "")
	r.expect("a removed client", `certificate-deleted ok `+me+` /1.0/certificates/`+fp+` \{"name":"alicia"\}`)
	local("PATCH", "/1.0/projects/own", `{"config":{"restricted":"false"}}`)
	r.expect("a project", `project-updated ok `+me+` /1.0/projects/own \{"keys":\["restricted"\]\}`)

	// Configuration of profiles: never a value.
	local("POST", "/1.0/profiles", `{"name":"web","config":{"user.token":"hunter2"},"devices":{"d":{"type":"none"}}}`)
	r.expect("a profile", `profile-created ok `+me+` in default /1.0/profiles/web \{"devices":\["d"\],"keys":\["user.token"\]\}`)
	local("PATCH", "/1.0/profiles/web", `{"config":{"user.token":"hunter3","limits.memory":"1GiB"}}`)
	r.expect("a changed profile", `profile-updated ok `+me+` in default /1.0/profiles/web \{"keys":\["limits.memory","user.token"\]\}`)
	local("PUT", "/1.0/profiles/web", `{"config":{"user.token":"hunter3","security.privileged":"perhaps"}}`)
	r.expect("a wrong change", `profile-updated failed `+me+` in default /1.0/profiles/web `+
		`\{"devices":\["d"\],"keys":\["limits.memory","security.privileged"\]\} since .*`)
	local("POST", "/1.0/profiles/web", `{"name":"wob"}`)
	r.expect("a renamed profile", `profile-renamed ok `+me+` in default /1.0/profiles/web`)
	local("DELETE", "/1.0/profiles/wob", "")
	r.expect("a deleted profile", `profile-deleted ok `+me+` in default /1.0/profiles/wob`)

	// Images.
	key, err := signing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	img := "/1.0/images/" + p.uploadTo(t, "default", formattest.Tiny(t, "1"))
	local("PATCH", img, `{"public":true}`)
	r.expect("a public image", `image-made-public ok `+me+` in default `+img)
	local("PATCH", img, `{"properties":{"os":"x"}}`) // changes nothing of that
	local("PATCH", img, `{"public":false}`)
	r.expect("a private image", `image-made-private ok `+me+` in default `+img)
	public := p.uploadTo(t, "own", formattest.Tiny(t, "2"), "X-LXD-public", "1")
	if e := r.next(); e.Action != "image-made-public" || e.Project != "own" || !strings.HasSuffix(e.Source, public) {
		t.Errorf("%+v", e)
	}
	local("POST", "/1.0/kiln/mirrors", `{"name":"m","server":"https://192.0.2.1","protocol":"simplestreams","pull_through":true,
		"image_key":"`+key.Key().String()+`"}`)
	r.expect("a mirror", `mirror-created begun `+me+` /1.0/kiln/mirrors/m \{"key":"`+key.Key().ID()+`"\}`,
		`mirror-created ok `+me+` .*`)

	// Configuration of instances, and then their files.
	p.empty("c")
	local("PATCH", "/1.0/instances/c", `{"config":{"user.token":"hunter5"},"devices":{"d":{"type":"none"}}}`)
	r.expect("a changed instance", `instance-updated ok `+me+` in default /1.0/instances/c `+
		`\{"devices":\["d"\],"keys":\["user.token"\]\}`)
	local("PATCH", "/1.0/instances/c", `{"config":{"user.token":""},"profiles":[]}`)
	r.expect("a wrong change of an instance", `instance-updated failed `+me+` in default /1.0/instances/c `+
		`\{"keys":\["user.token"\],"profiles":\[\]\} since .*root disk.*`)
	local("POST", "/1.0/instances/c/files?path=/f", "secret of the file")
	r.expect("a file", `instance-file-pushed ok `+me+` in default /1.0/instances/c/files \{"path":"/f"\}`)
	local("GET", "/1.0/containers/c/files?path=/f", "")
	r.expect("a file", `instance-file-retrieved ok `+me+` in default /1.0/instances/c/files \{"path":"/f"\}`)
	local("DELETE", "/1.0/instances/c/files?path=/none", "")
	r.expect("a file", `instance-file-deleted failed `+me+` in default /1.0/instances/c/files .*no such file.*`)
	local("POST", "/1.0/instances/c/exec", `{"command":["rm","-r","/"],"environment":{"PASSWORD":"hunter4"}}`)
	r.expect("a stopped instance", `instance-exec failed `+me+` in default /1.0/instances/c/exec \{"command":\["rm","-r","/"\]\}.*`)

	b, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`hunter[234]|secret of`).Match(b) {
		t.Errorf("the record tells secrets: %s", b)
	}

	// Who listens hears the same, of the project that is asked for and of none.
	for _, want := range bytes.SplitAfter(b, []byte("\n")) {
		var e api.Event
		if len(want) == 0 || bytes.Contains(want, []byte("server-started")) || bytes.Contains(want, []byte(`"project":"own"`)) {
			continue
		}
		_, got, err := r.events.Read(t.Context())
		if err != nil || json.Unmarshal(got, &e) != nil || e.Type != "security" || string(e.Metadata)+"\n" != string(want) {
			t.Fatalf("an event is %s (%v), and the line %s", got, err, want)
		}
	}
}

// TestAuditTokens follows a join token: made, used, and one that is taken back.
func TestAuditTokens(t *testing.T) {
	p := start(t)
	address := p.network(t)
	if err := p.d.Listen(t.Context(), address, func([]string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	r := recordOf(t, p, "")
	issue := func() (secret, operation string) {
		var a struct {
			Operation string
			Metadata  api.Operation
		}
		_, b := p.do("POST", "/1.0/certificates", `{"name":"alice","token":true}`)
		if err := json.Unmarshal(b, &a); err != nil {
			t.Fatalf("%s", b)
		}
		secret, _ = a.Metadata.Metadata["secret"].(string)
		return secret, a.Operation
	}
	secret, operation := issue()
	e := r.expect("a token", `join-token begun unix \S+ /1.0/certificates \{"name":"alice"\}`)
	if secret == "" || !strings.HasSuffix(operation, e.Operation) || strings.Contains(string(encode(e)), secret) {
		t.Errorf("%+v", e)
	}
	// Whoever has it hides nothing by asking for other things before.
	cert, refused := clientCert(t), 0
	for range 30 {
		p.ask(cert, "GET", "/1.0/instances", "")
	}
	p.ask(cert, "POST", "/1.0/certificates", `{"trust_token":"`+secret+`"}`)
	got := map[string]bool{}
	for len(got) < 2 { // at the same time
		e := r.next()
		if e.Action == "login-refused" {
			refused++
			continue
		}
		got[fmt.Sprint(e.Action, e.Result, e.Context)] = true
	}
	if refused > 10 || !got["certificate-createdokmap[by:join token name:alice]"] ||
		!got["join-tokenokmap[address:192.0.2.1 certificate:"+trust.Fingerprint(cert)+" name:alice]"] {
		t.Errorf("%d refused, %v", refused, got)
	}
	_, operation = issue()
	r.expect("a token", `join-token begun .*`)
	p.do("DELETE", operation, "")
	r.expect("a token that is taken back", `join-token failed .*`)
}

// TestSecurityEventsAreOfFew: restricted clients are told of no security event, whatever they
// ask for; of who may hear them, nobody does without asking, nor of another project.
func TestSecurityEventsAreOfFew(t *testing.T) {
	p := start(t)
	address := p.network(t)
	p.admin(t, "POST", "/1.0/projects", `{"name":"own"}`)
	guest, friend := pair(t, time.Hour), pair(t, time.Hour)
	for cert, c := range map[*x509.Certificate]daemon.Client{guest.Leaf: {Restricted: true, Projects: []string{"own"}},
		friend.Leaf: {}} {
		if err := p.d.AddClient(t.Context(), cert, c); err != nil {
			t.Fatal(err)
		}
	}
	for _, query := range []string{"type=security&project=own", "type=lifecycle,security&project=own",
		"type=security&all-projects=true"} {
		if w := p.ask(guest.Leaf, "GET", "/1.0/events?"+query, ""); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	dial := func(hc *http.Client, query string) *websocket.Conn {
		c, _, err := websocket.Dial(t.Context(), "wss://"+address+"/1.0/events?"+query, &websocket.DialOptions{HTTPClient: hc})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.CloseNow() })
		return c
	}
	theirs, plain := dial(as(t, guest), "project=own"), dial(as(t, friend), "all-projects=true")
	own, all := dial(as(t, friend), "type=security&project=own"), dial(as(t, friend), "type=security&all-projects=true")
	for _, in := range []string{"default", "own"} {
		p.d.Audit(audit.Event{Action: "secret of " + in, Project: in})
	}
	p.d.Audit(audit.Event{Action: "secret of all"})
	p.admin(t, "POST", "/1.0/profiles?project=own", `{"name":"last"}`)
	for c, want := range map[*websocket.Conn]string{theirs: "profile-created", plain: "profile-created",
		own: "secret of own, secret of all", all: "secret of default, secret of own, secret of all"} {
		for _, w := range strings.Split(want, ", ") {
			_, b, err := c.Read(t.Context())
			if err != nil || !strings.Contains(string(b), `"action":"`+w+`"`) {
				t.Errorf("got %s (%v), want %s", b, err, w)
			}
		}
	}
	// Nor does who is told of nothing get any by another way.
	r := httptest.NewRequest("GET", "/1.0/events", nil)
	for _, c := range []caller{{trusted: true, restricted: true, projects: []string{"own"}}, {}} {
		for _, in := range []string{"own", "default", ""} {
			if hears(r.WithContext(withCaller(r.Context(), c)), event.Event{Type: "security", Metadata: audit.Event{Project: in}}) {
				t.Errorf("%+v hears of what is in %q", c, in)
			}
		}
	}
}

// TestAuditIsDescribed: the reference names every action that the record may have, and no other.
func TestAuditIsDescribed(t *testing.T) {
	b, err := os.ReadFile("../../docs/reference/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "\n## Actions\n")
	table, _, _ = strings.Cut(table, "\n## ")
	described := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` ").FindAllStringSubmatch(table, -1) {
		described[m[1]] = true
	}
	known := map[string]bool{loginRefused: true, requestRefused: true}
	for _, a := range append(daemon.AuditActions(), audit.Actions()...) {
		known[a] = true
	}
	for _, to := range start(t).s.routes() {
		for method, a := range to.audit {
			if known[a] = true; to.methods()[method] == nil {
				t.Errorf("%s has %s in the record, which nobody can", to.path, method)
			}
		}
	}
	for a := range known {
		if !described[a] {
			t.Errorf("%s isn't described", a)
		}
		delete(described, a)
	}
	for a := range described {
		t.Errorf("%s is described, and there is no such action", a)
	}
}
