package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/signing"
)

// public gives a key of the client.
func (s *session) public(name string) string {
	s.t.Helper()
	return strings.TrimSpace(strings.Split(s.ok("key export "+name), "\n")[1])
}

// TestKeysFile has keys come and go behind a root key that stays, and nobody fooled by what a
// server gave before, neither client nor server.
func TestKeysFile(t *testing.T) {
	s := newSession(t)
	at := s.listening("b")
	for _, name := range []string{"root", "work", "lost", "root2", "elsewhere"} {
		s.ok("key generate " + name)
	}
	root, work := s.public("root"), s.public("work")
	file, err := os.ReadFile(filepath.Join(s.dir, "conf/keys/elsewhere.key"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := signing.ParseSecret(file, "")
	if err != nil {
		t.Fatal(err)
	}
	s.ok("remote switch b")
	s.image("1", "--alias good --public")
	s.image("2", "--alias second --public")
	s.ok("image sign good --key work")
	s.ok("image sign second --key lost")
	path := filepath.Join(s.dir, "keys.json")
	s.fails("key serve "+path, 3, "no file")
	s.fails("key sign "+path+" --root nobody", 3, `no key "nobody"`)
	s.fails("key sign "+path+" --root root --image-key nobody", 3, `no key "nobody"`)
	s.fails("key sign "+path+" --root root --expires nonsense", 2, "is not a time such as")
	s.says("key sign "+path+" --root root --image-key work --image-key lost", "keys.json: version ", "root key root, good until ")
	s.fails("key sign "+path+" --root work", 4, "the root key of", "kiln key rotate")
	s.fails("key sign "+path+" --revoke root", 2, "revokes its own root key")
	var keys signing.KeysFile
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &keys) != nil || keys.Root.String() != root || len(keys.ImageKeys) != 2 {
		t.Fatalf("%s: %v", b, err)
	}
	s.ok("remote switch local")
	s.ok("remote add up " + at + " --public --accept-certificate --key " + root)
	s.fails("image copy up:good local:", 7, "with the key ", ", not with "+keys.Root.ID())
	s.says("key serve b: "+path, "b serves the keys file, version ", "--key "+root)
	if got := s.ok("query b:/1.0/kiln/image-keys"); !strings.Contains(got, keys.Root.String()) {
		t.Errorf("it serves %s", got)
	}
	s.ok("key export work " + filepath.Join(s.dir, "work.key") + " --secret")
	s.ok("key delete work -f") // who signed it is known by the keys file
	s.says("image info up:good --stale", "Signature: good, by the key up: (", "Pinned key: accepts it as good")
	s.says("image list up: -f csv -c lg", "good,up:\n")
	s.ok("key import " + filepath.Join(s.dir, "work.key"))
	s.ok("image export up:good " + filepath.Join(s.dir, "good"))
	s.ok("image copy up:second local: --mode relay --alias second")
	s.ok("image copy up:good local: --alias good --auto-update")
	tree := filepath.Join(s.dir, "tree")
	s.ok("image publish-tree b: " + tree)
	if got, err := os.ReadFile(filepath.Join(tree, signing.KeysPath)); err != nil || string(got) != string(b) {
		t.Errorf("the tree has %s: %v", got, err)
	}

	// A key is revoked, and stays so, whatever the server says.
	before := s.write("before.json", string(b))
	sig, err := os.ReadFile(path + ".minisig")
	if err != nil {
		t.Fatal(err)
	}
	s.write("before.json.minisig", string(sig))
	s.ok("key sign " + path + " --revoke lost")
	s.ok("key serve b: " + path)
	s.ok("image refresh good")
	for _, verb := range []string{"image copy up:second local:", "image copy up:second local: --mode relay",
		"image export up:second " + filepath.Join(s.dir, "second"), "init up:second c1"} {
		s.fails(verb, 7, "has revoked")
	}
	s.says("image info up:second", "Pinned key: REFUSES it: ", "has revoked")
	s.fails("key serve b: "+before, 4, "would refuse this one", "kiln key serve b: none")
	s.ok("key serve b: none")
	s.fails("key serve b: none", 3, "kiln key serve")
	s.fails("image copy up:second local:", 7, "has revoked") // it is remembered
	s.ok("image copy up:good local: --mode relay --alias again")
	s.ok("key serve b: " + before)
	for _, verb := range []string{"image copy up:good local:", "image copy up:good local: --mode relay", "image list up:",
		"image export up:good " + filepath.Join(s.dir, "second"), "init up:good c1", "image refresh good"} {
		s.fails(verb, 7, "it goes back to an old one")
	}
	if got := s.ok("list -f csv"); got != "" {
		t.Errorf("there is %s", got)
	}
	s.ok("key serve b: none")

	// Another root follows.
	s.fails("key rotate "+path+" nobody", 3, `no key "nobody"`)
	s.fails("key rotate "+path+" root", 2, "is, or was, the root")
	s.ok("key rotate " + path + " root2 --expires 2y")
	s.ok("key delete root -f")
	s.fails("key sign "+path+" --root work", 4)
	s.ok("key sign " + path + " --expires 90d --index-key work")
	s.ok("key sign " + path + " --remove work --image-key work")
	s.ok("key serve b: " + path)
	s.ok("image copy up:good local: --mode relay --alias more")
	s.ok("image refresh good")
	s.ok("remote add newer " + at + " --public --accept-certificate --key " + s.public("root2"))
	s.ok("image export newer:good " + filepath.Join(s.dir, "newer"))
	s.ok("remote set-key up " + work) // as if it were a root: the file isn't its
	s.fails("image copy up:good local:", 7, "has to be with ")

	// An image server without an API, whose owner has forgotten it, or that withholds what is newer.
	f := keys
	f.Version, f.Created, f.Expires = keys.Version+1, time.Now().AddDate(0, 0, -9), time.Now().AddDate(0, 0, -3)
	document, signature, err := signing.SignKeys(elsewhere, f)
	if err != nil {
		t.Fatal(err)
	}
	s.write("tree/streams/v1/keys.json", string(document))
	s.write("tree/streams/v1/keys.json.minisig", string(signature))
	web := serveTree(t, tree)
	s.ok("config set images.allow_http true")
	s.ok("remote add tree " + web.URL + " --protocol simplestreams --allow-http --key " + elsewhere.Key().String())
	for _, verb := range []string{"image list tree: --stale", "image copy tree:good local: --alias tree --stale",
		"image export tree:good " + filepath.Join(s.dir, "tree-good") + " --stale", "init tree:good c2 --stale",
		"rebuild c2 tree:good --stale"} {
		s.fails(strings.TrimSuffix(verb, " --stale"), 7, "expired 3 days ago by this machine's clock", "--stale")
		s.ok(verb)
	}
	s.fails("launch tree:nothing c3 --stale", 3, "nothing")

	var server api.Server
	if err := json.Unmarshal([]byte(s.ok("query b:/1.0")), &server); err != nil || !strings.Contains(strings.Join(
		server.APIExtensions, " "), "kiln_image_keys") {
		t.Error(err)
	}
}

// TestSignedIndex takes by a name what the newest index says, signed by a server with a key that
// was lent to it, and signed offline.
func TestSignedIndex(t *testing.T) {
	s := newSession(t)
	at := s.listening("b")
	for _, name := range []string{"root", "work", "index", "offline"} {
		s.ok("key generate " + name)
	}
	s.ok("remote switch b")
	old := strings.Fields(s.image("1", "--alias good --public"))[0]
	s.ok("image sign good --key work")
	s.image("2", "--alias unsigned --public")
	s.image("3", "--alias hidden")
	s.ok("image sign hidden --key work")
	path := filepath.Join(s.dir, "keys.json")
	s.fails("query /streams/v1/kiln.json", 3, "no signed index")
	s.ok("key sign " + path + " --root root --image-key work")
	s.ok("key serve " + path)
	s.fails("key lend index", 4, "doesn't name", "kiln key sign --index-key")
	s.fails("key lend root", 2, "could sign any image", "--pinned")
	s.fails("key lend nobody", 3, `no key "nobody"`)
	s.fails("key lend none", 3, "kiln key lend")
	s.ok("key sign " + path + " --index-key index --index-key offline")
	s.ok("key serve " + path)
	s.ok("remote switch local")
	s.ok("remote add up " + at + " --public --accept-certificate --key " + s.public("root"))
	s.fails("image copy up:good local:", 7, "has no signed index")
	s.says("key lend b: index", "b signs the index of its public images with the key index")
	if got := s.ok("query b:/1.0/kiln/index-key"); !strings.Contains(got, s.public("index")) || strings.Contains(got, "secret") {
		t.Errorf("the server tells %s", got)
	}
	index := func() (x signing.Index) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.ok("query --raw b:/streams/v1/kiln.json")), &x); err != nil {
			t.Fatal(err)
		}
		return x
	}
	first := index()
	if len(first.Images) != 1 || first.Images[0].Aliases[0] != "good" || first.Origin.String() != s.public("root") {
		t.Errorf("the index is %+v", first)
	}
	if again := index(); again.Version != first.Version {
		t.Error("it is signed again though nothing has changed")
	}
	s.ok("image copy up:good local: --alias good --auto-update")
	s.ok("image copy up:good local: --mode relay --alias relayed")
	s.ok("image export up:good " + filepath.Join(s.dir, "good"))
	s.ok("init up:good c1")
	s.fails("image copy up:unsigned local:", 7, "isn't signed")
	// A newer version, with its own statement, takes over, and the older one doesn't come back.
	s.ok("remote switch b")
	s.image("4", "--alias good --public")
	s.ok("image sign good --key work")
	s.ok("remote switch local")
	s.says("image refresh good", "Image refreshed successfully!")
	if second := index(); second.Version <= first.Version || len(second.Images) != 2 {
		t.Errorf("the index is %+v", second)
	}
	s.ok("image copy up:good local: --mode relay --alias newer")

	// Offline, into a tree.
	tree := filepath.Join(s.dir, "tree")
	s.fails("image publish-tree b: "+tree+" --expires 2d", 2, "give --key")
	s.fails("image publish-tree b: "+tree+" --key nobody", 3, `no key "nobody"`)
	s.fails("image publish-tree b: "+tree+" --key work", 7, "doesn't name")
	s.fails("image publish-tree b: "+tree+" --key offline --expires 0d", 2, "no time")
	s.fails("image publish-tree b: "+tree+" --key offline --revoke bad", 2, "--revoke")
	s.ok("image publish-tree b: " + tree + " --key offline --expires 2d")
	s.fails("image publish-tree b: "+tree, 4, "is signed", "--key")
	kept := map[string]string{}
	for _, name := range []string{"kiln.json", "kiln.json.minisig", "images.json", "index.json"} {
		b, err := os.ReadFile(filepath.Join(tree, "streams/v1", name))
		if err != nil {
			t.Fatal(err)
		}
		kept[name] = string(b)
	}
	web := serveTree(t, tree)
	s.ok("config set images.allow_http true")
	s.ok("remote add tree " + web.URL + " --protocol simplestreams --allow-http --key " + s.public("root"))
	s.ok("image list tree:")
	s.ok("image export tree:good " + filepath.Join(s.dir, "tree-good"))
	s.ok("image copy tree:good local: --alias tree --auto-update")
	s.ok("image publish-tree b: " + tree + " --key offline --revoke " + old)
	s.fails("image export tree:"+old+" "+filepath.Join(s.dir, "old"), 7, "was revoked by its owner")
	s.ok("image copy tree:good local: --alias tree")
	for name, b := range kept {
		s.write("tree/streams/v1/"+name, b)
	}
	for _, verb := range []string{"image list tree:", "image copy tree:good local:", "image export tree:good " +
		filepath.Join(s.dir, "old"), "init tree:good c2", "image copy tree:good local: --mode relay"} {
		s.fails(verb, 7, "signed index of version ", "it goes back to an old one")
	}
	for name := range kept {
		if strings.HasPrefix(name, "kiln.json") {
			if err := os.Remove(filepath.Join(tree, "streams/v1", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.fails("image copy tree:good local:", 7, "has no signed index")

	// The key is revoked, and the server says so rather than sign with it.
	s.ok("key sign " + path + " --revoke index")
	if _, told, code := s.run("key serve b: " + path); code != 0 || !strings.Contains(told, "signs none any more") {
		t.Errorf("nobody is told: %q", told)
	}
	s.fails("query b:/streams/v1/kiln.json", 3, "isn't good any more")
	s.ok("key lend b: none")
}

// serveTree serves the files of a tree as they are at each moment.
func serveTree(t *testing.T, tree string) *httptest.Server {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile(filepath.Join(tree, filepath.Clean(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
		}
		w.Header().Set("Cache-Control", "max-age=0")
		w.Write(b) // without a time, which would be that of the file before within the same second
	}))
	t.Cleanup(web.Close)
	return web
}
