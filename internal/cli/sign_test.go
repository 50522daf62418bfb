package cli

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// signature gives the signature that an image has, "" if it has none.
func (s *session) signature(word string) string {
	s.t.Helper()
	var img api.Image
	if err := json.Unmarshal([]byte(s.ok("image info "+word+" -f json")), &img); err != nil {
		s.t.Fatal(err)
	}
	return img.Properties[kiln.SignatureProperty]
}

// TestSign signs images in each way there is, and shows who did.
func TestSign(t *testing.T) {
	s := newSession(t)
	one := s.image("1", "--alias one")
	s.fails("image sign one", 3, "kiln key generate")
	s.ok("key generate")
	s.ok("key generate other")
	s.says("image sign one", "signed with the key default, as: one\n")
	s.says("image info one", "Signature: good, by the key default (", "), as one, on ")
	if out := s.ok("image info one"); strings.Contains(out, "untrusted comment") {
		t.Errorf("the signature is shown as it is: %s", out)
	}
	s.says("image list -f csv -c lg", "one,default\n")
	s.ok("image alias create two " + one)
	s.fails("image sign one --key nobody", 3, `no key "nobody"`)
	s.says("image sign one --key other --alias two", "with the key other, as: two\n")
	s.says("image info one", "Signature: good, by the key other (", "as two")
	s.fails("image sign one --alias 'a b'", 2, "white space")
	second := strings.Fields(s.image("2", "--sign"))[0]
	s.says("image sign "+second[:12], "without an alias")
	s.says("image info "+second, "as no alias")

	// It goes along, whichever way an image travels.
	mine := s.signature("one")
	s.ok("image copy one b: --mode relay --copy-aliases")
	if got := s.signature("b:one"); got != mine {
		t.Errorf("relay brings %q", got)
	}
	tree := filepath.Join(s.dir, "tree")
	s.stdin = "public: true\n"
	s.ok("image edit one")
	if s.signature("one") != mine {
		t.Errorf("an edit that leaves the signature out has made it %q", s.signature("one"))
	}
	s.ok("image publish-tree local: " + tree)
	b, err := os.ReadFile(filepath.Join(tree, "streams/v1/images.json"))
	if err != nil || !strings.Contains(string(b), `"kiln.signature":"untrusted comment: signature of an image\nRU`) {
		t.Errorf("the tree: %v, %s", err, b)
	}

	// Keys come and go. What isn't right is said.
	s.ok("key delete other -f")
	s.says("image info one", "Signature: by the unknown key ", "kiln key import")
	s.says("image list -f csv -c lg", " (unknown)")
	for name, wrong := range map[string]string{"nonsense": "yes", "another image's": s.signature(second),
		"cut off": mine[:200]} {
		s.fails("image set-property one kiln.signature '"+wrong+"'", 7, "can't be kept", "kiln image sign")
		if s.signature("one") != mine {
			t.Errorf("%s: it is %q now", name, s.signature("one"))
		}
	}
	third := s.write("3.tar", string(formattest.Tiny(t, "3")))
	s.fails("image import "+third+" kiln.signature=yes", 7, "can't be kept")
	s.says("image import "+third+" --sign=default --alias third", "as: third\n")
	s.ok("image unset-property one kiln.signature")
	if got := s.signature("one"); got != "" {
		t.Errorf("it is still %q", got)
	}

	// It is of this image only: neither an instance has it nor what is published from it.
	s.ok("image sign one")
	s.ok("init one c1")
	if out := s.ok("config show c1"); strings.Contains(out, "signature") {
		t.Errorf("the instance has it: %s", out)
	}
	s.ok("publish c1 --alias three")
	if got := s.signature("three"); got != "" {
		t.Errorf("the new image has %q", got)
	}
	s.ok("publish c1 user.x=y --alias four --sign=default")
	s.says("image info four", "good, by the key default")
	s.fails("publish c1 --check four --sign", 2, "leave --sign out")
	s.fails("publish c1 --sign=nobody --alias five", 3, `no key "nobody"`)
	s.fails("image info five", 3, "no image")
}

