// Package filter reads the ?filter= grammar of the 1.0 API, as LXD and Incus have
// it: clauses "[not] FIELD eq|ne VALUE" joined by "and" and "or", from left to
// right. It doesn't know which fields there are.
package filter

import (
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/kiln-containers/kiln"
)

// What a filter may have. Who asks needn't be trusted, and is to cost little.
const (
	maxLength       = 4096 // bytes in all
	maxField        = 256  // bytes of the name of a field
	maxClauses      = 32
	maxAlternatives = 128    // in all clauses
	maxProgram      = 10_000 // instructions of all regular expressions, about 40 bytes each
)

// A Filter is a parsed filter. The zero value lets everything through.
type Filter struct{ clauses []clause }

type clause struct {
	or     bool // joined to what is before by "or", not "and"
	not    bool
	field  string
	equal  bool
	value  string
	values []*regexp.Regexp // alternatives; a nil one is compared as text
	texts  []string
}

// Parse reads a filter. The error is Invalid, also for one that would take much to
// answer: it may have 4,096 bytes, 32 clauses and 128 alternatives.
func Parse(s string) (Filter, error) {
	if len(s) > maxLength {
		return Filter{}, invalid("it has %d bytes; %d are the most", len(s), maxLength)
	}
	words, err := split(s)
	if err != nil {
		return Filter{}, err
	}
	var f Filter
	left := budget{maxAlternatives, maxProgram}
	for or := false; len(words) > 0; {
		c := clause{or: or}
		if len(f.clauses) == maxClauses {
			return Filter{}, invalid("it has more than %d clauses", maxClauses)
		}
		if words[0].is("not") {
			c.not, words = true, words[1:]
		}
		if len(words) < 2 {
			return Filter{}, invalid("clause has no operator")
		}
		if len(words) < 3 {
			return Filter{}, invalid("clause has no value")
		}
		if c.field = words[0].text; len(c.field) > maxField {
			return Filter{}, invalid("the name of a field has more than %d bytes", maxField)
		}
		switch op := strings.ToLower(words[1].text); op {
		case "eq", "ne":
			c.equal = op == "eq"
		default:
			return Filter{}, invalid("unknown operator %q; it is eq or ne", words[1].text)
		}
		if err := c.compile(words[2], &left); err != nil {
			return Filter{}, err
		}
		f.clauses = append(f.clauses, c)
		if words = words[3:]; len(words) == 0 {
			break
		}
		switch {
		case words[0].is("and"):
			or = false
		case words[0].is("or"):
			or = true
		default:
			return Filter{}, invalid("%q is neither \"and\" nor \"or\"", words[0].text)
		}
		if words = words[1:]; len(words) == 0 {
			return Filter{}, invalid("there is no clause after the last \"and\" or \"or\"")
		}
	}
	return f, nil
}

func invalid(format string, args ...any) error {
	return kiln.Errorf(kiln.Invalid, "Invalid filter: "+format, args...)
}

type word struct {
	text   string
	quoted bool
}

func (w word) is(keyword string) bool { return !w.quoted && strings.EqualFold(w.text, keyword) }

// split cuts at white space, except within double quotes.
func split(s string) ([]word, error) {
	var words []word
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if s[0] == '"' {
			text, rest, ok := strings.Cut(s[1:], `"`)
			if !ok {
				return nil, invalid("a quote is not closed")
			}
			words, s = append(words, word{text, true}), rest
			continue
		}
		n := strings.IndexAny(s, " \t\n")
		if n < 0 {
			n = len(s)
		}
		words, s = append(words, word{s[:n], false}), s[n:]
	}
	return words, nil
}

// compile reads a value: a case-insensitive regular expression that must match
// all of a field, unless it has anchors of its own; alternatives are separated by
// commas. What is no expression is compared as text.
func (c *clause) compile(w word, left *budget) error {
	c.value = w.text
	for text := range strings.SplitSeq(w.text, ",") {
		pattern := text
		if !strings.ContainsAny(pattern, "^$") {
			pattern = "^(?:" + pattern + ")$"
		}
		re, err := left.compile("(?i)" + pattern)
		if err != nil {
			return err
		}
		c.values, c.texts = append(c.values, re), append(c.texts, text)
	}
	return nil
}

// A budget is what the expressions of one filter may yet be.
type budget struct{ alternatives, program int }

// compile compiles an expression within the budget; nil for what is none.
func (b *budget) compile(pattern string) (*regexp.Regexp, error) {
	if b.alternatives--; b.alternatives < 0 {
		return nil, invalid("it has more than %d alternatives", maxAlternatives)
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, nil
	}
	if b.program -= programSize(tree, b.program+1); b.program < 0 {
		return nil, invalid("its regular expressions repeat too much")
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, nil
	}
	return re, nil
}

// programSize estimates how many instructions an expression becomes, up to a most.
func programSize(re *syntax.Regexp, most int) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		if n += programSize(sub, most); n >= most {
			return most
		}
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, most)
}

// matches reports whether one of a field's values is one of the clause's.
func (c *clause) matches(found []string) bool {
	for _, have := range found {
		for i, re := range c.values {
			if strings.EqualFold(have, c.texts[i]) || re != nil && re.MatchString(have) || sameArch(c.field, have, c.texts[i]) {
				return true
			}
		}
	}
	return false
}

// sameArch lets an architecture be asked for under any of its names.
func sameArch(field, have, want string) bool {
	if field != "architecture" && !strings.HasSuffix(field, ".architecture") {
		return false
	}
	a, err1 := kiln.ParseArch(have)
	b, err2 := kiln.ParseArch(want)
	return err1 == nil && err2 == nil && a == b
}

// Match reports whether the filter lets something through. get gives the values
// of a field as text: none for one that isn't there, several for a list.
func (f Filter) Match(get func(field string) []string) bool {
	result := true
	for i, c := range f.clauses {
		m := c.matches(get(c.field)) == c.equal != c.not
		switch {
		case i == 0:
			result = m
		case c.or:
			result = result || m
		default:
			result = result && m
		}
	}
	return result
}

// Empty reports whether the filter has no clause.
func (f Filter) Empty() bool { return len(f.clauses) == 0 }

// Equalities gives the fields below a prefix that must have one certain text: what
// a database can narrow the search down by before Match decides.
func (f Filter) Equalities(prefix string) map[string]string {
	m := map[string]string{}
	for _, c := range f.clauses {
		if c.or {
			return nil
		}
		key, ok := strings.CutPrefix(c.field, prefix)
		if ok && c.equal && !c.not && len(c.texts) == 1 && regexp.QuoteMeta(c.value) == c.value &&
			!strings.HasSuffix(c.field, ".architecture") {
			m[key] = c.value
		}
	}
	return m
}
