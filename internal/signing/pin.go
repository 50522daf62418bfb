package signing

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
)

// A Pin is what is known of a key that somebody pinned: who signs for its owner by now, and how
// new what they signed was, so that nothing older is taken for it. It only ever grows.
type Pin struct {
	Roots []Key     `json:"roots"`          // root keys, from the one that was pinned to the one that counts; at least one
	Keys  *KeysFile `json:"keys,omitempty"` // the newest keys file that was seen; nil: none yet
	// Indexes are the versions of the newest indexes that were seen, by the keys that signed them:
	// an owner with several servers has a key for each.
	Indexes map[Key]uint64 `json:"indexes,omitempty"`
	// Digests are the SHA-256 of these indexes, where they are known: two of one version are never
	// the same owner's word.
	Digests map[Key]kiln.Fingerprint `json:"digests,omitempty"`
}

// NewPin gives what is known of a key that was pinned just now.
func NewPin(k Key) Pin { return Pin{Roots: []Key{k}} }

// Root gives the root key that counts.
func (p Pin) Root() Key { return p.Roots[len(p.Roots)-1] }

// Is reports whether it is about the owner of a key.
func (p Pin) Is(k Key) bool { return slices.Contains(p.Roots, k) }

// Exceeds reports whether it knows more than another one of the same owner.
func (p Pin) Exceeds(other Pin) bool {
	return len(p.Roots) != len(other.Roots) || !maps.Equal(p.Indexes, other.Indexes) ||
		!maps.Equal(p.Digests, other.Digests) ||
		p.Keys != nil && (other.Keys == nil || p.Keys.Version != other.Keys.Version)
}

// Recall adds what was known of the same owner before: the higher versions, and the longer chain of
// roots, count. It reports whether that was any more.
func (p *Pin) Recall(before Pin) bool {
	was := *p
	if len(before.Roots) > len(p.Roots) && slices.Equal(before.Roots[:len(p.Roots)], p.Roots) {
		p.Roots = before.Roots
	}
	if before.Keys != nil && p.Is(before.Keys.Root) && (p.Keys == nil || before.Keys.Version > p.Keys.Version) {
		p.Keys = before.Keys
	}
	p.Indexes, p.Digests = maps.Clone(p.Indexes), maps.Clone(p.Digests)
	for k, v := range before.Indexes {
		if v <= p.Indexes[k] {
			continue
		}
		if p.Indexes == nil {
			p.Indexes = map[Key]uint64{}
		}
		p.Indexes[k] = v
		delete(p.Digests, k)
		if d, ok := before.Digests[k]; ok {
			if p.Digests == nil {
				p.Digests = map[Key]kiln.Fingerprint{}
			}
			p.Digests[k] = d
		}
	}
	return p.Exceeds(was)
}

// Learn takes over a keys file, if it is its owner's and not older than what is known: that is
// what the owner says from then on, expired or not. The error is Integrity.
func (p *Pin) Learn(document, signature []byte) error {
	f, err := VerifyKeys(document, signature)
	if err != nil {
		return err
	}
	chain, err := f.roots()
	if err != nil {
		return err
	}
	from := slices.Index(chain, p.Root())
	if from < 0 && slices.Contains(p.Roots, f.Root) {
		return kiln.Errorf(kiln.Integrity, "the keys file is signed with the root key %s, which was followed by %s: the "+
			"server gives an old one", f.Root.ID(), p.Root().ID())
	}
	if from < 0 {
		return kiln.Errorf(kiln.Integrity, "the keys file is signed with the root key %s, and has to be with %s, or with "+
			"one that this says is to follow it", f.Root.ID(), p.Root().ID())
	}
	switch known := p.Keys; {
	case known != nil && f.Version < known.Version:
		return kiln.Errorf(kiln.Integrity, "the server gives a keys file of version %d (of %s), and version %d (of %s) "+
			"was seen already: it goes back to an old one", f.Version, f.Created.Format(time.DateOnly), known.Version,
			known.Created.Format(time.DateOnly))
	case known != nil && f.Version == known.Version && f.String() != known.String():
		return kiln.Errorf(kiln.Integrity, "the server gives another keys file of version %d than the one that was seen "+
			"already; its owner has to give each a version of its own", f.Version)
	}
	p.Roots = append(slices.Clone(p.Roots), chain[from+1:]...)
	p.Keys = &f
	return nil
}

