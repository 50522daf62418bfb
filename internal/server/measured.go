package server

import (
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/kiln-containers/kiln/internal/metrics"
)

// entityOf is what LXD calls that which requests for a path are about.
func entityOf(path string) string {
	words := strings.Split(strings.TrimPrefix(strings.TrimPrefix(path, "/1.0/"), "kiln/"), "/")
	switch words[0] {
	case "images", "streams", "alias-history", "image-keys", "index-key", "mirrors":
		return "image"
	case "instances":
		return "instance"
	case "certificates":
		return "identity"
	case "networks", "operations", "profiles", "projects", "warnings":
		return strings.TrimSuffix(words[0], "s")
	case "storage-pools":
		return "storage_pool"
	}
	if strings.HasPrefix(path, "/streams/") || strings.HasPrefix(path, "/lxd/") || strings.HasPrefix(path, "/i/") {
		return "image"
	}
	return "server"
}

// untimed reports whether how long requests for a path take says nothing of the server: they
// last until somebody has what they want, or goes.
func untimed(path string) bool {
	for _, end := range []string{"/events", "/wait", "/websocket", "/sftp", "/export", "/files/{hash}", "/patch/{base}",
		"/layers/{id}", "/streams/files/{name...}"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// counts makes what counts the requests of a route, by method.
func (s *Server) counts(to route, methods map[string]handler) map[string]metrics.Route {
	counts := map[string]metrics.Route{}
	for method := range methods {
		counts[method] = s.d.Counters.Route(entityOf(to.path), method, to.path, untimed(to.path))
	}
	return counts
}

// resultOf is how LXD calls the end of a request.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "succeeded"
	case status(err) < http.StatusInternalServerError:
		return "error_client"
	}
	return "error_server"
}

// serve sends a file, or what is asked for of it, and counts it as one of what is served.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, what string, modified time.Time, f *os.File) {
	end := s.d.Counters.Serve(what)
	sent := &sender{ResponseWriter: w}
	defer func() { end(sent.bytes) }()
	http.ServeContent(sent, r, "", modified, f)
}

// A sender counts the bytes of an answer. Files still go from the disk to the network without
// being read.
type sender struct {
	http.ResponseWriter
	bytes int64
}

// Write is io.Writer's.
func (s *sender) Write(b []byte) (int, error) {
	n, err := s.ResponseWriter.Write(b)
	s.bytes += int64(n)
	return n, err
}

// ReadFrom is io.ReaderFrom's.
func (s *sender) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(s.ResponseWriter, r)
	s.bytes += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (s *sender) Unwrap() http.ResponseWriter { return s.ResponseWriter }