// TestPin takes from a remote with a key only what is signed with it, by every verb that
// takes images, whoever of client and servers asks.
func TestPin(t *testing.T) {
	s := newSession(t)
	at := s.listening("b")
	s.listening("local")
	s.ok("remote switch b")
	s.ok("key generate")
	s.ok("key generate other")
	public := filepath.Join(s.dir, "image.pub")
	s.ok("key export default " + public)
	renamed := s.image("4", "--alias renamed --public")
	for seed, flags := range map[string]string{"1": "--alias good --public", "2": "--alias unsigned --public",
		"3": "--alias theirs --public", "5": "--alias secret"} {
		s.image(seed, flags)
	}
	s.ok("image sign good")
	s.ok("image sign theirs --key other")
	s.ok("image sign renamed --alias before")
	s.ok("image sign secret")
	s.ok("remote switch local")
	s.fails("remote add up "+at+" --public --accept-certificate --key nonsense", 2, "not a public key of minisign")
	s.fails("remote add up "+at+" --public --accept-certificate --key "+filepath.Join(s.dir, "conf/keys/default.key"), 2,
		"secret key")
	s.ok("remote add up " + at + " --public --accept-certificate --key " + public)
	id := strings.Split(strings.TrimSpace(s.ok("key list -f csv")), ",")[1]
	s.says("remote list -f csv", "up,"+at+",kiln,tls,YES,NO,NO,"+id+"\n", "local (current),unix://,kiln,file access,NO,YES,NO,\n")
	s.says("image info up:good", "good, by the key default")
	s.says("image info up:theirs", "good, by the key other")

	for name, want := range map[string]string{"unsigned": "isn't signed", "theirs": "not with " + id,
		"renamed": `signed as before, not as "renamed"`} {
		out := filepath.Join(s.dir, "out-"+name)
		for _, verb := range []string{"image copy up:" + name + " local:", "image copy up:" + name + " local: --mode relay",
			"image copy up:" + name + " local: --dry-run", "image export up:" + name + " " + out, "init up:" + name + " c1"} {
			s.fails(verb, 7, want)
		}
		if files, err := filepath.Glob(out + "*"); err != nil || len(files) > 0 {
			t.Errorf("%s: %v, %v", name, files, err)
		}
	}
	if out := s.ok("image list -f csv") + s.ok("list -f csv"); out != "" {
		t.Errorf("there is %q", out)
	}

	// What is signed comes in every way, and its source is pinned from then on.
	s.ok("image export up:good " + filepath.Join(s.dir, "good"))
	s.ok("image copy up:good local: --mode relay --alias relayed")
	s.ok("image delete relayed")
	s.ok("image copy up:good local: --alias good --auto-update")
	s.says("image info good", "good, by the key default", "Image key: RW")
	s.ok("remote switch b")
	s.ok("image alias create more " + s.ok("image list good --exact -f csv -c F"))
	s.ok("remote switch local")
	s.ok("image copy up:good local: --copy-aliases")
	s.fails("image info more", 3, "no image")
	s.fails("image copy up:"+renamed[:8]+" local:", 7, "at least 12 digits")
	s.ok("image copy up:" + renamed[:12] + " local: --alias by-digits")
	s.ok("init up:good c1")
	s.ok("rebuild c1 up:good")
	s.fails("rebuild c1 up:unsigned", 7, "isn't signed")
	s.ok("remote switch b")
	s.image("6", "--alias good --public")
	s.ok("remote switch local")
	s.fails("image refresh good", 7, "isn't signed")
	s.ok("remote switch b")
	s.ok("image sign good")
	s.ok("remote switch local")
	s.says("image refresh good", "Image refreshed successfully!")

	// Private ones, which the other server is asked for by their fingerprint.
	s.ok("remote set-key b " + public)
	s.ok("image copy b:secret local: --alias secret")
	s.fails("image copy b:theirs local:", 7, "not with "+id)
	s.ok("remote switch b")
	s.ok("image alias rename secret hidden")
	s.ok("remote switch local")
	s.fails("image copy b:hidden local:", 7, `signed as secret, not as "hidden"`)
	s.fails("init b:hidden c2", 7, `signed as secret, not as "hidden"`)

	// A mirror, and a URL, whose server tells the signature.
	s.fails("mirror add up", 7, "isn't signed")
	s.fails("image info unsigned", 3)
	s.says("image info good", "good, by the key default")
	s.ok("mirror remove up")
	s.ok("image delete good")
	s.ok("image import " + at + "/lxd/good --alias url")
	s.says("image info url", "good, by the key default", "Image key: RW")
	for name, want := range map[string]string{"unsigned": "isn't signed", "theirs": "not with " + id,
		"renamed": `signed as before, not as "lxd/renamed"`} {
		s.fails("image import "+at+"/lxd/"+name+" --alias no", 7, want)
		s.fails("image info no", 3)
	}
	s.fails("image import "+at+"/lxd/good --signature x --key "+public, 2, "of a URL the server tells")

	var server api.Server
	if err := json.Unmarshal([]byte(s.ok("query b:/1.0")), &server); err != nil {
		t.Fatal(err)
	}
	s.ok("remote add up " + at + " --public --fingerprint " + server.Environment.CertificateFingerprint)
	s.says("remote list -f csv", id)
	s.ok("remote set-key up none")
	s.ok("image copy up:unsigned local: --alias unsigned")
	s.fails("remote set-key up nonsense", 2, "not a public key of minisign")
	s.fails("config set images.require_signature never", 2, "pinned, always")
	s.ok("config set images.require_signature always")
	s.fails("image copy up:renamed local: --mode pull", 7, "images.require_signature", "kiln remote set-key")
}