// keys gives those of a list that count, with the root.
func (p Pin) keys(list func(*KeysFile) []Key) []Key {
	all := []Key{p.Root()}
	if p.Keys == nil {
		return all
	}
	for _, k := range list(p.Keys) {
		if !slices.Contains(p.Keys.Revoked, k) && k != p.Root() {
			all = append(all, k)
		}
	}
	return all
}

// ImageKeys gives the keys that sign images.
func (p Pin) ImageKeys() []Key { return p.keys(func(f *KeysFile) []Key { return f.ImageKeys }) }

// IndexKeys gives the keys that sign the index.
func (p Pin) IndexKeys() []Key { return p.keys(func(f *KeysFile) []Key { return f.IndexKeys }) }

// CheckFresh says whether the newest keys file is still good. The error is Integrity.
func (p Pin) CheckFresh(now time.Time) error {
	if p.Keys == nil {
		return nil
	}
	return p.Keys.CheckFresh(now)
}

// NeedsIndex reports whether a server of the owner has to have a signed index: there was one,
// or the owner names keys for it.
func (p Pin) NeedsIndex() bool {
	return len(p.Indexes) > 0 || p.Keys != nil && len(p.Keys.IndexKeys) > 0
}

// ReadIndex verifies and reads an index. The error is Integrity.
func (p Pin) ReadIndex(document, signature []byte) (*Index, error) {
	if len(document) > MaxIndex {
		return nil, kiln.Errorf(kiln.Integrity, "the index is larger than %s", kiln.FormatSize(MaxIndex))
	}
	sig, err := parseDocumentSignature(signature)
	if err == nil {
		err = p.unrevoked(sig.keyID)
	}
	var by Key
	if err == nil {
		by, err = sig.verify(p.IndexKeys(), document)
	}
	if err != nil {
		return nil, kiln.Errorf(kiln.Integrity, "the signed index: %w", err)
	}
	x, err := parseIndex(document)
	if err == nil {
		x.by, x.digest = by, sha256.Sum256(document)
	}
	return x, err
}

// IndexOrigin gives the origin of an index that a key signs, for who goes by a keys file. The error
// is Integrity where they wouldn't take it.
func IndexOrigin(document, signature []byte, key Key) (Key, error) {
	f, err := VerifyKeys(document, signature)
	if err != nil {
		return Key{}, err
	}
	p := Pin{Roots: []Key{f.Root}, Keys: &f}
	if !slices.Contains(p.IndexKeys(), key) {
		return Key{}, kiln.Errorf(kiln.Integrity, "the keys file (version %d) doesn't name %s as a key that signs the "+
			"index, or revokes it", f.Version, key.ID())
	}
	return f.Root, nil
}

