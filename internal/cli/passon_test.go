package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPinnedMirror takes images from a server that mirrors those of another one, whose key is
// pinned: as from the origin, and nothing else.
func TestPinnedMirror(t *testing.T) {
	s := newSession(t)
	origin, mirror := s.listening("b"), s.listening("local")
	s.ok("remote switch b")
	for _, key := range []string{"root", "daily", "index"} {
		s.ok("key generate " + key)
	}
	public, keys := filepath.Join(s.dir, "root.pub"), filepath.Join(s.dir, "keys.json")
	s.ok("key export root " + public)
	s.ok("key sign " + keys + " --root root --image-key daily --index-key index")
	s.ok("key serve " + keys)
	s.ok("key lend index")
	s.image("1", "--alias web --public --sign=daily")
	s.ok("remote switch local")
	s.ok("remote add up " + origin + " --public --accept-certificate --key " + public)
	s.ok("mirror add up")
	s.image("3", "--alias own --public")

	// Somebody who knows the mirror only.
	t.Setenv("KILN_CONF", filepath.Join(s.dir, "conf2"))
	s.ok("remote add m " + mirror + " --public --accept-certificate --key " + public)
	s.ok("image export m:web " + filepath.Join(s.dir, "one"))
	s.fails("image export m:own "+filepath.Join(s.dir, "own"), 7, "isn't signed")

	t.Setenv("KILN_CONF", filepath.Join(s.dir, "conf"))
	s.ok("remote switch b")
	second := strings.Fields(s.image("2", "--alias web --public --sign=daily"))[0]
	s.ok("remote switch local")
	t.Setenv("KILN_CONF", filepath.Join(s.dir, "conf2"))
	s.ok("image export m:web " + filepath.Join(s.dir, "two"))
	s.ok("mirror run up --stale")
	s.says("image info m:web", second)
	s.ok("image refresh web --stale")
	s.ok("mirror remove up")
	s.fails("image export m:web "+filepath.Join(s.dir, "three"), 7, "has no signed index")
}
