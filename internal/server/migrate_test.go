package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/migrate"
	"github.com/kiln-containers/kiln/internal/trust"
)

// begin starts a migration, and connects to it as the other server does.
func (p *peer) begin(path, body string) (operation string, conns map[string]*websocket.Conn) {
	p.t.Helper()
	_, b := p.do("POST", path, body, "Content-Type", "application/json")
	var a api.Response
	var o api.Operation
	if err := json.Unmarshal(b, &a); err != nil || a.Type != "async" || json.Unmarshal(a.Metadata, &o) != nil {
		p.t.Fatalf("POST %s: %s", path, b)
	}
	conns = map[string]*websocket.Conn{}
	for _, name := range []string{"control", "fs"} {
		c, _, err := websocket.Dial(p.t.Context(), "ws://x"+a.Operation+"/websocket?secret="+o.Metadata[name].(string),
			&websocket.DialOptions{HTTPClient: p.Client})
		if err != nil {
			p.t.Fatal(err)
		}
		c.SetReadLimit(-1)
		p.t.Cleanup(func() { c.CloseNow() })
		conns[name] = c
	}
	return a.Operation, conns
}

// relay carries messages between source and target, as clients do, until they end it, or
// after so many bytes of files.
func relay(ctx context.Context, source, target map[string]*websocket.Conn, most int) {
	ctx, cut := context.WithCancel(ctx)
	budget := make(chan int, 1)
	budget <- most
	carry := func(from, to *websocket.Conn, counted bool) {
		for {
			kind, b, err := from.Read(ctx)
			if err != nil {
				status := websocket.CloseStatus(err)
				if status == -1 {
					status = websocket.StatusGoingAway
				}
				_ = to.Close(status, "")
				return
			}
			if counted {
				left := <-budget - len(b)
				if budget <- left; left < 0 {
					cut()
					return
				}
			}
			if to.Write(ctx, kind, b) != nil {
				return
			}
		}
	}
	for _, name := range []string{"control", "fs"} {
		go carry(source[name], target[name], name == "fs")
		go carry(target[name], source[name], name == "fs")
	}
	go func() {
		<-ctx.Done()
		for _, conns := range []map[string]*websocket.Conn{source, target} {
			for _, c := range conns {
				c.CloseNow()
			}
		}
	}()
}

const pushed = `{"name":"c2","architecture":"x86_64","profiles":["default"],"config":{"user.a":"b","volatile.uuid":"x"},
	"source":{"type":"migration","mode":"push"}}`

