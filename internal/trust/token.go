package trust

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// A Token introduces a client to a server, once. The fields are those of LXD's.
type Token struct {
	ClientName  string   `json:"client_name"`
	Fingerprint string   `json:"fingerprint"` // of the server's certificate
	Addresses   []string `json:"addresses"`   // "host:port"
	Secret      string   `json:"secret"`
	// Type says what the client may do, as of certificates; only kiln's tokens have it.
	Type      string    `json:"type,omitempty"`
	ExpiresAt time.Time `json:"expires_at"` // zero: never
}

// String gives the token as people pass it on.
func (t Token) String() string {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and a time
	}
	return base64.StdEncoding.EncodeToString(b)
}

// ParseToken reads what String wrote. The error is Invalid.
func ParseToken(s string) (Token, error) {
	var t Token
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil || t.Secret == "" {
		return Token{}, kiln.Errorf(kiln.Invalid, "invalid token; get one with: kiln config trust add --name <client>")
	}
	return t, nil
}

// NewSecret makes 64 random hexadecimal digits.
func NewSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Same compares two secrets in a time that tells nothing of them.
func Same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// rounds of PBKDF2 make guessing a password slow.
const rounds = 200_000

// HashPassword gives what can be kept of a password.
func HashPassword(password string) (string, error) {
	salt := NewSecret()[:32]
	return hashWith(password, salt)
}

func hashWith(password, salt string) (string, error) {
	key, err := pbkdf2.Key(sha256.New, password, []byte(salt), rounds, 32)
	return fmt.Sprintf("pbkdf2:%s:%x", salt, key), err
}

// CheckPassword reports whether a password is the one that was hashed.
func CheckPassword(hashed, password string) bool {
	parts := strings.Split(hashed, ":")
	if len(parts) != 3 || parts[0] != "pbkdf2" {
		return false
	}
	again, err := hashWith(password, parts[1])
	return err == nil && Same(again, hashed)
}
