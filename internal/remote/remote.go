package remote

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/fetch"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/trust"
)

// An Opener opens remotes. One serves a whole process: it remembers how fast servers
// were, and their indexes.
type Opener struct {
	Own           *tls.Certificate                      // what servers are shown; nil: nothing
	Proxy         func(*http.Request) (*url.URL, error) // nil: none
	UserAgent     string
	Version       string   // of kiln, for servers that want to know
	Architectures []string // canonical, best first
	Indexes       *Indexes
	AllowHTTP     func() bool // plain http, where nobody vouches for what is read
	// Stall is how long a server may keep everybody waiting for a byte; 0: as long
	// as usual.
	Stall time.Duration
	Pins  Pins // what is known of keys that images are pinned to; nil: nothing, and nothing is kept

	speeds fetch.Speeds

	mu      sync.Mutex
	clients map[route]*http.Client // which keep connections to servers
	lacking map[string]time.Time   // URLs that no server had a file at, and since when
}

// A route is what decides how a server is talked to.
type route struct{ certificate, ca, proxy string }

// mostClients bounds how many are kept.
const mostClients = 64

// stall is how long a server may keep everybody waiting, unless somebody says so.
const stall = 30 * time.Second

func (o *Opener) stall() time.Duration {
	if o.Stall > 0 {
		return o.Stall
	}
	return stall
}

// dialTime is how long a server may take to accept a connection: who has an image
// here already doesn't want to wait longer for a server that is off.
const dialTime = 5 * time.Second

func (o *Opener) dialTime() time.Duration { return min(dialTime, o.stall()) }

// Access says what to be let in with, and hears how it goes.
type Access struct {
	Secret   string // of a private image
	Project  string
	Via      []string                         // daemons that look for the same, so that servers that ask one another stop
	Fresh    bool                             // ask the server, whatever is known of it
	Progress func(server string, done int64)  // bytes
	Moved    func(n int64)                    // bytes that came in the place of a larger file
	Warn     func(string)                     // that something works, but not as it should
	Base     func(fp kiln.Fingerprint) string // path of a root filesystem that is here, for deltas; "" when it isn't
	// Seeds gives files that are here and may be much like one of an image that
	// isn't. nil: fetch whole files.
	Seeds func(kiln.Image, kiln.File) []Seed
}

// Open gives the images of a remote: where it has a key, Find gives those that are signed
// with it. Nothing is sent yet. The error is Invalid or Unsupported for a remote that can't
// be.
func (o *Opener) Open(r kiln.Remote, a Access) (kiln.Source, error) {
	if r.ImageKey == "" {
		return o.open(r, a)
	}
	src, err := o.open(r, a)
	if err != nil {
		return nil, err
	}
	_, err = signing.ParseKey(r.ImageKey)
	return &pinned{Source: src, o: o, remote: r, access: a}, err
}

func (o *Opener) open(r kiln.Remote, a Access) (kiln.Source, error) {
	hc, err := o.HTTP(r)
	if err != nil {
		return nil, err
	}
	if len(a.Via) > 0 {
		told := *hc
		told.Transport = via{hc.Transport, strings.Join(a.Via, ",")}
		hc = &told
	}
	f := &fetch.Client{HTTP: hc, Header: http.Header{"User-Agent": {o.UserAgent}}, Stall: o.stall(),
		Pause: o.stall() / 120, Speeds: &o.speeds}
	switch r.Protocol {
	case kiln.ProtocolKiln, kiln.ProtocolLXD, kiln.ProtocolIncus, "":
		c := client.HTTPS(r.Server, hc).WithSecret(a.Secret)
		if a.Project != "" {
			c = c.WithProject(a.Project)
		}
		return &server{images: c.Images(), fetch: f, remote: r, access: a}, nil
	case kiln.ProtocolStreams:
		return &streams{o: o, fetch: f, http: hc, remote: r, access: a}, nil
	case kiln.ProtocolDirect:
		return &direct{o: o, fetch: f, http: hc, access: a}, nil
	}
	return nil, kiln.Errorf(kiln.Invalid, "Unsupported protocol: %s; there are kiln, lxd, incus and simplestreams",
		r.Protocol)
}

// ViaHeader names the daemons that look for what is asked for, separated by commas.
const ViaHeader = "X-Kiln-Via"

// via says in each request who looks for the same.
type via struct {
	http.RoundTripper
	daemons string
}

// RoundTrip implements http.RoundTripper.
func (v via) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(ViaHeader, v.daemons)
	return v.RoundTripper.RoundTrip(r)
}

