package server

import (
	"bytes"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln/internal/web"
)

// pageName is the document that people see in a browser.
const pageName = "index.html"

// sendPage answers somebody who looks at the server in a browser. Whoever it is sees what
// everybody may.
func (s *Server) sendPage(w http.ResponseWriter, r *http.Request) (any, error) {
	d, err := s.documentFor(r.Context(), pageName, r.Host)
	if err != nil {
		return nil, err
	}
	policy, err := web.Policy()
	if err != nil {
		return nil, err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	return sendDocument(w, r, d)
}

// pageDocument gives the page for the name by which the server was asked; s.streams is locked,
// and has the images. The page for another name than the last is made again.
func (s *Server) pageDocument(host string) (document, error) {
	address := web.AddressOf(host)
	if s.streams.page.plain != nil && s.streams.pageFor == address {
		return s.streams.page, nil
	}
	var b bytes.Buffer
	err := web.Write(&b, web.Site{Address: address, PathOf: streamFile}, s.streams.images)
	if err != nil {
		return document{}, err
	}
	d, err := newDocument(b.Bytes(), time.Now())
	if err == nil {
		s.streams.page, s.streams.pageFor = d, address
	}
	return d, err
}
