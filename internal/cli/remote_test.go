package cli

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/trust"
)

// freePort finds a port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (s *session) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func TestRemoteVerbs(t *testing.T) {
	s := newSession(t)
	s.says("remote list -f csv", "local (current),unix://,kiln,file access,NO,YES,NO\n", "images,https://")
	s.says("remote list -f json", `"b"`)
	s.says("remote list -f yaml", "unix://")
	s.says("remote get-default", "local\n")
	s.ok("remote switch b")
	s.says("remote get-default", "b\n")
	s.says("--force-local remote get-default", "local\n")
	s.fails("remote remove b", 2, "kiln remote switch")
	s.ok("remote switch local")
	s.says("remote get-default", "local\n")
	s.fails("remote switch images", 2, "only has images")
	s.fails("remote switch bb", 3, `no remote "bb"; did you mean "b"?`)
	s.ok("remote rename b c")
	s.fails("remote rename c local", 4, "already exists")
	s.fails("remote rename c a/b", 2, "can't name a remote")
	s.fails("remote rename local x", 2, "static")
	s.fails("remote remove images", 2, "static")
	s.fails("remote set-url local https://x", 2, "static")
	s.ok("remote set-url c unix:///nowhere")
	s.fails("list c:", 6)
	s.ok("remote rm c")
	s.fails("remote remove c", 3, `no remote "c"`)

	s.fails("remote add x ftp://x", 2, "Only https")
	s.fails("remote add a:b https://x", 2, "can't name a remote")
	s.fails("remote add x http://x", 2, "--allow-http")
	s.fails("remote add x https://x --protocol ftp", 2, "kiln, lxd, incus or simplestreams")
	s.fails("remote add x https://x --auth-type oidc", 2, "it is tls")
	s.fails("remote add", 2, "missing argument: <address>")
	s.fails("remote add x https://127.0.0.1:"+freePort(t), 6, "connection refused")
	s.fails("remote add x https://127.0.0.1:"+freePort(t)+" --protocol simplestreams", 6, "connection refused")
	s.fails("remote add x https://x --ca "+filepath.Join(s.dir, "nothing"), 3, "nothing")
	s.fails("list x:", 3, `no remote "x"`)
}

