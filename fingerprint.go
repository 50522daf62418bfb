package kiln

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// A Fingerprint is the SHA-256 that names an image: of its one file, or of its
// metadata file followed by its root filesystem file. It is also the name of a
// blob, and comparable, so it can be a map key.
type Fingerprint [sha256.Size]byte

// ParseFingerprint reads 64 lower-case hexadecimal digits. The error is Invalid.
func ParseFingerprint(s string) (Fingerprint, error) {
	var fp Fingerprint
	if len(s) != hex.EncodedLen(len(fp)) || strings.ToLower(s) != s {
		return fp, Errorf(Invalid, "%q is not a full fingerprint (64 lower-case hexadecimal digits)", s)
	}
	if _, err := hex.Decode(fp[:], []byte(s)); err != nil {
		return Fingerprint{}, Errorf(Invalid, "%q is not a fingerprint: %w", s, err)
	}
	return fp, nil
}

// String gives the 64 hexadecimal digits.
func (fp Fingerprint) String() string { return hex.EncodeToString(fp[:]) }

// ShortDigits is how many digits of a fingerprint listings show, and how many are enough to
// mean one image: they aren't an alias by chance.
const ShortDigits = 12

// Short gives the digits that listings show.
func (fp Fingerprint) Short() string { return fp.String()[:ShortDigits] }

// IsZero reports whether fp is unset, as for an image that was not read yet.
func (fp Fingerprint) IsZero() bool { return fp == Fingerprint{} }

// MarshalText makes fingerprints hexadecimal strings in JSON and YAML.
func (fp Fingerprint) MarshalText() ([]byte, error) { return []byte(fp.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (fp *Fingerprint) UnmarshalText(b []byte) error {
	var err error
	*fp, err = ParseFingerprint(string(b))
	return err
}

// IsPrefix reports whether s could be the beginning of a fingerprint: 1 to 64
// lower-case hexadecimal digits.
func IsPrefix(s string) bool {
	if s == "" || len(s) > hex.EncodedLen(sha256.Size) {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}
