package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/delta"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/simplestreams"
)

// version is an image of some files; those that changed are named.
func version(t *testing.T, changed ...int) []byte {
	t.Helper()
	return packed(t, files(changed...))
}

func files(changed ...int) []formattest.File {
	files := append(formattest.Meta(), formattest.File{Name: "rootfs/", Type: '5', Mode: 0o755})
	for i := range 60 {
		seed := uint64(i)
		for _, c := range changed {
			if c == i {
				seed += 1000
			}
		}
		r := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 100_000)
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		files = append(files, formattest.File{Name: fmt.Sprintf("rootfs/f%02d", i), Body: string(b)})
	}
	return files
}

func packed(t *testing.T, files []formattest.File) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := delta.Compress(t.Context(), &out, bytes.NewReader(formattest.Tar(t, files...)),
		delta.Options{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sum(b []byte) kiln.Fingerprint { return sha256.Sum256(b) }

// A web is a simplestreams server with one image, which counts what it sends.
type web struct {
	files map[string][]byte
	sent  atomic.Int64
}

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, ok := s.files[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(&counter{w, &s.sent}, r, "", time.Time{}, bytes.NewReader(b))
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.ResponseWriter.Write(b)
}

// serve makes a server of an image, and what opens it.
func serve(t *testing.T, image []byte) (*web, *Opener, kiln.Remote) {
	t.Helper()
	img := kiln.Image{
		Fingerprint: sum(image), Type: "container", Architecture: "x86_64", CreatedAt: time.Unix(1e9, 0), Public: true,
		Aliases: []kiln.Alias{{Name: "app"}}, Properties: map[string]string{"os": "app"},
		Files: []kiln.File{{Role: kiln.Unified, Size: int64(len(image)), Hash: sum(image), Ext: ".tar.zst"}},
	}
	index, products, err := simplestreams.Write([]kiln.Image{img},
		simplestreams.Options{PathOf: func(kiln.Image, kiln.File) string { return "image.tar.zst" }})
	if err != nil {
		t.Fatal(err)
	}
	s := &web{files: map[string][]byte{simplestreams.IndexPath: index, simplestreams.ProductsPath: products,
		"image.tar.zst": image}}
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	o := &Opener{Architectures: []string{"x86_64"}, Indexes: &Indexes{Dir: t.TempDir(), TTL: time.Hour}}
	return s, o, kiln.Remote{Protocol: kiln.ProtocolStreams, Server: server.URL, CA: string(ca)}
}

// seedOf is a file that is here.
func seedOf(t *testing.T, b []byte) Seed {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return Seed{Path: path, Hash: sum(b), Size: int64(len(b)), Kin: true,
		Index: func(ctx context.Context) (delta.Index, error) {
			return delta.BuildIndex(ctx, bytes.NewReader(b), int64(len(b)))
		}}
}

// pull reads the image, and tells how much the server sent for it.
func pull(t *testing.T, s *web, o *Opener, r kiln.Remote, seeds ...Seed) ([]byte, int64, error) {
	t.Helper()
	src, err := o.Open(r, Access{Seeds: func(kiln.Image, kiln.File) []Seed { return seeds }, Moved: func(int64) {}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := src.Find(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	before := s.sent.Load()
	in, err := src.Open(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.Next(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(in)
	return b, s.sent.Load() - before, err
}

func indexOf(t *testing.T, b []byte) []byte {
	t.Helper()
	x, err := delta.BuildIndex(t.Context(), bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	out, err := x.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func patchOf(t *testing.T, base, target []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	section := func(b []byte) *io.SectionReader { return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))) }
	if err := delta.MakePatch(t.Context(), section(base), section(target), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestMovesWhatChanged(t *testing.T) {
	old, now := version(t), version(t, 7, 30, 31)
	s, o, r := serve(t, now)
	size := int64(len(now))
	check := func(what string, most float64, seeds ...Seed) {
		t.Helper()
		got, moved, err := pull(t, s, o, r, seeds...)
		if err != nil || !bytes.Equal(got, now) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
		if float64(moved) > most*float64(size) {
			t.Errorf("%s: %d of %d bytes were sent", what, moved, size)
		}
	}
	seed := seedOf(t, old)
	check("nothing here", 1.01)
	check("a server that has only the file", 1.01, seed)
	s.files[simplestreams.Beside("image.tar.zst", "index", kiln.Fingerprint{})] = indexOf(t, now)
	check("an index", 0.35, seed)
	check("an index, and a seed that is nothing like it", 1.02, seedOf(t, version(t)[:2<<20]))
	s.files[simplestreams.Beside("image.tar.zst", "patch", seed.Hash)] = patchOf(t, old, now)
	check("a patch", 0.1, seed)
}

// TestEstimate asks what a pull would cost, which moves next to nothing.
func TestEstimate(t *testing.T) {
	old, now := version(t), version(t, 7)
	s, o, r := serve(t, now)
	seed := seedOf(t, old)
	estimate := func() Estimate {
		t.Helper()
		src, err := o.Open(r, Access{Seeds: func(kiln.Image, kiln.File) []Seed { return []Seed{seed} }})
		if err != nil {
			t.Fatal(err)
		}
		img, err := src.Find(t.Context(), "app")
		if err != nil {
			t.Fatal(err)
		}
		in, err := src.Open(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		return in.(interface{ Estimate() []Estimate }).Estimate()[0]
	}
	if e := estimate(); e.Moves != int64(len(now)) || e.How != "the whole file" {
		t.Errorf("%+v", e)
	}
	s.files[simplestreams.Beside("image.tar.zst", "index", kiln.Fingerprint{})] = indexOf(t, now)
	if e := estimate(); e.Moves <= 0 || e.Moves > int64(len(now))/4 || !strings.Contains(e.How, "parts") {
		t.Errorf("%+v", e)
	}
	patch := patchOf(t, old, now)
	s.files[simplestreams.Beside("image.tar.zst", "patch", seed.Hash)] = patch
	if e := estimate(); e.Moves != int64(len(patch)) || !strings.Contains(e.How, "a patch to "+seed.Hash.Short()) {
		t.Errorf("%+v", e)
	}
}

// TestLies has a server whose index and patch are not what they say.
func TestLies(t *testing.T) {
	old, now, other := version(t), version(t, 7), version(t, 9)
	s, o, r := serve(t, now)
	seed := seedOf(t, old)
	index, patch := simplestreams.Beside("image.tar.zst", "index", kiln.Fingerprint{}),
		simplestreams.Beside("image.tar.zst", "patch", seed.Hash)
	for what, files := range map[string]map[string][]byte{
		"index of another image": {index: indexOf(t, other)},
		"no index":               {index: []byte("not an index")},
	} {
		for name, b := range files {
			s.files[name] = b
		}
		if got, _, err := pull(t, s, o, r, seed); err != nil || !bytes.Equal(got, now) {
			t.Errorf("%s: %v", what, err) // the whole file will do
		}
	}
	// What turns out wrong on the way is an error, whose kind has the caller
	// fetch the whole.
	wrong := bytes.Clone(patchOf(t, old, now))
	wrong[len(wrong)/2]++
	for what, b := range map[string][]byte{"patch to another image": patchOf(t, old, other), "damaged patch": wrong,
		"cut patch": wrong[:len(wrong)/2]} {
		s.files[patch] = b
		if got, _, err := pull(t, s, o, r, seed); err == nil && !bytes.Equal(got, now) {
			t.Errorf("%s: a wrong image and no error", what)
		} else if err == nil {
			t.Errorf("%s: passes", what)
		}
	}
	// Nor does it have more of the file than there is.
	s.files[patch] = patchOf(t, old, packed(t, slices.Repeat(files(), 3)))
	if got, _, err := pull(t, s, o, r, seed); !errors.Is(err, kiln.Integrity) || len(got) > len(now) {
		t.Errorf("a patch to a larger file: %d bytes, %v", len(got), err)
	}
	delete(s.files, patch)
	// A rotten seed costs the chunks that are rotten.
	s.files[index] = indexOf(t, now)
	rotten := bytes.Clone(old)
	rotten[len(rotten)/2]++
	bad := seedOf(t, rotten)
	bad.Index = seed.Index
	if got, _, err := pull(t, s, o, r, bad); err != nil || !bytes.Equal(got, now) {
		t.Errorf("a rotten seed: %v", err)
	}
	if _, _, err := pull(t, s, o, kiln.Remote{Protocol: kiln.ProtocolStreams, Server: r.Server, CA: r.CA},
		Seed{Path: "/nowhere", Hash: seed.Hash, Size: seed.Size, Index: func(context.Context) (delta.Index, error) {
			return delta.Index{}, errors.New("no")
		}}); err != nil {
		t.Errorf("a seed that is gone: %v", err)
	}
}