// TestMigration carries an instance from a server to itself, and cuts that in many places
// before: nothing is left then, and the name is free.
func TestMigration(t *testing.T) {
	p := start(t)
	fp := p.upload(formattest.Unified(t)).Metadata["fingerprint"].(string)
	for path, body := range map[string]string{
		"/1.0/instances": `{"name":"c1","source":{"type":"image","fingerprint":"` + fp + `"}}`} {
		if o := p.finish("POST", path, body); o.Err != "" {
			t.Fatal(o.Err)
		}
	}
	if o := p.finish("POST", "/1.0/instances/c1/snapshots", `{"name":"s0","expires_at":"2099-01-02T00:00:00Z"}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	var whole api.Operation
	for _, most := range []int{0, 10, 1000, 100_000, 300_000, 1 << 40} {
		ctx, cancel := context.WithCancel(t.Context())
		from, source := p.begin("/1.0/instances/c1", `{"migration":true}`)
		to, target := p.begin("/1.0/instances", pushed)
		relay(ctx, source, target, most)
		whole = get[api.Operation](p, to+"/wait")
		sent := get[api.Operation](p, from+"/wait")
		cancel()
		if (whole.Err == "") != (sent.Err == "") {
			t.Errorf("after %d bytes the target says %q, and the source %q", most, whole.Err, sent.Err)
		}
		if list := get[[]string](p, "/1.0/instances"); (len(list) == 2) != (whole.Err == "") {
			t.Errorf("after %d bytes: %v, %s", most, list, whole.Err)
		}
		if whole.Err == "" {
			break
		}
	}
	if whole.Err != "" {
		t.Fatal(whole.Err)
	}
	c2 := get[api.Instance](p, "/1.0/instances/c2")
	if c2.Config["user.a"] != "b" || c2.Config["volatile.uuid"] == "x" {
		t.Errorf("%+v", c2)
	}
	s := get[[]api.InstanceSnapshot](p, "/1.0/instances/c2/snapshots?recursion=1")
	if len(s) != 1 || s[0].Name != "s0" || s[0].ExpiresAt.Year() != 2099 {
		t.Errorf("%+v", s)
	}
	want, got := p.tree("c1"), p.tree("c2")
	if want != got || !strings.Contains(got, "bin") {
		t.Errorf("c1 has %s, c2 %s", want, got)
	}
}

// TestRefresh brings a copy up to date, with the snapshots that it lacks, and without those
// that the source hasn't got.
func TestRefresh(t *testing.T) {
	p := start(t)
	p.empty("c1")
	snapshot := func(of, name string) {
		t.Helper()
		if o := p.finish("POST", "/1.0/instances/"+of+"/snapshots", `{"name":"`+name+`"}`); o.Err != "" {
			t.Fatal(o.Err)
		}
	}
	refresh := strings.Replace(pushed, `"push"`, `"push","refresh":true`, 1)
	uuid := get[api.Instance](p, "/1.0/instances/c1").Config["volatile.uuid"]
	const nic, mac = `"devices":{"eth0":{"type":"nic","network":"kilnbr0"}},"config":{`, "00:16:3e:00:00:01"
	refresh = strings.Replace(refresh, `"config":{`, nic+`"volatile.eth0.hwaddr":"`+mac+`",`, 1)
	refresh = strings.Replace(refresh, `"volatile.uuid":"x"`, `"volatile.uuid":"`+uuid+`"`, 1)
	// lxc writes the other one's configuration over it at the end, with what that server keeps.
	body := `{"architecture":"x86_64","profiles":["default"],` + nic + `"user.b":"c","volatile.uuid":"` + uuid + `",
		"volatile.idmap.next":"[]","volatile.eth0.hwaddr":"` + mac + `"}}`
	carry := func(most int) string {
		from, source := p.begin("/1.0/instances/c1", `{"migration":true}`)
		to, target := p.begin("/1.0/instances", refresh)
		relay(t.Context(), source, target, most)
		err := get[api.Operation](p, to+"/wait").Err
		if sent := get[api.Operation](p, from+"/wait?timeout=20"); (sent.Status == "Success") != (err == "") {
			t.Errorf("the target says %q, and the source %s %q", err, sent.Status, sent.Err)
		}
		return err
	}
	snapshot("c1", "s0")
	if err := carry(1 << 40); err != "" { // it isn't there yet
		t.Fatal(err)
	}
	first := strings.Replace(body, `"user.b":"c"`, `"user.a":"b"`, 1)
	if o := p.finish("PUT", "/1.0/instances/c2", first); o.Err != "" {
		t.Error(o.Err)
	}
	address := get[api.Instance](p, "/1.0/instances/c2").Config["volatile.eth0.hwaddr"]
	if address == "" || address == mac {
		t.Errorf("the address of the copy is %q", address)
	}
	snapshot("c1", "s1")
	snapshot("c2", "mine")
	refresh = strings.Replace(refresh, `"user.a":"b"`, `"security.privileged":"true"`, 1) // it keeps its own
	if o := p.finish("DELETE", "/1.0/instances/c1/snapshots/s0", ""); o.Err != "" {
		t.Fatal(o.Err)
	}
	before := get[api.Instance](p, "/1.0/instances/c2")
	if err := carry(100); err == "" {
		t.Error("it is up to date with half the files")
	}
	if list := strings.Join(get[[]string](p, "/1.0/instances/c2/snapshots"), " "); strings.Contains(list, "s1") ||
		!strings.Contains(list, "s0") || !strings.Contains(list, "mine") {
		t.Errorf("after half a refresh: %s", list)
	}
	if err := carry(1 << 40); err != "" {
		t.Fatal(err)
	}
	if list := get[[]string](p, "/1.0/instances/c2/snapshots"); len(list) != 1 || !strings.HasSuffix(list[0], "/s1") {
		t.Error(list)
	}
	files, err := os.ReadDir(filepath.Join(p.dir, "volumes/snapshots"))
	if err != nil || len(files) != 2 { // of s1 of both
		t.Errorf("the files of %d snapshots: %v", len(files), err)
	}
	snapshot("c1", "s2")
	rules := func(body string) {
		t.Helper()
		if resp, b := p.do("PATCH", "/1.0/projects/default", body); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s", b)
		}
	}
	rules(`{"config":{"restricted":"true","restricted.snapshots":"block"}}`)
	if err := carry(1 << 40); !strings.Contains(err, "1 snapshots would come along") {
		t.Errorf("a snapshot where there may be none: %q", err)
	}
	if list := get[[]string](p, "/1.0/instances/c2/snapshots"); len(list) != 1 {
		t.Error(list)
	}
	rules(`{"config":{"restricted":"false"}}`)
	if err := carry(1 << 40); err != "" { // with s1 here, only s2 comes
		t.Error(err)
	}
	if list := get[[]string](p, "/1.0/instances/c2/snapshots"); len(list) != 2 {
		t.Error(list)
	}
	after := get[api.Instance](p, "/1.0/instances/c2")
	if after.Config["security.privileged"] != "" || after.Config["user.a"] != "b" {
		t.Errorf("the configuration came along: %v", after.Config)
	}
	if after.CreatedAt != before.CreatedAt || after.Config["volatile.uuid"] == before.Config["volatile.uuid"] {
		t.Errorf("%+v, and was %+v", after, before)
	}
	if o := p.finish("PUT", "/1.0/instances/c2", body); o.Err != "" {
		t.Error(o.Err)
	}
	if last := get[api.Instance](p, "/1.0/instances/c2").Config; last["user.b"] != "c" ||
		last["volatile.uuid"] != after.Config["volatile.uuid"] || last["volatile.idmap.next"] != "" ||
		last["volatile.eth0.hwaddr"] != address {
		t.Error(last)
	}
	if o := p.finish("POST", "/1.0/instances/c2/snapshots/s1", `{"name":"s3"}`); o.Err != "" {
		t.Error(o.Err)
	}
	if o := p.finish("PUT", "/1.0/instances/c2", `{"restore":"s3"}`); o.Err != "" {
		t.Error(o.Err)
	}

	// Another one has its name when the files come.
	from, source := p.begin("/1.0/instances/c1", `{"migration":true}`)
	to, target := p.begin("/1.0/instances", refresh)
	if o := p.finish("DELETE", "/1.0/instances/c2", ""); o.Err != "" {
		t.Fatal(o.Err)
	}
	p.empty("c2")
	other := get[api.Instance](p, "/1.0/instances/c2").Config["volatile.uuid"]
	relay(t.Context(), source, target, 1<<40)
	there, here := get[api.Operation](p, from+"/wait"), get[api.Operation](p, to+"/wait")
	if there.Status == "Success" || here.Status == "Success" {
		t.Errorf("the target says %s, and the source %s", here.Status, there.Status)
	}
	if now := get[api.Instance](p, "/1.0/instances/c2").Config["volatile.uuid"]; now != other {
		t.Error("the other one has the files")
	}
}

// TestMigrationTwice has the source send the files of the instance twice, as LXD does of one that
// runs: those that come last count.
func TestMigrationTwice(t *testing.T) {
	p := start(t)
	p.empty("c1")
	put := func(name string) {
		t.Helper()
		if r, b := p.do("POST", "/1.0/instances/c1/files?path="+name, "x"); r.StatusCode != http.StatusOK {
			t.Fatalf("%s", b)
		}
	}
	put("first")
	if o := p.finish("POST", "/1.0/instances/c1/snapshots", `{"name":"s0"}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	put("last")
	from, source := p.begin("/1.0/instances/c1", `{"migration":true}`)
	to, target := p.begin("/1.0/instances", pushed)
	// It sends two trees: what it says of them is changed on the way.
	_, b, err := source["control"].Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, err := migrate.ParseHeader(b)
	if err != nil || len(h.Names) != 1 {
		t.Fatalf("%+v, %v", h, err)
	}
	h.Names, h.Snapshots, h.Processes = nil, nil, migrate.JustFiles
	if err := target["control"].Write(t.Context(), websocket.MessageBinary, h.Marshal()); err != nil {
		t.Fatal(err)
	}
	relay(t.Context(), source, target, 1<<40)
	for _, o := range []string{to, from} {
		if o := get[api.Operation](p, o+"/wait"); o.Status != "Success" {
			t.Errorf("%s: %s", o.Status, o.Err)
		}
	}
	if want, got := p.tree("c1"), p.tree("c2"); want != got || !strings.Contains(got, "last") {
		t.Errorf("c1 has %s, c2 %s", want, got)
	}
	if list := get[[]string](p, "/1.0/instances/c2/snapshots"); len(list) > 0 {
		t.Error(list)
	}
}

// TestPeerIsLate waits for another server for so long.
func TestPeerIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, err := newSession("control", "fs")
		if err != nil {
			t.Fatal(err)
		}
		defer x.close()
		x.conns["control"] <- conn{}
		began := time.Now()
		if _, err := x.peer(t.Context()); !errors.Is(err, kiln.Timeout) || time.Since(began) != peerTime {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(kiln.Denied)
		if _, err := x.peer(ctx); !errors.Is(err, kiln.Denied) {
			t.Error(err)
		}
	})
}

