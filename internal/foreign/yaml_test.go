package foreign

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
)

// TestYAML refuses what would take much memory before it does.
func TestYAML(t *testing.T) {
	limit := Limit{Bytes: 1 << 20, Values: 10_000}
	big := strings.Repeat("x", 1000)
	for name, c := range map[string]struct {
		text string
		kind kiln.Kind
	}{
		"list":       {"x: [" + strings.Repeat("a,", 500_000) + "]", kiln.TooLarge},
		"items":      {"x:\n" + strings.Repeat("-\n", 500_000), kiln.TooLarge},
		"keys":       {"x:\n" + strings.Repeat("? \n", 300_000), kiln.TooLarge},
		"pairs":      {strings.Repeat("a: b\n", 200_000), kiln.TooLarge},
		"bytes":      {strings.Repeat("a", 1<<20+1), kiln.TooLarge},
		"alias":      {"a: &a " + big + "\nb: [" + strings.Repeat("*a ,", 2000) + "]", kiln.TooLarge},
		"aliases":    {"a: &a [" + strings.Repeat("a,", 500) + "]\nb: [" + strings.Repeat("*a ,", 100) + "]", kiln.TooLarge},
		"itself":     {"a: &a [*a , *a ]", kiln.TooLarge},
		"documents":  {"a: b\n---\nc: d\n", kiln.Invalid},
		"no YAML":    {"a: [", kiln.Invalid},
		"some":       {"a: &a [1, 2]\nb: *a\n", ""},
		"much":       {"a:\n" + strings.Repeat("- b\n", 9_000), ""},
		"dates":      {"a: " + strings.Repeat("2024-01-02T03:04:05Z ", 40_000), ""},
		"only words": {"a: " + strings.Repeat("word ", 200_000), ""},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		called := false
		err := YAML([]byte(c.text), limit, func(*yaml.Node) error { called = true; return nil })
		runtime.ReadMemStats(&after)
		if c.kind == "" && (err != nil || !called) || c.kind != "" && (!errors.Is(err, c.kind) || called) {
			t.Errorf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 50<<20 {
			t.Errorf("%s took %d MB", name, took>>20)
		}
	}
}

// TestMarks: whatever is written, there are no more values than were counted from above.
func TestMarks(t *testing.T) {
	parts := strings.Split("a|a|\"b\"|,|:|: |-|- |?|? |[|]|{|}| | |\n|\n  |&c |*c |*c|!t |'|\"|#|\t|\r|\u0085|\u2028", "|")
	r := rand.New(rand.NewPCG(1, 2))
	parsed := 0
	for range 100_000 {
		var b strings.Builder
		for range 1 + r.IntN(14) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		checkMarks(t, b.String(), &parsed)
	}
	if parsed < 3_000 {
		t.Errorf("only %d were YAML", parsed)
	}
}

func checkMarks(t *testing.T, text string, parsed *int) {
	var doc yaml.Node
	if yaml.Unmarshal([]byte(text), &doc) != nil {
		return
	}
	*parsed++
	if n := nodes(&doc); n > 3*marks([]byte(text))+2 {
		t.Errorf("%d values in %q, of which %d were counted", n, text, marks([]byte(text)))
	}
}

func nodes(n *yaml.Node) (all int64) {
	for _, c := range n.Content {
		all += nodes(c)
	}
	return all + 1
}

// FuzzMarks is TestMarks of any text.
func FuzzMarks(f *testing.F) {
	for _, text := range []string{"[a,b: c,?d]", "? ? - a\n", "{a,b,c}", "\xff\xfea\x00:\x00 \x00b\x00", "[*a:b]", "--- a\n..."} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { checkMarks(t, text, new(int)) })
}
