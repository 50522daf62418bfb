package db

import (
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/kiln-containers/kiln"
)

// noted is a column whose damage is told beside the row, so that one row doesn't hide
// the others. What can't be read of it is left as it is: zero.
type noted struct {
	name   string
	to     any // a sql.Scanner, or a pointer to a text, a truth or a number
	damage *string
}

// Scan implements sql.Scanner.
func (n noted) Scan(src any) error {
	if err := scanColumn(n.to, src); err != nil && *n.damage == "" {
		*n.damage = "its column " + n.name + " is damaged: " + err.Error()
	}
	return nil
}

// scanColumn takes a value of the kind that the column was made for, and no other:
// SQLite keeps a text in a column of numbers as it is.
func scanColumn(to, src any) error {
	switch to := to.(type) {
	case sql.Scanner:
		return to.Scan(src)
	case *string:
		s, ok := src.(string)
		if !ok || !utf8.ValidString(s) {
			return fmt.Errorf("a %T is no text", src)
		}
		*to = s
		return nil
	case *bool:
		switch v := src.(type) {
		case bool:
			*to = v
			return nil
		case int64:
			*to = v == 1
			if v == 0 || v == 1 {
				return nil
			}
		}
		return fmt.Errorf("%v is neither true nor false", src)
	}
	return fmt.Errorf("nothing reads a %T", to)
}

// countColumn is a number of something, which there can't be fewer of than none.
type countColumn[N int | int64] struct{ n *N }

// Scan implements sql.Scanner.
func (c countColumn[N]) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("a %T is no number", src)
	}
	if n < 0 || int64(N(n)) != n {
		return fmt.Errorf("%d can't be", n)
	}
	*c.n = N(n)
	return nil
}

// wordColumn is one of a few words.
type wordColumn struct {
	to    *string
	words []string
}

// Scan implements sql.Scanner.
func (c wordColumn) Scan(src any) error {
	var s string
	if err := scanColumn(&s, src); err != nil {
		return err
	}
	if !slices.Contains(c.words, s) {
		return fmt.Errorf("%q is none of %q", s, c.words)
	}
	*c.to = s
	return nil
}

// instanceType is the column of what an image is for, or an instance is.
func instanceType(to *string) wordColumn { return wordColumn{to, instanceTypes} }

var instanceTypes = []string{"", "container", "virtual-machine"}

// standIn is what an image is called whose fingerprint can't be read, so that it can
// be listed and deleted: the number of its row after zeros. No image has such a hash.
func standIn(id int64) (fp kiln.Fingerprint) {
	binary.BigEndian.PutUint64(fp[len(fp)-8:], uint64(id))
	return fp
}

// standInFor gives the row that a stand-in is for.
func standInFor(fp kiln.Fingerprint) (id int64, ok bool) {
	id = int64(binary.BigEndian.Uint64(fp[len(fp)-8:]))
	return id, id > 0 && fp == standIn(id)
}

// mayBeStandIn reports whether a prefix is as long as lists show it and may be that of
// a stand-in.
func mayBeStandIn(prefix string) bool {
	return len(prefix) >= 12 && strings.Trim(prefix[:12], "0") == ""
}
