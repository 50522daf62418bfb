package server

import (
	"net/http"
	"sync"

	"github.com/kiln-containers/kiln/api"
)

// responses remembers what untrusted clients were told of images since any row changed: a
// thousand machines that start the same image ask the same at the same moment.
type responses struct {
	mu      sync.RWMutex
	version uint64 // of the rows
	ready   map[string]ready
}

// ready is an answer that a handler returns in its final form.
type ready struct {
	body []byte
	tag  string
}

// mostResponses bounds the memory; an answer has about a kilobyte.
const mostResponses = 1024

func (a *responses) get(name string, version uint64) (ready, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	r, ok := a.ready[name]
	return r, ok && a.version == version
}

// add remembers an answer that was made when the rows had at least this version.
func (a *responses) add(name string, version uint64, r ready) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if version < a.version {
		return
	}
	if a.ready == nil || version > a.version || len(a.ready) >= mostResponses {
		a.ready, a.version = map[string]ready{}, version
	}
	a.ready[name] = r
}

// untrustedImage is getImage for who isn't trusted and knows no secret.
func (s *Server) untrustedImage(r *http.Request) (any, error) {
	name, version := r.PathValue("name"), s.d.Images.Version()
	if a, ok := s.responses.get(name, version); ok {
		return a, nil
	}
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	i, err := s.wholeImage(r, img)
	if err != nil {
		return nil, err
	}
	a := ready{body(success(encode(i))), etag(imageState(img))}
	s.responses.add(name, version, a)
	return a, nil
}

// body is an answer's bytes, where they are needed as one.
func body(a api.Response) []byte {
	var all []byte
	for _, b := range pieces(a) {
		all = append(all, b...)
	}
	return all
}
