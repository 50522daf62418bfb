package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/store"
)

// keysFile has the keys file that the daemon serves, with its signature.
const keysFile = "image-keys.json"

// indexKeyFile has the secret key that the index is signed with, and indexVersionFile the version
// of the newest one.
const (
	indexKeyFile     = "index.key"
	indexVersionFile = "index-version"
)

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
	// passed is what is passed on, by mirror. Its values never change.
	passed map[string]passedOn

	indexing sync.Mutex      // held while an index is signed; taken before mu
	key      *signing.Secret // that the index is signed with; nil: it isn't; of mu
	index    signedIndex     // of indexing
}

// A signedIndex is an index as it is served.
type signedIndex struct {
	document, signature []byte
	generation          uint64    // of the images that it lists
	until               time.Time // when it is to be signed again
}

// loadPublished reads what is to be published. What is damaged isn't: the clients remember what
// they have seen.
func (d *Daemon) loadPublished() {
	d.loadPassedOn()
	if err := d.loadKeys(); err != nil {
		d.published.keys = ImageKeys{}
		d.cfg.Log.Error("the keys file of images isn't served: it is damaged; give it again: kiln key serve", "err", err)
	}
	b, err := disk.ReadFile(filepath.Join(d.cfg.Dir, indexKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var key signing.Secret
	if err == nil {
		key, err = signing.ParseSecret(b, "")
	}
	if err != nil {
		d.cfg.Log.Error("the index of images isn't signed: the key is damaged; give it again: kiln key lend", "err", err)
		return
	}
	d.published.key = &key
}

func (d *Daemon) loadKeys() error {
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
	return err
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

// ServedKeys gives the keys file that is beside the images here: this server's own, else that of the
// owner of the images that it mirrors. The error is NotFound.
func (d *Daemon) ServedKeys() (ImageKeys, error) {
	k, err := d.ImageKeys()
	if errors.Is(err, kiln.NotFound) {
		if passed := d.published.passes(); passed.Keys != nil {
			return ImageKeys{string(passed.Keys), string(passed.KeysSignature)}, nil
		}
	}
	return k, err
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
	d.generation.Add(1) // the index may be signed by another key now
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
	d.generation.Add(1)
	return nil
}

// IndexKey gives the public part of the key that the index is signed with. The error is NotFound.
func (d *Daemon) IndexKey() (signing.Key, error) {
	d.published.mu.Lock()
	defer d.published.mu.Unlock()
	if d.published.key == nil {
		return signing.Key{}, kiln.Errorf(kiln.NotFound, "this server has no key to sign the index of its images with; "+
			"give it one: kiln key lend")
	}
	return d.published.key.Key(), nil
}

// SetIndexKey has the index of the public images be signed with a key from now on, which is a
// file of minisign with a secret key, not encrypted. One that is pinned itself, as the root key
// is, it takes only if pinned says that this is meant. Errors: Invalid; Conflict for one that the
// keys file doesn't name; Integrity when something else is in the place of its file.
func (d *Daemon) SetIndexKey(file []byte, pinned bool) error {
	if signing.Encrypted(file) {
		return kiln.Errorf(kiln.Invalid, "the key is encrypted, and the server can't ask for its password; give "+
			"it without one")
	}
	key, err := signing.ParseSecret(file, "")
	if err != nil {
		return err
	}
	d.published.mu.Lock()
	defer d.published.mu.Unlock()
	origin, err := indexOrigin(d.published.keys, key.Key())
	if err != nil {
		return kiln.Errorf(kiln.Conflict, "%w; name it first (kiln key sign --index-key, kiln key serve)", err)
	}
	if origin == key.Key() && !pinned {
		return kiln.Errorf(kiln.Invalid, "%s is the key that is pinned, by which all others are taken: who gets into the "+
			"server could sign any image as yours, and name other keys; name another key in a keys file (kiln key sign "+
			"--index-key, kiln key serve) and lend that, or say that it is meant: --pinned", key.Key().ID())
	}
	path := filepath.Join(d.cfg.Dir, indexKeyFile)
	if fi, err := os.Lstat(path); err == nil {
		if err := disk.CheckFile(path, fi); err != nil {
			return kiln.Errorf(kiln.Integrity, "the key can't be kept: %w, and lend it again", err)
		}
	}
	if err := disk.WriteBytes(path, 0o600, file); err != nil {
		return err
	}
	d.published.key = &key
	d.generation.Add(1)
	return nil
}

// DeleteIndexKey has no index be signed any more. The error is NotFound.
func (d *Daemon) DeleteIndexKey() error {
	if _, err := d.IndexKey(); err != nil {
		return err
	}
	d.published.mu.Lock()
	defer d.published.mu.Unlock()
	if err := disk.RemoveAll(filepath.Join(d.cfg.Dir, indexKeyFile)); err != nil {
		return err
	}
	d.published.key = nil
	d.generation.Add(1)
	return nil
}

// indexOrigin gives the origin of an index that a key signs beside a keys file, or beside none.
// The error is Integrity where whoever knows the keys file wouldn't take it.
func indexOrigin(k ImageKeys, key signing.Key) (signing.Key, error) {
	if k == (ImageKeys{}) {
		return key, nil
	}
	return signing.IndexOrigin([]byte(k.Keys), []byte(k.Signature), key)
}

// indexLife is how long an index is good. After half of that it is signed again.
const indexLife = 7 * 24 * time.Hour

// SignedIndex gives the index of the public images and its signature, which are made when they
// are asked for first after a change. The error is NotFound where there is none.
func (d *Daemon) SignedIndex(ctx context.Context) (document, signature []byte, err error) {
	d.published.indexing.Lock()
	defer d.published.indexing.Unlock()
	d.published.mu.Lock()
	keys, key := d.published.keys, d.published.key
	d.published.mu.Unlock()
	if key == nil {
		if passed := d.published.passes(); passed.Index != nil {
			return passed.Index, passed.IndexSignature, nil
		}
		return nil, nil, kiln.Errorf(kiln.NotFound, "this server has no signed index of its images")
	}
	now, generation := time.Now(), d.ImageGeneration()
	if x := d.published.index; x.document != nil && x.generation == generation && now.Before(x.until) {
		return x.document, x.signature, nil
	}
	origin, err := indexOrigin(keys, key.Key())
	if err != nil {
		d.cfg.Log.Error("the index of images isn't signed: give the server another key: kiln key lend", "err", err)
		return nil, nil, kiln.Errorf(kiln.NotFound, "the key that this server signs its index with isn't good any more")
	}
	list, err := d.Images.List(ctx, store.Query{Public: true, Files: true})
	if err != nil {
		return nil, nil, err
	}
	x := signing.Index{Origin: origin, Created: now, Expires: now.Add(indexLife)}
	for _, img := range list {
		if img.Signature != "" {
			x.List(img)
		}
	}
	if x.Version, err = d.nextIndexVersion(now); err != nil {
		return nil, nil, err
	}
	if document, signature, err = signing.SignIndex(*key, x); err != nil {
		return nil, nil, err
	}
	d.published.index = signedIndex{document, signature, generation, now.Add(indexLife / 2)}
	return document, signature, nil
}

// nextIndexVersion gives the next version of the index, higher than any before, whatever the
// clock says: it is on the disk before anybody sees it.
func (d *Daemon) nextIndexVersion(now time.Time) (uint64, error) {
	path := filepath.Join(d.cfg.Dir, indexVersionFile)
	var last uint64
	b, err := disk.ReadFile(path)
	if err == nil {
		if last, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 53); err != nil {
			err = kiln.Errorf(kiln.Integrity, "%s is damaged: write the version of the newest index into it, or remove it "+
				"to go on by the time: %w", path, err)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	v := signing.NextVersion(last, now)
	return v, disk.WriteBytes(path, 0o600, fmt.Appendln(nil, v))
}
