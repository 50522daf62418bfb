package remote

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/fetch"
)

// Indexes keeps the documents of image servers: each is asked for once in a while,
// for everybody, and only sent when it changed.
type Indexes struct {
	Dir string // where they are kept
	// TTL is how long one is good without asking, at most: a server may say less
	// (max-age and no-cache of Cache-Control, RFC 9111).
	TTL time.Duration

	mu      sync.Mutex
	entries map[string]*document
}

// A document is one file of a server, and what was made of it.
type document struct {
	busy   chan struct{} // has room while nobody fetches it: others wait for that
	state  documentState
	loaded bool
	parsed any          // nil: not yet
	bytes  atomic.Int64 // of what was parsed
	used   time.Time    // when it was last asked for; of Indexes.mu
}

// documentState is what is kept beside a document.
type documentState struct {
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Fetched      time.Time `json:"fetched"`
	MaxAge       *int64    `json:"max_age,omitempty"` // seconds; nil: the server doesn't say
}

// asked reports whether a server was asked so short a time ago that it isn't now.
func (s documentState) asked(g get, ttl time.Duration) bool {
	if g.fresh {
		ttl = min(ttl, g.within)
	} else if s.MaxAge != nil && *s.MaxAge < int64(ttl/time.Second) {
		ttl = time.Duration(*s.MaxAge) * time.Second
	}
	age := time.Since(s.Fetched)
	return age >= 0 && age < ttl // a clock that was set back proves nothing
}

// maxAge is how many seconds an answer is good for by its header; nil if that doesn't say.
func maxAge(h http.Header) *int64 {
	for word := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		key, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(word)), "=")
		switch key {
		case "no-cache", "no-store":
			return new(int64)
		case "max-age":
			if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64); err == nil && n >= 0 {
				return &n
			}
		}
	}
	return nil
}

func (x *Indexes) entry(url string) *document {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries == nil {
		x.entries = map[string]*document{}
	}
	d := x.entries[url]
	if d == nil {
		d = &document{busy: make(chan struct{}, 1)}
		x.entries[url] = d
	}
	d.used = time.Now()
	return d
}

func (x *Indexes) path(url string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(x.Dir, hex.EncodeToString(sum[:]))
}

// A get is a request for a document.
type get struct {
	http  *http.Client
	agent string
	urls  []string // the same at several servers
	limit int64    // bytes
	fresh bool     // ask, however young it is
	anew  bool     // have it sent, whatever is here
	// within is how short a time ago it may have been asked for all the same.
	within time.Duration
	stall  time.Duration
	warn   func(string)
	parse  func(io.Reader) (any, error)
}

// get gives what parse makes of a document. When no server answers, an old copy
// does, with a warning. A server that refuses has answered: what it no longer gives
// isn't used in its name.
func (x *Indexes) get(ctx context.Context, g get) (any, error) {
	d := x.entry(g.urls[0])
	defer x.trim()
	select {
	case d.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-d.busy }()
	path := x.path(g.urls[0])
	if !d.loaded {
		d.loaded = true
		if b, err := disk.ReadFile(path + ".json"); err == nil {
			_ = json.Unmarshal(b, &d.state) // else it is fetched
		}
	}
	if !d.state.asked(g, x.TTL) {
		if err := x.update(ctx, g, d, path); err != nil {
			if _, old := os.Stat(path); old != nil || !passing(err) {
				return nil, err
			}
			if g.warn != nil {
				g.warn(fmt.Sprintf("%s doesn't answer (%v); using its index of %s", fetch.Shown(g.urls[0]), err,
					d.state.Fetched.UTC().Format("2006/01/02 15:04 MST")))
			}
		}
	}
	if d.parsed != nil {
		return d.parsed, nil
	}
	f, err := disk.Open(path)
	if err != nil {
		d.state = documentState{}
		return nil, err
	}
	defer f.Close()
	if d.parsed, err = g.parse(f); err != nil {
		return nil, errors.Join(unreadable(g.urls[0], err), d.forget(path))
	}
	if fi, err := f.Stat(); err == nil {
		d.bytes.Store(fi.Size())
	}
	return d.parsed, nil
}

// unreadable is the error of a document that can't be parsed. It is Network where the
// parser says Invalid: the mistake is the server's, not the user's.
func unreadable(url string, err error) error {
	kind := kiln.KindOf(err)
	if kind == kiln.Invalid {
		kind = kiln.Network
	}
	return kiln.Errorf(kind, "%s: %w", fetch.Shown(url), err)
}

