package cli

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/signing"
)

// TestSignWith has all that is made on a remote be signed by itself, from when that is said.
func TestSignWith(t *testing.T) {
	s := newSession(t)
	s.ok("key generate daily")
	s.ok("key generate other")
	s.fails("remote set-signer local nobody", 3, `no key "nobody"`)
	s.ok("remote set-signer local daily")
	s.says("remote list -f csv -c nw", "local (current),daily\n", "b,\n")
	file := s.write("1.tar", string(formattest.Tiny(t, "1")))
	s.ok("image import " + file + " --alias one")
	s.says("image info one", "Signature: good, by the key daily (", "as one")
	s.ok("image import " + s.write("2.tar", string(formattest.Tiny(t, "2"))) + " --alias two --sign=")
	if got := s.signature("two"); got != "" {
		t.Errorf("--sign= makes %q", got)
	}
	s.ok("image import " + file + " b: --alias one")
	if got := s.signature("b:one"); got != "" {
		t.Errorf("another remote's image has %q", got)
	}
	s.ok("init two c1")
	s.ok("publish c1 user.x=y --alias three")
	s.says("image info three", "good, by the key daily")
	s.fails("publish c1 --check two", 1, "would be published as")

	// What others have signed stays theirs; one's own signature says new names.
	s.ok("image sign one --key other")
	s.says("image import "+file+" --alias four", "keeps its signature by the key ", "kiln image sign")
	s.says("image info one", "good, by the key other")
	s.ok("image sign one --key daily --alias one")
	s.ok("image import " + file + " --alias five")
	s.says("image info one", "good, by the key daily (", "as five, four, one")

	s.ok("key delete daily -f")
	s.fails("image import "+s.write("3.tar", string(formattest.Tiny(t, "3")))+" --alias six", 3, `no key "daily"`,
		"set-signer local none")
	s.fails("image info six", 3)
	s.ok("remote set-signer local none")
	s.ok("image import " + s.write("3.tar", string(formattest.Tiny(t, "3"))) + " --alias six")
	s.fails("config set images.sign_with=daily", 1, "kiln remote set-signer")
}

