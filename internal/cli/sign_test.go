package cli

import (
	"encoding/json"
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