// forget makes the next request ask for the whole document.
func (d *document) forget(path string) error {
	d.state = documentState{}
	err := os.Remove(path + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// passing reports whether an error is one that an old copy may hide: the server
// isn't there, for the time being.
func passing(err error) bool {
	kind := kiln.KindOf(err)
	return kind == kiln.Network || kind == kiln.Timeout
}

// update asks the servers in turn, those that don't answer a few times. When the last
// one kept everybody waiting, that was enough: what is here may do. If none has the
// document, the error is that of the first, which the others stand in for, if it
// refuses; else that of the last.
func (x *Indexes) update(ctx context.Context, g get, d *document, path string) error {
	var refusal, last error
	left := slices.Clone(g.urls)
	for try := 0; try < 2 && len(left) > 0; try++ {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(300 * time.Millisecond):
			}
		}
		var silent []string
		var began time.Time
		for _, url := range left {
			began = time.Now()
			err := x.ask(ctx, g, d, path, url)
			switch {
			case err == nil || ctx.Err() != nil:
				return err
			case passing(err):
				silent = append(silent, url)
			case url == g.urls[0]:
				refusal = err
			}
			last = err
		}
		if left = silent; time.Since(began) >= min(dialTime, g.stall) {
			break
		}
	}
	return cmp.Or(refusal, last)
}

// ask sends one conditional request.
func (x *Indexes) ask(ctx context.Context, g get, d *document, path, url string) error {
	ctx, cancel := context.WithTimeout(ctx, indexTime)
	defer cancel()
	ctx, heard, stop := fetch.Watch(ctx, url, g.stall)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return kiln.Errorf(kiln.Invalid, "%w", fetch.About(url, err))
	}
	req.Header.Set("User-Agent", g.agent)
	if _, err := os.Stat(path); err == nil && url == g.urls[0] && !g.anew {
		if d.state.ETag != "" {
			req.Header.Set("If-None-Match", d.state.ETag)
		} else if d.state.LastModified != "" {
			req.Header.Set("If-Modified-Since", d.state.LastModified)
		}
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return why(ctx, fetch.About(url, err))
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
	case http.StatusOK:
		parsed, n, err := x.keep(path, hearing{resp.Body, heard}, g)
		if err != nil {
			err = why(ctx, err)
			return unreadable(url, err)
		}
		d.parsed = parsed
		d.bytes.Store(n)
		defer x.sweep(mostStored)
	default:
		return refused(resp, url)
	}
	d.state.Fetched = time.Now()
	if age := maxAge(resp.Header); age != nil || resp.StatusCode == http.StatusOK {
		d.state.MaxAge = age
	}
	if resp.StatusCode == http.StatusOK { // not every 304 says them again
		d.state.ETag, d.state.LastModified = resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	}
	b, err := json.Marshal(d.state)
	if err != nil {
		return err
	}
	return os.WriteFile(path+".json", b, 0o600) // half of it is none
}

// An answer is the error of a server that has answered, and not of the way there.
type answer struct{ error }

// Unwrap gives what it answered.
func (a answer) Unwrap() error { return a.error }

// refused is the error of an answer that isn't the document. Its kind is Network when
// the server may give it later.
func refused(resp *http.Response, url string) error { return answer{refusal(resp, url)} }

func refusal(resp *http.Response, url string) error {
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusUnavailableForLegalReasons:
		return kiln.Errorf(kiln.Denied, "%s: %s; the server doesn't let this host have its list of images: ask who runs it",
			fetch.Shown(url), resp.Status)
	case code == http.StatusNotFound, code == http.StatusGone:
		return kiln.Errorf(kiln.NotFound, "%s: %s; is this a server of simplestreams?", fetch.Shown(url), resp.Status)
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code < 400, code >= 500:
		return kiln.Errorf(kiln.Network, "%s: %s", fetch.Shown(url), resp.Status)
	}
	return kiln.Errorf(kiln.Unsupported, "%s: %s; is this a server of simplestreams?", fetch.Shown(url), resp.Status)
}

// why explains an error by the end of the context, if that came before.
func why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fetch.Explain(err)
}

// hearing tells when something is read.
type hearing struct {
	io.Reader
	heard func()
}

// Read implements io.Reader.
func (h hearing) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	h.heard()
	return n, err
}

// indexTime is how long one answer may take.
const indexTime = 5 * time.Minute

// halfMade is what the names of documents begin with that are on their way.
const halfMade = ".new-"

// keep makes a document appear whole, if it is one: what can't be read doesn't take
// the place of what could. It gives what parse makes of it, and its bytes.
func (x *Indexes) keep(path string, r io.Reader, g get) (any, int64, error) {
	if err := os.MkdirAll(x.Dir, 0o700); err != nil {
		return nil, 0, err
	}
	f, err := os.CreateTemp(x.Dir, halfMade)
	if err != nil {
		return nil, 0, err
	}
	defer os.Remove(f.Name()) // gone if it has its name
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(r, g.limit+1))
	if err != nil {
		return nil, 0, fetch.Explain(err)
	}
	if n > g.limit {
		return nil, 0, kiln.Errorf(kiln.TooLarge, "the document is larger than %s", kiln.FormatSize(g.limit))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, 0, err
	}
	parsed, err := g.parse(f)
	if err != nil {
		return nil, 0, err
	}
	return parsed, n, os.Rename(f.Name(), path)
}
