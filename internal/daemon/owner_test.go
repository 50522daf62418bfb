package daemon

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/store"
)

// An owner signs keys files and indexes for a shelf.
type owner struct {
	t           *testing.T
	root, image signing.Secret
	index       signing.Secret
	keys        signing.KeysFile
}

func newOwner(t *testing.T) *owner {
	o := &owner{t: t, root: newKey(t), image: newKey(t), index: newKey(t)}
	o.keys = signing.KeysFile{Version: 5, Created: time.Now().Add(-100 * time.Hour), Expires: time.Now().Add(time.Hour),
		ImageKeys: []signing.Key{o.image.Key()}}
	return o
}

// signedKeys gives a keys file, after a change, as a server has it.
func (o *owner) signedKeys(by signing.Secret, change func(*signing.KeysFile)) map[string][]byte {
	o.t.Helper()
	f := o.keys
	if change != nil {
		change(&f)
	}
	document, signature, err := signing.SignKeys(by, f)
	if err != nil {
		o.t.Fatal(err)
	}
	return map[string][]byte{"/" + signing.KeysPath: document, "/" + signing.KeysPath + ".minisig": signature}
}

// signedIndex gives an index of version 5, after a change, as a server has it.
func (o *owner) signedIndex(by signing.Secret, change func(*signing.Index), images ...kiln.Image) map[string][]byte {
	o.t.Helper()
	x := signing.Index{Origin: o.root.Key(), Version: 5, Created: time.Now().Add(-100 * time.Hour),
		Expires: time.Now().Add(time.Hour)}
	for _, img := range images {
		x.List(img)
	}
	if change != nil {
		change(&x)
	}
	document, signature, err := signing.SignIndex(by, x)
	if err != nil {
		o.t.Fatal(err)
	}
	return map[string][]byte{"/" + signing.IndexPath: document, "/" + signing.IndexPath + ".minisig": signature}
}

