package simplestreams

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kiln-containers/kiln"
)

// TestLimits keeps documents from taking all memory.
func TestLimits(t *testing.T) {
	versions := func(yield func(string) bool) {
		for i := range MaxImages + 1 {
			if !yield(fmt.Sprintf(`"20260201_%d":{"items":{"x":{"ftype":"squashfs","path":"x","sha256":%q}}}`, i, sum("a"))) {
				return
			}
		}
	}
	var aliases strings.Builder
	for i := range maxAliases + 1 {
		fmt.Fprintf(&aliases, "%d,", i)
	}
	var requirements strings.Builder
	for i := range maxRequirements + 5 {
		fmt.Fprintf(&requirements, `"%d":"x",`, i)
	}
	for name, text := range map[string]string{
		"images":  list(productText("p", "amd64", "", slices.Collect(versions)...)),
		"aliases": list(productText("p", "amd64", `"aliases":"`+aliases.String()+`",`, versionText("20260201", pair("1"))), productText("q", "amd64", `"aliases":"x",`, versionText("20260201", pair("1")))),
	} {
		if _, err := ParseProducts(strings.NewReader(text)); !errors.Is(err, kiln.TooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got := parse(t, list(productText("p", "amd64", `"requirements":{`+strings.TrimSuffix(requirements.String(), ",")+`},`,
		versionText("20260201", pair("1")))))
	needs := slices.DeleteFunc(slices.Collect(maps.Keys(got[0].Properties)),
		func(k string) bool { return !strings.HasPrefix(k, "requirements.") })
	if len(needs) != maxRequirements {
		t.Errorf("there are %d requirements", len(needs))
	}
}

// TestLimitOfBytes is the same for text that makes nothing.
func TestLimitOfBytes(t *testing.T) {
	for limit, kind := range map[int64]kiln.Kind{int64(len(tiny)): "", int64(len(tiny)) - 1: kiln.TooLarge,
		1: kiln.TooLarge, 0: kiln.TooLarge} {
		d := newDocument(strings.NewReader(tiny), limit)
		err := errors.Join(d.ignore(), d.end())
		if kind == "" && err != nil || kind != "" && !errors.Is(err, kind) {
			t.Errorf("%d bytes: %v", limit, err)
		}
	}
}

// TestReadError passes on what is wrong with the reader.
func TestReadError(t *testing.T) {
	broken := func(text string) io.Reader {
		return io.MultiReader(strings.NewReader(text), iotest.ErrReader(kiln.Errorf(kiln.Network, "cable cut")))
	}
	for _, n := range []int{0, 1, 100, len(tiny) - 1, len(tiny)} {
		if _, err := ParseProducts(broken(tiny[:n])); !errors.Is(err, kiln.Network) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	if _, err := ParseIndex(broken(`{"index":`)); !errors.Is(err, kiln.Network) {
		t.Error(err)
	}
}
