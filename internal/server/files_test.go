package server

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestFilesByHash fetches the files of a split image by their hashes: each is what its
// name says, and another hash is of none.
func TestFilesByHash(t *testing.T) {
	p := start(t)
	meta, rootfs := formattest.Split(t)
	body, contentType := form(t, "metadata", string(meta), "rootfs", string(rootfs))
	o := p.finish("POST", "/1.0/images", string(body), "Content-Type", contentType)
	if o.Err != "" {
		t.Fatal(o.Err)
	}
	for _, want := range [][]byte{meta, rootfs} {
		sum := sha256.Sum256(want)
		path := strings.Replace(all(p), "/1.0/", "/1.0/kiln/", 1) + "/files/" + hex.EncodeToString(sum[:])
		if resp, b := p.do("GET", path, ""); resp.StatusCode != 200 || sha256.Sum256(b) != sum {
			t.Errorf("%s: %d, %d bytes of %d", path, resp.StatusCode, len(b), len(want))
		}
		if resp, _ := p.do("GET", path[:len(path)-4]+"0000", ""); resp.StatusCode != 404 {
			t.Errorf("a hash of nothing: %d", resp.StatusCode)
		}
	}
}