func TestTrust(t *testing.T) {
	s := newSession(t)
	s.fails("config trust add --name laptop", 2, "core.https_address")
	port := freePort(t)
	s.ok("config set core.https_address 127.0.0.1:" + port)
	s.image("1", "--alias one --public")
	s.fails("remote add srv 127.0.0.1:"+port, 5, "--fingerprint")
	s.fails("remote add srv 127.0.0.1:"+port+" --fingerprint 0000000000000000000000000000000000000000000000000000000000000000", 5, "may be intercepting")
	s.fails("remote add srv 127.0.0.1:"+port+" --fingerprint abcd", 2, "64 hexadecimal digits")
	s.stdin = "n\n"
	s.fails("remote add srv 127.0.0.1:"+port, 5, "was not accepted")
	s.ok("remote add pub 127.0.0.1:" + port + " --public --accept-certificate")
	s.fails("remote add pub 127.0.0.1:"+port, 4, "already exists")
	elsewhere := "127.0.0.1:" + freePort(t)
	wrong := " --fingerprint 0000000000000000000000000000000000000000000000000000000000000000"
	s.fails("remote add pub "+elsewhere+wrong+" --public", 4, "is another server: https://127.0.0.1:"+port, "kiln remote remove pub")
	s.fails("remote add b "+s.ok("config trust add --name again -q"), 4, "is another server: unix:")
	s.fails("remote add local 127.0.0.1:"+port+wrong, 4, "is another server")
	s.fails("remote add pub 127.0.0.1:"+port+wrong, 5, "may be intercepting") // the same server
	s.ok("config trust revoke-token again")
	s.says("image list pub: -f csv -c l", "one\n")
	s.fails("image copy one pub:", 5, "not authorized")
	s.fails("image copy b:x pub:", 5, "not authorized", "kiln config trust add")
	s.fails("list pub:", 5, `the remote "pub" was added for its public images only`)

	// The daemon fetches a URL: it is told of the certificate that this client trusts.
	at := "https://127.0.0.1:" + port
	s.fails("image import "+at+"/lxd/nothing b:", 3)
	meta, root := formattest.Split(t)
	s.ok("image import " + s.write("meta.tar", string(meta)) + " " + s.write("root.tar", string(root)) +
		" --alias two --public")
	s.fails("image import "+at+"/lxd/two b:", 3, `image "two" has two files`, "simplestreams")
	s.ok("image delete two")
	s.ok("image import " + at + "/lxd/one b: --alias web")
	s.says("image list b: -f csv -c l", "web")
	s.ok("image delete b:web")
	s.ok("remote rename pub other")
	pin, err := os.ReadFile(filepath.Join(s.dir, "conf", "servercerts", "other.crt"))
	if err != nil {
		t.Fatal(err)
	}
	shown, err := trust.Parse(pin)
	if err != nil {
		t.Fatal(err)
	}
	s.ok("remote remove other")
	s.fails("image import "+at+"/lxd/one b:", 5, "--fingerprint", "--ca")
	s.fails("image import "+at+"/lxd/one b: --fingerprint 0000000000000000000000000000000000000000000000000000000000000000", 5, "may be intercepting")
	s.ok("image import " + at + "/lxd/one b: --fingerprint " + trust.Fingerprint(shown))
	s.ok("image import " + at + "/lxd/one b: --ca " + s.write("ca.crt", string(pin)))
	s.fails("image import http://127.0.0.1:"+port+"/lxd/one b:", 2, "images.allow_http true")
	s.fails("image import x --ca x", 2, "about the server of a URL")
	s.ok("remote add pub 127.0.0.1:" + port + " --public --accept-certificate")

	// The next version is private.
	s.image("2", "--alias web --public")
	s.ok("image copy pub:web b: --alias web --auto-update")
	s.ok("init web c1")
	for _, next := range []string{"publish c1 --alias web", "image import " + filepath.Join(s.dir, "3.tar") + " --alias web"} {
		s.ok("image import " + filepath.Join(s.dir, "2.tar") + " --alias web --public")
		if err := os.WriteFile(filepath.Join(s.dir, "3.tar"), formattest.Tiny(t, "3"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, said, code := s.run(next); code != 0 || !strings.Contains(said, "web was public and is now a private image") {
			t.Errorf("%s: exit %d, %q", next, code, said)
		}
		if _, said, code := s.run(next + " --reuse"); strings.Contains(said, "was public") {
			t.Errorf("%s again: exit %d, %q", next, code, said)
		}
	}
	s.fails("image refresh b:web", 3, `has no public image "web" any more`, "its newest version may be private")
	s.says("image list b: -f csv -c L", "web")

	// As an image server, with a certificate that no authority signed.
	streams := "remote add st https://127.0.0.1:" + port + " --protocol simplestreams"
	s.fails(streams, 5, "--fingerprint")
	s.ok(streams + " --accept-certificate")
	s.says("image list st: -f csv -c l", "one")
	s.says("image info st:one", "Public: yes")
	s.says("image alias list st: -f csv -c a", "one")
	s.fails("list st:", 1, "image server")
	s.fails("image edit st:one", 1, "image server")

	token := strings.TrimSpace(s.ok("config trust add --name laptop"))
	s.says("config trust list-tokens -f csv", "laptop,")
	s.fails("remote add srv "+token+" --accept-certificate", 2, "leave --accept-certificate out")
	s.says("remote add srv "+token, "now trusted by server: srv")
	s.says("config trust list srv: -f csv", "laptop,client,")
	s.fails("config trust add", 2, "--name")
	s.ok("config trust add --name other --restricted --projects default")
	restricted := strings.TrimSpace(s.ok("config trust add --name guest --restricted --description x"))
	there := " --accept-certificate 127.0.0.1:" + port
	s.ok("remote add guest --token " + restricted + " --project default --mirror https://127.0.0.1:" + port + there)
	s.ok("remote remove guest")
	s.fails("config trust add --name guest --restricted --projects defalt", 2, `no project "defalt"`, `"default"`)
	spare := strings.TrimSpace(s.ok("config trust add --name spare --restricted"))
	s.ok("remote add spare 127.0.0.1:" + port + " --token " + spare) // which says whom to expect
	s.ok("remote remove spare")
	s.fails("remote add far 127.0.0.1:"+port+" --accept-certificate --proxy ::", 2, "proxy")
	s.fails("config trust add "+s.write("bad.crt", "x"), 2, "bad.crt")

	// The certificate's verbs.
	fp := strings.Split(strings.TrimSpace(s.ok("config trust list -f csv -q")), ",")[2]
	s.says("config trust show "+fp, "name: laptop")
	s.ok("config trust rename " + fp + " desktop")
	s.stdin = ""
	s.fails("config trust edit "+fp, 2, "there is no YAML")
	s.stdin = "nam: x"
	s.fails("config trust edit "+fp, 2, `did you mean "name"?`)
	s.stdin = s.ok("config trust show " + fp)
	s.ok("config trust edit " + fp)
	s.says("config trust list -f csv", "desktop,")
	s.fails("config trust show dektop", 3, `did you mean "desktop"?`)
	s.fails("project switch defualt", 3, `did you mean "default"?`)
	s.fails("operation show nothing", 3, `no operation "nothing"`, "kiln operation list")
	s.fails("config set core.https_adress :1", 2, `did you mean "core.https_address"?`)
	s.fails("remote add x https://127.0.0.1:1 --ca nothing", 3, `no file "nothing"`)
	s.fails("image hash nothing", 3, `no file "nothing"`)
	s.fails("admin restore-database nothing", 3, `no file "nothing"`)
	s.ok("config trust remove " + fp)

	// Who may use one project needs not name it.
	s.ok("project create lab")
	lab := strings.TrimSpace(s.ok("config trust add --name lab --restricted --projects lab"))
	s.says("remote add lab "+lab, "The project of lab is lab")
	s.says("list lab:", "")
	s.says("project get-current lab:", "lab\n")
	s.ok("remote remove lab")
	s.ok("config trust remove lab")
	s.ok("project delete lab")
	s.fails("list srv:", 5)
	s.fails("config trust show "+fp, 3)
}

// The remotes of other clients: what can't be used is told, nothing is trusted
// unasked.
func TestRemoteImport(t *testing.T) {
	s := newSession(t)
	s.write("lxc/config.yml", `remotes:
  local: {addr: "unix://"}
  theirs: {addr: "https://192.0.2.7:8443", protocol: lxd}
  plain: {addr: "http://192.0.2.8:8443", protocol: simplestreams, public: true}
  b: {addr: "https://192.0.2.9:8443"}
  hub: {addr: "https://docker.example", protocol: oci}
`)
	s.write("lxc/servercerts/theirs.crt", "a certificate")
	out, err, code := s.run("remote import " + filepath.Join(s.dir, "lxc"))
	if code != 0 || out != "theirs: https://192.0.2.7:8443\n" {
		t.Error(code, out)
	}
	for _, want := range []string{"plain: not imported: its address is plain http", "b: not imported: there is a remote",
		`hub: not imported: kiln doesn't speak the protocol "oci"`} {
		if !strings.Contains(err, want) {
			t.Errorf("no %q in %q", want, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(s.dir, "conf/servercerts/theirs.crt")); string(b) != "a certificate" {
		t.Error(err)
	}
	s.says("remote import "+filepath.Join(s.dir, "lxc")+" --allow-http", "plain: http://192.0.2.8:8443")
	s.fails("remote import "+filepath.Join(s.dir, "nothing"), 3, "no config.yml")
	s.write("bad/config.yml", "{{{")
	s.fails("remote import "+filepath.Join(s.dir, "bad"), 2, "config.yml")
}

// A server that wants to write on the user's terminal.
func TestHostileServer(t *testing.T) {
	s := newSession(t)
	evil := "\u001b]0;owned\u0007\nb \u202e"
	quoted := `"\u001b]0;owned\u0007\nb \u202e"`
	fp := strings.Repeat("ab", 32)
	image := `{"fingerprint":"` + fp + `","aliases":[{"name":` + quoted + `,"description":` + quoted + `}],"properties":{` +
		`"description":` + quoted + `,` + quoted + `:"x"},"architecture":` + quoted + `,"type":` + quoted + `,"public":true}`
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		metadata := `{"auth":"untrusted","public":true,"environment":{"server_version":` + quoted + `}}`
		switch {
		case r.URL.Path == "/1.0/images":
			metadata = `[` + image + `,{"fingerprint":"ab"}]`
		case strings.HasPrefix(r.URL.Path, "/1.0/images/aliases/"):
			metadata = `{"name":"x","target":"` + fp + `"}`
		case strings.HasPrefix(r.URL.Path, "/1.0/images/"):
			metadata = image
		case r.URL.Path != "/1.0":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"type":"error","error_code":400,"error":` + quoted + `}`))
			return
		}
		_, _ = w.Write([]byte(`{"type":"sync","status_code":200,"metadata":` + metadata + `}`))
	}))
	defer srv.Close()
	ca := s.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	s.ok("remote add evil " + srv.URL + " --public --ca " + ca)
	for _, words := range []string{"image list evil: -c lLfFdatuk", "image list evil: -f compact", "image info evil:x",
		"version evil:", "list evil:", "image alias list evil:", "image delete evil:x", "profile list evil:"} {
		out, err, _ := s.run(words)
		if strings.ContainsAny(out+err, "\x1b\x07\u202e") {
			t.Errorf("%s: %q %q", words, out, err)
		}
	}
	if out := s.ok("image list evil: -f csv -c d"); !strings.Contains(out, evil) {
		t.Errorf("csv isn't exact: %q", out)
	}
}