// both are files of two kinds, of which the second ones count.
func both(a, b map[string][]byte) map[string][]byte {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// TestOwner takes images by what the owner of the pinned key says today, and of nothing else a
// byte, whatever a server does that had something good once.
func TestOwner(t *testing.T) {
	d := withHTTP(t)
	o, other, next := newOwner(t), newKey(t), newKey(t)
	s := newShelf(t, o.root.Key())
	old := s.put(t, "0")
	oldImage := kiln.Image{Fingerprint: old, Architecture: HostArch(), Size: int64(len(s.image)), Aliases: aliases("bb"),
		Signature: sign(t, o.image, old, "bb")}
	oldBytes := s.image
	fp := s.put(t, "1")
	image := kiln.Image{Fingerprint: fp, Architecture: HostArch(), Size: int64(len(s.image)), Aliases: aliases("bb"),
		Signature: sign(t, o.image, fp, "bb")}
	s.signature = image.Signature
	newBytes := s.image
	spec := PullSpec{Remote: s.remote, Name: "bb", IsAlias: true}
	pull := func(stale bool) error {
		spec := spec
		spec.Remote.Stale = stale
		op, err := d.PullImage(t.Context(), spec)
		return pulled(t, op, err)
	}
	nothing := func(name string) {
		t.Helper()
		list, err := d.Images.List(t.Context(), store.Query{})
		if err != nil || len(list) > 0 || s.moved.Load() > 0 {
			t.Fatalf("%s: there are %d images, and %d files were asked for; %v", name, len(list), s.moved.Load(), err)
		}
	}
	refused := func(name, want string) {
		t.Helper()
		mirrored := d.startMirror(t.Context(), Mirror{Name: "m", Remote: s.remote}).Wait(t.Context()).Err
		_, cached := d.cachedImage(t.Context(), nil, Source{Type: "image", Alias: "bb", Remote: s.remote})
		for how, err := range map[string]error{"pull": pull(false), "launch": cached, "mirror": mirrored} {
			if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v, not %q", name, how, err, want)
			}
		}
		nothing(name)
	}
	withIndex := func(f *signing.KeysFile) { f.Version, f.IndexKeys = 7, []signing.Key{o.index.Key()} }

	// Nobody has said yet that another key signs.
	refused("no keys file", "not with "+o.root.Key().ID())
	for name, attack := range map[string]struct {
		beside map[string][]byte
		want   string
	}{
		"keys of another root": {o.signedKeys(other, nil), "and has to be with " + o.root.Key().ID()},
		"another's signature": {both(o.signedKeys(o.root, nil), map[string][]byte{"/" + signing.KeysPath + ".minisig": o.signedKeys(other,
			nil)["/"+signing.KeysPath+".minisig"]}), "not with " + o.root.Key().ID()},
		"huge keys":              {map[string][]byte{"/" + signing.KeysPath: make([]byte, 1<<20), "/" + signing.KeysPath + ".minisig": {}}, "larger than"},
		"huge signature":         {map[string][]byte{"/" + signing.KeysPath + ".minisig": make([]byte, 1<<20)}, "larger than"},
		"a signature of nothing": {map[string][]byte{"/" + signing.KeysPath + ".minisig": []byte("x")}, "and not the file"},
	} {
		s.beside = attack.beside
		refused(name, attack.want)
	}
	s.beside = o.signedKeys(o.root, func(f *signing.KeysFile) { f.Revoked, f.Version = f.ImageKeys, 1 })
	refused("revoked key", "has revoked")
	s.beside = o.signedKeys(o.root, func(f *signing.KeysFile) { f.ImageKeys, f.Version = []signing.Key{other.Key()}, 2 })
	refused("other key", "not with")
	s.beside = o.signedKeys(o.root, nil)
	if _, _, err := d.EstimateImage(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	s.beside = o.signedKeys(o.root, func(f *signing.KeysFile) { f.Version = 4 })
	refused("older keys", "version 5")
	s.beside = o.signedKeys(o.root, func(f *signing.KeysFile) { f.ImageKeys = nil })
	refused("other keys of the same version", "another keys file of version 5")
	s.beside = o.signedKeys(o.root, func(f *signing.KeysFile) { f.Version, f.Expires = 6, time.Now().Add(-50*time.Hour) })
	refused("expired keys", "expired 2 days ago by this machine's clock")
	s.beside = o.signedKeys(o.root, withIndex)
	refused("no index though there are keys", "has no signed index")

	// From here on there is an index, and never again none.
	keys := o.signedKeys(o.root, withIndex)
	for name, attack := range map[string]struct {
		beside map[string][]byte
		want   string
	}{
		"index of the image key": {o.signedIndex(o.image, nil, image), "with the key " + o.image.Key().ID() + ", not with"},
		"index of another origin": {o.signedIndex(o.index, func(x *signing.Index) { x.Origin = other.Key() }, image),
			"of another origin"},
		"index without the image":    {o.signedIndex(o.index, nil), `says that "bb" is no image`},
		"index with the older image": {o.signedIndex(o.index, nil, oldImage), `says that "bb" is ` + old.Short() + ", and not " + fp.Short()},
		"index that revokes it": {o.signedIndex(o.index, func(x *signing.Index) { x.Revoked = []kiln.Fingerprint{fp} }, image),
			"was revoked"},
		"expired index": {o.signedIndex(o.index, func(x *signing.Index) { x.Expires = time.Now().Add(-time.Minute) }, image),
			"the signed index (version 5, of "},
		"another index's signature": {both(o.signedIndex(o.index, nil, image), map[string][]byte{"/" + signing.IndexPath + ".minisig": o.
			signedIndex(o.index, nil, oldImage)["/"+signing.IndexPath+".minisig"]}), "was changed"},
		"truncated": {both(o.signedIndex(o.index, nil, image), map[string][]byte{"/" + signing.IndexPath: []byte("{}")}), "was changed"},
		"signature only": {map[string][]byte{"/" + signing.IndexPath + ".minisig": o.signedIndex(o.index, nil,
			image)["/"+signing.IndexPath+".minisig"]}, "and not the file"},
	} {
		if _, err := d.db.LearnPin(t.Context(), o.root.Key(), func(p *signing.Pin) error {
			p.Digests = nil // each is as if it were the first one of its version
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s.beside = both(keys, attack.beside)
		refused(name, attack.want)
	}
	expired := o.signedIndex(o.index, func(x *signing.Index) {
		x.Version, x.Expires = 6, time.Now().Add(-time.Minute)
	}, image)
	s.beside = both(keys, expired)
	refused("expired", "--stale")
	s.beside = both(keys, o.signedIndex(o.index, func(x *signing.Index) { x.Version = 6 }, image))
	refused("another index of the same version", "gives another signed index of version 6")
	s.beside = both(keys, o.signedIndex(o.index, nil, image))
	refused("older index", "of version 5 (of ")

	// A server that goes back to the old image, with its good signature.
	s.beside = both(keys, o.signedIndex(o.index, func(x *signing.Index) { x.Version = 7 }, image))
	s.image, s.sent, s.signature = oldBytes, oldBytes, oldImage.Signature
	refused("older image", `says that "bb" is `+fp.Short()+", and not "+old.Short())
	s.image, s.sent, s.signature = newBytes, newBytes, image.Signature

	// The root key is followed by another, and what it signs itself counts no more.
	o.keys.Root = o.root.Key()
	rotated, err := o.keys.Rotate(o.root, next.Key(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	rotated.Version, rotated.IndexKeys = 8, []signing.Key{o.index.Key()}
	o.keys = rotated
	s.beside = both(o.signedKeys(next, nil), expired)
	refused("older index of the same owner", "of version 6 (of ")
	s.beside = both(o.signedKeys(next, nil), o.signedIndex(o.index, func(x *signing.Index) { x.Version = 8 }, image))
	s.signature = sign(t, o.root, fp, "bb")
	refused("the root of before signs an image", "not with "+next.Key().ID()+" or "+o.image.Key().ID())
	s.signature = image.Signature
	s.beside = both(o.signedKeys(next, nil), o.signedIndex(o.index, func(x *signing.Index) {
		x.Version, x.Expires = 9, time.Now().Add(-time.Minute)
	}, image))

	// It was never taken, and now it is: though it has expired, this once.
	if err := pull(true); err != nil {
		t.Fatal(err)
	}
	img, err := d.Images.Get(t.Context(), fp)
	if err != nil || img.Origin.ImageKey != o.root.Key().String() || img.Signature != image.Signature {
		t.Fatalf("it is here as %+v: %v", img, err)
	}
	if err := d.RefreshImage(t.Context(), fp, false).Wait(t.Context()).Err; kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("it is accepted for ever: %v", err)
	}
	if err := d.RefreshImage(t.Context(), fp, true).Wait(t.Context()).Err; err != nil {
		t.Errorf("it isn't accepted once more: %v", err)
	}

	// Whoever pins the new root pins the same owner.
	s.beside = both(o.signedKeys(next, nil), o.signedIndex(o.index, func(x *signing.Index) { x.Version = 10 }, image))
	newer := s.remote
	newer.ImageKey = next.Key().String()
	op, err := d.PullImage(t.Context(), PullSpec{Remote: newer, Name: "bb", IsAlias: true})
	if err := pulled(t, op, err); err != nil {
		t.Fatal(err)
	}
	pin, err := d.db.Pin(t.Context(), next.Key())
	if err != nil || pin.Root() != next.Key() || !pin.Is(o.root.Key()) ||
		pin.Indexes[o.index.Key()] != 10 || pin.Keys.Version != 8 {
		t.Errorf("it is known as %+v: %v", pin, err)
	}

	// What is known is on the disk.
	again, err := db.Open(t.Context(), filepath.Join(d.cfg.Dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if kept, err := again.Pin(t.Context(), o.root.Key()); err != nil || kept.Exceeds(pin) || pin.Exceeds(kept) {
		t.Errorf("it is kept as %+v: %v", kept, err)
	}

	// Of a key that was revoked since, what is here isn't used either.
	s.beside = both(o.signedKeys(next, func(f *signing.KeysFile) {
		f.Version, f.Revoked = 10, slices.Clone(f.ImageKeys)
	}), o.signedIndex(o.index, func(x *signing.Index) { x.Version = 11 }, image))
	if err := d.RefreshImage(t.Context(), fp, false).Wait(t.Context()).Err; kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("a revoked key: %v", err)
	}
	_, err = d.cachedImage(t.Context(), nil, Source{Type: "image", Alias: "bb", Remote: s.remote, Offline: true})
	if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), "has revoked") {
		t.Errorf("offline: %v", err)
	}
}
