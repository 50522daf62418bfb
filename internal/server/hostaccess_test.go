package server

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/trust"
)

// guestOf gives the certificate of a restricted client.
func guestOf(t *testing.T, p *peer) *x509.Certificate {
	t.Helper()
	guest := clientCert(t)
	c := daemon.Client{Name: "guest", Restricted: true, Projects: []string{"default"}}
	if err := p.d.AddClient(t.Context(), guest, c); err != nil {
		t.Fatal(err)
	}
	return guest
}

// TestRestrictedHost has a restricted client try everything that would let it reach the
// host through an instance.
func TestRestrictedHost(t *testing.T) {
	p := start(t)
	guest := guestOf(t, p)
	for _, name := range []string{"plain", "powerful"} {
		spec := daemon.CreateSpec{Name: name, Source: daemon.Source{Type: "none"}}
		if name == "powerful" {
			spec.Options = map[string]string{"security.privileged": "true"}
		}
		o, err := p.d.CreateInstance(t.Context(), spec)
		if err == nil {
			err = o.Wait(t.Context()).Err
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, config := range []string{
		`"config":{"raw.lxc":"lxc.hook.pre-start=/bin/id"}`, `"config":{"security.privileged":"yes"}`,
		`"config":{"security.privileged":"1"}`, `"devices":{"d":{"type":"disk","source":"/","path":"/mnt"}}`,
		`"devices":{"d":{"type":"disk","source":"/etc","path":"/etc","optional":"true"}}`,
	} {
		for _, c := range [][2]string{
			{"POST /1.0/instances", `{"name":"x","source":{"type":"none"},` + config + `}`},
			{"PUT /1.0/instances/plain", "{" + config + "}"}, {"PATCH /1.0/instances/plain", "{" + config + "}"},
		} {
			method, path, _ := strings.Cut(c[0], " ")
			if w := p.ask(guest, method, path, c[1]); w.Code != http.StatusForbidden ||
				!strings.Contains(w.Body.String(), "access to the host") {
				t.Errorf("%s %s: %d %s", c[0], config, w.Code, w.Body)
			}
		}
	}
	for _, key := range []string{"boot.autostart.delay", "boot.host_shutdown_timeout"} {
		body := `{"name":"x","source":{"type":"none"},"config":{"` + key + `":"5"}}`
		if w := p.ask(guest, "POST", "/1.0/instances", body); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s", key, w.Code, w.Body)
		}
	}
	for limit, want := range map[string]int{"1000KiB": http.StatusForbidden, "99iops": http.StatusForbidden,
		"1MiB": http.StatusAccepted} {
		w := p.ask(guest, "POST", "/1.0/instances", `{"name":"slow","source":{"type":"none"},"devices":{"root":{"type":"disk",`+
			`"path":"/","pool":"default","limits.max":"`+limit+`"}}}`)
		if w.Code != want {
			t.Errorf("limits.max=%s: %d %s", limit, w.Code, w.Body)
		}
	}
	for v, want := range map[string]int{"1ms/1000ms": http.StatusForbidden, "1%": http.StatusForbidden} {
		w := p.ask(guest, "POST", "/1.0/instances", `{"name":"x","source":{"type":"none"},"config":{"limits.cpu.allowance":"`+
			v+`"}}`)
		if w.Code != want || !strings.Contains(w.Body.String(), "25ms/100ms") {
			t.Errorf("limits.cpu.allowance=%s: %d %s", v, w.Code, w.Body)
		}
	}
	for _, method := range []string{"PUT", "PATCH", "POST", "DELETE"} {
		body := `{"config":{"raw.lxc":"x"},"name":"other"}`
		if w := p.ask(guest, method, "/1.0/profiles/default", body); w.Code != http.StatusForbidden {
			t.Errorf("%s of a profile: %d %s", method, w.Code, w.Body)
		}
	}
	if w := p.ask(guest, "POST", "/1.0/profiles", `{"name":"mine"}`); w.Code != http.StatusForbidden {
		t.Errorf("a new profile: %d %s", w.Code, w.Body)
	}
	// Too much is refused before all of it is named, and no error is as large as what it is about.
	var many strings.Builder
	for i := range 600 {
		fmt.Fprintf(&many, `"%d":{"type":"%d"},`, i, i)
	}
	for body, want := range map[string]int{
		`{"name":"x","source":{"type":"none"},"devices":{` + strings.TrimSuffix(many.String(), ",") + `}}`: 413,
		`{"name":"x","source":{"type":"none"},"config":{"` + strings.Repeat("y", 100_000) + `":"1"}}`:      400,
	} {
		w := p.ask(guest, "POST", "/1.0/instances", body)
		if w.Code != want || w.Body.Len() > maxErrorText+1000 {
			t.Errorf("%.100s …: %d %.200s … (%d bytes)", body, w.Code, w.Body, w.Body.Len())
		}
	}
	// What somebody else has given an instance may stay.
	if w := p.ask(guest, "PATCH", "/1.0/instances/powerful", `{"description":"x"}`); w.Code != http.StatusOK {
		t.Errorf("another change: %d %s", w.Code, w.Body)
	}
	if list := instance.HostAccess(map[string]string{"raw.idmap": "x", "raw.lxc": "", "user.x": "1"},
		map[string]map[string]string{"root": {"type": "disk", "path": "/"}, "usb": {"type": "usb"},
			"eth0": {"type": "nic", "network": "n"}, "eth1": {"type": "nic", "network": "n", "parent": "br7"},
			"eth2": {"type": "nic", "nictype": "p2p"}}); !slices.Equal(list, []string{"raw.idmap",
		`device "eth1": the host's interface br7`, `device "eth2": an interface of the host`, `device "usb" of type usb`}) {
		t.Errorf("%q", list)
	}
}

// TestRestrictedRoundabout: a restricted client doesn't get to the host by what others
// have configured either: their profiles, snapshots and instances, or an image that
// somebody else starts.
func TestRestrictedRoundabout(t *testing.T) {
	p := start(t)
	guest := guestOf(t, p)
	admin := func(method, path, body string) {
		t.Helper()
		resp, b := p.do(method, path, body)
		var a api.Response
		if err := json.Unmarshal(b, &a); err != nil || resp.StatusCode >= 400 {
			t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, b)
		}
		if a.Operation == "" {
			return
		}
		if _, b := p.do("GET", a.Operation+"/wait", ""); !strings.Contains(string(b), `"Success"`) {
			t.Fatalf("%s %s: %s", method, path, b)
		}
	}
	const privileged = `{"config":{"security.privileged":"true"}}`
	admin("POST", "/1.0/profiles", `{"name":"priv","config":{"security.privileged":"true"}}`)
	admin("POST", "/1.0/profiles", `{"name":"tame","config":{"limits.memory":"1GiB"}}`)
	for _, name := range []string{"plain", "former", "powerful"} {
		admin("POST", "/1.0/instances", `{"name":"`+name+`","source":{"type":"none"}}`)
	}
	admin("PATCH", "/1.0/instances/powerful", privileged)
	admin("PATCH", "/1.0/instances/former", privileged)
	admin("POST", "/1.0/instances/former/snapshots", `{"name":"old"}`)
	admin("PATCH", "/1.0/instances/former", `{"config":{"security.privileged":"false"}}`)
	admin("POST", "/1.0/instances/former/snapshots", `{"name":"tame"}`)
	fp := p.upload(formattest.Tiny(t, "a")).Metadata["fingerprint"].(string)

	ask := func(method, path, body string) string {
		w := p.ask(guest, method, path, body)
		var a api.Response
		if err := json.Unmarshal(w.Body.Bytes(), &a); err == nil && a.Operation != "" {
			w = p.ask(guest, "GET", a.Operation+"/wait", "")
		}
		return w.Body.String()
	}
	for _, c := range [][3]string{
		{"POST", "/1.0/instances", `{"name":"x","profiles":["default","priv"],"source":{"type":"none"}}`},
		{"PUT", "/1.0/instances/plain", `{"profiles":["default","priv"]}`},
		{"PATCH", "/1.0/instances/plain", `{"profiles":["default","priv"]}`},
		{"PUT", "/1.0/instances/former", `{"restore":"old"}`},
		{"POST", "/1.0/instances", `{"name":"x","source":{"type":"copy","source":"powerful"}}`},
		{"POST", "/1.0/instances", `{"name":"x","source":{"type":"copy","source":"former/old"}}`},
		{"POST", "/1.0/instances", `{"name":"x","source":{"type":"copy","source":"former"}}`},
		{"PUT", "/1.0/images/" + fp, `{"profiles":["priv"]}`}, {"PATCH", "/1.0/images/" + fp, `{"profiles":["default","priv"]}`},
	} {
		if answer := ask(c[0], c[1], c[2]); !strings.Contains(answer, "restricted client") {
			t.Errorf("%s %s %s: %s", c[0], c[1], c[2], answer)
		}
	}
	for _, has := range []string{"container: {config: {security.privileged: 'true'}, ", "snapshots: [{name: s, " +
		"config: {raw.lxc: lxc.hook.pre-start=/bin/id}, architecture: x86_64}], container: {",
		"container: {profiles: [priv], ", "container: {devices: {d: {type: disk, source: /, path: /mnt}}, "} {
		index := "name: x\nsnapshots: [s]\nconfig: {" + has + "architecture: x86_64}}\n"
		if !strings.Contains(has, "snapshots") {
			index = strings.Replace(index, "snapshots: [s]\n", "", 1)
		}
		if w := p.askBackup(guest, index, `{"source":{"host_access":true}}`); !strings.Contains(w, "restricted client") {
			t.Errorf("a backup with %s: %s", has, w)
		}
	}
	plain := "name: fine\nconfig: {container: {architecture: x86_64, profiles: [default]}}\n"
	if w := p.askBackup(guest, plain, `{"config":{"security.privileged":"true"}}`); !strings.Contains(w, "restricted client") {
		t.Errorf("a backup and a privilege: %s", w)
	}
	if w := p.askBackup(guest, plain, ""); !strings.Contains(w, `"Success"`) {
		t.Errorf("a backup: %s", w)
	}

	// The rest is theirs to do, also where somebody else gave an instance access.
	for _, c := range [][3]string{
		{"PATCH", "/1.0/instances/plain", `{"profiles":["default","tame"]}`},
		{"PATCH", "/1.0/instances/powerful", `{"config":{"limits.memory":"1GiB"}}`},
		{"POST", "/1.0/instances/powerful/snapshots", `{"name":"s"}`}, {"PUT", "/1.0/instances/powerful", `{"restore":"s"}`},
		{"PUT", "/1.0/instances/former", `{"restore":"tame"}`}, {"PATCH", "/1.0/images/" + fp, `{"profiles":["tame"]}`},
		{"POST", "/1.0/instances", `{"name":"y","source":{"type":"copy","source":"former","instance_only":true}}`},
	} {
		if answer := ask(c[0], c[1], c[2]); strings.Contains(answer, `"error_code":4`) || strings.Contains(answer, "Failure") {
			t.Errorf("%s %s %s: %s", c[0], c[1], c[2], answer)
		}
	}
}