// tree lists the root directory of an instance.
func (p *peer) tree(name string) string {
	p.t.Helper()
	_, b := p.do("GET", "/1.0/instances/"+name+"/files?path=/", "")
	return string(b)
}

// TestMigrationHostile has the other server say what can't be: it is told why not, nothing is
// made, and the name is free.
func TestMigrationHostile(t *testing.T) {
	p := start(t)
	whole := &migrate.Features{Xattrs: true, Delete: true, Bidirectional: true}
	snapshot := func(s migrate.Snapshot) []byte {
		s.Architecture = 2
		return migrate.Header{Features: whole, Names: []string{s.Name}, Snapshots: []migrate.Snapshot{s}}.Marshal()
	}
	for name, c := range map[string]struct {
		header []byte
		want   string
	}{
		"nonsense":      {[]byte("\xff\xff\xff"), "damaged"},
		"no rsync":      {migrate.Header{FS: 2}.Marshal(), "doesn't offer to copy files by rsync"},
		"old rsync":     {migrate.Header{Features: &migrate.Features{Xattrs: true}}.Marshal(), "with rsync in the way"},
		"processes":     {migrate.Header{Processes: 1, Features: whole}.Marshal(), "--stateless"},
		"its own error": {migrate.Control{Message: "disk is on fire"}.Marshal(), "disk is on fire"},
		"snapshots apart": {migrate.Header{Features: whole, Names: []string{"a"},
			Snapshots: []migrate.Snapshot{{Name: "b"}}}.Marshal(), `"b" in the place of "a"`},
		"a snapshot's name":     {snapshot(migrate.Snapshot{Name: "../x"}), "../x"},
		"a stateful snapshot":   {snapshot(migrate.Snapshot{Name: "s", Stateful: true}), "--instance-only"},
		"a snapshot's profile":  {snapshot(migrate.Snapshot{Name: "s", Profiles: []string{"lost"}}), "lost"},
		"a privileged snapshot": {snapshot(migrate.Snapshot{Name: "s", Config: map[string]string{"security.privileged": "true"}}), "access to this host"},
		"a disk of this host": {snapshot(migrate.Snapshot{Name: "s", Devices: map[string]map[string]string{
			"d": {"type": "disk", "source": "/etc", "path": "/x"}}}), "access to this host"},
		"a map of ids that can't be": {migrate.Header{Features: whole,
			IDs: []migrate.IDRange{{Users: true, Host: -5, Count: 1 << 40}}}.Marshal(), "broke off"},
	} {
		operation, conns := p.begin("/1.0/instances", pushed)
		if err := conns["control"].Write(t.Context(), websocket.MessageBinary, c.header); err != nil {
			t.Fatal(name, err)
		}
		told := make(chan string, 1)
		go func() {
			defer close(told)
			defer conns["fs"].CloseNow()
			defer conns["control"].CloseNow()
			for {
				_, b, err := conns["control"].Read(t.Context())
				if err != nil {
					return
				}
				if m, err := migrate.ParseControl(b); err == nil && m.Message != "" {
					told <- m.Message
					return
				}
				conns["fs"].CloseNow() // it has taken the header
			}
		}()
		o := get[api.Operation](p, operation+"/wait")
		if !strings.Contains(o.Err, c.want) {
			t.Errorf("%s: %q, not %q", name, o.Err, c.want)
		}
		if m := <-told; m != o.Err && m != "" {
			t.Errorf("%s: the other server was told %q", name, m)
		}
		if list := get[[]string](p, "/1.0/instances"); len(list) > 0 {
			t.Fatalf("%s: %v", name, list)
		}
	}
}

