package faults

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestDelta has a server with the difference between two versions: who has the
// first gets the second by it, and in full when it doesn't lead there.
func TestDelta(t *testing.T) {
	t.Parallel()
	rootfs := func(more string) []byte {
		return formattest.Squashfs(t, formattest.Tar(t,
			formattest.File{Name: "etc/", Type: tar.TypeDir, Mode: 0o755},
			formattest.File{Name: "noise", Body: noise("delta", 2<<20)}, formattest.File{Name: "more",
				Body: noise(more, 10<<10)}))
	}
	meta := func(v string) []byte { return split(t, v, 0)[0] }
	old, now := image{meta("old"), rootfs("old")}, image{meta("now"), rootfs("now")}
	delta := vcdiff(t, old[1], now[1])
	for name, c := range map[string]struct {
		lie  http.HandlerFunc
		full bool
	}{
		"good":    {nil, false},
		"gone":    {http.NotFound, true},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(noise("x", len(delta)))) }, true},
		"another": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(vcdiff(t, old[1], old[1])) }, true},
		"short":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(delta[:len(delta)/2]) }, true},
		"broken":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to, s := newHost(t), newImageServer(t)
			s.publish(t, published{image: old, alias: "x", version: "20260101"})
			to.streams("s", s, s.URL)
			to.ok("image", "copy", "s:x", "local:", "--alias", "x", "--auto-update")
			s.publish(t, published{image: now, alias: "x", version: "20260202"}, published{image: old, version: "20260101"})
			s.addDelta(t, delta)
			s.lie("/files/delta", c.lie)
			before := s.bytes()
			to.ok("image", "refresh", "x")
			if sent := s.bytes() - before; c.full != (sent > now.size()) {
				t.Errorf("%d bytes for an image of %d by a difference of %d", sent, now.size(), len(delta))
			}
			if s.asked("/files/delta") == 0 {
				t.Error("the difference wasn't asked for")
			}
			if left := to.sound(old.fingerprint(), now.fingerprint()); left != 0 {
				t.Errorf("%d bytes are left over", left)
			}
		})
	}
}

// vcdiff makes the difference between two files.
func vcdiff(t *testing.T, old, now []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	a, b, d := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "d")
	writeFile(t, a, string(old))
	writeFile(t, b, string(now))
	if out, err := exec.Command("xdelta3", "-e", "-s", a, b, d).CombinedOutput(); err != nil {
		t.Fatalf("xdelta3: %v: %s", err, out)
	}
	text, err := os.ReadFile(d)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// addDelta says in the products that the newest version can be had by a difference.
func (s *imageServer) addDelta(t *testing.T, delta []byte) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files["/files/delta"] = delta
	var doc map[string]any
	if err := json.Unmarshal(s.files[productsPath], &doc); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range doc["products"].(map[string]any) {
		if v, ok := p.(map[string]any)["versions"].(map[string]any)["20260202"]; ok {
			found = true
			v.(map[string]any)["items"].(map[string]any)["delta"] = map[string]any{
				"ftype": "squashfs.vcdiff", "path": "files/delta", "size": len(delta),
				"sha256": image{delta}.fingerprint().String(), "delta_base": "20260101",
			}
		}
	}
	text, err := json.Marshal(doc)
	if err != nil || !found {
		t.Fatal(fmt.Errorf("no version to add a difference to: %v", err))
	}
	s.files[productsPath] = text
}
