package kiln

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// A Kind says what sort of thing went wrong. It is the only part of an error
// that a caller may branch on: errors.Is(err, kiln.NotFound). HTTP statuses and
// exit codes are each derived from it in one place, at the edge.
type Kind string

// The kinds of error. Anything without a kind is Internal.
const (
	Internal    Kind = "internal error"
	Invalid     Kind = "invalid"       // the request or the input is wrong
	NotFound    Kind = "not found"     // the thing named is not there
	Conflict    Kind = "conflict"      // it exists already, or is in a state that forbids this
	Ambiguous   Kind = "ambiguous"     // a name stands for several things
	Denied      Kind = "not trusted"   // the caller may not do this
	Stale       Kind = "stale"         // changed since it was read (If-Match)
	TooLarge    Kind = "too large"     // over a limit on the size of an input
	Unsupported Kind = "not supported" // understood, but not possible on this host or version
	Network     Kind = "network"       // another server can't be reached or misbehaves
	Integrity   Kind = "integrity"     // a hash or a signature does not match
	NoSpace     Kind = "no space"      // the disk or a quota is full
	Timeout     Kind = "timeout"       // a deadline passed
	Busy        Kind = "busy"          // at a limit of the server's own; later it works
	Cancelled   Kind = "cancelled"     // somebody asked to stop
)

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string { return string(k) }

type kindError struct {
	kind Kind
	err  error
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// Errorf is fmt.Errorf for an error of the given kind. The kind adds nothing to
// the text. A kind of a wrapped error is overruled.
func Errorf(kind Kind, format string, args ...any) error {
	return &kindError{kind, fmt.Errorf(format, args...)}
}

// KindOf reports the outermost kind of err. Errors of the operating system and
// of contexts that have an obvious kind are recognised; the rest is Internal.
func KindOf(err error) Kind {
	var ke *kindError
	if errors.As(err, &ke) {
		return ke.kind
	}
	var k Kind
	switch {
	case errors.As(err, &k):
		return k
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	}
	return Internal
}
