package foreign_test

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/foreign"
)

// TestLimit counts values and not what is in texts, however the bytes come.
func TestLimit(t *testing.T) {
	limit := foreign.Limit{Bytes: 100, Objects: 3, Values: 4}
	for text, ok := range map[string]bool{
		`{"a":[{"b":1}]}`:                   true,
		`[[[[]]]]`:                          false,
		`{"a":[{"b":{}}]}`:                  false,
		`[1,2,3,4,5]`:                       true,
		`[1,2,3,4,5,6]`:                     false,
		`["{{{{,,,,,,,\"[[[[\\",[]]`:        true,
		`["\\",{},{},{}]`:                   false,
		`["` + "\\\"" + `",[],[],[]]`:       false,
		`"` + strings.Repeat("a", 98) + `"`: true,
		`"` + strings.Repeat("a", 99) + `"`: false,
	} {
		var a, b any
		err := foreign.Unmarshal([]byte(text), limit, &a)
		if ok != (err == nil) || !ok && !errors.Is(err, kiln.TooLarge) {
			t.Errorf("%s: %v", text, err)
		}
		slow := iotest.OneByteReader(strings.NewReader(text))
		if err := json.NewDecoder(foreign.NewReader(slow, limit)).Decode(&b); ok != (err == nil) {
			t.Errorf("%s, byte by byte: %v", text, err)
		}
	}
}

// FuzzLimit: nothing has more values than were counted.
func FuzzLimit(f *testing.F) {
	f.Add(`{"a":[1,{"b":"\"[{,\\"},[]]}`)
	f.Add(`[[],{},"\u005c",null]`)
	f.Fuzz(func(t *testing.T, text string) {
		var v any
		if json.Unmarshal([]byte(text), &v) != nil {
			return
		}
		objects, values := count(v)
		limit := foreign.Limit{Bytes: 1 << 20, Objects: objects - 1, Values: 1 << 20}
		if objects > 0 && foreign.Unmarshal([]byte(text), limit, new(any)) == nil {
			t.Errorf("%d objects in %q", objects, text)
		}
		if _, err := io.Copy(io.Discard, foreign.NewReader(strings.NewReader(text),
			foreign.Limit{Bytes: 1 << 20, Objects: 1 << 20, Values: values - objects - 2})); values > objects+1 && err == nil {
			t.Errorf("%d values in %q", values, text)
		}
	})
}

// count gives the objects and lists of a value, and all values within it. Of equal keys the
// last counts.
func count(v any) (objects, values int64) {
	add := func(v any) {
		o, n := count(v)
		objects, values = objects+o, values+n+1
	}
	switch v := v.(type) {
	case map[string]any:
		objects++
		for _, e := range v {
			add(e)
		}
	case []any:
		objects++
		for _, e := range v {
			add(e)
		}
	}
	return objects, values
}
