package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"

	"github.com/kiln-containers/kiln"
)

// sealLen is the length of what ends a sealed file: a line with the hash of all before.
const sealLen = 2*sha256.Size + 1

// WriteSealed is WriteBytes for a text whose damage ReadSealed shall notice.
func WriteSealed(path string, mode fs.FileMode, b []byte) error {
	b = append(bytes.TrimRight(b, "\n"), '\n')
	sum := sha256.Sum256(b)
	return WriteBytes(path, mode, append(append(b, hex.EncodeToString(sum[:])...), '\n'))
}

// ReadSealed gives what WriteSealed wrote, unless that is more than limit bytes.
// Errors: Integrity when it was damaged since, TooLarge, fs.ErrNotExist.
func ReadSealed(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+sealLen+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit+sealLen {
		return nil, kiln.Errorf(kiln.TooLarge, "%s has more than %d bytes", path, limit)
	}
	n := len(b) - sealLen
	if n < 0 {
		return nil, kiln.Errorf(kiln.Integrity, "%s is cut off", path)
	}
	sum := sha256.Sum256(b[:n])
	if string(b[n:]) != hex.EncodeToString(sum[:])+"\n" {
		return nil, kiln.Errorf(kiln.Integrity, "%s is damaged: its content doesn't have the hash that it ends with", path)
	}
	return b[:n], nil
}
