// Package guestapi is the API that a container has of itself, on a socket of its own: what
// its configuration tells it, what changes of that, and that it is ready. The paths and
// answers are those of LXD's /dev/lxd and Incus's /dev/incus, which cloud-init reads.
//
// Who asks is known by the socket: there is one for each container, of which only the
// container's root may make connections. All that comes over it is hostile.
//
// It doesn't know what an instance is, where its configuration comes from nor how the
// socket gets into the container.
package guestapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/event"
)

// Paths are where containers look for the directory with the socket: as LXD's and as
// Incus's guests know it.
func Paths() []string { return []string{"/dev/lxd", "/dev/incus"} }

// socketName is the file in the directory.
const socketName = "sock"

// Bounds on what a container may ask for.
const (
	mostConnections = 32 // at a time; more wait
	mostHeader      = 16 << 10
	mostBody        = 4 << 10
	requestTime     = 10 * time.Second // to send a request in
	answerTime      = 30 * time.Second // to take an answer, or a piece of a long one
	idleTime        = time.Minute
)

// About is what a container may know of itself.
type About struct {
	Name    string
	ID      string // of this configuration, for cloud-init: with another one it begins anew
	Ready   bool   // it said so
	Images  bool   // it may have images of the host
	Config  map[string]string
	Devices map[string]map[string]string
}

// An Instance is whom a socket is of.
type Instance interface {
	// About looks at it as it is now.
	About(ctx context.Context) (About, error)
	// SetReady writes down what it says of itself.
	SetReady(ctx context.Context, ready bool) error
	// SendImage answers with the files of an image that it may have, by the fingerprint.
	SendImage(w http.ResponseWriter, r *http.Request, fingerprint string)
}

// A Server answers one container.
type Server struct {
	of     Instance
	dir    *os.File
	http   http.Server
	events *event.Hub
	pace   pace
	served chan struct{}
}

// Listen makes the socket in a directory, which stays the same one for as long as the
// container runs, and answers on it until Close. owner is the container's root.
func Listen(dir string, owner uint32, of Instance) (*Server, error) {
	d, err := disk.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{of: of, dir: d, events: event.NewHub(), served: make(chan struct{})}
	l, err := s.listen(owner)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket in %s: %w", dir, err), d.Close())
	}
	s.http = http.Server{
		Handler: s.routes(), MaxHeaderBytes: mostHeader, ReadTimeout: requestTime, WriteTimeout: answerTime,
		IdleTimeout: idleTime, ErrorLog: log.New(io.Discard, "", 0), // a container can't fill the log
	}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(netutil.LimitListener(l, mostConnections)) // until it is closed
	}()
	return s, nil
}

// listen makes the socket. Its path goes by a descriptor: that of the directory may be
// longer than a socket's can be.
func (s *Server) listen(owner uint32) (net.Listener, error) {
	if err := s.remove(); err != nil { // of a daemon that died
		return nil, err
	}
	path := fmt.Sprintf("/proc/self/fd/%d/%s", s.dir.Fd(), socketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	// Others may not write to it before it is the container's either.
	if err := errors.Join(os.Chmod(path, 0o600), os.Lchown(path, int(owner), int(owner))); err != nil {
		return nil, errors.Join(err, l.Close(), s.remove())
	}
	return l, nil
}

func (s *Server) remove() error {
	err := unix.Unlinkat(int(s.dir.Fd()), socketName, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close ends what is going on, and removes the socket.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.served
	s.events.Close() // the websockets aren't the HTTP server's any more
	return errors.Join(err, s.remove(), s.dir.Close())
}

// routes is the whole API.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { sendJSON(w, []string{"/1.0"}) })
	mux.HandleFunc("GET /1.0", s.told(sendAbout))
	mux.HandleFunc("PATCH /1.0", s.setState)
	mux.HandleFunc("GET /1.0/config", s.told(sendKeys))
	mux.HandleFunc("GET /1.0/config/{key...}", s.told(sendKey))
	mux.HandleFunc("GET /1.0/meta-data", s.told(sendMetaData))
	mux.HandleFunc("GET /1.0/devices", s.told(sendDevices))
	mux.HandleFunc("GET /1.0/events", s.sendEvents)
	mux.HandleFunc("GET /1.0/images/{fingerprint}/export", s.told(s.sendImage))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.pace.wait(r.Context()) {
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, mostBody)
		if p := strings.TrimSuffix(r.URL.Path, "/"); p != "" {
			r.URL.Path = p
		}
		mux.ServeHTTP(w, r)
	})
}

// told makes a handler of a function that needs to know the container.
func (s *Server) told(f func(http.ResponseWriter, *http.Request, About)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := s.of.About(r.Context())
		if err != nil {
			sendError(w, err)
			return
		}
		f(w, r, a)
	}
}

// The states that a container can be in, for itself.
const (
	started = "Started"
	ready   = "Ready"
)

func sendAbout(w http.ResponseWriter, _ *http.Request, a About) {
	state := started
	if a.Ready {
		state = ready
	}
	sendJSON(w, map[string]string{"api_version": "1.0", "location": "none", "instance_type": "container", "state": state})
}

func (s *Server) setState(w http.ResponseWriter, r *http.Request) {
	var want struct{ State string }
	if err := json.NewDecoder(r.Body).Decode(&want); err != nil {
		http.Error(w, `the body is not JSON such as {"state": "Ready"}`, http.StatusBadRequest)
		return
	}
	if want.State != ready && want.State != started {
		http.Error(w, "the state is "+ready+" or "+started, http.StatusBadRequest)
		return
	}
	if err := s.of.SetReady(r.Context(), want.State == ready); err != nil {
		sendError(w, err)
	}
}

// For reports whether a key of the configuration is for the container.
func For(key string) bool {
	return strings.HasPrefix(key, "user.") || strings.HasPrefix(key, "cloud-init.")
}

func sendKeys(w http.ResponseWriter, _ *http.Request, a About) {
	list := []string{}
	for _, key := range slices.Sorted(maps.Keys(a.Config)) {
		if For(key) {
			list = append(list, "/1.0/config/"+key)
		}
	}
	sendJSON(w, list)
}

func sendKey(w http.ResponseWriter, r *http.Request, a About) {
	key := r.PathValue("key")
	if !For(key) {
		http.Error(w, "not authorized", http.StatusForbidden)
		return
	}
	value, ok := a.Config[key]
	if !ok {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	sendText(w, value)
}

func sendMetaData(w http.ResponseWriter, _ *http.Request, a About) {
	sendText(w, fmt.Sprintf("#cloud-config\ninstance-id: %s\nlocal-hostname: %s\n%s", a.ID, a.Name,
		a.Config["user.meta-data"]))
}

func sendDevices(w http.ResponseWriter, _ *http.Request, a About) { sendJSON(w, a.Devices) }

func (s *Server) sendImage(w http.ResponseWriter, r *http.Request, a About) {
	if !a.Images {
		http.Error(w, "not authorized", http.StatusForbidden)
		return
	}
	s.of.SendImage(patient{w}, r, r.PathValue("fingerprint"))
}

func sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who went doesn't read it
}

func sendText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.WriteString(w, text)
}

// sendError says what is the container's business, and nothing of the host.
func sendError(w http.ResponseWriter, err error) {
	switch kiln.KindOf(err) {
	case kiln.NotFound:
		http.Error(w, "not found", http.StatusNotFound)
	case kiln.Conflict:
		http.Error(w, "the instance doesn't run", http.StatusConflict)
	default:
		http.Error(w, "the host could not answer", http.StatusInternalServerError)
	}
}