// TestMigrationRequests refuses at once what can't be.
func TestMigrationRequests(t *testing.T) {
	p := start(t)
	p.empty("c1")
	at := func(operation, secrets string) string {
		return `{"name":"c2","source":{"type":"migration","operation":"` + operation + `","secrets":{` + secrets + `}}}`
	}
	const both = `"control":"a","fs":"b"`
	for _, c := range []struct{ path, body, want string }{
		{"/1.0/instances/c1", `{"migration":true,"live":true}`, "--stateless"},
		{"/1.0/instances/lost", `{"migration":true}`, "not found"},
		{"/1.0/instances/c1/snapshots/lost", `{"migration":true,"name":"x"}`, "lost"},
		{"/1.0/instances/c1", `{"migration":true,"target":{"operation":"https://x/1.0/operations/y"}}`, "control"},
		{"/1.0/instances", at("ftp://x/1.0/operations/y", both), "https"},
		{"/1.0/instances", at("https://x", both), "operation"},
		{"/1.0/instances", at("https://x/1.0/operations/y", `"fs":"b"`), "control"},
		{"/1.0/instances", `{"name":"c2","source":{"type":"migration","mode":"fly"}}`, "fly"},
		{"/1.0/instances", strings.Replace(pushed, "c2", "c1", 1), "already exists"},
		{"/1.0/instances", strings.Replace(pushed, "x86_64", "vax", 1), "vax"},
	} {
		resp, b := p.do("POST", c.path, c.body, "Content-Type", "application/json")
		if resp.StatusCode < 400 || resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented ||
			!strings.Contains(string(b), c.want) {
			t.Errorf("POST %s %s: %d %s", c.path, c.body, resp.StatusCode, b)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, b := p.do("POST", "/1.0/instances/c1", `{"migration":true}`); !strings.Contains(string(b), "install the package rsync") {
		t.Errorf("without rsync: %s", b)
	}
}

// TestMigrationRestricted has a restricted client ask for what isn't its own, and for what
// reaches the host.
func TestMigrationRestricted(t *testing.T) {
	p := start(t)
	p.project(t, "own")
	p.empty("c1")
	guest := p.restrictedTo(t, "own")
	for _, c := range []struct{ path, body, want string }{
		{"/1.0/instances/c1?project=default", `{"migration":true}`, "Project not found"},
		{"/1.0/instances/c1?project=own", `{"migration":true}`, "not found"},
		{"/1.0/instances?project=default", pushed, "Project not found"},
		{"/1.0/instances?project=own", strings.Replace(pushed, `"user.a":"b"`, `"security.privileged":"true"`, 1),
			"access to the host"},
		{"/1.0/instances?project=own", strings.Replace(pushed, `"name"`,
			`"devices":{"d":{"type":"disk","source":"/","path":"/mnt"}},"name"`, 1), "access to the host"},
	} {
		if w := p.ask(guest, "POST", c.path, c.body); w.Code < 400 || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("POST %s %s: %d %s", c.path, c.body, w.Code, w.Body)
		}
	}
}

// TestMigrationRevoked ends a migration whose client isn't trusted any more.
func TestMigrationRevoked(t *testing.T) {
	p := start(t)
	p.project(t, "own")
	guest := p.restrictedTo(t, "own")
	w := p.ask(guest, "POST", "/1.0/instances?project=own", pushed)
	var a api.Response
	var o api.Operation
	if json.Unmarshal(w.Body.Bytes(), &a) != nil || a.Type != "async" || json.Unmarshal(a.Metadata, &o) != nil {
		t.Fatalf("%s", w.Body)
	}
	conns := map[string]*websocket.Conn{}
	for _, name := range []string{"control", "fs"} {
		c, _, err := websocket.Dial(t.Context(), "ws://x"+a.Operation+"/websocket?secret="+o.Metadata[name].(string),
			&websocket.DialOptions{HTTPClient: p.Client})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		conns[name] = c
	}
	if err := p.d.RemoveClient(t.Context(), trust.Fingerprint(guest)); err != nil {
		t.Fatal(err)
	}
	go func() { // it takes a goodbye
		for _, c := range conns {
			_, _, _ = c.Read(t.Context())
			c.CloseNow()
		}
	}()
	if o := get[api.Operation](p, a.Operation+"/wait?timeout=20"); !strings.Contains(o.Err, "not authorized any more") {
		t.Errorf("%s %q", o.Status, o.Err)
	}
}

// TestMigrationSilence ends a migration that the user doesn't want any more, of a server that
// says nothing.
func TestMigrationSilence(t *testing.T) {
	p := start(t)
	operation, conns := p.begin("/1.0/instances", pushed)
	h := migrate.Header{Features: &migrate.Features{Xattrs: true, Delete: true, Bidirectional: true}}
	silent := &migrate.Peer{Control: conns["control"], Files: conns["fs"], Silence: time.Minute}
	if err := silent.WriteHeader(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if _, err := silent.ReadHeader(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() { // it says nothing, and takes a goodbye
		for _, c := range conns {
			_, _, _ = c.Read(t.Context())
			c.CloseNow()
		}
	}()
	if resp, b := p.do("DELETE", operation, ""); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s", b)
	}
	if o := get[api.Operation](p, operation+"/wait"); o.Status != "Cancelled" {
		t.Errorf("%+v", o)
	}
	p.empty("c2") // the name is free
}
