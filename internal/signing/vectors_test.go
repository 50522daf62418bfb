package signing

import (
	"bytes"
	"crypto/sha256"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestVectors has the examples of the description of the format be what it says, by this
// package and by minisign(1).
func TestVectors(t *testing.T) {
	doc, err := os.ReadFile("../../docs/reference/signatures.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for _, m := range regexp.MustCompile("(?s)```([a-z-]+)\n(.*?)\n```").FindAllStringSubmatch(string(doc), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	if len(blocks["secret"]) != 1 || len(blocks["public"]) != 1 || len(blocks["good"]) != 2 || len(blocks["bad"]) != 5 {
		t.Fatalf("the document has %d vectors", len(blocks))
	}
	secret, err := ParseSecret([]byte(blocks["secret"][0]), "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(blocks["public"][0])
	if err != nil || key != secret.Key() {
		t.Fatalf("%v: the public key is another one", err)
	}
	s := statement()
	s.Aliases = []string{"größe", "debian/12"}
	if got := signed(t, secret, s); got != blocks["good"][0] {
		t.Errorf("signed as\n%s", got)
	}
	dir := t.TempDir()
	write(t, dir, "key.pub", []byte(blocks["public"][0]+"\n"))
	img := kiln.Image{Fingerprint: sha256.Sum256([]byte("image"))}
	for verdict, list := range blocks {
		if verdict != "good" && verdict != "bad" {
			continue
		}
		for _, text := range list {
			img.Signature = text
			if err := check([]Key{key}, img, ""); (err == nil) != (verdict == "good") {
				t.Errorf("%s: %v\n%s", verdict, err, text)
			}
			_, line, _ := strings.Cut(strings.Split(text, "\n")[2], ": ")
			write(t, dir, "statement", []byte(line+"\n"))
			write(t, dir, "statement.minisig", []byte(text+"\n"))
			out, err := run(t, dir, "-V", "-H", "-p", "key.pub", "-m", "statement")
			if (err == nil) != (verdict == "good") {
				t.Errorf("%s, minisign(1): %v, %s\n%s", verdict, err, out, text)
			}
		}
	}
	second, err := ParseSecret([]byte(blocks["second-secret"][0]), "")
	if err != nil || strings.TrimSpace(string(second.Key().File())) != blocks["second-public"][0] {
		t.Fatalf("the second key: %v", err)
	}
	for name, by := range map[string]Secret{"keys": second, "index": secret} {
		want := map[string]func() pair{"keys": func() pair { return vectorKeys(t, secret, second) },
			"index": func() pair { return vectorIndex(t, secret) }}[name]()
		if string(want.document) != blocks[name][0]+"\n" || string(want.signature) != blocks[name+"-signature"][0]+"\n" {
			t.Errorf("%s is signed as\n%s%s", name, want.document, want.signature)
		}
		write(t, dir, name, want.document)
		write(t, dir, name+".minisig", want.signature)
		if out, err := run(t, dir, "-V", "-P", by.Key().String(), "-m", name); err != nil {
			t.Errorf("%s, minisign(1): %v, %s", name, err, out)
		}
	}
	p := NewPin(key)
	if err := p.Learn([]byte(blocks["keys"][0]+"\n"), []byte(blocks["keys-signature"][0]+"\n")); err != nil ||
		p.Root() != second.Key() {
		t.Errorf("the keys file: %v", err)
	}
	if !bytes.Contains(doc, []byte(img.Fingerprint.String())) {
		t.Error("the fingerprint of the vectors is another one")
	}
}

// vectorKeys is the keys file of the description: the key of the vectors was its root, and is
// one that signs images; another one is its root.
func vectorKeys(t *testing.T, key, next Secret) pair {
	t.Helper()
	f := KeysFile{Root: key.Key(), Version: 7, Created: made, Expires: made.AddDate(1, 0, 0), ImageKeys: []Key{key.Key()}}
	f, err := f.Rotate(key, next.Key(), made)
	if err != nil {
		t.Fatal(err)
	}
	return signedKeys(t, next, f)
}

// vectorIndex is the index of the description, which the key of the vectors signs.
func vectorIndex(t *testing.T, key Secret) pair {
	t.Helper()
	return signedIndex(t, key, Index{Origin: key.Key(), Version: 12, Created: made, Expires: made.AddDate(0, 0, 7),
		Images: []Listed{{sha256.Sum256([]byte("image")), "x86_64", 5, []string{"debian/12", "gr%C3%B6%C3%9Fe"}}}})
}
