package remote

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
)

// Pins remember what is known of keys that images are pinned to.
type Pins interface {
	// Pin gives what is known of the owner of a key: signing.NewPin if nothing is.
	Pin(ctx context.Context, k signing.Key) (signing.Pin, error)
	// LearnPin has f change what is known of the owner of a key, and keeps that unless f fails. It
	// does so for one at a time.
	LearnPin(ctx context.Context, k signing.Key, f func(*signing.Pin) error) (signing.Pin, error)
}

// pinned is a source whose Find refuses every image that the owner of a key doesn't vouch for,
// as what it was asked for by: the error is Integrity.
type pinned struct {
	kiln.Source
	o      *Opener
	remote kiln.Remote
	access Access
}

// Find is kiln.Source's.
func (p *pinned) Find(ctx context.Context, name string) (kiln.Image, error) {
	by, err := p.o.Authority(ctx, p.remote, p.access)
	if err != nil {
		return kiln.Image{}, nothingFetched(err)
	}
	img, err := p.Source.Find(ctx, name)
	if err != nil {
		return kiln.Image{}, err
	}
	if p.remote.Protocol == kiln.ProtocolDirect {
		name = signedName(name, img)
	}
	if err := by.Check(img, name); err != nil {
		return kiln.Image{}, nothingFetched(err)
	}
	return img, nil
}

// nothingFetched says so in an error about signatures.
func nothingFetched(err error) error {
	if !errors.Is(err, kiln.Integrity) {
		return err
	}
	return kiln.Errorf(kiln.Integrity, "%w; nothing was fetched: ask who runs the server", err)
}

// List gives the images that may be seen: none unless the owner of the key can be believed.
// Whether one of them is vouched for is for who takes it to ask.
func (p *pinned) List(ctx context.Context) ([]kiln.Image, error) {
	all, ok := p.Source.(interface {
		List(context.Context) ([]kiln.Image, error)
	})
	if !ok {
		return nil, kiln.Errorf(kiln.Unsupported, "this server can't tell which images there are")
	}
	if _, err := p.o.Authority(ctx, p.remote, p.access); err != nil {
		return nil, err
	}
	return all.List(ctx)
}

// Authority asks a server what the owner of the key that its images are pinned to says today: by
// a keys file and by a signed index, if it has them. What is newer than what was known is kept.
// Errors: Integrity for what isn't the owner's, is older than what was seen, or has expired, or
// isn't there any more; Invalid for a remote with no key; Network.
func (o *Opener) Authority(ctx context.Context, r kiln.Remote, a Access) (signing.Authority, error) {
	key, err := signing.ParseKey(r.ImageKey)
	if err != nil {
		return signing.Authority{}, err
	}
	if r.Protocol == kiln.ProtocolDirect {
		r.Server, r.Mirrors = origin(r.Server), nil
	}
	ask := asking{o, r, get{fresh: a.Fresh, warn: a.Warn}}
	by, err := ask.authority(ctx, key)
	if errors.Is(err, kiln.Integrity) { // a file and its signature may be of different times
		ask.get.fresh, ask.get.anew = true, true
		by, err = ask.authority(ctx, key)
	}
	return by, err
}

// asking is how a remote is asked for what its owner says.
type asking struct {
	*Opener
	remote kiln.Remote
	get    get
}

func (o asking) authority(ctx context.Context, key signing.Key) (signing.Authority, error) {
	r := o.remote
	var by signing.Authority
	pins := o.Pins
	if pins == nil {
		pins = forgetful{}
	}
	pin, err := pins.Pin(ctx, key)
	if err != nil {
		return by, err
	}
	keys, sig, err := o.signed(ctx, signing.KeysPath, signing.MaxKeys)
	if err != nil {
		return by, err
	}
	if keys != nil {
		by.Said.Keys, by.Said.KeysSignature = keys.b, sig
		if pin, err = learn(ctx, pins, key, pin, func(p *signing.Pin) error { return p.Learn(keys.b, sig) }); err != nil {
			return by, err
		}
	}
	if err := pin.CheckFresh(time.Now()); err != nil && !r.Stale {
		return by, err
	}
	index, sig, err := o.signed(ctx, signing.IndexPath, signing.MaxIndex)
	if err != nil {
		return by, err
	}
	if index == nil {
		if pin.NeedsIndex() {
			err = kiln.Errorf(kiln.Integrity, "%s has no signed index (%s), and has to: there was one, or the owner of its "+
				"images names keys for it", r.Server, signing.IndexPath)
		}
		by.Pin = pin
		return by, err
	}
	by.Said.Index, by.Said.IndexSignature = index.b, sig
	if by.Index, err = index.read(pin, sig); err != nil {
		return by, err
	}
	by.Pin, err = learn(ctx, pins, key, pin, func(p *signing.Pin) error { return p.Accept(by.Index) })
	if err != nil || r.Stale {
		return by, err
	}
	return by, by.Index.CheckFresh(time.Now())
}