// Accept notes that an index that ReadIndex gave was seen, if it isn't older than what was. The
// error is Integrity.
func (p *Pin) Accept(x *Index) error {
	if seen := p.Indexes[x.by]; x.Version < seen {
		return kiln.Errorf(kiln.Integrity, "the server gives a signed index of version %d (of %s), and version %d was "+
			"seen already: it goes back to an old one", x.Version, x.Created.Format(time.DateOnly), seen)
	}
	if d, ok := p.Digests[x.by]; ok && p.Indexes[x.by] == x.Version && d != x.digest {
		return kiln.Errorf(kiln.Integrity, "the server gives another signed index of version %d (of %s) than the one that "+
			"was seen already: somebody who has the key %s shows different indexes to different people, or two servers sign "+
			"with it", x.Version, x.Created.Format(time.DateOnly), x.by.ID())
	}
	known := p.Roots
	if p.Keys != nil {
		chain, err := p.Keys.roots()
		if err != nil {
			return err
		}
		known = chain
	}
	if !slices.Contains(known, x.Origin) {
		return kiln.Errorf(kiln.Integrity, "the signed index is of another origin: of the root key %s, not of %s",
			x.Origin.ID(), p.Root().ID())
	}
	p.Indexes = maps.Clone(p.Indexes) // others may read it
	if p.Indexes == nil {
		p.Indexes = map[Key]uint64{}
	}
	p.Indexes[x.by] = x.Version
	if p.Digests = maps.Clone(p.Digests); p.Digests == nil {
		p.Digests = map[Key]kiln.Fingerprint{}
	}
	p.Digests[x.by] = x.digest
	return nil
}

// CheckFresh says whether the index is still good. The error is Integrity.
func (x *Index) CheckFresh(now time.Time) error {
	return checkFresh("the signed index", x.Version, x.Created, x.Expires, now)
}

// unrevoked says whether the id of a key isn't that of one that was revoked and no other. The
// error is Integrity.
func (p Pin) unrevoked(id string) error {
	if p.Keys == nil || slices.ContainsFunc(slices.Concat(p.ImageKeys(), p.IndexKeys()), func(k Key) bool {
		return k.ID() == id
	}) {
		return nil
	}
	for _, k := range p.Keys.Revoked {
		if k.ID() == id {
			return kiln.Errorf(kiln.Integrity, "it is signed with the key %s, which its owner has revoked (keys file "+
				"version %d, of %s)", id, p.Keys.Version, p.Keys.Created.Format(time.DateOnly))
		}
	}
	return nil
}

// An Authority is what the owner of a pinned key says of a server's images today.
type Authority struct {
	Pin
	Index *Index // nil: there is none
	// Said is what the server gave of that, for who passes it on with its images.
	Said Documents
}

// Documents are a keys file and a signed index, each with its signature, as they are served. What
// there is none of is nil.
type Documents struct {
	Keys           []byte `json:"keys,omitempty"`
	KeysSignature  []byte `json:"keys_signature,omitempty"`
	Index          []byte `json:"index,omitempty"`
	IndexSignature []byte `json:"index_signature,omitempty"`
}

// IsZero reports whether there is nothing.
func (d Documents) IsZero() bool { return d.Keys == nil && d.Index == nil }

// Signer gives the key of the owner that signed an image; the zero Key: none did.
func (a Authority) Signer(img kiln.Image) Key {
	if s, err := Parse(img.Signature); err == nil {
		for _, k := range a.ImageKeys() {
			if s.Verify(k) == nil {
				return k
			}
		}
	}
	return Key{}
}

// Check says whether the owner vouches for an image and for what it is called, which is "" when
// nobody asked for it by a name. The error is Integrity, and says what was expected and what
// came.
func (a Authority) Check(img kiln.Image, name string) error {
	if s, err := Parse(img.Signature); err == nil {
		if err := a.unrevoked(s.KeyID); err != nil {
			return err
		}
	}
	if err := check(a.ImageKeys(), img, name); err != nil || a.Index == nil {
		return err
	}
	return a.Index.check(img, name)
}

// CompareAge orders what one owner said by age: the keys file first, then the index.
func CompareAge(a, b Documents) int {
	version := func(document []byte) uint64 {
		var v struct {
			Version uint64 `json:"version"`
		}
		if json.Unmarshal(document, &v) != nil { // there is none, or it is damaged: as old as can be
			return 0
		}
		return v.Version
	}
	return cmp.Or(cmp.Compare(version(a.Keys), version(b.Keys)), cmp.Compare(version(a.Index), version(b.Index)))
}
