package signing

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

var made = time.Date(2026, 11, 28, 15, 3, 21, 0, time.UTC)

func keysFile(version uint64) KeysFile {
	return KeysFile{Version: version, Created: made, Expires: made.AddDate(1, 0, 0)}
}

// A pair is a document with its signature.
type pair struct{ document, signature []byte }

func signedKeys(t *testing.T, by Secret, f KeysFile) pair {
	t.Helper()
	d, s, err := SignKeys(by, f)
	if err != nil {
		t.Fatal(err)
	}
	return pair{d, s}
}

func signedIndex(t *testing.T, by Secret, x Index) pair {
	t.Helper()
	d, s, err := SignIndex(by, x)
	if err != nil {
		t.Fatal(err)
	}
	return pair{d, s}
}

func rotated(t *testing.T, f KeysFile, from, to Secret) KeysFile {
	t.Helper()
	f.Root = from.Key()
	f, err := f.Rotate(from, to.Key(), made)
	if err != nil {
		t.Fatal(err)
	}
	f.Version++
	return f
}

// refuses says that an error is of integrity and says something.
func refuses(t *testing.T, name string, err error, want string) {
	t.Helper()
	if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, not %q", name, err, want)
	}
}

// TestLearn follows the owner of a key from root to root, and nobody else.
func TestLearn(t *testing.T) {
	var roots []Secret
	for range maxRotated + 3 {
		roots = append(roots, newSecret(t))
	}
	image, index, other := newSecret(t), newSecret(t), newSecret(t)
	f := keysFile(1)
	f.ImageKeys, f.IndexKeys = []Key{image.Key()}, []Key{index.Key()}
	first := signedKeys(t, roots[0], f)
	p := NewPin(roots[0].Key())
	if err := p.Learn(first.document, first.signature); err != nil {
		t.Fatal(err)
	}
	if got := p.ImageKeys(); !slices.Equal(got, []Key{roots[0].Key(), image.Key()}) || !p.NeedsIndex() {
		t.Errorf("%v sign images", got)
	}

	// Two rotations at once, for who was away.
	g := rotated(t, rotated(t, f, roots[0], roots[1]), roots[1], roots[2])
	third := signedKeys(t, roots[2], g)
	away := p
	if err := away.Learn(third.document, third.signature); err != nil {
		t.Fatal(err)
	}
	if away.Root() != roots[2].Key() || !away.Is(roots[0].Key()) || slices.Contains(away.ImageKeys(), roots[0].Key()) {
		t.Errorf("it is %+v", away)
	}
	fresh := NewPin(roots[2].Key())
	if err := fresh.Learn(third.document, third.signature); err != nil {
		t.Error(err)
	}
	if !away.Exceeds(p) || away.Exceeds(away) {
		t.Error("what is more isn't known")
	}

	at := func(version uint64, change func(*KeysFile)) KeysFile {
		f := f
		f.Version = version
		if change != nil {
			change(&f)
		}
		return f
	}
	stranger := rotated(t, keysFile(7), other, roots[5])
	forged := at(8, func(f *KeysFile) { f.Rotations = g.Rotations }) // of others, for a root that isn't theirs
	forged.Root = other.Key()
	forgedText := []byte(forged.normal().String())
	forgedSig, err := signDocument(other, forgedText, "x")
	if err != nil {
		t.Fatal(err)
	}
	endless := f
	for i := range maxRotated + 2 {
		endless = rotated(t, endless, roots[i], roots[i+1])
	}
	if n := len(endless.Rotations); n != maxRotated {
		t.Errorf("%d rotations are kept", n)
	}
	tooMany := endless
	tooMany.Root = roots[maxRotated+2].Key()
	tooMany.Rotations = append(slices.Clone(endless.Rotations), endless.Rotations[0])
	tooManyText := []byte(tooMany.normal().String())
	tooManySig, err := signDocument(roots[maxRotated+2], tooManyText, "x")
	if err != nil {
		t.Fatal(err)
	}
	same := signedKeys(t, roots[0], at(1, func(f *KeysFile) { f.IndexKeys = nil }))
	legacyText := strings.Replace(string(first.signature), "\nRU", "\nRW", 1)
	unknown := []byte(strings.Replace(string(first.document), `"version":1`, `"version":1,"more":1`, 1))
	unknownSig, err := signDocument(roots[0], unknown, "x")
	if err != nil {
		t.Fatal(err)
	}
	spaced := []byte(strings.Replace(string(first.document), `,"version"`, `, "version"`, 1))
	spacedSig, err := signDocument(roots[0], spaced, "x")
	if err != nil {
		t.Fatal(err)
	}
	statement, err := Sign(roots[0], statement())
	if err != nil {
		t.Fatal(err)
	}
	for name, attack := range map[string]struct {
		pin  Pin
		give pair
		want string
	}{
		"another root":          {p, signedKeys(t, other, at(9, nil)), "signed with the root key " + other.Key().ID()},
		"another chain":         {p, signedKeys(t, roots[5], stranger), "signed with the root key " + roots[5].Key().ID()},
		"chain of others":       {p, pair{forgedText, forgedSig}, "comes after it"},
		"endless chain":         {p, pair{tooManyText, tooManySig}, "at most 16"},
		"chain cut off":         {p, signedKeys(t, roots[maxRotated+2], endless), "has to be with " + roots[0].Key().ID()},
		"root from before":      {away, signedKeys(t, roots[0], at(99, nil)), "which was followed by " + roots[2].Key().ID()},
		"older":                 {away, signedKeys(t, roots[2], func() KeysFile { g := g; g.Version = 1; return g }()), "version 1 "},
		"twice":                 {p, same, "another keys file of version 1"},
		"signature of a later":  {p, pair{first.document, third.signature}, "signed with the key " + roots[2].Key().ID()},
		"tampered":              {p, pair{[]byte(strings.Replace(string(first.document), "2027", "2037", 1)), first.signature}, "was changed"},
		"unsigned":              {p, pair{first.document, nil}, "cut off"},
		"cut off":               {p, pair{first.document[:99], first.signature}, "as kiln writes one"},
		"huge":                  {p, pair{make([]byte, MaxKeys+1), first.signature}, "larger than"},
		"huge signature":        {p, pair{first.document, make([]byte, 1<<20)}, "more than 1024"},
		"legacy":                {p, pair{first.document, []byte(legacyText)}, "old kind (Ed)"},
		"unknown field":         {p, pair{unknown, unknownSig}, "and no others"},
		"white space":           {p, pair{spaced, spacedSig}, "and no others"},
		"signature of an image": {p, pair{first.document, []byte(statement.Text())}, "was changed"},
		"an index": {p, signedIndex(t, roots[0], Index{Origin: roots[0].Key(), Version: 2, Created: made,
			Expires: made.Add(time.Hour)}), "keys file"},
	} {
		before, _ := json.Marshal(attack.pin)
		refuses(t, name, attack.pin.Learn(attack.give.document, attack.give.signature), attack.want)
		if after, _ := json.Marshal(attack.pin); string(after) != string(before) {
			t.Errorf("%s has changed what is known: %s", name, after)
		}
	}
	for name, f := range map[string]KeysFile{
		"revokes itself":              at(2, func(f *KeysFile) { f.Revoked = []Key{roots[0].Key()} }),
		"no time":                     at(2, func(f *KeysFile) { f.Expires = f.Created }),
		"no version":                  at(0, nil),
		"a version no one can follow": at(1<<60, nil),
		"too many keys": at(2, func(f *KeysFile) {
			for range maxKeyCount + 1 {
				f.ImageKeys = append(f.ImageKeys, newSecret(t).Key())
			}
		}),
	} {
		if _, _, err := SignKeys(roots[0], f); kiln.KindOf(err) != kiln.Integrity {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := g.Rotate(roots[2], roots[0].Key(), made); kiln.KindOf(err) != kiln.Invalid {
		t.Errorf("a root comes back: %v", err)
	}

	// What is known outlives the process, and time goes on.
	b, err := json.Marshal(away)
	if err != nil {
		t.Fatal(err)
	}
	var again Pin
	if err := json.Unmarshal(b, &again); err != nil || again.Exceeds(away) ||
		again.Learn(third.document, third.signature) != nil {
		t.Errorf("%s: %v", b, err)
	}
	if err := again.CheckFresh(made); err != nil {
		t.Error(err)
	}
	refuses(t, "expired", again.CheckFresh(made.AddDate(1, 0, 3)),
		"expired 3 days ago by this machine's clock, on 2027-11-28 15:03 UTC; it is 2027-12-01 15:03 UTC by that clock now")
	refuses(t, "just expired", again.CheckFresh(again.Keys.Expires.Add(90*time.Second)), "expired 1m ago")
}

// TestAuthority takes images by the keys and the index of the owner.
func TestAuthority(t *testing.T) {
	root, image, index, gone, other := newSecret(t), newSecret(t), newSecret(t), newSecret(t), newSecret(t)
	f := keysFile(3)
	f.ImageKeys, f.IndexKeys, f.Revoked = []Key{image.Key(), gone.Key()}, []Key{index.Key(), gone.Key()}, []Key{gone.Key()}
	keys := signedKeys(t, root, f)
	p := NewPin(root.Key())
	if err := p.Learn(keys.document, keys.signature); err != nil {
		t.Fatal(err)
	}
	picture := func(seed string, by Secret, aliases ...string) kiln.Image {
		img := kiln.Image{Fingerprint: sha256.Sum256([]byte(seed)), Architecture: "x86_64", Size: int64(len(seed))}
		for _, a := range aliases {
			img.Aliases = append(img.Aliases, kiln.Alias{Name: a})
		}
		img.Signature = signed(t, by, Statement{Fingerprint: img.Fingerprint, Serial: made, Aliases: aliases})
		return img
	}
	now, before, bad := picture("now", image, "web", "größe"), picture("before", root, "web"), picture("bad", image, "web")
	x := Index{Origin: root.Key(), Version: 9, Created: made, Expires: made.AddDate(0, 0, 7),
		Revoked: []kiln.Fingerprint{bad.Fingerprint}}
	x.List(now)
	old := before
	old.Aliases = nil
	x.List(old)
	doc := signedIndex(t, index, x)
	got, err := p.ReadIndex(doc.document, doc.signature)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Accept(got); err != nil || p.Indexes[index.Key()] != 9 {
		t.Fatal(err)
	}
	by := Authority{Pin: p, Index: got}
	for _, name := range []string{"web", "web/amd64", "größe", "", now.Fingerprint.Short()} {
		if err := by.Check(now, name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", before.Fingerprint.Short(), "web@1"} {
		if err := by.Check(before, name); err != nil {
			t.Errorf("the older one as %q: %v", name, err)
		}
	}
	short := now.Fingerprint.Short()
	refuses(t, "older image", by.Check(before, "web"), `says that "web" is `+short+", and not "+before.Fingerprint.Short())
	refuses(t, "revoked image", by.Check(bad, bad.Fingerprint.Short()), "was revoked by its owner")
	refuses(t, "not listed", by.Check(picture("else", image, "web"), "web"), `says that "web" is `+short)
	refuses(t, "no such name", by.Check(picture("else", image, "more"), "more"), `"more" is no image`)
	refuses(t, "revoked key", by.Check(picture("gone", gone, "gone"), "gone"), "which its owner has revoked (keys file version 3")
	refuses(t, "another key", by.Check(picture("now", other, "web"), "web"), "with the key "+other.Key().ID()+", not with "+
		root.Key().ID()+" or "+image.Key().ID())
	refuses(t, "by the index key", by.Check(picture("now", index, "web"), "web"), "not with")
	large := now
	large.Size++
	refuses(t, "another size", by.Check(large, "web"), "has 3 bytes, and by the server 4")
	unsigned := now
	unsigned.Signature = ""
	refuses(t, "unsigned", by.Check(unsigned, "web"), "isn't signed")

	change := func(f func(*Index)) Index { x := x; x.Images = slices.Clone(x.Images); f(&x); return x }
	notYet := Pin{Roots: p.Roots, Keys: p.Keys}
	for name, attack := range map[string]struct {
		pin  Pin
		give pair
		want string
	}{
		"older":          {p, signedIndex(t, index, change(func(x *Index) { x.Version = 8 })), "of version 8 (of 2026-11-28), and version 9 was seen"},
		"another origin": {p, signedIndex(t, index, change(func(x *Index) { x.Origin = other.Key(); x.Version = 10 })), "of another origin: of the root key " + other.Key().ID()},
		"image key":      {p, signedIndex(t, image, x), "with the key " + image.Key().ID() + ", not with " + root.Key().ID() + " or " + index.Key().ID()},
		"revoked key":    {p, signedIndex(t, gone, x), "has revoked"},
		"unsigned":       {notYet, pair{doc.document, nil}, "cut off"},
		"tampered":       {notYet, pair{[]byte(strings.Replace(string(doc.document), `"web"`, `"wob"`, 1)), doc.signature}, "was changed"},
		"keys as index":  {notYet, keys, "not an index as kiln writes one"},
		"twice": {notYet, signedIndex(t, index, change(func(x *Index) { x.Images = append(x.Images, x.Images[0]) })),
			"twice"},
		"an alias that can't be": {notYet, signedIndex(t, index, change(func(x *Index) {
			x.Images = []Listed{{Aliases: []string{"a b"}}}
		})), "alias that can't be"},
		"no version": {notYet, signedIndex(t, index, change(func(x *Index) { x.Version = 0 })), "no version"},
		"huge":       {notYet, pair{make([]byte, MaxIndex+1), doc.signature}, "larger than"},
	} {
		got, err := attack.pin.ReadIndex(attack.give.document, attack.give.signature)
		if err == nil {
			err = attack.pin.Accept(got)
		}
		refuses(t, name, err, attack.want)
	}
	refuses(t, "expired", got.CheckFresh(made.AddDate(0, 0, 8)), "the signed index (version 9, of 2026-11-28) expired 24h0m ago")
}

// FuzzParseKeys has a keys file be read in one way only.
func FuzzParseKeys(f *testing.F) {
	key, err := Generate()
	if err != nil {
		f.Fatal(err)
	}
	document, _, err := SignKeys(key, keysFile(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(document)
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeys(b)
		if err == nil && k.String() != string(b) || err != nil && kiln.KindOf(err) != kiln.Integrity {
			t.Fatalf("%q is read as %q: %v", b, k, err)
		}
	})
}

// FuzzParseIndex has an index be read in one way only.
func FuzzParseIndex(f *testing.F) {
	x := Index{Version: 3, Created: made, Expires: made.Add(time.Hour)}
	x.List(kiln.Image{Fingerprint: sha256.Sum256(nil), Size: 3})
	f.Add([]byte(x.String()))
	f.Fuzz(func(t *testing.T, b []byte) {
		var raw Index
		x, err := parseIndex(b)
		if err != nil {
			if kiln.KindOf(err) != kiln.Integrity {
				t.Fatal(err)
			}
			return
		}
		if json.Unmarshal(b, &raw) != nil || raw.String() != string(b) || len(raw.Images) != len(x.Images) {
			t.Fatalf("%q is read as %q", b, raw)
		}
	})
}

// BenchmarkIndex verifies, and reads, an index of 10,000 images.
func BenchmarkIndex(b *testing.B) {
	key, err := Generate()
	if err != nil {
		b.Fatal(err)
	}
	x := Index{Origin: key.Key(), Version: 1, Created: made, Expires: made.Add(time.Hour)}
	for i := range 10_000 {
		name := fmt.Sprintf("debian/12/variant-%05d", i)
		x.Images = append(x.Images, Listed{sha256.Sum256([]byte(name)), "x86_64", int64(i) << 20, []string{name, name + "/amd64"}})
	}
	document, signature, err := SignIndex(key, x)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(int64(len(document)))
		for b.Loop() {
			sig, err := parseDocumentSignature(signature)
			if err == nil {
				_, err = sig.verify([]Key{key.Key()}, document)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(int64(len(document)))
		p := NewPin(key.Key())
		for b.Loop() {
			if _, err := p.ReadIndex(document, signature); err != nil {
				b.Fatal(err)
			}
		}
	})
}
