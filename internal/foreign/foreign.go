// Package foreign reads JSON and YAML that others wrote, with a bound on what it may cost.
// Bytes alone bound little: three of JSON, "{},", become a struct of several hundred in memory.
// So values are counted, too, before anything is made of them. The package doesn't know
// what is read.
package foreign

import (
	"bytes"
	"encoding/json"
	"io"

	"github.com/kiln-containers/kiln"
)

// A Limit is how much JSON is read.
type Limit struct {
	Bytes   int64
	Objects int64 // and lists: what begins with a brace or a bracket
	Values  int64 // what a comma follows; so there may be one more in each object
}

// A Reader passes JSON on, and fails when it is more than the limit.
type Reader struct {
	r               io.Reader
	limit, seen     Limit
	text, backslash bool // within a text, and behind a backslash in it
}

// NewReader gives a Reader of what another one reads.
func NewReader(r io.Reader, limit Limit) *Reader { return &Reader{r: r, limit: limit} }

// Read implements io.Reader. The error is TooLarge, or that of the reader below.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err := r.count(p[:n]); err != nil {
		return 0, err
	}
	return n, err
}

// count looks at the next bytes. What can't be JSON is counted somehow: whoever decodes it
// stops there.
func (r *Reader) count(b []byte) error {
	r.seen.Bytes += int64(len(b))
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case r.backslash:
			r.backslash = false
		case r.text:
			end := bytes.IndexAny(b[i:], `"\`)
			if end < 0 {
				i = len(b)
				continue
			}
			i += end
			r.text, r.backslash = b[i] == '\\', b[i] == '\\'
		case c == '"':
			r.text = true
		case c == '{', c == '[':
			r.seen.Objects++
		case c == ',':
			r.seen.Values++
		}
	}
	switch {
	case r.seen.Bytes > r.limit.Bytes:
		return kiln.Errorf(kiln.TooLarge, "it is more than %s of JSON, which is not read", kiln.FormatSize(r.limit.Bytes))
	case r.seen.Objects > r.limit.Objects || r.seen.Values > r.limit.Values:
		return kiln.Errorf(kiln.TooLarge, "it has more than %d objects and lists, or %d values, which are not read",
			r.limit.Objects, r.limit.Values)
	}
	return nil
}

// Unmarshal is json.Unmarshal within a limit. The error is TooLarge, or json.Unmarshal's.
func Unmarshal(b []byte, limit Limit, v any) error {
	if err := NewReader(nil, limit).count(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
