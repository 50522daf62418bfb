package signing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"aead.dev/minisign"

	"github.com/kiln-containers/kiln"
)

// MaxDocumentSignature is the longest signature of a document, in bytes: what lies beside it in
// a file whose name ends in ".minisig".
const MaxDocumentSignature = 1024

// sign signs a message in minisign's way. The text has no line feed at its end.
func (s Secret) sign(message []byte, trusted, untrusted string) (string, error) {
	in := minisign.NewReader(bytes.NewReader(message))
	if _, err := in.Read(make([]byte, len(message))); err != nil {
		return "", err
	}
	return string(bytes.TrimSuffix(in.SignWithComments(s.key, trusted, untrusted), []byte("\n"))), nil
}

// parseMinisign reads the only way to write a signature, without a line feed at its end. The
// error is Integrity.
func parseMinisign(text string) (m minisign.Signature, err error) {
	err = m.UnmarshalText([]byte(text))
	if err != nil || m.String() != text+"\n" || !utf8.ValidString(text) ||
		strings.ContainsFunc(m.UntrustedComment, unicode.IsControl) {
		return m, kiln.Errorf(kiln.Integrity, "the signature is not one of minisign: it is cut off or damaged")
	}
	if m.Algorithm != minisign.HashEdDSA {
		return m, kiln.Errorf(kiln.Integrity, "the signature is of minisign's old kind (Ed), which could be taken "+
			"for that of something else; it has to be one of the kind ED")
	}
	return m, nil
}

// parseLine is parseMinisign of the signature of a line, which is its trusted comment.
func parseLine(text string) (m minisign.Signature, err error) {
	if len(text) > MaxSignature {
		return m, kiln.Errorf(kiln.Integrity, "the signature has %d bytes; there are at most %d", len(text), MaxSignature)
	}
	return parseMinisign(text)
}

// verify says whether the owner of a key made a signature, which says the id of a key, of a
// message. The error is Integrity.
func (k Key) verify(message []byte, text, id string) error {
	public, err := k.public()
	switch {
	case err != nil:
		return err
	case id != k.ID():
		return kiln.Errorf(kiln.Integrity, "it is signed with the key %s, not with %s", id, k.ID())
	case !minisign.Verify(public, message, []byte(text)):
		return kiln.Errorf(kiln.Integrity, "its signature is not by the key %s, as it says: it was changed, or somebody "+
			"else made it", k.ID())
	}
	return nil
}

// signDocument gives the file that lies beside a document.
func signDocument(s Secret, document []byte, comment string) ([]byte, error) {
	text, err := s.sign(document, comment, "signature of "+comment)
	return []byte(text + "\n"), err
}

// A documentSignature is what lies beside a document; whether it is true only verify tells.
type documentSignature struct{ text, keyID string }

// parseDocumentSignature reads a file that lies beside a document. The error is Integrity.
func parseDocumentSignature(b []byte) (documentSignature, error) {
	if len(b) > MaxDocumentSignature {
		return documentSignature{}, kiln.Errorf(kiln.Integrity, "its signature has more than %d bytes", MaxDocumentSignature)
	}
	text := strings.TrimSuffix(string(b), "\n")
	m, err := parseMinisign(text)
	return documentSignature{text, idText(m.KeyID)}, err
}

// verify gives the one of some keys whose owner signed a document. The error is Integrity.
func (d documentSignature) verify(keys []Key, document []byte) (Key, error) {
	wrong := kiln.Errorf(kiln.Integrity, "it is signed with the key %s, not with %s", d.keyID, ids(keys))
	for _, k := range keys {
		if k.ID() != d.keyID {
			continue
		}
		if wrong = k.verify(document, d.text, d.keyID); wrong == nil {
			return k, nil
		}
	}
	return Key{}, wrong
}

// encode gives the one way to write a document: a line of JSON, its fields in the order of the
// structure.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// decode reads what encode gives, and nothing else: what is read is written again. The error is
// Integrity.
func decode[T interface{ String() string }](b []byte, v T, what string) error {
	wrong := kiln.Errorf(kiln.Integrity, "it is not %s as kiln writes one: one line of JSON with all fields in their "+
		"order, and no others", what)
	if json.Unmarshal(b, v) != nil || v.String() != string(b) {
		return wrong
	}
	return nil
}

// second is a time as documents have it.
func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// checkFresh says whether a document is still good. The error is Integrity, and says what the
// clock said: it may be that which is wrong.
func checkFresh(what string, version uint64, created, expires, now time.Time) error {
	if now.Before(expires) {
		return nil
	}
	return kiln.Errorf(kiln.Integrity, "%s (version %d, of %s) expired %s ago by this machine's clock, on %s; it is %s "+
		"by that clock now. Its owner may have forgotten it, or the server withholds a newer one: ask them; to accept it "+
		"this once: --stale", what, version, created.UTC().Format(time.DateOnly), span(now.Sub(expires)),
		expires.UTC().Format(shownTime), now.UTC().Format(shownTime))
}

// shownTime is how times are shown to people.
const shownTime = "2006-01-02 15:04 MST"

// span is a time for people.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= time.Minute:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return d.Truncate(time.Second).String()
}