// learn is Pins.LearnPin, of what may be known already.
func learn(ctx context.Context, pins Pins, key signing.Key, pin signing.Pin, f func(*signing.Pin) error) (signing.Pin,
	error) {
	next := pin
	if err := f(&next); err != nil || !next.Exceeds(pin) {
		return next, err
	}
	return pins.LearnPin(ctx, key, f)
}

// forgetful knows nothing.
type forgetful struct{}

// Pin is Pins's.
func (forgetful) Pin(_ context.Context, k signing.Key) (signing.Pin, error) {
	return signing.NewPin(k), nil
}

// LearnPin is Pins's.
func (forgetful) LearnPin(_ context.Context, k signing.Key, f func(*signing.Pin) error) (signing.Pin, error) {
	p := signing.NewPin(k)
	return p, f(&p)
}

// A signedFile is a file that has a signature beside it, as it came.
type signedFile struct {
	b []byte

	mu    sync.Mutex
	index *signing.Index // that was made of it
	by    string         // … with this signature and these keys
}

// read is signing.Pin.ReadIndex, once for each signature.
func (s *signedFile) read(pin signing.Pin, sig []byte) (*signing.Index, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := string(sig)
	for _, k := range pin.IndexKeys() {
		by += k.String()
	}
	if s.index != nil && s.by == by {
		return s.index, nil
	}
	x, err := pin.ReadIndex(s.b, sig)
	if err == nil {
		s.index, s.by = x, by
	}
	return x, err
}

// signed gives a file of a server and its signature; nil: it has no such file.
func (o asking) signed(ctx context.Context, path string, limit int64) (*signedFile, []byte, error) {
	sig, err := o.beside(ctx, path+signing.SignatureSuffix, signing.MaxDocumentSignature)
	if err != nil || sig == nil {
		return nil, nil, err
	}
	f, err := o.beside(ctx, path, limit)
	if err == nil && f == nil {
		err = kiln.Errorf(kiln.Integrity, "%s has the signature of %s, and not the file", o.remote.Server, path)
	}
	return f, sig.b, err
}

// lackingTime is how long a server that hasn't a file isn't asked for it again.
const lackingTime = time.Minute

// beside gives a file of a server that not every one has; nil: this one hasn't.
func (o asking) beside(ctx context.Context, path string, limit int64) (*signedFile, error) {
	hc, err := o.HTTP(o.remote)
	if err != nil {
		return nil, err
	}
	g := o.get
	g.http, g.agent, g.stall, g.urls, g.limit = hc, o.UserAgent, o.stall(), join(o.remote, path), limit
	g.parse = func(r io.Reader) (any, error) {
		b, err := io.ReadAll(r)
		return &signedFile{b: b}, err
	}
	urls := g.urls
	if !g.fresh && o.lacks(urls[0]) {
		return nil, nil
	}
	v, err := o.Indexes.get(ctx, g)
	var said answer
	switch {
	case err == nil:
		o.lack(urls[0], false)
		return v.(*signedFile), nil
	case errors.As(err, &said) && !passing(err): // not every server says NotFound of what it hasn't
		o.lack(urls[0], true)
		return nil, nil
	case errors.Is(err, kiln.TooLarge):
		err = kiln.Errorf(kiln.Integrity, "%w", err)
	}
	return nil, err
}

func (o *Opener) lacks(url string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Since(o.lacking[url]) < lackingTime
}

// lack notes whether a server has a file.
func (o *Opener) lack(url string, lacks bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !lacks {
		delete(o.lacking, url)
		return
	}
	if o.lacking == nil || len(o.lacking) >= mostDocuments {
		o.lacking = map[string]time.Time{}
	}
	o.lacking[url] = time.Now()
}

// Known is Authority without asking anybody: what was known already.
func (o *Opener) Known(ctx context.Context, r kiln.Remote) (signing.Authority, error) {
	key, err := signing.ParseKey(r.ImageKey)
	if err != nil || o.Pins == nil {
		return signing.Authority{Pin: signing.NewPin(key)}, err
	}
	pin, err := o.Pins.Pin(ctx, key)
	return signing.Authority{Pin: pin}, err
}
