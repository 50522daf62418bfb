package signing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// Bounds on a keys file.
const (
	MaxKeys     = 32 << 10 // bytes
	maxKeyCount = 64       // keys of each kind
	maxRotated  = 16       // roots before the one that counts
)

// MaxVersion is the highest version of a document, which every reader of JSON can tell from the
// one below.
const MaxVersion = 1<<53 - 1

// NextVersion gives the version of a document that is made now, after one of another version:
// the time in seconds, so that who has lost count goes on all the same.
func NextVersion(last uint64, now time.Time) uint64 { return max(last+1, uint64(max(now.Unix(), 0))) }

// keysType is what a keys file begins with, see statementType.
const keysType = "kiln-keys-v1"

// KeysPath is where a server has its keys file. Its signature is beside it, with
// SignatureSuffix after its name.
const (
	KeysPath        = "streams/v1/keys.json"
	SignatureSuffix = ".minisig"
)

// A KeysFile is what the owner of images says of the keys that they are signed with.
// docs/reference/signatures.md has the format, and what each part is there for.
type KeysFile struct {
	Type      string    `json:"type"`
	Root      Key       `json:"root"`    // which signs this
	Version   uint64    `json:"version"` // grows
	Created   time.Time `json:"created"` // to the second
	Expires   time.Time `json:"expires"`
	ImageKeys []Key     `json:"image_keys"` // … sign images, as the root does
	IndexKeys []Key     `json:"index_keys"` // … sign the index; if there is one, the index has to be signed
	Revoked   []Key     `json:"revoked"`    // … sign nothing any more
	Rotations []string  `json:"rotations"`  // signatures: how earlier roots were followed by this one, the first one first
}

// normal is the file with its keys in the order they have in there.
func (f KeysFile) normal() KeysFile {
	f.Type, f.Created, f.Expires = keysType, second(f.Created), second(f.Expires)
	for _, list := range []*[]Key{&f.ImageKeys, &f.IndexKeys, &f.Revoked} {
		sorted := append([]Key{}, *list...)
		slices.SortFunc(sorted, func(a, b Key) int { return strings.Compare(a.text, b.text) })
		*list = slices.Compact(sorted)
	}
	f.Rotations = append([]string{}, f.Rotations...)
	return f
}

// String gives the file as it is signed.
func (f KeysFile) String() string {
	b, _ := encode(f.normal()) // of texts and times nothing fails but a year with five digits, whose text is ""
	return string(b)
}

// check says whether the file says something that can be. The error is Integrity.
func (f KeysFile) check() error {
	for what, list := range map[string][]Key{"image keys": f.ImageKeys, "index keys": f.IndexKeys,
		"revoked keys": f.Revoked} {
		if len(list) > maxKeyCount {
			return kiln.Errorf(kiln.Integrity, "the keys file has %d %s; there are at most %d", len(list), what, maxKeyCount)
		}
	}
	switch {
	case len(f.String()) > MaxKeys:
		return kiln.Errorf(kiln.Integrity, "the keys file is larger than %s", kiln.FormatSize(MaxKeys))
	case f.Type != keysType || f.Root.IsZero() || f.Version == 0 || f.Version > MaxVersion:
		return kiln.Errorf(kiln.Integrity, "the keys file says no root, or no version that can be")
	case !f.Expires.After(f.Created):
		return kiln.Errorf(kiln.Integrity, "the keys file says that it expired before it was made")
	case slices.Contains(f.Revoked, f.Root):
		return kiln.Errorf(kiln.Integrity, "the keys file revokes its own root key %s; rotate that first: kiln key rotate",
			f.Root.ID())
	}
	_, err := f.roots()
	return err
}

// roots gives the root keys, from the first one that is known to the one that signs the file:
// each was said by the one before to follow it. The error is Integrity.
func (f KeysFile) roots() ([]Key, error) {
	if len(f.Rotations) > maxRotated {
		return nil, kiln.Errorf(kiln.Integrity, "the keys file has %d rotations; there are at most %d", len(f.Rotations),
			maxRotated)
	}
	chain := []Key{f.Root}
	for i, text := range slices.Backward(f.Rotations) {
		r, err := parseRotation(text)
		switch {
		case err != nil:
			return nil, kiln.Errorf(kiln.Integrity, "rotation %d of the keys file: %w", i+1, err)
		case r.to != chain[0]:
			return nil, kiln.Errorf(kiln.Integrity, "rotation %d of the keys file is to the key %s, and %s comes after it",
				i+1, r.to.ID(), chain[0].ID())
		case slices.Contains(chain, r.from):
			return nil, kiln.Errorf(kiln.Integrity, "the rotations of the keys file go round in a circle: %s comes twice",
				r.from.ID())
		}
		chain = slices.Insert(chain, 0, r.from)
	}
	return chain, nil
}

