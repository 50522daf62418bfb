package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
)

// A treeIndex is the signed index of a tree, which is to be made.
type treeIndex struct {
	by *signer
	signing.Index
}

// newTreeIndex prepares the index of a tree: a newer one than is there. Without a key it is nil.
// Errors: NotFound for the key; Invalid; Conflict for a tree whose index would be out of date.
func (a *app) newTreeIndex(dir, key, life string, revoked []string) (*treeIndex, error) {
	path := filepath.Join(dir, signing.IndexPath)
	b, err := readSigned(path, signing.MaxIndex)
	switch {
	case err == nil && key == "":
		return nil, kiln.Errorf(kiln.Conflict, "the index in %s is signed, and would say what isn't so: give --key; if "+
			"nobody has seen it yet, remove %s", dir, path)
	case errors.Is(err, kiln.NotFound):
		err = nil
	}
	if err != nil || key == "" {
		return nil, err
	}
	var x treeIndex
	if b != nil {
		if err := json.Unmarshal(b, &x.Index); err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "%s is no index; remove it: %w", path, err)
		}
	}
	for _, r := range revoked {
		fp, err := kiln.ParseFingerprint(r)
		if err != nil {
			return nil, usageError{fmt.Errorf("--revoke: %w", err)}
		}
		x.Revoked = append(x.Revoked, fp)
	}
	now := time.Now()
	x.Images, x.Version, x.Created = nil, signing.NextVersion(x.Version, now), now
	if x.Expires, err = kiln.ParseExpiry(life, now); err == nil && !x.Expires.After(now) {
		err = fmt.Errorf("%q is no time after which it could expire", life)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("--expires: %w", err)}
	}
	x.by, err = a.signer(key)
	return &x, err
}

// A treeDocument is what is read of a tree before any image.
type treeDocument struct {
	path    string
	content []byte
}

// signed gives the index of images, for whoever goes by the keys file that is there, and its
// signature; nothing if it isn't signed.
func (t tree) signed(images []kiln.Image) ([]treeDocument, error) {
	if t.index == nil {
		return nil, nil
	}
	x := t.index
	x.Origin = x.by.key.Key()
	keys, err := readKeysFile(filepath.Join(t.dir, signing.KeysPath))
	switch {
	case err == nil:
		x.Origin, err = signing.IndexOrigin(keys.document, keys.signature, x.by.key.Key())
	case errors.Is(err, kiln.NotFound):
		err = nil
	}
	if err != nil {
		return nil, kiln.Errorf(kiln.KindOf(err), "sign the index with the key %s: %w", x.by.name, err)
	}
	for _, img := range images {
		if img.Signature == "" {
			t.app.warn(fmt.Sprintf("image %s isn't signed, so that who pins the key can't have it: kiln image sign %s",
				img.Fingerprint.Short(), img.Fingerprint.Short()))
			continue
		}
		if !slices.Contains(x.Revoked, img.Fingerprint) {
			x.List(img)
		}
	}
	document, signature, err := signing.SignIndex(x.by.key, x.Index)
	return []treeDocument{{signing.IndexPath, document}, {signing.IndexPath + signing.SignatureSuffix, signature}}, err
}
