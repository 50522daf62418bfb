package signing

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/kiln-containers/kiln"
)

func newSecret(t *testing.T) Secret {
	t.Helper()
	s, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func statement() Statement {
	return Statement{Fingerprint: sha256.Sum256([]byte("image")), Aliases: []string{"web", "debian/12"},
		Serial: time.Date(2026, 11, 28, 15, 3, 21, 0, time.UTC)}
}

func signed(t *testing.T, key Secret, s Statement) string {
	t.Helper()
	sig, err := Sign(key, s)
	if err != nil {
		t.Fatal(err)
	}
	return sig.Text()
}

// run runs minisign(1) in a directory.
func run(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	c := exec.Command("minisign", args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMinisign has minisign(1) verify what is signed here, and the other way round, with
// keys made by either.
func TestMinisign(t *testing.T) {
	dir := t.TempDir()
	ours := newSecret(t)
	secret, err := ours.File("")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "ours.key", secret)
	write(t, dir, "ours.pub", ours.Key().File())
	if out, err := run(t, dir, "-G", "-W", "-s", "theirs.key", "-p", "theirs.pub"); err != nil {
		t.Fatal(out)
	}
	line := statement().String()
	write(t, dir, "statement", []byte(line+"\n"))
	for _, name := range []string{"ours", "theirs"} {
		public, err := os.ReadFile(filepath.Join(dir, name+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		key, err := ParseKey(string(public))
		if err != nil || !bytes.Equal(key.File(), public) {
			t.Fatalf("%s: %v; %s is written as %s", name, err, public, key.File())
		}
		file, err := os.ReadFile(filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseSecret(file, "")
		if err != nil || s.Key() != key || !IsSecret(file) || IsSecret(public) || Encrypted(file) {
			t.Fatalf("%s: %v, %v", name, err, s.Key())
		}
		if out, err := run(t, dir, "-S", "-s", name+".key", "-m", "statement", "-t", line); err != nil {
			t.Fatal(out)
		}
		b, err := os.ReadFile(filepath.Join(dir, "statement.minisig"))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := Parse(strings.TrimSuffix(string(b), "\n"))
		if err != nil || sig.Verify(key) != nil {
			t.Errorf("a signature of minisign(1): %v, %v", err, sig.Verify(key))
		}
		write(t, dir, "statement.minisig", []byte(signed(t, s, statement())+"\n"))
		out, err := run(t, dir, "-V", "-H", "-p", name+".pub", "-m", "statement")
		if err != nil || !strings.Contains(out, line) {
			t.Errorf("minisign(1) on a signature: %v, %s", err, out)
		}
	}
}

// TestPassword reads a secret key that is encrypted. What that costs is in the file: this
// one is cheap.
func TestPassword(t *testing.T) {
	file, err := os.ReadFile("testdata/encrypted.key")
	if err != nil {
		t.Fatal(err)
	}
	if !Encrypted(file) || !IsSecret(file) {
		t.Error("it isn't taken for an encrypted key")
	}
	s, err := ParseSecret(file, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Sign(s, statement())
	if err != nil || sig.Verify(s.Key()) != nil {
		t.Error(err, sig.Verify(s.Key()))
	}
	for _, wrong := range []string{"", "correct horse "} {
		if _, err := ParseSecret(file, wrong); kiln.KindOf(err) != kiln.Denied {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// TestKeys refuses what is no key.
func TestKeys(t *testing.T) {
	good := newSecret(t)
	file, err := good.File("")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(lastLine(file))
	if err != nil {
		t.Fatal(err)
	}
	raw[70] ^= 1 // of the seed
	damaged := []byte(base64.StdEncoding.EncodeToString(raw))
	for name, b := range map[string][]byte{"": nil, "damaged": damaged, "public": good.Key().File(), "cut": file[:100]} {
		if _, err := ParseSecret(b, ""); err == nil {
			t.Errorf("a secret key that is %s is read", name)
		}
	}
	text := good.Key().String()
	for _, wrong := range []string{"", "x", text[1:], text + "=", text[:20] + "\n" + text[20:],
		text[:20] + "\r" + text[20:], text + " x", "untrusted comment: x",
		"untrusted comment: x\ny\n" + text, strings.Repeat("A", 10_000), string(file)} {
		if _, err := ParseKey(wrong); kiln.KindOf(err) != kiln.Invalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	for _, right := range []string{text, text + "\n", "untrusted comment: mine\r\n" + text + "\r\n"} {
		if k, err := ParseKey(right); err != nil || k != good.Key() {
			t.Errorf("%q: %v", right, err)
		}
	}
}

// TestStatements has one way to write a statement, whatever the aliases are.
func TestStatements(t *testing.T) {
	s := statement()
	s.Aliases = []string{"b", "ä%=,x", "b", "a/b.c-d_e~f:g@h"}
	want := "kiln-image-v1 fingerprint=" + s.Fingerprint.String() +
		" serial=20261128T150321Z alias=a/b.c-d_e~f:g@h alias=b alias=%C3%A4%25%3D,x"
	if got := s.String(); got != want {
		t.Fatalf("got %s\nwant %s", got, want)
	}
	if got, err := ParseStatement(want); err != nil || got.String() != want || len(got.Aliases) != 3 {
		t.Error(got, err)
	}
	for name, wrong := range map[string]string{
		"another type":    strings.Replace(want, "v1", "v2", 1),
		"no fingerprint":  strings.Replace(want, "fingerprint=", "", 1),
		"two spaces":      strings.Replace(want, " serial", "  serial", 1),
		"a short one":     strings.Replace(want, s.Fingerprint.String(), s.Fingerprint.Short(), 1),
		"capitals":        strings.Replace(want, s.Fingerprint.String(), strings.ToUpper(s.Fingerprint.String()), 1),
		"a local time":    strings.Replace(want, "21Z", "21+0100", 1),
		"a day too many":  strings.Replace(want, "1128", "1131", 1),
		"another order":   strings.Replace(want, "alias=a/b.c-d_e~f:g@h alias=b", "alias=b alias=a/b.c-d_e~f:g@h", 1),
		"one twice":       strings.Replace(want, "alias=b", "alias=b alias=b", 1),
		"needless escape": strings.Replace(want, "alias=b", "alias=%62", 1),
		"small escape":    strings.Replace(want, "%C3", "%c3", 1),
		"half an escape":  want[:len(want)-4],
		"no alias":        want + " alias=",
		"what else":       want + " expires=never",
		"an end":          want + "\n",
		"not an alias":    Statement{s.Fingerprint, s.Serial, []string{"a b"}}.String(),
	} {
		if _, err := ParseStatement(wrong); kiln.KindOf(err) != kiln.Integrity {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := Statement{Serial: s.Serial}
	for i := range 40 {
		many.Aliases = append(many.Aliases, strings.Repeat("x", i+1))
	}
	if _, err := Sign(newSecret(t), many); kiln.KindOf(err) != kiln.Invalid || !strings.Contains(err.Error(), "--alias") {
		t.Error(err)
	}
}

// attacks are signatures that are not of the key for the image, and what is said of each.
func attacks(t *testing.T, key, other Secret) map[string][2]string {
	t.Helper()
	good := signed(t, key, statement())
	lines := strings.Split(good, "\n")
	line := statement().String()
	anew := func(change func(*minisign.Signature)) string {
		var m minisign.Signature
		if err := m.UnmarshalText([]byte(good)); err != nil {
			t.Fatal(err)
		}
		change(&m)
		return strings.TrimSuffix(m.String(), "\n")
	}
	// sign signs a message as it is told to, with the right key.
	sign := func(message, comment string) string {
		r := minisign.NewReader(strings.NewReader(message))
		if _, err := r.Read(make([]byte, len(message)+1)); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(string(r.SignWithComments(key.key, comment, "")), "\n")
	}
	legacy := strings.TrimSuffix(string(minisign.SignWithComments(key.key, []byte(line+"\n"), line, "")), "\n")
	var theirs minisign.Signature
	if err := theirs.UnmarshalText([]byte(signed(t, other, statement()))); err != nil {
		t.Fatal(err)
	}
	another := statement()
	another.Fingerprint[0] ^= 1
	elsewhere := statement()
	elsewhere.Aliases = []string{"debian/11"}
	unnamed := statement()
	unnamed.Aliases = nil
	return map[string][2]string{
		"unsigned": {
			"",
			"isn't signed, and has to be with the key " + key.Key().ID(),
		},
		"wrong key": {
			signed(t, other, statement()),
			"with the key " + other.Key().ID() + ", not with " + key.Key().ID(),
		},
		"wrong key, right id": {
			anew(func(m *minisign.Signature) {
				m.Signature, m.CommentSignature = theirs.Signature, theirs.CommentSignature
			}),
			"not by the key",
		},
		"right key, wrong id": {
			anew(func(m *minisign.Signature) { m.KeyID ^= 1 }),
			"not with " + key.Key().ID(),
		},
		"another image": {
			signed(t, key, another),
			"of another image: of " + another.Fingerprint.Short(),
		},
		"another alias": {
			signed(t, key, elsewhere),
			`signed as debian/11, not as "debian/12"`,
		},
		"no alias": {signed(t, key, unnamed), "signed without an alias"},
		"tampered fingerprint": {
			strings.Replace(signed(t, key, another), another.Fingerprint.String(), statement().Fingerprint.String(), 1),
			"was changed",
		},
		"tampered alias": {
			strings.Replace(signed(t, key, elsewhere), "debian/11", "debian/12", 1),
			"was changed",
		},
		"comment of another one": {
			anew(func(m *minisign.Signature) { m.TrustedComment = elsewhere.String() }),
			"was changed",
		},
		"comment, not message":   {sign(elsewhere.String()+"\n", line), "was changed"},
		"message, not comment":   {sign(line+"\n", elsewhere.String()), "was changed"},
		"message without an end": {sign(line, line), "was changed"},
		"message of a file":      {sign("image", line), "was changed"},
		"legacy":                 {legacy, "old kind (Ed)"},
		"legacy, called hashed":  {strings.Replace(legacy, "\nRW", "\nRU", 1), "was changed"},
		"hashed, called legacy": {
			anew(func(m *minisign.Signature) { m.Algorithm = minisign.EdDSA }),
			"old kind (Ed)",
		},
		"signature flipped": {
			anew(func(m *minisign.Signature) { m.Signature[3] ^= 1 }),
			"was changed",
		},
		"comment sig flipped": {
			anew(func(m *minisign.Signature) { m.CommentSignature[3] ^= 1 }),
			"was changed",
		},
		"truncated":        {good[:len(good)-1], "cut off"},
		"half":             {strings.Join(lines[:2], "\n"), "cut off"},
		"one line more":    {good + "\n", "cut off"},
		"carriage returns": {strings.ReplaceAll(good, "\n", "\r\n"), "cut off"},
		"white space": {
			strings.Replace(good, lines[1], lines[1][:40]+"\n"+lines[1][40:], 1),
			"cut off",
		},
		"control characters": {strings.Replace(good, "of an image", "\x1b[2J", 1), "cut off"},
		"huge": {
			strings.Replace(good, "signature of", strings.Repeat("x", 1<<20), 1),
			"at most 700",
		},
		"no signature": {"yes", "cut off"},
		"a public key": {string(key.Key().File()), "cut off"},
	}
}

// TestAttacks refuses every signature that isn't the owner's for this image and this name.
func TestAttacks(t *testing.T) {
	key, other := newSecret(t), newSecret(t)
	img := kiln.Image{Fingerprint: statement().Fingerprint, Architecture: "x86_64"}
	for name, attack := range attacks(t, key, other) {
		img.Signature = attack[0]
		err := check([]Key{key.Key()}, img, "debian/12")
		if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), attack[1]) {
			t.Errorf("%s: %v, not %q", name, err, attack[1])
		}
	}
	img.Signature = signed(t, key, statement())
	for _, name := range []string{"", "debian/12", "web", "debian/12/amd64", "debian/12/x86_64", "web@3",
		img.Fingerprint.Short(), strings.ToUpper(img.Fingerprint.String())} {
		if err := check([]Key{key.Key()}, img, name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"debian/11", "debian", "debian/12/arm64", "debian/12/cloud", "x@1", "/amd64",
		img.Fingerprint.Short()[:11], "deadbeefdeadbeef"} {
		if err := check([]Key{key.Key()}, img, name); kiln.KindOf(err) != kiln.Integrity {
			t.Errorf("%q: %v", name, err)
		}
	}
	err := check([]Key{key.Key()}, img, img.Fingerprint.String()[:8])
	if err == nil || !strings.Contains(err.Error(), "at least 12 digits") {
		t.Error(err)
	}
	img.Fingerprint = kiln.Fingerprint{} // its metadata is made when it is copied
	if err := check([]Key{key.Key()}, img, "debian/12"); kiln.KindOf(err) != kiln.Integrity {
		t.Error(err)
	}
}

// FuzzParse has what is read be written in the same bytes, and never verified with a key
// that didn't sign it.
func FuzzParse(f *testing.F) {
	key, err := Generate()
	if err != nil {
		f.Fatal(err)
	}
	good, err := Sign(key, statement())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.Text())
	f.Add(strings.Replace(good.Text(), "debian", "%41", 1))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if kiln.KindOf(err) != kiln.Integrity {
				t.Fatal(err)
			}
			return
		}
		if s.Text() != text || len(text) > MaxSignature || !strings.Contains(text, "\ntrusted comment: "+s.String()+"\n") {
			t.Fatalf("%q is read as %q", text, s)
		}
		if s.Verify(key.Key()) == nil && s.String() != good.String() {
			t.Fatalf("%q verifies", text)
		}
	})
}

// FuzzParseKey has a key that is read be written in the same way.
func FuzzParseKey(f *testing.F) {
	key, err := Generate()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key.Key().String())
	f.Add(string(key.Key().File()))
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKey(text)
		if err != nil {
			return
		}
		if again, err := ParseKey(string(k.File())); err != nil || again != k || !strings.Contains(text, k.String()) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
