// Package signing knows keys, and what is signed with them: statements about images, files that
// say which keys count, and indexes of a server's images. All are in the formats of minisign. It
// doesn't know where keys and what is known of them are kept, nor how anything travels.
package signing

import (
	"encoding/base64"
	"fmt"
	"strings"

	"aead.dev/minisign"

	"github.com/kiln-containers/kiln"
)

// MaxKeyFile is the largest file of a key that is read, in bytes.
const MaxKeyFile = 4096

// A Key is a public key: what signatures are verified with. The zero value is none.
type Key struct {
	text string // as String gives it
	id   uint64
}

// ParseKey reads a public key: its one line ("RW…"), or a file of minisign with a comment
// before it. The error is Invalid.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n"))
	line := text
	if comment, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(comment, "untrusted comment:") {
		line = rest
	}
	var public minisign.PublicKey
	if err := public.UnmarshalText([]byte(line)); err != nil || public.String() != line {
		if len(text) > 80 {
			text = text[:80] + "…"
		}
		return Key{}, kiln.Errorf(kiln.Invalid, "%q is not a public key of minisign: 56 characters that begin with RW", text)
	}
	return Key{line, public.ID()}, nil
}

// String gives the key as one line.
func (k Key) String() string { return k.text }

// ID gives the hexadecimal number that minisign calls the key by. It proves nothing: anybody
// can make a key with the same.
func (k Key) ID() string { return idText(k.id) }

func idText(id uint64) string { return fmt.Sprintf("%X", id) }

// File gives the key as minisign writes it.
func (k Key) File() []byte {
	return fmt.Appendf(nil, "untrusted comment: minisign public key %s\n%s\n", k.ID(), k.text)
}

// IsZero reports whether it is no key.
func (k Key) IsZero() bool { return k == Key{} }

// MarshalText gives the key as one line.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.text), nil }

// UnmarshalText reads the key as one line, and nothing else. The error is Invalid.
func (k *Key) UnmarshalText(b []byte) error {
	got, err := ParseKey(string(b))
	if err == nil && got.text != string(b) {
		err = kiln.Errorf(kiln.Invalid, "%q is more than a public key of minisign", b)
	}
	*k = got
	return err
}

// ids names keys to people.
func ids(keys []Key) string {
	list := make([]string, len(keys))
	for i, k := range keys {
		list[i] = k.ID()
	}
	return strings.Join(list, " or ")
}

func (k Key) public() (p minisign.PublicKey, err error) { return p, p.UnmarshalText([]byte(k.text)) }

// A Secret is a secret key, with which statements are signed.
type Secret struct {
	key    minisign.PrivateKey
	public Key
}

// Generate makes a key.
func Generate() (Secret, error) {
	public, secret, err := minisign.GenerateKey(nil)
	if err != nil {
		return Secret{}, err
	}
	key, err := ParseKey(public.String())
	return Secret{secret, key}, err
}

// Key gives the public key.
func (s Secret) Key() Key { return s.public }

// Encrypted reports whether a file has a secret key that needs a password.
func Encrypted(file []byte) bool { return minisign.IsEncrypted(normal(file)) }

// IsSecret reports whether a file has a secret key, in whatever state.
func IsSecret(file []byte) bool {
	_, err := ParseKey(string(file))
	raw, derr := base64.StdEncoding.DecodeString(lastLine(file))
	return err != nil && derr == nil && len(raw) == secretSize
}

// secretSize is how many bytes minisign writes for a secret key.
const secretSize = 158

func lastLine(file []byte) string {
	text := strings.TrimSpace(string(file))
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// normal is a file of a key as the library reads it.
func normal(file []byte) []byte { return []byte(lastLine(file)) }

// ParseSecret reads a file of minisign with a secret key, decrypting it where it is
// encrypted, which takes a gigabyte of memory for some seconds. Errors: Invalid; Denied
// for a wrong password.
func ParseSecret(file []byte, password string) (Secret, error) {
	if !IsSecret(file) {
		return Secret{}, kiln.Errorf(kiln.Invalid, "it is not a secret key of minisign")
	}
	var s Secret
	var err error
	if Encrypted(file) {
		if s.key, err = minisign.DecryptKey(password, normal(file)); err != nil {
			return Secret{}, kiln.Errorf(kiln.Denied, "the password is wrong, or the key is damaged")
		}
	} else if err = s.key.UnmarshalText(normal(file)); err != nil {
		return Secret{}, kiln.Errorf(kiln.Invalid, "it is not a secret key of minisign: %w", err)
	}
	public, ok := s.key.Public().(minisign.PublicKey)
	if !ok {
		return Secret{}, kiln.Errorf(kiln.Invalid, "it is not a secret key of minisign")
	}
	if s.public, err = ParseKey(public.String()); err != nil {
		return Secret{}, err
	}
	probe := []byte("probe")
	if !minisign.Verify(public, probe, minisign.Sign(s.key, probe)) {
		return Secret{}, kiln.Errorf(kiln.Integrity, "the secret key is damaged: what it signs doesn't verify")
	}
	return s, nil
}

// File gives the secret key as a file of minisign, encrypted unless the password is empty.
func (s Secret) File(password string) ([]byte, error) {
	if password != "" {
		b, err := minisign.EncryptKey(password, s.key)
		return append(b, '\n'), err
	}
	b, err := s.key.MarshalText()
	return append(b, '\n'), err
}
