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
	for _, m := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)\n```").FindAllStringSubmatch(string(doc), -1) {
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
			if err := Check(key, img, ""); (err == nil) != (verdict == "good") {
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
	if !bytes.Contains(doc, []byte(img.Fingerprint.String())) {
		t.Error("the fingerprint of the vectors is another one")
	}
}
