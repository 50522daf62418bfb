package signing

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// MaxSignature is the longest signature of an image, in bytes: peers show it as a property.
const MaxSignature = 700

// statementType is what a statement begins with, so that nothing else that somebody signs
// with the same key can be taken for one. Its number grows with the format.
const statementType = "kiln-image-v1"

// serialLayout is how a statement says when it was made.
const serialLayout = "20060102T150405Z"

// A Statement is what the owner of a key says of an image. docs/reference/signatures.md has
// the format, and what each part is there for.
type Statement struct {
	Fingerprint kiln.Fingerprint
	Serial      time.Time // when it was made, in UTC, to the second
	Aliases     []string  // what the image may be called, sorted; none: only its fingerprint
}

// String gives the statement as one line, without its end: the same one for the same statement.
func (s Statement) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s fingerprint=%s serial=%s", statementType, s.Fingerprint, s.Serial.UTC().Format(serialLayout))
	aliases := slices.Compact(slices.Sorted(slices.Values(s.Aliases)))
	for _, a := range aliases {
		b.WriteString(" alias=" + escape(a))
	}
	return b.String()
}

// escape writes an alias in ASCII without white space, a byte as %XX where it must be.
func escape(alias string) string {
	var b strings.Builder
	for _, c := range []byte(alias) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~/:@,", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// ParseStatement reads what String gives, and nothing else. The error is Integrity.
func ParseStatement(line string) (Statement, error) {
	wrong := kiln.Errorf(kiln.Integrity, "what was signed is not a statement about an image, as kiln writes it")
	fields := strings.Split(line, " ")
	if len(line) > MaxSignature || len(fields) < 3 {
		return Statement{}, wrong
	}
	var s Statement
	var err error
	fingerprint, _ := strings.CutPrefix(fields[1], "fingerprint=")
	if s.Fingerprint, err = kiln.ParseFingerprint(fingerprint); err != nil {
		return Statement{}, wrong
	}
	serial, _ := strings.CutPrefix(fields[2], "serial=")
	if s.Serial, err = time.Parse(serialLayout, serial); err != nil {
		return Statement{}, wrong
	}
	for _, f := range fields[3:] {
		alias, err := url.PathUnescape(strings.TrimPrefix(f, "alias="))
		if err != nil || kiln.CheckAlias(alias) != nil {
			return Statement{}, wrong
		}
		s.Aliases = append(s.Aliases, alias)
	}
	if s.String() != line { // there is one way to write a statement
		return Statement{}, wrong
	}
	return s, nil
}

// says reports whether an image of a fingerprint and some aliases may be called by a name: one
// of the aliases, also with the name of the image's architecture after it, as servers of images
// have it, or as a version ("web@1"); or enough digits of its fingerprint.
func says(fp kiln.Fingerprint, aliases []string, name, arch string) bool {
	if isDigitsOf(fp, name) {
		return true
	}
	if alias, _, ok := strings.Cut(name, "@"); ok && slices.Contains(aliases, alias) {
		return true
	}
	if i := strings.LastIndexByte(name, '/'); i > 0 && slices.Contains(aliases, name[:i]) {
		if of, err := kiln.ParseArch(name[i+1:]); err == nil && of == arch {
			return true
		}
	}
	return slices.Contains(aliases, name)
}

// isDigitsOf reports whether a name is enough digits of a fingerprint to mean it.
func isDigitsOf(fp kiln.Fingerprint, name string) bool {
	return len(name) >= kiln.ShortDigits && strings.HasPrefix(fp.String(), strings.ToLower(name))
}

// A Signature is a statement with who signed it. It is as its maker wrote it: only Verify
// tells whether it is true.
type Signature struct {
	Statement
	KeyID string // see Key.ID
	text  string
}

// Sign signs a statement. The error is Invalid for an alias that can't be, or more aliases
// than a signature has room for.
func Sign(key Secret, s Statement) (Signature, error) {
	for _, a := range s.Aliases {
		if err := kiln.CheckAlias(a); err != nil {
			return Signature{}, err
		}
	}
	line := s.String()
	text, err := key.sign([]byte(line+"\n"), line, "signature of an image")
	if err != nil {
		return Signature{}, err
	}
	if len(text) > MaxSignature {
		return Signature{}, kiln.Errorf(kiln.Invalid, "the %d aliases are too much for a signature, which has at most %d "+
			"bytes; say with --alias which of them to sign", len(s.Aliases), MaxSignature)
	}
	return Parse(text)
}

// Parse reads a signature as it travels with an image: a signature of minisign, made of the
// line that is its trusted comment. The error is Integrity.
func Parse(text string) (Signature, error) {
	m, err := parseLine(text)
	if err != nil {
		return Signature{}, err
	}
	s := Signature{KeyID: idText(m.KeyID), text: text}
	s.Statement, err = ParseStatement(m.TrustedComment)
	return s, err
}

// Text gives the signature as it travels.
func (s Signature) Text() string { return s.text }

// Verify says whether the owner of a key made the signature. The error is Integrity.
func (s Signature) Verify(k Key) error {
	return k.verify([]byte(s.Statement.String()+"\n"), s.text, s.KeyID)
}

// Of says whether the signature is of an image. The error is Integrity.
func (s Signature) Of(fp kiln.Fingerprint) error {
	if s.Fingerprint == fp {
		return nil
	}
	return kiln.Errorf(kiln.Integrity, "its signature is of another image: of %s, not of %s", s.Fingerprint.Short(),
		fp.Short())
}

// ParseOf is Parse of what is said to be the signature of an image. Who made it is for whoever
// pins a key to ask. The error is Integrity.
func ParseOf(text string, fp kiln.Fingerprint) (Signature, error) {
	s, err := Parse(text)
	if err == nil {
		err = s.Of(fp)
	}
	return s, err
}

// check says whether the owner of one of some keys, of which there is at least one, vouches
// for an image and for what it is called, which is "" when nobody asked for it by a name. The
// error is Integrity, and says what was expected and what came.
func check(keys []Key, img kiln.Image, name string) error {
	if img.Signature == "" {
		return kiln.Errorf(kiln.Integrity, "it isn't signed, and has to be with the key %s", ids(keys))
	}
	s, err := Parse(img.Signature)
	if err != nil {
		return err
	}
	if err := s.byOne(keys); err != nil {
		return err
	}
	if err := s.Of(img.Fingerprint); err != nil {
		return err
	}
	if name == "" || says(s.Fingerprint, s.Aliases, name, img.Architecture) {
		return nil
	}
	if strings.HasPrefix(s.Fingerprint.String(), strings.ToLower(name)) {
		return kiln.Errorf(kiln.Integrity, "%q is too little of its fingerprint to mean one image; give at least %d digits",
			name, kiln.ShortDigits)
	}
	if len(s.Aliases) == 0 {
		return kiln.Errorf(kiln.Integrity, "it is signed without an alias, so nobody says that %q means it; ask for it by "+
			"its fingerprint, %s", name, s.Fingerprint.Short())
	}
	return kiln.Errorf(kiln.Integrity, "it is signed as %s, not as %q", strings.Join(s.Aliases, ", "), name)
}

// byOne is Verify with one of some keys.
func (s Signature) byOne(keys []Key) error {
	wrong := kiln.Errorf(kiln.Integrity, "it is signed with the key %s, not with %s", s.KeyID, ids(keys))
	for _, k := range keys {
		if k.ID() != s.KeyID {
			continue
		}
		if wrong = s.Verify(k); wrong == nil {
			return nil
		}
	}
	return wrong
}
