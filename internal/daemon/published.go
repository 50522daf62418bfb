package daemon

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/signing"
)

// keysFile has the keys file that the daemon serves, with its signature.
const keysFile = "image-keys.json"

// ImageKeys are a keys file as it is served, and its signature. Nobody made this one here: the
// root key stays with its owner.
type ImageKeys struct {
	Keys      string `json:"keys"`
	Signature string `json:"signature"`
}

// published is what of the owner of images is served beside them.
type published struct {
	mu   sync.Mutex
	keys ImageKeys // zero: none
}

func (d *Daemon) loadPublished() error {
	b, err := disk.ReadFile(filepath.Join(d.cfg.Dir, keysFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &d.published.keys)
	}
	if err == nil {
		_, err = signing.VerifyKeys([]byte(d.published.keys.Keys), []byte(d.published.keys.Signature))
	}
	if err != nil { // its clients know an older one, and can do without for a while
		d.published.keys = ImageKeys{}
		d.cfg.Log.Error("the keys file of images isn't served: it is damaged; give it again: kiln key serve", "err", err)
	}
	return nil
}

// ImageKeys gives the keys file that is served. The error is NotFound.
func (d *Daemon) ImageKeys() (ImageKeys, error) {
	d.published.mu.Lock()
	defer d.published.mu.Unlock()
	if d.published.keys == (ImageKeys{}) {
		return ImageKeys{}, kiln.Errorf(kiln.NotFound, "this server has no keys file of its images; give it one: kiln key "+
			"serve")
	}
	return d.published.keys, nil
}

// SetImageKeys has a keys file be served from now on. Errors: Integrity for one that isn't signed
// by its root, or has expired; Conflict for one that whoever has seen the present one would refuse.
func (d *Daemon) SetImageKeys(k ImageKeys) error {
	f, err := signing.VerifyKeys([]byte(k.Keys), []byte(k.Signature))
	if err != nil {
		return err
	}
	if err := f.CheckFresh(time.Now()); err != nil {
		return kiln.Errorf(kiln.Integrity, "it isn't served, since nobody would take it: %w", err)
	}
	d.published.mu.Lock()
	defer d.published.mu.Unlock()
	if now := d.published.keys; now != (ImageKeys{}) {
		if err := follows(now, k); err != nil {
			return kiln.Errorf(kiln.Conflict, "whoever has seen the keys file that is served would refuse this one: %w; to "+
				"serve it all the same, remove that one first: kiln key serve none", err)
		}
	}
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := disk.WriteBytes(filepath.Join(d.cfg.Dir, keysFile), 0o600, b); err != nil {
		return err
	}
	d.published.keys = k
	return nil
}

// follows says whether a keys file is taken by whoever has seen another. The error is Integrity.
func follows(before, k ImageKeys) error {
	f, err := signing.VerifyKeys([]byte(before.Keys), []byte(before.Signature))
	if err != nil {
		return err
	}
	p := signing.NewPin(f.Root)
	if err := p.Learn([]byte(before.Keys), []byte(before.Signature)); err != nil {
		return err
	}
	return p.Learn([]byte(k.Keys), []byte(k.Signature))
}

// DeleteImageKeys has no keys file be served any more. The error is NotFound.
func (d *Daemon) DeleteImageKeys() error {
	if _, err := d.ImageKeys(); err != nil {
		return err
	}
	d.published.mu.Lock()
	defer d.published.mu.Unlock()
	if err := disk.RemoveAll(filepath.Join(d.cfg.Dir, keysFile)); err != nil {
		return err
	}
	d.published.keys = ImageKeys{}
	return nil
}
