package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/simplestreams"
	"github.com/kiln-containers/kiln/internal/store"
)

// streams are the documents of simplestreams about the public images, made when
// they are first asked for after a change.
type streams struct {
	mu         sync.Mutex
	generation uint64 // of the images they are about
	documents  map[string]document
	signed     lastDocument
	images     []kiln.Image // that documents are about
	pageFor    string       // the address that page is for; "" and no page: none was asked for
	page       document
}

// lastDocument is one that is made once for the same bytes.
type lastDocument struct {
	mu  sync.Mutex
	now document
}

func (r *lastDocument) of(b []byte) (document, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if bytes.Equal(r.now.plain, b) {
		return r.now, nil
	}
	d, err := newDocument(b, time.Now())
	if err == nil {
		r.now = d
	}
	return d, err
}

// A document is ready to be sent.
type document struct {
	plain, gzip []byte
	tag         string
	made        time.Time
}

// streamFile is where a file of an image is, from the base of the server.
func streamFile(img kiln.Image, f kiln.File) string {
	return fmt.Sprintf("streams/files/%s/%s%s", img.Fingerprint, f.Role, f.Ext)
}

// document gives one of the documents. The error is NotFound.
func (s *Server) document(ctx context.Context, name string) (document, error) {
	return s.documentFor(ctx, name, "")
}

// documentFor is document, with the name by which the server was asked for one that says how
// to reach it.
func (s *Server) documentFor(ctx context.Context, name, host string) (document, error) {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	if now := s.d.ImageGeneration(); s.streams.documents == nil || s.streams.generation != now {
		documents, images, err := s.makeDocuments(ctx)
		if err != nil {
			return document{}, err
		}
		s.streams.documents, s.streams.generation, s.streams.images = documents, now, images
		s.streams.page = document{}
	}
	if name == pageName {
		return s.pageDocument(host)
	}
	d, ok := s.streams.documents[name]
	if !ok {
		return d, kiln.Errorf(kiln.NotFound, "not found: there is no /streams/v1/%s", name)
	}
	return d, nil
}

// makeDocuments makes what is said of the public images, and gives these: whoever isn't to
// see private ones is told of no others.
func (s *Server) makeDocuments(ctx context.Context) (map[string]document, []kiln.Image, error) {
	images, err := s.d.Images.List(ctx, store.Query{Public: true, Files: true})
	if err != nil {
		return nil, nil, err
	}
	updated := time.Unix(0, 0)
	for _, img := range images {
		if img.UploadedAt.After(updated) {
			updated = img.UploadedAt
		}
	}
	index, products, err := simplestreams.Write(images, simplestreams.Options{Updated: updated, PathOf: streamFile})
	if err != nil {
		return nil, nil, err
	}
	out := map[string]document{}
	for name, b := range map[string][]byte{"index.json": index, "images.json": products} {
		if out[name], err = newDocument(b, time.Now()); err != nil {
			return nil, nil, err
		}
	}
	return out, images, nil
}

func newDocument(b []byte, now time.Time) (document, error) {
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.DefaultCompression)
	if err != nil {
		return document{}, err
	}
	_, err = w.Write(b)
	err = errors.Join(err, w.Close())
	sum := sha256.Sum256(b)
	return document{plain: b, gzip: z.Bytes(), tag: hex.EncodeToString(sum[:16]), made: now}, err
}

func (s *Server) getStreams(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("file")
	get := s.document
	switch "streams/v1/" + strings.TrimSuffix(name, signing.SignatureSuffix) {
	case signing.KeysPath:
		get = s.keysDocument
	case signing.IndexPath:
		get = s.indexDocument
	}
	d, err := get(r.Context(), name)
	if err != nil {
		return nil, err
	}
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(name, signing.SignatureSuffix) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	return sendDocument(w, r, d)
}

func sendDocument(w http.ResponseWriter, r *http.Request, d document) (any, error) {
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=60")
	h.Add("Vary", "Accept-Encoding")
	body, tag := d.plain, d.tag
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && r.Header.Get("Range") == "" {
		h.Set("Content-Encoding", "gzip")
		body, tag = d.gzip, d.tag+"-gzip"
	}
	h.Set("ETag", `"`+tag+`"`)
	http.ServeContent(w, r, "", d.made.Truncate(time.Second), bytes.NewReader(body))
	return handled{}, nil
}

func (s *Server) getStreamsFile(w http.ResponseWriter, r *http.Request) (any, error) {
	word, name, _ := strings.Cut(r.PathValue("name"), "/")
	img, err := s.publicImage(r.Context(), word)
	if err != nil {
		return nil, err
	}
	for _, f := range img.Files {
		if string(f.Role)+f.Ext == name {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			return s.sendFile(w, r, img, f)
		}
	}
	return s.streamsBeside(w, r, img, name)
}

// publicImage finds a public image by its whole fingerprint.
func (s *Server) publicImage(ctx context.Context, word string) (kiln.Image, error) {
	if _, err := kiln.ParseFingerprint(word); err != nil {
		return kiln.Image{}, kiln.Errorf(kiln.NotFound, "Image not found")
	}
	return s.d.Images.PublicByPrefix(ctx, word)
}

// getDirect tells in headers where the image behind an alias is, as "image import
// <URL>" of LXD and Incus asks for it. The asker's architectures choose between
// the image and those whose alias has an architecture at its end.
func (s *Server) getDirect(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.direct(r)
	if err != nil {
		return nil, err
	}
	if len(img.Files) != 1 {
		return nil, kiln.Errorf(kiln.NotFound, "image %q has two files, which this protocol can't tell; use "+
			"simplestreams: https://%s", r.PathValue("name"), r.Host)
	}
	at := fmt.Sprintf("https://%s/1.0/images/%s/export", r.Host, img.Fingerprint)
	for _, family := range []string{"LXD", "Incus", "Kiln"} {
		w.Header().Set(family+"-Image-URL", at)
		w.Header().Set(family+"-Image-Hash", img.Fingerprint.String())
	}
	if img.Signature != "" {
		w.Header().Set("Kiln-Image-Signature", url.QueryEscape(img.Signature))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, at+"\n") // a client that went away needs no answer
	return handled{}, nil
}

// architecturesOf are those that a client says that it runs, each once.
func architecturesOf(r *http.Request) []string {
	var archs []string
	for _, family := range []string{"Kiln", "LXD", "Incus"} {
		for word := range strings.SplitSeq(r.Header.Get(family+"-Server-Architectures"), ",") {
			arch, err := kiln.ParseArch(strings.TrimSpace(word))
			if err == nil && !slices.Contains(archs, arch) {
				archs = append(archs, arch)
			}
		}
	}
	return archs
}

func (s *Server) direct(r *http.Request) (kiln.Image, error) {
	archs := architecturesOf(r)
	name := r.PathValue("name")
	candidates := []string{name}
	for _, arch := range archs {
		for _, word := range kiln.ArchNames(arch) {
			candidates = append(candidates, name+"/"+word)
		}
	}
	for _, c := range candidates {
		a, err := s.d.Images.PublicAlias(r.Context(), c)
		if err != nil {
			continue
		}
		img, err := s.publicImage(r.Context(), a.Target.String())
		if err == nil && (len(archs) == 0 || slices.Contains(archs, img.Architecture)) {
			return img, nil
		}
	}
	return s.publicImage(r.Context(), name)
}
