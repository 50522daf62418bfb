package place

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/signing"
)

// pins is what the client knows of the owners of pinned keys: the file pins.json beside its
// configuration. It implements remote.Pins.
type pins struct{ path string }

// Pin is remote.Pins's. The error is Integrity for a file that is damaged.
func (p pins) Pin(_ context.Context, k signing.Key) (signing.Pin, error) {
	all, err := p.read()
	_, pin := find(all, k)
	return pin, err
}

// find gives what is known of the owner of a key, and the key that it is kept under.
func find(all map[string]signing.Pin, k signing.Key) (string, signing.Pin) {
	if pin, ok := all[k.String()]; ok {
		return k.String(), pin
	}
	for name, pin := range all {
		if pin.Is(k) {
			return name, pin
		}
	}
	return k.String(), signing.NewPin(k)
}

func (p pins) read() (map[string]signing.Pin, error) {
	all := map[string]signing.Pin{}
	b, err := disk.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	for _, pin := range all {
		if err == nil && len(pin.Roots) == 0 {
			err = errors.New("it names a key without a root")
		}
	}
	if err != nil {
		return nil, kiln.Errorf(kiln.Integrity, "what is known of pinned keys can't be read: %s: %w; bring a copy of it "+
			"back, or remove it to begin anew, by which older keys and indexes could be taken for new ones", p.path, err)
	}
	return all, nil
}

// LearnPin is remote.Pins's.
func (p pins) LearnPin(ctx context.Context, k signing.Key, f func(*signing.Pin) error) (signing.Pin, error) {
	unlock, err := p.lock(ctx)
	if err != nil {
		return signing.Pin{}, err
	}
	defer unlock()
	all, err := p.read()
	if err != nil {
		return signing.Pin{}, err
	}
	name, pin := find(all, k)
	if err := f(&pin); err != nil {
		return pin, err
	}
	all[name] = pin
	b, err := json.Marshal(all)
	if err != nil {
		return pin, err
	}
	return pin, disk.WriteBytes(p.path, 0o600, b)
}

// lockTime is how long another client may write what it learned.
const lockTime = 10 * time.Second

// lock keeps other clients from writing. The error is Conflict when one takes too long.
func (p pins) lock(ctx context.Context) (unlock func(), err error) {
	f, err := disk.OpenFile(p.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(kiln.Errorf(kiln.Conflict, "another kiln has %s locked: %w", p.path, err), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Known gives what is known of the owner of a key, without asking anybody.
func (r *Resolver) Known(ctx context.Context, key signing.Key) (signing.Authority, error) {
	config, err := r.Config()
	if err != nil {
		return signing.Authority{}, err
	}
	pin, err := pins{config.Path("pins.json")}.Pin(ctx, key)
	return signing.Authority{Pin: pin}, err
}

// Signers gives what is known of the owner of the key that a remote is pinned to, without asking
// it; nil: it is pinned to none, or to what is no key.
func (r *Resolver) Signers(ctx context.Context, name string) (*signing.Authority, error) {
	config, err := r.Config()
	if err != nil {
		return nil, err
	}
	c, err := config.Find(name)
	if err != nil {
		return nil, err
	}
	key, err := signing.ParseKey(c.ImageKey)
	if err != nil {
		return nil, nil
	}
	by, err := r.Known(ctx, key)
	return &by, err
}

// authority gives what the owner of the key that a remote is pinned to says; nil: it is pinned
// to none. Errors: those of remote.Opener.Authority.
func (r *Resolver) authority(ctx context.Context, name string) (*signing.Authority, error) {
	config, err := r.Config()
	if err != nil {
		return nil, err
	}
	c, err := config.Find(name)
	if err != nil || c.ImageKey == "" {
		return nil, err
	}
	if by, ok := r.vouching[name]; ok {
		return by, nil
	}
	o, where, err := r.opener(name)
	if err != nil {
		return nil, err
	}
	var by signing.Authority
	if c.Unix() { // this host is believed
		by, err = o.Known(ctx, where)
	} else {
		hc, herr := o.HTTP(where) // what Authority uses, too
		if herr != nil {
			return nil, herr
		}
		r.patiently(hc)
		by, err = o.Authority(ctx, where, remote.Access{Warn: r.Warn, Fresh: !r.Stale})
	}
	if err != nil {
		return nil, kiln.Errorf(kiln.KindOf(err), "the remote %q: %w", name, err)
	}
	if r.vouching == nil {
		r.vouching = map[string]*signing.Authority{}
	}
	r.vouching[name] = &by
	return &by, nil
}
