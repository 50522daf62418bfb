// Package option says what a configuration key is: its values, what holds while it is unset,
// and what it does. Tables of keys are where the keys are read; what checks, completes, explains
// and documents them goes by these.
//
// It doesn't know which keys there are.
package option

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// A Type is what the values of a key are.
type Type struct {
	Name    string             // in words, as "boolean"
	Default string             // the value that holds while there is none
	Check   func(string) error // what is wrong with a value; nil: any will do
}

// Or is a type with a value that holds while there is none.
func (t Type) Or(value string) Type {
	t.Default = value
	return t
}

// A Key is a configuration key, or a family of them.
type Key struct {
	Name string // ends in "." for a family
	Type Type
	Help string // what it does
	When string // when a change takes effect, or for which things it is; "": at once, for all
}

// Family reports whether there are many keys of that name, with different ends.
func (k Key) Family() bool { return strings.HasSuffix(k.Name, ".") }

// Title is the name for people: that of a family ends in a star.
func (k Key) Title() string {
	if k.Family() {
		return k.Name + "*"
	}
	return k.Name
}

// Check says what is wrong with a value. None is right for every key.
func (k Key) Check(value string) error {
	if value == "" || k.Type.Check == nil {
		return nil
	}
	return k.Type.Check(value)
}

// Find gives the key of a name, which is one of a family if there is none called like that.
func Find(keys []Key, name string) (Key, bool) {
	for _, k := range keys {
		if k.Name == name && !k.Family() {
			return k, true
		}
	}
	i := slices.IndexFunc(keys, func(k Key) bool {
		return k.Family() && strings.HasPrefix(name, k.Name) && name != k.Name
	})
	if i < 0 {
		return Key{}, false
	}
	return keys[i], true
}

// Names are those of keys that aren't families.
func Names(keys []Key) []string {
	var names []string
	for _, k := range keys {
		if !k.Family() {
			names = append(names, k.Name)
		}
	}
	return names
}

// Text is any text.
func Text(name string) Type { return Type{Name: name} }

// Bool is true or false, in all words for them.
func Bool() Type {
	return Type{Name: "boolean", Check: func(v string) error {
		_, err := kiln.ParseBool(v)
		return err
	}}
}

// Number is a whole number that isn't negative; name says of what.
func Number(name string) Type {
	return Type{Name: name, Check: func(v string) error {
		if _, err := strconv.ParseUint(v, 10, 31); err != nil {
			return fmt.Errorf("%q is not a whole number of at least 0", v)
		}
		return nil
	}}
}

// UpTo is a whole number that isn't negative, and not above most.
func UpTo(most int, name string) Type {
	return Type{Name: name, Check: func(v string) error {
		if n, err := strconv.ParseUint(v, 10, 64); err != nil || n > uint64(most) {
			return fmt.Errorf("%q is not a whole number from 0 to %d", v, most)
		}
		return nil
	}}
}

// OneOf is one of a few words.
func OneOf(words ...string) Type {
	return Type{Name: "one of " + strings.Join(words, ", "), Check: func(v string) error {
		if !slices.Contains(words, v) {
			return fmt.Errorf("%q is none of %s%s", v, strings.Join(words, ", "), kiln.DidYouMean(v, words))
		}
		return nil
	}}
}

// Size is a number of bytes, with or without a unit.
func Size() Type {
	return Type{Name: "size", Check: func(v string) error {
		_, err := kiln.ParseSize(v)
		return err
	}}
}
