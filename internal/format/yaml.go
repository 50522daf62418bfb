package format

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v4"
)

// A metadata.yaml has a few dozen values. These bound what a hostile one costs.
const (
	maxMarks  = 40_000 // with the commas and such in texts
	maxValues = 10_000
	maxDepth  = 50
)

// plainer rewrites a tree of YAML.
type plainer struct {
	values   int
	warnings warnings
}

// warnings are what people may want to mend, of which there may be many.
type warnings []string

const maxWarnings = 20

func (w *warnings) add(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	switch {
	case len(*w) > maxWarnings, slices.Contains(*w, text):
	case len(*w) == maxWarnings:
		*w = append(*w, "there is more of the kind")
	default:
		*w = append(*w, text)
	}
}

// plainTree gives a document without anchors, merge keys and equal keys, the last of
// which counts, with a warning. The error begins with the line.
func plainTree(doc *yaml.Node) (*yaml.Node, warnings, error) {
	p := &plainer{}
	plain, err := p.plain(doc, 0)
	return plain, p.warnings, err
}

func (p *plainer) plain(n *yaml.Node, depth int) (*yaml.Node, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	p.values++
	switch {
	case p.values > maxValues:
		return nil, fmt.Errorf("line %d: it has more than %d values", n.Line, maxValues)
	case depth > maxDepth:
		return nil, fmt.Errorf("line %d: values are in one another more than %d deep", n.Line, maxDepth)
	}
	out := *n
	out.Anchor, out.Content = "", nil
	if n.Kind == yaml.MappingNode {
		return &out, p.mapping(&out, n, depth)
	}
	for _, c := range n.Content {
		c, err := p.plain(c, depth+1)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, c)
	}
	return &out, nil
}

// mapping fills out with the keys of n, and with those that n merges and doesn't have.
func (p *plainer) mapping(out, n *yaml.Node, depth int) error {
	at := map[string]int{}
	set := func(key, value *yaml.Node, over bool) {
		i, ok := at[key.Value]
		switch {
		case !ok:
			at[key.Value] = len(out.Content)
			out.Content = append(out.Content, key, value)
		case over:
			p.warnings.add("metadata.yaml line %d: the key %.100q was there before; the last one counts", key.Line, key.Value)
			out.Content[i], out.Content[i+1] = key, value
		}
	}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, err := p.plain(n.Content[i], depth+1)
		if err != nil {
			return err
		}
		value, err := p.plain(n.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			return fmt.Errorf("line %d: a key is not a text", key.Line)
		case key.Value == "<<" && key.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0:
			merged = append(merged, value)
		default:
			set(key, value, true)
		}
	}
	for _, m := range merged {
		list := []*yaml.Node{m}
		if m.Kind == yaml.SequenceNode {
			list = m.Content
		}
		for _, m := range list {
			if m.Kind != yaml.MappingNode {
				return fmt.Errorf("line %d: what is merged is not a mapping", m.Line)
			}
			for i := 0; i+1 < len(m.Content); i += 2 {
				set(m.Content[i], m.Content[i+1], false)
			}
		}
	}
	return nil
}