// ParseKeys reads a keys file. Nobody is to believe it whose root isn't known. The error is
// Integrity.
func ParseKeys(b []byte) (KeysFile, error) {
	var f KeysFile
	if len(b) > MaxKeys {
		return f, kiln.Errorf(kiln.Integrity, "the keys file is larger than %s", kiln.FormatSize(MaxKeys))
	}
	if err := decode(b, &f, "a keys file"); err != nil {
		return KeysFile{}, err
	}
	return f, f.check()
}

// SignKeys gives a keys file as it is served, and its signature. Its root is the key. The error
// is Integrity for what can't be in a keys file.
func SignKeys(key Secret, f KeysFile) (document, signature []byte, err error) {
	f.Root = key.Key()
	f = f.normal()
	if err := f.check(); err != nil {
		return nil, nil, err
	}
	document = []byte(f.String())
	signature, err = signDocument(key, document, fmt.Sprintf("%s version=%d expires=%s", keysType, f.Version,
		f.Expires.Format(serialLayout)))
	return document, signature, err
}

// VerifyKeys reads a keys file that is signed by the root that it says. The error is Integrity.
func VerifyKeys(document, signature []byte) (KeysFile, error) {
	sig, err := parseDocumentSignature(signature)
	if err != nil {
		return KeysFile{}, kiln.Errorf(kiln.Integrity, "the keys file: %w", err)
	}
	f, err := ParseKeys(document)
	if err != nil {
		return f, err
	}
	if _, err := sig.verify([]Key{f.Root}, document); err != nil {
		return KeysFile{}, kiln.Errorf(kiln.Integrity, "the keys file: %w", err)
	}
	return f, nil
}

// CheckFresh says whether the file is still good. The error is Integrity.
func (f KeysFile) CheckFresh(now time.Time) error {
	return checkFresh("the keys file", f.Version, f.Created, f.Expires, now)
}

// rotationType is what a rotation begins with, see statementType.
const rotationType = "kiln-root-v1"

// A rotation says that a root key is followed by another.
type rotation struct {
	from, to Key
	serial   time.Time
}

func (r rotation) String() string {
	return fmt.Sprintf("%s from=%s to=%s serial=%s", rotationType, r.from, r.to, r.serial.UTC().Format(serialLayout))
}

// parseRotation reads and verifies a rotation, which its "from" has signed. The error is
// Integrity.
func parseRotation(text string) (r rotation, err error) {
	m, err := parseLine(text)
	if err != nil {
		return r, err
	}
	wrong := kiln.Errorf(kiln.Integrity, "what was signed is not a rotation of root keys, as kiln writes it")
	fields := strings.Split(m.TrustedComment, " ")
	if len(fields) != 4 {
		return r, wrong
	}
	from, _ := strings.CutPrefix(fields[1], "from=")
	to, _ := strings.CutPrefix(fields[2], "to=")
	serial, _ := strings.CutPrefix(fields[3], "serial=")
	if r.from.UnmarshalText([]byte(from)) != nil || r.to.UnmarshalText([]byte(to)) != nil {
		return r, wrong
	}
	if r.serial, err = time.Parse(serialLayout, serial); err != nil || r.String() != m.TrustedComment {
		return r, wrong
	}
	return r, r.from.verify([]byte(r.String()+"\n"), text, idText(m.KeyID))
}

// Rotate gives a keys file whose root is followed by another key, which has yet to sign it. The
// error is Invalid for a key that isn't the root of the file, or was before.
func (f KeysFile) Rotate(old Secret, to Key, now time.Time) (KeysFile, error) {
	chain, err := f.roots()
	switch {
	case err != nil:
		return f, err
	case old.Key() != f.Root:
		return f, kiln.Errorf(kiln.Invalid, "the root of the keys file is the key %s, and not %s", f.Root.ID(),
			old.Key().ID())
	case slices.Contains(chain, to):
		return f, kiln.Errorf(kiln.Invalid, "the key %s is, or was, the root of the keys file already; make a new one: "+
			"kiln key generate <key-name>", to.ID())
	}
	line := rotation{old.Key(), to, now}.String()
	text, err := old.sign([]byte(line+"\n"), line, "rotation of a root key")
	f.Root, f.Rotations = to, append(slices.Clone(f.Rotations), text)
	if n := len(f.Rotations); n > maxRotated { // who pinned the first ones has to pin again
		f.Rotations = f.Rotations[n-maxRotated:]
	}
	return f, err
}
