// Package yamlerr tells people what is wrong with YAML that they, or another program,
// wrote. It doesn't know what the document is.
package yamlerr

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// most is how many mistakes are told of: a document may have any number.
const most = 3

// Plain gives the text of an error of the YAML library: the line, and what is wrong
// there, without what the library calls its types.
func Plain(err error) string {
	var several *yaml.LoadErrors
	if !errors.As(err, &several) {
		return strings.TrimPrefix(err.Error(), "yaml: ")
	}
	var texts []string
	for n, e := range several.Errors {
		if n == most {
			texts = append(texts, fmt.Sprintf("and %d more", len(several.Errors)-most))
			break
		}
		texts = append(texts, fmt.Sprintf("line %d: %s", e.Mark.Line, reason(e.Message)))
	}
	return strings.Join(texts, "; ")
}

// How the library tells of a value that doesn't fit, of a key twice, and of one that
// isn't known.
var (
	wrongType = regexp.MustCompile("^cannot construct !!(\\w+)(?: `(.*)`)? into (.*)$")
	twice     = regexp.MustCompile(`^mapping key (".*") already defined at (line \d+)$`)
	noDate    = regexp.MustCompile(`^parsing time ("[^"]*") as "`)
	unknown   = regexp.MustCompile(`^field (.*) not found in type `)
)

// reason says what is wrong with one value.
func reason(text string) string {
	if m := twice.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("the key %s is there already, in %s", m[1], m[2])
	}
	if m := unknown.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("unknown key %q", m[1])
	}
	if m := noDate.FindStringSubmatch(text); m != nil {
		return m[1] + " is no date, as 2026-01-31T12:00:00Z is"
	}
	m := wrongType.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	found := map[string]string{"str": "a text", "map": "a map of keys and values", "seq": "a list", "int": "a number",
		"float": "a number", "bool": "true or false", "timestamp": "a date", "null": "nothing"}
	is, ok := found[m[1]]
	if !ok {
		is = m[1]
	}
	return strings.TrimSpace(m[2] + " is " + is + ", and has to be " + wanted(m[3]))
}

// wanted is a type of Go in words.
func wanted(t string) string {
	t = strings.TrimPrefix(t, "*")
	switch {
	case strings.HasPrefix(t, "[]"):
		return "a list"
	case t == "bool":
		return "true or false"
	case t == "string":
		return "a text"
	case strings.HasPrefix(t, "int"), strings.HasPrefix(t, "uint"):
		return "a whole number"
	case strings.HasPrefix(t, "float"):
		return "a number"
	}
	return "a map of keys and values"
}
