// Package server speaks the 1.0 API: HTTP in, the daemon's verbs, JSON out. Wire
// structures and requests end here. It doesn't know how anything is done.
package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/foreign"
	"github.com/kiln-containers/kiln/internal/metrics"
	"github.com/kiln-containers/kiln/internal/op"
)

// maxJSON bounds the JSON in requests, in bytes, and maxUntrustedJSON that of clients who
// aren't trusted. Uploads are bounded by the disk.
const (
	maxJSON          = 4 << 20
	maxUntrustedJSON = 64 << 10
)

// The objects and values in it. An instance has 10,000 options at most and 500 devices.
const (
	maxObjects = 1 << 14
	maxValues  = 1 << 17
)

// maxHeader bounds the first line and the headers of a request, in bytes. Aliases and
// properties of an upload are in headers.
const maxHeader = 64 << 10

// A Server answers requests for one daemon.
type Server struct {
	// Stall is how long an untrusted client may keep the server waiting; 0: as long as
	// usual. It is set before Serve.
	Stall time.Duration

	d         *daemon.Daemon
	log       *slog.Logger
	mux       *http.ServeMux
	aliases   *http.ServeMux // names of aliases can look like other paths of images
	sessions  sessions
	holders   holders
	streams   streams
	responses responses
	arrivals  chan struct{} // as many as are read at once
	shutdown  func()
}

// New makes the server of a daemon. shutdown is called when a client asks the
// daemon to end with its instances stopped.
func New(d *daemon.Daemon, log *slog.Logger, shutdown func()) *Server {
	s := &Server{d: d, log: log, mux: http.NewServeMux(), aliases: http.NewServeMux(), shutdown: shutdown,
		arrivals: make(chan struct{}, largeArrivals)}
	d.WatchClients(s.reconsider)
	d.SendImagesToInstances(s.sendImageToInstance)
	for _, to := range s.routes() {
		mux := s.mux
		if strings.HasPrefix(to.path, aliasPath) {
			mux = s.aliases
		}
		methods := to.methods()
		counts := s.counts(to, methods)
		for method, h := range methods {
			methods[method] = s.guard(to, method, h)
		}
		mux.Handle(to.path, s.methods(methods, counts))
	}
	return s
}

// Serve answers on a listener until ctx ends. Requests under way then have a few
// seconds to finish.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return s.serveBy(ctx, l, s) }

// serveBy is Serve with what stands before the server, or only lets through a part of it.
func (s *Server) serveBy(ctx context.Context, l net.Listener, handler http.Handler) error {
	h := &http.Server{Handler: handler, ReadHeaderTimeout: s.stall(), IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: maxHeader, ConnContext: withConn, ConnState: connState,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		err := h.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			err = h.Close()
		}
		stopped <- err
	})
	err := h.Serve(l)
	if !stop() {
		return <-stopped
	}
	return err
}