// TestSignedInstances copies instances, which are the user's own, in every way there is, whoever
// signed the images that they stand on: only such an image is one on the target that is signed as
// it has to be there.
func TestSignedInstances(t *testing.T) {
	s := newSession(t)
	s.listening("b")
	s.ok("key generate")
	s.ok("key generate other")
	public := filepath.Join(s.dir, "image.pub")
	s.ok("key export default " + public)
	fingerprints := map[string]string{}
	s.ok("remote switch b")
	for _, name := range []string{"signed", "unsigned", "theirs"} {
		path := s.write(name+".tar", string(formattest.Tar(t, formattest.File{Name: "metadata.yaml",
			Body: formattest.Metadata + "templates: {/t: {when: [start], template: t.tpl}}\n"},
			formattest.File{Name: "templates/t.tpl", Body: name + "'s"},
			formattest.File{Name: "rootfs/", Type: tar.TypeDir, Mode: 0o755}, formattest.File{Name: "rootfs/of", Body: name},
			formattest.File{Name: "rootfs/gone", Body: name})))
		_, fp, _ := strings.Cut(s.ok("image import "+path+" --alias "+name), ": ")
		fingerprints[name] = strings.TrimSpace(fp)
		s.ok("init " + name + " " + name)
		s.ok("file delete " + name + "/gone")
		s.ok("snapshot " + name + " s0")
	}
	s.ok("image sign signed")
	s.ok("image sign theirs --key other")
	s.ok("remote switch local")
	for _, policy := range []struct{ key, require string }{{public, "pinned"}, {public, "always"}, {"none", "always"},
		{"none", "pinned"}} {
		s.ok("remote set-key b " + policy.key)
		s.ok("config set images.require_signature " + policy.require)
		for name, fp := range fingerprints {
			kept := name == "signed" && policy.key != "none" || policy == struct{ key, require string }{"none", "pinned"}
			for _, mode := range []string{"pull", "push", "relay"} {
				what := fmt.Sprintf("%s by %s, key %s, %s", name, mode, policy.key, policy.require)
				_, errs, code := s.run("copy b:" + name + " c1 --mode " + mode)
				if code != 0 || strings.Contains(errs, "isn't kept") == kept {
					t.Errorf("%s: exit %d, %s", what, code, errs)
					continue
				}
				if mode == relay && policy.key == public { // its files are another part
					s.ok("restore c1 s0")
				}
				if got := s.ok("file pull c1/of -"); got != name {
					t.Errorf("%s: its file is %q", what, got)
				}
				s.fails("file pull c1/gone -", 3)
				s.says("config template show c1 t.tpl", name+"'s")
				if got := s.ok("image list -f csv -c F"); (got == fp+"\n") != kept || got != "" && !kept {
					t.Errorf("%s: the images are %q", what, got)
				}
				if kept {
					if got := s.signature(fp); (got != "") != (name != "unsigned") {
						t.Errorf("%s: the signature is %q", what, got)
					}
					s.says("image info "+fp, "in the cache")
					s.ok("image delete " + fp)
				}
				s.ok("delete c1")
			}
		}
	}
}
