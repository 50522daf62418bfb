package simplestreams

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kiln-containers/kiln"
)

// A document is JSON that is read piece by piece. What is wrong with a piece is
// noted; what is wrong with the JSON is an error.
type document struct {
	dec    *json.Decoder
	why    error // what was wrong with the first piece that was left out
	bodies int   // of images, so far
}

func newDocument(r io.Reader, limit int64) *document {
	dec := json.NewDecoder(&limited{r, limit})
	dec.UseNumber() // a number can be larger than a float64, and isn't looked at
	return &document{dec: dec}
}

// skip notes that something was left out.
func (d *document) skip(format string, args ...any) {
	if d.why == nil {
		d.why = fmt.Errorf(format, args...)
	}
}

// object reads an object, or null. For each key, each reads the value. Anything
// else is noted, and its end is read: PHP writes an empty map as [].
func (d *document) object(what string, each func(key string) error) error {
	tok, err := d.dec.Token()
	if err != nil || tok == nil {
		return d.fault(err)
	}
	if tok != json.Delim('{') {
		d.skip("%s, before byte %d, is not an object", what, d.dec.InputOffset())
		return d.rest(tok)
	}
	for d.dec.More() {
		tok, err := d.dec.Token()
		if err != nil {
			return d.fault(err)
		}
		key, _ := tok.(string) // the decoder has no other
		if err := each(key); err != nil {
			return err
		}
	}
	_, err = d.dec.Token()
	return d.fault(err)
}

// rest reads to the end of the value that a token begins.
func (d *document) rest(tok json.Token) error {
	if tok != json.Delim('[') {
		return nil
	}
	for d.dec.More() {
		if err := d.ignore(); err != nil {
			return err
		}
	}
	_, err := d.dec.Token()
	return d.fault(err)
}

// value reads any value into v. What doesn't fit there is noted and reported as
// false.
func (d *document) value(v any) (bool, error) {
	err := d.dec.Decode(v)
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		d.skip("before byte %d: %w", d.dec.InputOffset(), err)
		return false, nil
	}
	return err == nil, d.fault(err)
}

// text reads a string and keeps its beginning.
func (d *document) text(s *string) error {
	var whole string
	_, err := d.value(&whole)
	*s = clip(whole)
	return err
}

// ignore reads a value that nobody wants.
func (d *document) ignore() error {
	_, err := d.value(&ignored{})
	return err
}

// ignored is a value that takes no memory.
type ignored struct{}

// UnmarshalJSON is json.Unmarshaler's.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

// end makes sure that nothing comes after the document.
func (d *document) end() error {
	switch _, err := d.dec.Token(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return d.fault(err)
	}
	return kiln.Errorf(kiln.Invalid, "there is more after its end, at byte %d", d.dec.InputOffset())
}

// fault tells what is wrong with the JSON from what is wrong with the reader.
func (d *document) fault(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return kiln.Errorf(kiln.Invalid, "it ends in the middle, after %d bytes", d.dec.InputOffset())
	case errors.As(err, &syntax):
		return kiln.Errorf(kiln.Invalid, "it is not JSON: %w", err)
	}
	return err
}

// limited fails when there is more than expected, where io.LimitReader would end.
type limited struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (l *limited) Read(b []byte) (int, error) {
	n, err := l.r.Read(b)
	if l.left -= int64(n); l.left < 0 {
		return 0, kiln.Errorf(kiln.TooLarge, "it is too large")
	}
	return n, err
}

// entries reads the whole document, whose entries stand in the object called kind
// and whose format, if it tells one, begins with "kind:". The noun is for errors.
func (d *document) entries(kind, noun string, each func(key string) error) error {
	var format string
	found := false
	err := d.object("the document", func(key string) error {
		switch key {
		case "format":
			return d.text(&format)
		case kind:
			found = true
			return d.object("its "+noun, each)
		}
		return d.ignore()
	})
	if err == nil {
		err = d.end()
	}
	if err == nil && !found && d.why != nil {
		return kiln.Errorf(kiln.Invalid, "%w", d.why)
	}
	if err == nil && (!found || format != "" && !strings.HasPrefix(format, kind+":")) {
		err = kiln.Errorf(kiln.Invalid, "it is no %s (format %q)", noun, format)
	}
	return err
}

// useless is the error of a document of which nothing was kept: nil if nothing was
// left out, for an empty list is a list.
func (d *document) useless() error {
	if d.why == nil {
		return nil
	}
	return kiln.Errorf(kiln.Invalid, "nothing in it can be used: %w", d.why)
}

// ParseIndex reads an index and gives the paths of its lists of images, from the
// base of the server. Errors: Invalid, TooLarge.
func ParseIndex(r io.Reader) ([]string, error) {
	d := newDocument(r, MaxIndex)
	var paths []string
	seen := map[string]bool{}
	err := d.entries("index", "index", func(name string) error {
		p, err := d.listed(name)
		if err == nil && p != "" && !seen[p] {
			seen[p], paths = true, append(paths, p)
		}
		if len(paths) > maxLists {
			return kiln.Errorf(kiln.TooLarge, "it names more than %d lists of products", maxLists)
		}
		return err
	})
	if err == nil && len(paths) == 0 {
		err = d.useless()
	}
	if err != nil {
		return nil, fmt.Errorf("index of an image server: %w", err)
	}
	return paths, nil
}

// listed reads an entry of an index and gives the path, or "" if it isn't one of
// images.
func (d *document) listed(name string) (string, error) {
	var entry struct {
		Datatype string    `json:"datatype"`
		Path     string    `json:"path"`
		Products []ignored `json:"products"`
	}
	if ok, err := d.value(&entry); err != nil || !ok {
		return "", err
	}
	if entry.Datatype != "image-downloads" || len(entry.Products) == 0 {
		return "", nil
	}
	p, err := checkPath(entry.Path)
	if err != nil {
		d.skip("%q: %w", clip(name), err)
	}
	return p, nil
}

// checkPath cleans a path, which must stay below the base of the server whether it
// is joined to a URL or to a directory. Clients put the base and "/" before it: so
// one "/" at its beginning means nothing.
func checkPath(p string) (string, error) {
	p = strings.TrimPrefix(p, "/")
	clean := path.Clean(p)
	switch {
	case p == "" || clean == ".":
		return "", fmt.Errorf("it has no path")
	case len(p) > maxPath:
		return "", fmt.Errorf("path %.100q… is longer than %d bytes", p, maxPath)
	case !utf8.ValidString(p) || strings.ContainsAny(p, `\%?`) || strings.ContainsFunc(p, unicode.IsControl):
		return "", fmt.Errorf(`path %q has control characters or one of \ %% ?`, p)
	case path.IsAbs(clean) || strings.Contains(p, "://"):
		return "", fmt.Errorf("path %q is absolute", p)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "", fmt.Errorf("path %q leads out of the server", p)
	}
	return clean, nil
}

// clip gives the beginning of a text.
func clip(s string) string {
	if len(s) > maxText {
		s = strings.Clone(strings.ToValidUTF8(s[:maxText], "")) // don't keep the rest in memory
	}
	return s
}