// minisign runs minisign(1), which has to be content.
func minisign(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("minisign", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("minisign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestProof exports images with what was signed, and takes files only as that.
func TestProof(t *testing.T) {
	s := newSession(t)
	s.ok("key generate")
	s.ok("key generate other")
	public, other := filepath.Join(s.dir, "default.pub"), filepath.Join(s.dir, "other.pub")
	s.ok("key export default " + public)
	s.ok("key export other " + other)
	fp := strings.Fields(s.image("1", "--alias good --sign=default"))[0]
	s.ok("image export good " + filepath.Join(s.dir, "good"))
	file := filepath.Join(s.dir, "good.tar")
	sig := file + ".statement.minisig"
	if out := minisign(t, "-V", "-p", public, "-m", file+".statement"); !strings.Contains(out, fp) {
		t.Errorf("minisign(1) shows %s, not %s", out, fp)
	}
	s.ok("image delete good")
	none := func(what string) {
		t.Helper()
		if out := s.ok("image list -f csv -c f"); out != "" {
			t.Fatalf("%s: there is %s", what, out)
		}
	}
	s.ok("image import " + file + " --alias good")
	s.says("image info good", "good, by the key default")
	s.ok("image delete good")
	s.ok("image import " + file + " --alias good --key " + public)
	s.ok("image delete good")
	s.fails("image import "+file+" --alias bad --key "+public, 7, `signed as good, not as "bad"`)
	s.fails("image import "+file+" --key "+other, 7, "not with")
	none("wrong key, wrong name")

	signature, err := os.ReadFile(sig)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{"cut off": string(signature[:200]), "empty": "", "huge": strings.Repeat("x", 5000),
		"changed": strings.Replace(string(signature), "alias=good", "alias=goof", 1)} {
		s.write("good.tar.statement.minisig", bad)
		for _, key := range []string{"", " --key " + public} {
			if name != "changed" || key != "" { // nobody knows by whom it has to be
				s.fails("image import "+file+key, 7, "good.tar.statement.minisig")
			}
		}
		none(name)
	}
	s.write("good.tar.statement.minisig", string(signature))
	content[len(content)-1] ^= 1
	s.write("good.tar", string(content))
	s.fails("image import "+file, 7, "good.tar.statement.minisig: its signature is of another image", "nothing was imported")
	none("another file")
	if err := os.Remove(sig); err != nil {
		t.Fatal(err)
	}
	s.fails("image import "+file+" --key "+public, 7, "nothing says that", "is signed")
	none("no signature")

	// A signature of the file itself, by minisign(1).
	content[len(content)-1] ^= 1
	s.write("good.tar", string(content))
	minisign(t, "-S", "-s", filepath.Join(s.dir, "conf/keys/default.key"), "-m", file)
	minisig := file + ".minisig"
	s.fails("image import "+file+" --signature "+minisig, 2, "--key")
	s.fails("image import "+file+" --key "+public+" --signature "+minisig+" --signature "+minisig, 2, "its own")
	s.fails("image import "+file+" --key "+other+" --signature "+minisig, 7, "not with")
	s.fails("image import "+file+" --key "+public+" --signature "+file, 7, "signature has more than")
	s.ok("image import " + file + " --alias good --key " + public + " --signature " + minisig)
	s.ok("image delete good")
	s.write("good.tar", string(content)+"x")
	s.fails("image import "+file+" --key "+public+" --signature "+minisig, 7, "isn't what the key", "nothing was imported")
	none("another file than the one that was signed")

	// A signature of the file by gpg(1).
	gnupg, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(gnupg)
	defer func() { _ = exec.Command("gpgconf", "--homedir", gnupg, "--kill", "all").Run() }()
	gpgKey, gpgSig := filepath.Join(s.dir, "key.gpg"), filepath.Join(s.dir, "good.tar.asc")
	s.write("good.tar", string(content))
	for _, args := range [][]string{{"--quick-generate-key", "signer@example", "ed25519", "sign", "never"},
		{"--output", gpgKey, "--export"}, {"--armor", "--output", gpgSig, "--detach-sign", file}} {
		args = append([]string{"--homedir", gnupg, "--batch", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)
		if out, err := exec.Command("gpg", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	s.ok("image import " + file + " --alias good --key " + gpgKey + " --signature " + gpgSig)
	s.ok("image delete good")
	s.fails("image import "+file+" --key "+gpgKey+" --signature "+minisig, 7, "no signature of OpenPGP")
	s.fails("image import "+file+" --key "+public+" --signature "+gpgSig, 7, "not one of minisign")
	s.fails("image import "+file+" --key "+gpgKey, 7, "nothing says that")
	s.write("good.tar", string(content)+"x")
	s.fails("image import "+file+" --key "+gpgKey+" --signature "+gpgSig, 7, "isn't what the key", "nothing was imported")
	none("another file than the one that gpg signed")

	// An image of two files.
	meta, root := formattest.Split(t)
	s.ok("image import " + s.write("meta.tar", string(meta)) + " " + s.write("root.tar", string(root)) +
		" --alias two --sign=default")
	s.ok("image export two " + filepath.Join(s.dir, "two"))
	s.ok("image delete two")
	s.ok("image import " + filepath.Join(s.dir, "two") + " " + filepath.Join(s.dir, "two.root") + " --alias two --key " + public)
	s.says("image info two", "good, by the key default")
}

// sum is the fingerprint of an image of one file, or another one.
func sum(b []byte, wrong bool) kiln.Fingerprint {
	fp := kiln.Fingerprint(sha256.Sum256(b))
	if wrong {
		fp[0] ^= 1
	}
	return fp
}

// TestProvenStream gives the last bytes of what isn't as it was signed to nobody.
func TestProvenStream(t *testing.T) {
	key, err := signing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 3*heldBack+17)
	rand.Read(content)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	fp, err := remote.Files{Paths: []string{path}}.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for what, wrong := range map[string]bool{"good": false, "bad": true} {
		s, err := signing.Sign(key, signing.Statement{Fingerprint: sum(content, wrong)})
		if err != nil {
			t.Fatal(err)
		}
		in, err := provenFiles{Files: remote.Files{Paths: []string{path}}, statement: &s}.Open(t.Context(), fp)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Next(); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		_, err = io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{in}, make([]byte, 64<<10))
		switch {
		case wrong && (!errors.Is(err, kiln.Integrity) || got.Len() >= len(content)):
			t.Errorf("%s: %d of %d bytes came, %v", what, got.Len(), len(content), err)
		case !wrong && (err != nil || !bytes.Equal(got.Bytes(), content)):
			t.Errorf("%s: %d of %d bytes came, %v", what, got.Len(), len(content), err)
		}
		in.Close()
	}
}
