package foreign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/yamlerr"
)

// smallYAML is how many bytes take little memory while they are read: some two hundred for
// each value. What is larger is read one document at a time.
const smallYAML = 16 << 10

var large sync.Mutex // whoever has it only computes

// maxDepth is how deep values may be in one another.
const maxDepth = 100

// YAML reads a document, and calls f with it unless it is more than the limit: that of its
// values and of the bytes of its texts with what aliases stand for, each as often as it is
// named. Objects aren't counted. Errors: Invalid, TooLarge, and those of f.
func YAML(b []byte, limit Limit, f func(*yaml.Node) error) error {
	tooMany := kiln.Errorf(kiln.TooLarge, "it has more than %d values, which are not read", limit.Values)
	if int64(len(b)) > limit.Bytes {
		return kiln.Errorf(kiln.TooLarge, "it has more than %s, which are not read", kiln.FormatSize(limit.Bytes))
	}
	if marks(b) > limit.Values {
		return tooMany
	}
	if len(b) > smallYAML {
		large.Lock()
		defer large.Unlock()
	}
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&doc); err != nil && !errors.Is(err, io.EOF) { // nothing at all is a document as well
		return kiln.Errorf(kiln.Invalid, "it is not YAML: %s", yamlerr.Plain(err))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return kiln.Errorf(kiln.Invalid, "it has more than one document")
	}
	left := limit
	if err := left.take(&doc, 0); err != nil {
		return kiln.Errorf(kiln.TooLarge, "line %d: it has %w", doc.Line, err)
	}
	return f(&doc)
}

// marks counts what begins values in YAML: a dash, a colon, a question mark, a comma or a
// bracket. None begins more than three: "? " a mapping, its key and its value. Those that
// can only be in the middle of a word, as in a date, don't count.
func marks(b []byte) (n int64) {
	for i, c := range b {
		switch c {
		case ',', '[', '{':
			n++
		case '-', '?':
			if i+1 == len(b) || !isWord(b[i+1]) {
				n++
			}
		case ':':
			if i == 0 || i+1 == len(b) || !isWord(b[i-1]) || !isWord(b[i+1]) {
				n++
			}
		}
	}
	return n
}

func isWord(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// take counts a value, and those in it.
func (l *Limit) take(n *yaml.Node, depth int) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	l.Values--
	l.Bytes -= int64(len(n.Value))
	switch {
	case depth > maxDepth:
		return fmt.Errorf("values in one another more than %d deep", maxDepth)
	case l.Values < 0:
		return errors.New("more than it may have of values, with those that aliases stand for")
	case l.Bytes < 0:
		return errors.New("more than it may have of text, with what aliases stand for")
	}
	for _, c := range n.Content {
		if err := l.take(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}