// askBackup has a client make an instance of a backup with an index, and waits.
func (p *peer) askBackup(cert *x509.Certificate, index, header string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "backup/index.yaml", Mode: 0o644, Size: int64(len(index))})
	_, _ = io.WriteString(w, index)
	dirs := []string{"backup/container/rootfs/"}
	if strings.Contains(index, "snapshots") {
		dirs = append(dirs, "backup/snapshots/s/rootfs/")
	}
	for _, dir := range dirs {
		_ = w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	_ = w.Close()
	r := httptest.NewRequest(http.MethodPost, "/1.0/instances", &b)
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set(api.InstanceHeader, header)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	answer := httptest.NewRecorder()
	p.s.ServeHTTP(answer, r)
	var a api.Response
	if err := json.Unmarshal(answer.Body.Bytes(), &a); err == nil && a.Operation != "" {
		answer = p.ask(cert, "GET", a.Operation+"/wait", "")
	}
	return answer.Body.String()
}

// TestRestrictedOperations shows a restricted client its own operations and no others,
// which can have the secrets of join tokens.
func TestRestrictedOperations(t *testing.T) {
	p := start(t)
	guest := guestOf(t, p)
	if err := p.d.Listen(t.Context(), "127.0.0.1:0", func([]string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	token, err := p.d.IssueToken(t.Context(), daemon.Client{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	secret := token.Snapshot().Metadata["secret"].(string)
	for _, path := range []string{"/1.0/operations?recursion=1", "/1.0/operations", "/1.0/operations/" + token.ID(),
		"/1.0/operations/" + token.ID() + "/wait?timeout=0"} {
		if w := p.ask(guest, "GET", path, ""); strings.Contains(w.Body.String(), secret) ||
			strings.Contains(w.Body.String(), token.ID()) {
			t.Errorf("%s shows %s", path, w.Body)
		}
	}
	if w := p.ask(guest, "DELETE", "/1.0/operations/"+token.ID(), ""); w.Code != http.StatusNotFound {
		t.Errorf("cancel: %d %s", w.Code, w.Body)
	}
	if s := token.Snapshot(); s.Status != op.Running {
		t.Errorf("the token's operation is %v", s.Status)
	}
	if w := p.ask(guest, "GET", "/1.0/events?type=logging", ""); w.Code != http.StatusForbidden {
		t.Errorf("the daemon's log: %d %s", w.Code, w.Body)
	}
	w := p.ask(guest, "POST", "/1.0/instances", `{"name":"mine","source":{"type":"none"}}`)
	var a api.Response
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := p.ask(guest, "GET", a.Operation+"/wait", ""); w.Code != http.StatusOK {
		t.Errorf("its own: %d %s", w.Code, w.Body)
	}
	if w := p.ask(guest, "POST", "/1.0/certificates", `{"token":true,"type":"client"}`); w.Code != http.StatusForbidden {
		t.Errorf("a token by a restricted client: %d %s", w.Code, w.Body)
	}
}

// TestExpiredClient stops trusting certificates whose time is over or hasn't come, and
// those that their authority has revoked.
func TestExpiredClient(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(serial int64, ca *x509.Certificate, from, to time.Duration) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: fmt.Sprint(serial)},
			NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to), BasicConstraintsValid: true, IsCA: ca == nil,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, SubjectKeyId: []byte{1}}
		if ca == nil {
			c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
			ca = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	ca := issue(1, nil, -time.Hour, time.Hour)
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1),
		ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(3), RevocationTime: time.Now()}},
	}, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	p := startWith(t, map[string][]byte{
		"server.ca": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}),
		"ca.crl":    pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl}),
	})
	if err := p.d.SetSettings(t.Context(), map[string]string{"core.trust_ca_certificates": "true"}, false); err != nil {
		t.Fatal(err)
	}
	soon := issue(4, ca, -time.Hour, time.Second)
	if err := p.d.AddClient(t.Context(), soon, daemon.Client{Name: "soon"}); err != nil {
		t.Fatal(err)
	}
	revoked := issue(3, ca, -time.Hour, time.Hour)
	if err := p.d.AddClient(t.Context(), revoked, daemon.Client{Name: "revoked"}); err != nil {
		t.Fatal(err)
	}
	namesake := issue(3, nil, -time.Hour, time.Hour) // has the number of a revoked one, but of its own
	if err := p.d.AddClient(t.Context(), namesake, daemon.Client{Name: "namesake"}); err != nil {
		t.Fatal(err)
	}
	early := issue(8, nil, time.Hour, 2*time.Hour)
	if err := p.d.AddClient(t.Context(), early, daemon.Client{Name: "early"}); err != nil {
		t.Fatal(err)
	}
	good := issue(2, ca, -time.Hour, time.Hour)
	for name, c := range map[string]struct {
		cert *x509.Certificate
		want int
	}{
		"namesake": {namesake, 200}, "added early": {early, 403}, "stranger": {issue(7, nil, -time.Hour, time.Hour), 403},
		"good": {good, 200}, "revoked": {revoked, 403},
		"early": {issue(5, ca, time.Hour, 2*time.Hour), 403}, "late": {issue(6, ca, -2*time.Hour, -time.Hour), 403},
	} {
		if w := p.ask(c.cert, "GET", "/1.0/instances", ""); w.Code != c.want {
			t.Errorf("%s: %d, want %d", name, w.Code, c.want)
		}
	}
	if err := p.d.SetSettings(t.Context(), map[string]string{"core.trust_ca_certificates": ""}, false); err != nil {
		t.Fatal(err)
	}
	if w := p.ask(good, "GET", "/1.0/instances", ""); w.Code != http.StatusForbidden {
		t.Errorf("issued by an authority that vouches for nobody: %d", w.Code)
	}
	for p.ask(soon, "GET", "/1.0/instances", "").Code != http.StatusForbidden {
		if time.Now().After(soon.NotAfter.Add(time.Minute)) {
			t.Fatal("an expired certificate stays trusted")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestConnectionLimit bounds the connections in all and from one address, and gives
// room again when they end.
func TestConnectionLimit(t *testing.T) {
	var c connections
	for i := range mostFromOne {
		if !c.take("a") {
			t.Fatalf("connection %d is refused", i)
		}
	}
	if c.take("a") || !c.take("b") {
		t.Error("one address takes all, or another one's part")
	}
	for i := range mostConnections - mostFromOne - 1 {
		if !c.take(fmt.Sprint(i)) {
			t.Fatal(i)
		}
	}
	if c.take("c") {
		t.Error("there is no bound in all")
	}
	c.release("a")
	if !c.take("c") || len(c.from) == 0 {
		t.Error("the place of a connection that ended isn't free")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var one connections
	bounded := one.listener(l)
	defer bounded.Close()
	go net.Dial("tcp", l.Addr().String())
	conn, err := bounded.Accept()
	if err != nil || one.all != 1 {
		t.Fatal(one.all, err)
	}
	one.wait(conn.(*counted)) // it does already
	if one.makeRoom("other"); one.all != 0 {
		t.Error("one that waits doesn't make room")
	}
	conn.Close()
	if one.wait(conn.(*counted)); one.makeRoom("127.0.0.1") {
		t.Error("a closed one makes room")
	}
	if one.all != 0 || len(one.from) != 0 {
		t.Errorf("%+v", one.from)
	}
}

// TestPeersSecret lets whoever knows the secret of a command's websocket connect it.
func TestPeersSecret(t *testing.T) {
	p := start(t)
	if w := p.ask(nil, "GET", "/1.0/operations/none/websocket?secret=x", ""); w.Code != http.StatusForbidden {
		t.Errorf("an operation that isn't there: %d", w.Code)
	}
	x, err := newSession("0")
	if err != nil {
		t.Fatal(err)
	}
	o := p.d.Ops.Start(t.Context(), "x", op.Options{Class: op.Websocket}, func(ctx context.Context, _ *op.Operation) error {
		<-ctx.Done()
		return nil
	})
	defer o.Cancel()
	p.s.sessions.add(o.ID(), x)
	if w := p.ask(nil, "GET", "/1.0/operations/"+o.ID()+"/websocket?secret=wrong", ""); w.Code != http.StatusForbidden {
		t.Errorf("a wrong secret: %d", w.Code)
	}
	// Whether there is an operation, and of which class, can't be told without its secret.
	task := p.d.Ops.Start(t.Context(), "x", op.Options{Metadata: map[string]any{"secret": "sesame"}},
		func(ctx context.Context, _ *op.Operation) error { <-ctx.Done(); return nil })
	nothing := p.ask(nil, "GET", "/1.0/operations/none/wait", "")
	for _, id := range []string{"none", o.ID(), task.ID()} {
		for _, end := range []string{"/websocket", "/websocket?secret=", "/websocket?secret=wrong", "/wait?timeout=0",
			"/wait?timeout=0&secret=", "/wait?timeout=0&secret=wrong", "/wait?timeout=x"} {
			w := p.ask(nil, "GET", "/1.0/operations/"+id+end, "")
			if w.Code != http.StatusForbidden || w.Body.String() != nothing.Body.String() {
				t.Errorf("%s%s: %d %s", id, end, w.Code, w.Body)
			}
		}
	}
	if w := p.ask(nil, "GET", "/1.0/operations/"+task.ID()+"/wait?timeout=0&secret=sesame", ""); w.Code != http.StatusOK {
		t.Errorf("the right secret: %d %s", w.Code, w.Body)
	}
	w := p.ask(nil, "GET", "/1.0/operations/"+o.ID()+"/websocket?secret="+x.fds["0"], "")
	if w.Code == http.StatusForbidden ||
		!slices.Contains([]int{http.StatusUpgradeRequired, http.StatusBadRequest}, w.Code) {
		t.Errorf("the right secret, without the headers of a websocket: %d %s", w.Code, w.Body)
	}
}

// TestOperationLimit: a server with as much to do as it may have takes nothing more on
// until some of it is over. It can be looked at meanwhile, and operations cancelled.
func TestOperationLimit(t *testing.T) {
	p := start(t)
	var last *op.Operation
	for range mostOperations {
		last = p.d.Ops.Start(t.Context(), "x", op.Options{MayCancel: true}, func(ctx context.Context, _ *op.Operation) error {
			<-ctx.Done()
			return ctx.Err()
		})
	}
	resp, b := p.do("POST", "/1.0/profiles", `{"name":"p"}`)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" ||
		!strings.Contains(string(b), "kiln operation list --all-projects") {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, b)
	}
	if resp, b := p.do("GET", "/1.0/instances", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	if resp, b := p.do("DELETE", "/1.0/operations/"+last.ID(), ""); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if s := last.Wait(ctx); s.Status != op.Cancelled {
		t.Fatalf("the cancelled operation is %v", s.Status)
	}
	if resp, b := p.do("POST", "/1.0/profiles", `{"name":"p"}`); resp.StatusCode != http.StatusCreated {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

// TestOperationsOfOne: a restricted client that has as much under way as it may have is refused
// more, and nobody else is; nor are administrators when all restricted ones together have as
// much as the server takes on. What it waits for ends with its trust.
func TestOperationsOfOne(t *testing.T) {
	p := start(t)
	guest, other := guestOf(t, p), clientCert(t)
	if err := p.d.AddClient(t.Context(), other, daemon.Client{Name: "other", Restricted: true,
		Projects: []string{"default"}}); err != nil {
		t.Fatal(err)
	}
	admin := clientCert(t)
	if err := p.d.AddClient(t.Context(), admin, daemon.Client{Name: "admin"}); err != nil {
		t.Fatal(err)
	}
	accept := func(cert *x509.Certificate, method, path, body string, want int) *httptest.ResponseRecorder {
		t.Helper()
		w := p.ask(cert, method, path, body)
		if w.Code != want {
			t.Errorf("%s %s: %d %s, not %d", method, path, w.Code, w.Body, want)
		}
		return w
	}
	migration := func(i int) string {
		return fmt.Sprintf(`{"name":"n%d","architecture":"x86_64","source":{"type":"migration","mode":"push"}}`, i)
	}
	var waiting []*op.Operation
	for i := range mostWaiting {
		var answer api.Response
		w := accept(guest, "POST", "/1.0/instances", migration(i), http.StatusAccepted)
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		o, err := p.d.Ops.Get(strings.TrimPrefix(answer.Operation, "/1.0/operations/"))
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, o)
	}
	accept(guest, "POST", "/1.0/instances", migration(mostWaiting), http.StatusServiceUnavailable)
	accept(other, "POST", "/1.0/instances", migration(mostWaiting), http.StatusAccepted)
	accept(guest, "POST", "/1.0/images/aliases", `{"name":"a","target":"0"}`, http.StatusNotFound)
	work := func(owner string, n int) {
		for range n {
			p.d.Ops.Start(op.WithOwner(t.Context(), owner), "x", op.Options{MayCancel: true},
				func(ctx context.Context, _ *op.Operation) error {
					<-ctx.Done()
					return ctx.Err()
				})
		}
	}
	work(trust.Fingerprint(guest), mostOfOne-mostWaiting)
	accept(guest, "POST", "/1.0/images/aliases", `{"name":"a","target":"0"}`, http.StatusServiceUnavailable)
	accept(other, "POST", "/1.0/images/aliases", `{"name":"a","target":"0"}`, http.StatusNotFound)
	work("many", mostOperations)
	accept(other, "POST", "/1.0/images/aliases", `{"name":"a","target":"0"}`, http.StatusServiceUnavailable)
	accept(admin, "POST", "/1.0/profiles", `{"name":"p1"}`, http.StatusCreated)
	work(trust.Fingerprint(admin), mostOperations)
	accept(admin, "POST", "/1.0/profiles", `{"name":"p2"}`, http.StatusServiceUnavailable)
	accept(admin, "PUT", "/1.0/instances/none/state", `{"action":"stop"}`, http.StatusNotFound)
	if resp, b := p.do("POST", "/1.0/profiles", `{"name":"p2"}`); resp.StatusCode != http.StatusCreated {
		t.Errorf("by the socket: %d %s", resp.StatusCode, b)
	}
	accept(guest, "DELETE", "/1.0/operations/"+waiting[0].ID(), "", http.StatusOK)
	accept(admin, "DELETE", "/1.0/certificates/"+trust.Fingerprint(guest), "", http.StatusOK)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, o := range waiting {
		if s := o.Wait(ctx); !s.Status.Final() {
			t.Fatalf("of a client that isn't trusted any more, an operation is %v", s.Status)
		}
	}
}
