package faults

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/simplestreams"
)

// An imageServer serves files, most of them images and the documents about them.
type imageServer struct {
	*httptest.Server
	mu     sync.Mutex
	files  map[string][]byte           // by path
	lies   map[string]http.HandlerFunc // by path, in their place
	hits   map[string]int
	status map[string]int // hits with "304"
	sent   int64          // bytes of bodies
}

func newImageServer(t *testing.T) *imageServer {
	t.Helper()
	s := &imageServer{files: map[string][]byte{}, lies: map[string]http.HandlerFunc{}, hits: map[string]int{},
		status: map[string]int{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

// newPlainServer is one without TLS.
func newPlainServer(t *testing.T) *imageServer {
	t.Helper()
	s := &imageServer{files: map[string][]byte{}, lies: map[string]http.HandlerFunc{}, hits: map[string]int{},
		status: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// authority is the certificate of who vouches for the server.
func (s *imageServer) authority() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// counted counts what is answered.
type counted struct {
	http.ResponseWriter
	n, status int
}

// Unwrap is for http.ResponseController.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader is http.ResponseWriter's.
func (c *counted) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

// Write is http.ResponseWriter's.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += n
	return n, err
}

// ServeHTTP is http.Handler's.
func (s *imageServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	b, ok := s.files[r.URL.Path]
	lie := s.lies[r.URL.Path]
	s.hits[r.URL.Path]++
	s.mu.Unlock()
	c := &counted{ResponseWriter: w, status: http.StatusOK}
	switch {
	case lie != nil:
		lie(c, r)
	case !ok:
		http.NotFound(c, r)
	default:
		sum := sha256.Sum256(b)
		c.Header().Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
		http.ServeContent(c, r, "", time.Time{}, bytes.NewReader(b))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += int64(c.n)
	if c.status == http.StatusNotModified {
		s.status[r.URL.Path]++
	}
}

// lie answers a path in another way; nil: no more.
func (s *imageServer) lie(path string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lies[path] = h
}

// says answers a path with a text.
func (s *imageServer) says(path, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = []byte(text)
}

// asked tells how often a path was asked for.
func (s *imageServer) asked(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits[path]
}

// unchanged tells how often a path was answered 304.
func (s *imageServer) unchanged(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status[path]
}

// bytes are those of all answers.
func (s *imageServer) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Where the documents are.
const (
	indexPath    = "/" + simplestreams.IndexPath
	productsPath = "/" + simplestreams.ProductsPath
)

// A published image is one that a server has under an alias.
type published struct {
	image
	alias   string
	version string // a date; "": 20260101
	release string // of its own product
	claims  kiln.Fingerprint
}

// fileURL is where a file of an image is.
func fileURL(f []byte) string {
	sum := sha256.Sum256(f)
	return "/files/" + hex.EncodeToString(sum[:])
}

// publish has the server have these images, and no others.
func (s *imageServer) publish(t *testing.T, list ...published) {
	t.Helper()
	var images []kiln.Image
	files := map[string][]byte{}
	for _, p := range list {
		if p.version == "" {
			p.version = "20260101"
		}
		img := kiln.Image{Fingerprint: p.fingerprint(), Architecture: "x86_64",
			Properties: map[string]string{"os": "busybox", "release": p.release, "serial": p.version}}
		if p.alias != "" {
			img.Aliases = []kiln.Alias{{Name: p.alias}}
		}
		for n, b := range p.image {
			f := kiln.File{Role: []kiln.Role{kiln.Metadata, kiln.Rootfs}[n], Size: int64(len(b)), Hash: sha256.Sum256(b),
				Ext: ".tar"}
			if bytes.HasPrefix(b, []byte("hsqs")) {
				f.Ext = ".squashfs"
			}
			if len(p.image) == 1 {
				f.Role = kiln.Unified
			}
			img.Files = append(img.Files, f)
			files[fileURL(b)] = b
		}
		if !p.claims.IsZero() {
			img.Fingerprint = p.claims
			if len(img.Files) == 1 {
				img.Files[0].Hash = p.claims
			}
		}
		images = append(images, img)
	}
	opts := simplestreams.Options{Updated: time.Now(), PathOf: func(_ kiln.Image,
		f kiln.File) string {
		return "files/" + f.Hash.String()
	}}
	index, products, err := simplestreams.Write(images, opts)
	if err != nil {
		t.Fatal(err)
	}
	files[indexPath], files[productsPath] = index, products
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = files
}

// edit changes a text in the products.
func (s *imageServer) edit(old, now string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[productsPath] = []byte(strings.ReplaceAll(string(s.files[productsPath]), old, now))
}

// streams adds a server of images as a remote.
func (h *host) streams(name string, s *imageServer, address string, more ...string) {
	h.t.Helper()
	ca := filepath.Join(h.Home, name+".ca")
	if err := os.WriteFile(ca, []byte(s.authority()), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.ok(append([]string{"remote", "add", name, address, "--protocol", "simplestreams", "--ca", ca}, more...)...)
}
