package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNamedTwice deletes what is named twice once.
func TestNamedTwice(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	for _, words := range []string{"delete x1 x1", "delete x1 local:x1", "delete x1/s x1/s", "delete x1/s local:x1/s"} {
		if !strings.Contains(words, "/s") || strings.Contains(words, "x1/s x1/s") {
			s.ok("init one x1")
		}
		if strings.Contains(words, "/s") {
			s.ok("snapshot x1 s")
		}
		s.ok(words)
	}
	s.image("2", "--alias g1 --alias g2")
	s.ok("image delete g1 g2")
	s.fails("image show g1", 3)
}

// TestPublishTreeLeavesOut: one image that is damaged doesn't keep the others from being published.
func TestPublishTreeLeavesOut(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one --public")
	bad := s.image("2", "--alias two --public")
	tree := filepath.Join(s.dir, "tree")
	path := filepath.Join(s.dir, "a/blobs/sha256", bad[:2], bad)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[600] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.fails("image publish-tree "+tree, 7, "1 images in", bad[:12]+" is damaged, and left out", "kiln image delete "+bad[:12])
	s.says("warning list -f csv", "Image damaged")
	products, err := os.ReadFile(filepath.Join(tree, "streams/v1/images.json"))
	if err != nil || !strings.Contains(string(products), "one") || strings.Contains(string(products), bad) {
		t.Errorf("%s, %v", products, err)
	}
	s.ok("image delete one")
	s.fails("image publish-tree "+tree, 7, bad[:12])
	if now, err := os.ReadFile(filepath.Join(tree, "streams/v1/images.json")); err != nil || string(now) != string(products) {
		t.Errorf("the index of before is %s, %v", now, err)
	}
}
