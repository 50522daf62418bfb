package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// listening has a server of the session listen on the network, and gives its URL.
func (s *session) listening(remote string) string {
	s.t.Helper()
	address := "127.0.0.1:" + freePort(s.t)
	s.ok("config set " + remote + ": core.https_address=" + address)
	return "https://" + address
}

func TestImagesTravel(t *testing.T) {
	s := newSession(t)
	a, _ := s.listening("local"), s.listening("b")
	one := s.image("1", "--alias one")
	public := s.image("2", "--alias pub --public")
	for _, mode := range []string{"pull", "push", "auto"} {
		s.says("image copy one b: --alias "+mode+" --mode "+mode, "Image copied successfully!")
		s.says("image info b:"+mode, one, "Public: no")
		s.ok("image delete b:" + mode)
	}
	s.says("image copy one b: --dry-run", "would move")
	s.ok("image copy one b: --public -p default --alias one")
	s.says("image show b:one", "public: true", "- default")
	s.says("image copy one b: --dry-run", "nothing; it is there")

	// Updates.
	s.fails("image copy "+one+" b: --auto-update", 2, "private")
	s.fails("image copy "+public+" b: --auto-update", 2, "is no alias")
	s.ok("image copy pub b: --auto-update --copy-aliases")
	s.says("image info b:pub", "Auto update: enabled", "Alias: pub")
	s.says("image info b:pub -f json", `"update_source"`)
	s.says("image refresh b:pub", "already up to date")
	newer := s.image("3", "--alias pub --public")
	s.says("image refresh b:pub", "Image refreshed successfully!")
	s.says("image info b:pub", newer)
	s.fails("image refresh one", 2, "was not copied from a server")
	s.fails("image refresh nothing", 3)
	s.says("image prune b: --dry-run -f csv", "")

	// By URL, which has a certificate that no authority signed.
	_, err, code := s.run("image import b: " + a + "/lxd/pub")
	if code == 0 {
		t.Error("an unknown certificate was trusted")
	}
	_ = err
	_, err, code = s.run("image import " + a + "/lxd/pub b:")
	if code != 5 || !strings.Contains(err, "is not signed by a trusted CA") || !strings.Contains(err, "--ca <file>") {
		t.Errorf("%d %q", code, err)
	}

	// Mirrors.
	s.ok("remote add up " + a + " --public --accept-certificate")
	s.ok("remote switch b")
	s.says("mirror add up: pub --name copies --keep 2 --private", "mirror copies: 1 of ", "without an alias")
	s.says("mirror list -f csv", "copies,"+a+",pub,all,")
	s.fails("mirror add up pub --name copies", 4, "kiln mirror run copies", "--name", "kiln mirror remove copies")
	s.says("mirror add local: pub --name sock", "mirror sock: 1 of ") // by its address: a socket is nothing to another server
	s.ok("mirror remove sock")
	s.fails("mirror add nothing", 3, "no remote")
	s.says("mirror run copies", "mirror copies: 1 of ")
	s.says("mirror add up: nosuch --name nothing", "mirror nothing: 0 of ", "not matching the filters")
	s.ok("mirror remove nothing")
	s.ok("remote switch local")
	s.fails("mirror add up", 2, "this server itself")

	s.ok("remote switch b")
	s.fails("mirror run copied", 3, `no mirror "copied"; did you mean "copies"?`)
	s.ok("mirror remove copies")
	s.ok("mirror add up --pull-through --name through")
	s.says("mirror list -f csv", "through,"+a+",,pull-through,")
	s.ok("mirror remove b:through")
}