// HTTP gives what talks to a remote. Remotes that are reached in the same way share
// their connections: many questions to one server don't open one each.
func (o *Opener) HTTP(r kiln.Remote) (*http.Client, error) {
	if err := o.checkURLs(r); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	key := route{r.Certificate, r.CA, r.Proxy}
	if hc, ok := o.clients[key]; ok {
		return hc, nil
	}
	hc, err := o.newHTTP(r)
	if err != nil {
		return nil, err
	}
	if o.clients == nil || len(o.clients) >= mostClients {
		for _, old := range o.clients {
			old.CloseIdleConnections()
		}
		o.clients = map[route]*http.Client{}
	}
	o.clients[key] = hc
	return hc, nil
}

func (o *Opener) newHTTP(r kiln.Remote) (*http.Client, error) {
	config, err := trust.Peer{Pin: r.Certificate, CA: r.CA, Own: o.Own}.TLS()
	if err != nil {
		return nil, err
	}
	proxy := o.Proxy
	if r.Proxy != "" {
		u, err := url.Parse(r.Proxy)
		if err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "the proxy %q: %w", r.Proxy, err)
		}
		proxy = http.ProxyURL(u)
	}
	return &http.Client{CheckRedirect: fetch.CheckRedirect, Transport: trust.Transport{Transport: &http.Transport{
		TLSClientConfig: config, Proxy: proxy, TLSHandshakeTimeout: 2 * o.dialTime(), ResponseHeaderTimeout: 2 * o.stall(),
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 15 * time.Second, WriteBufferSize: 128 << 10, ReadBufferSize: 128 << 10,
		MaxResponseHeaderBytes: 1 << 20, DialContext: (&net.Dialer{Timeout: o.dialTime()}).DialContext,
	}}}, nil
}

// checkURLs makes sure that whoever vouches for the bytes can be asked: https, or
// http where somebody allowed it.
func (o *Opener) checkURLs(r kiln.Remote) error {
	for _, s := range append([]string{r.Server}, r.Mirrors...) {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return kiln.Errorf(kiln.Invalid, "%q is not the URL of a server, as https://images.example:8443 is", s)
		}
		switch {
		case u.Scheme == "https":
		case u.Scheme == "http" && o.AllowHTTP != nil && o.AllowHTTP():
		case u.Scheme == "http":
			return kiln.Errorf(kiln.Invalid, "Only https URLs are supported: %s; to read over plain http all the same: kiln "+
				"config set images.allow_http true", s)
		default:
			return kiln.Errorf(kiln.Invalid, "Only https URLs are supported: %s", s)
		}
	}
	return nil
}

// join puts a relative path below the URLs of a server and its mirrors.
func join(r kiln.Remote, path string) []string {
	var urls []string
	for _, base := range append([]string{r.Server}, r.Mirrors...) {
		urls = append(urls, strings.TrimSuffix(base, "/")+"/"+(&url.URL{Path: path}).EscapedPath())
	}
	return urls
}

// A webFile is one file of an image on the web.
type webFile struct {
	kiln.File
	urls []string
	// beside is where a server has an "index" of the file, or the "patch" that
	// makes it of another; nil: nowhere.
	beside func(kind string, base kiln.Fingerprint) []string
}

// webStream reads the files of an image from the web, whatever happens on the way.
type webStream struct {
	ctx    context.Context
	fetch  *fetch.Client
	img    kiln.Image
	files  []webFile
	access Access
	done   int64 // bytes of the files before
	now    io.ReadCloser
	size   int64 // of the current file
}

// Next is kiln.Stream's.
func (s *webStream) Next() (kiln.File, error) {
	if err := s.Close(); err != nil {
		return kiln.File{}, err
	}
	s.done += max(s.size, 0)
	if len(s.files) == 0 {
		return kiln.File{}, io.EOF
	}
	f := s.files[0]
	s.files, s.size = s.files[1:], f.Size
	if w := s.cheaper(f); w != nil {
		s.now = startMade(s.ctx, w)
		return f.File, nil
	}
	before := s.done
	s.now = s.fetch.Open(s.ctx, fetch.File{URLs: f.urls, Size: f.Size, Progress: func(server string, n int64) {
		if s.access.Progress != nil {
			s.access.Progress(server, before+n)
		}
	}})
	return f.File, nil
}

// CanSkip reports whether the current file can be begun later. One that is put
// together here can't.
func (s *webStream) CanSkip() bool {
	_, ok := s.now.(*fetch.Reader)
	return ok
}

// Skip begins later in the current file.
func (s *webStream) Skip(n int64) error { return s.now.(*fetch.Reader).Skip(n) }

// Read is kiln.Stream's.
func (s *webStream) Read(b []byte) (int, error) {
	if s.now == nil {
		return 0, io.EOF
	}
	return s.now.Read(b)
}

// Close is kiln.Stream's.
func (s *webStream) Close() error {
	if s.now == nil {
		return nil
	}
	err := s.now.Close()
	s.now = nil
	return err
}