// ServeHTTP is http.Handler's.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The name of instances before they were called that.
	if rest, ok := strings.CutPrefix(r.URL.Path, "/1.0/containers"); ok && (rest == "" || rest[0] == '/') {
		r.URL.Path = "/1.0/instances" + rest
		if raw, ok := strings.CutPrefix(r.URL.RawPath, "/1.0/containers"); ok {
			r.URL.RawPath = "/1.0/instances" + raw
		}
	}
	r.URL.Path = strings.TrimSuffix(r.URL.Path, "/")
	if r.URL.Path == "" {
		r.URL.Path = "/"
	}
	r = withID(r)
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p) // the answer has begun: the connection is broken off, so that it doesn't read as whole
		default:
			s.logOf(r).Error("a handler panicked", "path", r.URL.Path, "panic", p, "stack",
				string(debug.Stack()))
			s.answerError(w, r, fmt.Errorf("internal error; the daemon's log has more"))
		}
	}()
	w.Header().Set(requestHeader, requestID(r))
	w.Header().Set("X-Content-Type-Options", "nosniff") // what an image's file is called makes no page of it
	conn := connOf(r.Context())
	if conn != nil && conn.refused {
		w.Header().Set("Connection", "close")
		s.answerError(w, r, kiln.Errorf(kiln.Busy, "the server has as many connections as it may have; try again later"))
		return
	}
	if conn != nil {
		end := conn.begin()
		defer func() { end(callerOf(r).trusted) }()
	}
	r = s.identify(r)
	if conn != nil {
		conn.setFree(callerOf(r).trusted)
		defer conn.answered(callerOf(r).trusted)
	}
	if err := bounds(r); err != nil {
		s.answerError(w, r, err)
		return
	}
	if strings.HasPrefix(r.URL.Path, aliasPath) {
		s.aliases.ServeHTTP(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// untrustedTime is how long an untrusted client's request may take, unless somebody says so.
const untrustedTime = 30 * time.Second

func (s *Server) stall() time.Duration {
	if s.Stall > 0 {
		return s.Stall
	}
	return untrustedTime
}

const aliasPath = "/1.0/images/aliases/"

// A handler does the work of one method on one path. What it returns is answered
// in one place: a value as it is, an operation as "async", a reply in its own way.
type handler func(w http.ResponseWriter, r *http.Request) (any, error)

// methods picks the handler of a request's method.
func (s *Server) methods(m map[string]handler, counts map[string]metrics.Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		h, ok := m[method]
		if !ok && method == http.MethodHead {
			method = http.MethodGet
			h, ok = m[method]
		}
		if !ok {
			w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(m)), ", "))
			s.answer(w, http.StatusMethodNotAllowed, api.Response{Type: "error", ErrorCode: http.StatusMethodNotAllowed,
				Error: fmt.Sprintf("%s is not possible on %s", r.Method, r.URL.Path)})
			return
		}
		began := time.Now()
		end, result := counts[method].Begin(), "error_server" // of one that panics
		defer func() { end(result) }()
		v, err := h(w, r)
		if err == nil {
			s.answerValue(w, r, v)
		} else {
			s.answerError(w, r, err)
		}
		result = resultOf(err)
		if s.log.Enabled(r.Context(), slog.LevelDebug) {
			s.logOf(r).Debug("request answered", "method", r.Method, "path", r.URL.Path, "result", result,
				"took", time.Since(began))
		}
	})
}

// What handlers return besides plain values.
type (
	// created is answered 201 with a Location.
	created string
	// handled was answered already.
	handled struct{}
	// tagged is a value with the state that its ETag stands for.
	tagged struct{ value, state any }
)

func (s *Server) answerValue(w http.ResponseWriter, r *http.Request, v any) {
	switch v := v.(type) {
	case handled:
	case *op.Operation:
		v.CancelWaiting(s.gone) // the trust may have ended before reconsider could find it
		s.logOf(r).Debug("operation started", "operation", v.ID(), "description",
			v.Snapshot().Description, "caller", callerOf(r).name)
		url := "/1.0/operations/" + v.ID()
		w.Header().Set("Location", url)
		s.answer(w, http.StatusAccepted, api.Response{Type: "async", Status: "Operation created", StatusCode: 100,
			Operation: url, Metadata: encode(operation(v.Snapshot()))})
	case created:
		w.Header().Set("Location", string(v))
		s.answer(w, http.StatusCreated, success(json.RawMessage("null")))
	case ready:
		w.Header().Set("ETag", `"`+v.tag+`"`)
		s.send(w, http.StatusOK, v.body)
	case long:
		s.answerLong(w, r, v)
	case tagged:
		w.Header().Set("ETag", `"`+etag(v.state)+`"`)
		if write, ok := v.value.(long); ok {
			s.answerLong(w, r, write)
			return
		}
		s.answer(w, http.StatusOK, success(encode(v.value)))
	case nil:
		s.answer(w, http.StatusOK, success(json.RawMessage("{}")))
	default:
		s.answer(w, http.StatusOK, success(encode(v)))
	}
}

func success(metadata json.RawMessage) api.Response {
	return api.Response{Type: "sync", Status: "Success", StatusCode: 200, Metadata: metadata}
}

func encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // wire structures only
	}
	return b
}

func (s *Server) answer(w http.ResponseWriter, status int, a api.Response) {
	s.send(w, status, pieces(a)...)
}

// pieces encodes an answer. Its metadata are encoded already and can be megabytes:
// they are not copied.
func pieces(a api.Response) [][]byte {
	metadata := a.Metadata
	if metadata == nil {
		metadata = json.RawMessage("null")
	}
	a.Metadata = nil // which comes last
	return [][]byte{bytes.TrimSuffix(encode(a), []byte("null}")), metadata, []byte("}\n")}
}