func TestInstancesTravel(t *testing.T) {
	s := newSession(t)
	s.listening("local")
	s.listening("b")
	s.image("1", "--alias one")
	s.ok("init one c1 -c user.who=me")
	s.ok("snapshot c1 s1")
	for _, mode := range []string{"pull", "push", "relay", "auto"} {
		s.ok("copy c1 b:" + mode + " --mode " + mode)
		s.says("list b: "+mode+" -f csv -c nS,user.who", mode+",1,me\n")
	}
	s.ok("copy c1/s1 b:only --instance-only")
	s.fails("copy c1 b:pull", 4, `Instance "pull" already exists on "b"`)
	s.fails("copy c9 b:", 3, `did you mean "c1"?`)
	s.fails("copy c1/s9 b:", 3, "s9")
	s.fails("move c1/s1 b:x", 2, "kiln copy")
	s.ok("move c1 b:")
	s.fails("info c1", 3)
	s.ok("copy b:c1 back") // the default remote
	s.says("list back -f csv -c n", "back\n")

	// From an image or an instance of another server.
	s.ok("image copy one b: --copy-aliases")
	s.ok("image delete one")
	s.ok("init b:one c5")
	s.fails("init --offline b:two c6", 3)
	s.ok("rebuild c5 b:one")
	s.ok("publish b:c1 local: --alias here")
	s.says("image list here -f csv -c l", "here\n")
	s.fails("publish b:c1 images:", 1, "image server")
}

func TestOperationsAndQueries(t *testing.T) {
	s := newSession(t)
	s.listening("local")
	fp := s.image("1", "--alias one")
	s.says("query /1.0/images", "/1.0/images/"+fp)
	s.says("query local:/1.0/images/"+fp, `"fingerprint": "`+fp+`"`)
	s.says("query --raw /1.0/images", `"type":"sync"`)
	s.fails("query /1.0/nothing", 3)
	s.fails("query 1.0", 2, "no path of the API")
	s.ok(`query -X PATCH /1.0/images/` + fp + ` -d {"public":true}`)
	s.says("image list one -f csv -c p", "yes\n")
	s.says("query -X POST --wait /1.0/instances -d "+
		`{"name":"c1","source":{"type":"image","alias":"one"}}`, `"status": "Success"`)
	// A token isn't waited for.
	out := s.ok(`query -X POST --wait /1.0/certificates -d {"type":"client","name":"x","token":true}`)
	if !strings.Contains(out, `"class": "token"`) {
		t.Error(out)
	}
	list := s.ok("operation list -f csv")
	before, _, _ := strings.Cut(list, ",TOKEN")
	id := before[strings.LastIndex(before, "\n")+1:]
	if !strings.Contains(list, "TOKEN") {
		t.Fatal(list)
	}
	s.says("operation show "+id, "class: token")
	s.ok("operation cancel " + id)
	s.fails("operation show 00000000-0000-0000-0000-000000000000", 3)
	s.fails("operation wait 00000000-0000-0000-0000-000000000000", 3)
	s.fails("operation cancel", 2, "missing argument: <operation>")
	s.says("operation list b: -f json", "[]")

	s.says("version", "Client version: 1.2", "Server version: test")
	s.says("version b: -f json", `{"client":"1.2","server":"test"}`)
	s.ok("waitready --timeout 5")
	t.Setenv("KILN_SOCKET", filepath.Join(s.dir, "nothing"))
	s.says("version -f yaml", "server: \"\"")
	s.says("version", "unreachable")
	s.fails("waitready --timeout 1", 9, "isn't ready")
	s.fails("list", 6, "no kiln daemon answers")
	s.fails("shutdown", 6)
	s.fails("verify", 2, "unknown command")
}

// A config.yml that can't be read is an error for every verb, and stays as it is.
func TestBrokenConfig(t *testing.T) {
	s := newSession(t)
	path := s.write("conf/config.yml", "remotes: [")
	for _, words := range []string{"list", "image list", "remote list", "remote add x https://x", "launch x", "version"} {
		s.fails(words, 2, "config.yml")
	}
	if b, err := os.ReadFile(path); string(b) != "remotes: [" {
		t.Error(string(b), err)
	}
}
