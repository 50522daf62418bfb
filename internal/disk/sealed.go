package disk

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

// WriteSealedBy is WriteSealed for a text that f writes piece by piece, without a new line at
// its end.
func WriteSealedBy(path string, mode fs.FileMode, f func(w io.Writer) error) error {
	return Write(path, mode, func(w io.Writer) error { return seal(w, f) })
}

// seal writes what f does with what ends a sealed file.
func seal(w io.Writer, f func(w io.Writer) error) error {
	sum := sha256.New()
	all := io.MultiWriter(w, sum)
	if err := f(all); err != nil {
		return err
	}
	if _, err := io.WriteString(all, "\n"); err != nil {
		return err
	}
	_, err := io.WriteString(w, hex.EncodeToString(sum.Sum(nil))+"\n")
	return err
}

// IsSealed reports whether a sealed file has the text that f writes piece by piece, of which
// it remembers none. The error is f's.
func IsSealed(path string, f func(w io.Writer) error) (bool, error) {
	file, err := Open(path)
	if err != nil {
		return false, f(io.Discard)
	}
	defer file.Close()
	c := comparing{has: bufio.NewReaderSize(file, 64<<10), same: true}
	if err := seal(&c, f); err != nil {
		return false, err
	}
	_, err = c.has.ReadByte()
	return c.same && errors.Is(err, io.EOF), nil
}

// comparing compares what is written with what there is, and takes all of it.
type comparing struct {
	has  *bufio.Reader
	same bool
}

func (c *comparing) Write(b []byte) (int, error) {
	for rest := b; c.same && len(rest) > 0; {
		has, err := c.has.Peek(min(len(rest), c.has.Size()))
		c.same = err == nil && bytes.Equal(has, rest[:len(has)])
		rest = rest[len(has):]
		_, _ = c.has.Discard(len(has)) // it was peeked at
	}
	return len(b), nil
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
