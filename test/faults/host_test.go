package faults

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/test/machine"
)

// A host is a machine whose errors fail a test.
type host struct {
	*machine.Machine
	t *testing.T
}

// newHost starts a daemon, which ends with the test.
func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "kf-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return hostIn(t, dir)
}

// hostIn is newHost in a directory that is there.
func hostIn(t *testing.T, dir string) *host {
	t.Helper()
	m, err := machine.New(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &host{m, t}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the daemon in %s says:\n%s", dir, h.Log())
		}
	})
	h.start()
	return h
}

func (h *host) start() {
	h.t.Helper()
	if err := h.Start(h.t.Context(), 20*time.Second); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) restart() {
	h.t.Helper()
	h.End(os.Kill)
	h.start()
}

// kiln runs a command of the user's.
func (h *host) kiln(args ...string) machine.Said {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	s, err := h.Run(ctx, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// ok runs a command that succeeds, and gives what it machine.Said.
func (h *host) ok(args ...string) machine.Said {
	h.t.Helper()
	s := h.kiln(args...)
	if s.Code != 0 {
		h.t.Fatalf("kiln %s: exit %d: %s", s.Line, s.Code, s.Err)
	}
	return s
}

// fails runs a command that fails with an exit code and a text that has some words.
func (h *host) fails(code int, words []string, args ...string) machine.Said {
	h.t.Helper()
	s := h.kiln(args...)
	if s.Code != code {
		h.t.Errorf("kiln %s: exit %d, not %d: %s", s.Line, s.Code, code, s.Err)
	}
	for _, w := range words {
		if !strings.Contains(s.Err, w) {
			h.t.Errorf("kiln %s: %q is not in %q", s.Line, w, s.Err)
		}
	}
	return s
}

// certificate is the fingerprint of what the daemon shows.
func (h *host) certificate() string {
	h.t.Helper()
	fp, err := h.Certificate()
	if err != nil {
		h.t.Fatal(err)
	}
	return fp
}

// knows adds another host as a remote of public images, reached by an address.
func (h *host) knows(name string, other *host, address string) {
	h.t.Helper()
	h.ok("remote", "add", name, "https://"+address, "--public", "--fingerprint", other.certificate())
}

// images are those in the store, with their files.
func (h *host) images() []api.Image {
	h.t.Helper()
	list, err := h.Images(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

// sound checks that the store has some images, whole, and nothing else: no file
// without a row, no row without its files, nothing half-made. What is kept for
// another attempt is returned.
func (h *host) sound(want ...kiln.Fingerprint) (partial int64) {
	h.t.Helper()
	s, err := h.CheckStore(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range s.Problems {
		h.t.Error(p)
	}
	var wanted []string
	for _, fp := range want {
		wanted = append(wanted, fp.String())
	}
	slices.Sort(s.Images)
	slices.Sort(wanted)
	if want != nil && !slices.Equal(s.Images, wanted) {
		h.t.Errorf("there are the images %v, not %v", s.Images, wanted)
	}
	return s.Partial
}

// none is sound's word for a store without images.
func none() []kiln.Fingerprint { return []kiln.Fingerprint{} }

// holds imports an image and gives its fingerprint.
func (h *host) holds(i image, flags ...string) kiln.Fingerprint {
	h.t.Helper()
	args := []string{"image", "import"}
	for n, f := range i {
		path := filepath.Join(h.Home, []string{"meta", "rootfs"}[n])
		if err := os.WriteFile(path, f, 0o600); err != nil {
			h.t.Fatal(err)
		}
		args = append(args, path)
	}
	h.ok(append(args, flags...)...)
	return i.fingerprint()
}

// operate starts an operation by a request and waits for its end.
func (h *host) operate(path string, body any) error { return h.Operate(h.t.Context(), path, body) }