func (s *Server) send(w http.ResponseWriter, status int, pieces ...[]byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	for _, b := range pieces {
		if _, err := w.Write(b); err != nil {
			s.log.Debug("answer a request", "err", err)
			return
		}
	}
}

// maxErrorText bounds what an error says, in bytes.
const maxErrorText = 8 << 10

func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err error) {
	code := status(err)
	kind := kiln.KindOf(err)
	if kind == kiln.Internal {
		s.logOf(r).Error("request failed", "method", r.Method, "path", r.URL.Path,
			"agent", r.UserAgent(), "err", err)
	}
	if kind == kiln.Busy {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.Header().Set(api.KindHeader, string(kind))
	text := err.Error()
	if len(text) > maxErrorText { // it names much of what somebody sent
		text = strings.ToValidUTF8(text[:maxErrorText], "") + " …"
	}
	s.answer(w, code, api.Response{Type: "error", ErrorCode: code, Error: text})
}

// status is the HTTP status of an error.
func status(err error) int {
	switch kiln.KindOf(err) {
	case kiln.Invalid, kiln.Ambiguous, kiln.Unsupported:
		return http.StatusBadRequest
	case kiln.NotFound:
		return http.StatusNotFound
	case kiln.Conflict:
		return http.StatusConflict
	case kiln.Denied:
		return http.StatusForbidden
	case kiln.Stale:
		return http.StatusPreconditionFailed
	case kiln.TooLarge:
		return http.StatusRequestEntityTooLarge
	case kiln.Integrity: // of what was sent, or of what is kept: it is no better the next time
		return http.StatusUnprocessableEntity
	case kiln.NoSpace:
		return http.StatusInsufficientStorage
	case kiln.Network:
		return http.StatusBadGateway
	case kiln.Timeout:
		return http.StatusGatewayTimeout
	case kiln.Busy:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// etag stands for a state: it changes with it.
func etag(state any) string {
	sum := sha256.Sum256(encode(state))
	return hex.EncodeToString(sum[:])
}

// checkETag says Stale when the request wants another state than there is.
func checkETag(r *http.Request, state any) error {
	want := strings.Trim(strings.TrimPrefix(r.Header.Get("If-Match"), "W/"), `"`)
	if have := etag(state); want != "" && want != "*" && want != have {
		return kiln.Errorf(kiln.Stale, "ETag doesn't match: %s vs %s", have, want)
	}
	return nil
}

// readJSON decodes a request's body. Errors: Invalid, TooLarge.
func readJSON(r *http.Request, v any) error {
	limit := int64(maxJSON)
	if !callerOf(r).trusted {
		limit = maxUntrustedJSON
	}
	b, err := readBody(r, limit)
	if err != nil {
		return err
	}
	return decode(b, limit, v)
}

// decode is the rest of readJSON.
func decode(b []byte, limit int64, v any) error {
	err := foreign.Unmarshal(b, foreign.Limit{Bytes: limit, Objects: maxObjects, Values: maxValues}, v)
	if errors.Is(err, kiln.TooLarge) {
		return kiln.Errorf(kiln.TooLarge, "the request is too large: %w", err)
	}
	if err != nil {
		return kiln.Errorf(kiln.Invalid, "the request is not the JSON that is expected here: %w", err)
	}
	return nil
}

// readBody reads a request's body. One that says that it is too large isn't waited for.
// Errors: Invalid, TooLarge, Busy.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	large := kiln.Errorf(kiln.TooLarge, "the request is larger than %d bytes", limit)
	if r.ContentLength > limit {
		return nil, large
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case errors.Is(err, kiln.Busy), errors.Is(err, kiln.Timeout):
		return nil, err
	case err != nil:
		return nil, kiln.Errorf(kiln.Invalid, "read the request: %w", err)
	case int64(len(b)) > limit:
		return nil, large
	}
	return b, nil
}

// recursion tells whether a list is to have objects (1), or objects with all that
// belongs to them (2), in the place of URLs.
func recursion(r *http.Request) int {
	switch r.URL.Query().Get("recursion") {
	case "", "0":
		return 0
	case "2":
		return 2
	}
	return 1
}

// segment escapes a name for a URL. A slash within stays: it does in paths that
// take all the rest.
func segment(name string) string {
	return strings.ReplaceAll(url.PathEscape(name), "%2F", "/")
}
