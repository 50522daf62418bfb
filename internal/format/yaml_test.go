package format

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

// TestLenient has metadata as it is found in public images.
func TestLenient(t *testing.T) {
	const head = "architecture: x86_64\ncreation_date: 5\n"
	for name, c := range map[string]struct {
		text string
		want Metadata
	}{
		"equal keys": {"architecture: i686\ncreation_date: 5\nproperties:\narchitecture: x86_64\nos: debian\n", Metadata{}},
		"equal properties": {head + "properties:\n  os: a\n  os: b\n",
			Metadata{Properties: map[string]string{"os": "b"}}},
		"anchor": {"architecture: &a x86_64\ncreation_date: 5\nproperties: {architecture: *a}\n",
			Metadata{Properties: map[string]string{"architecture": "x86_64"}}},
		"merge": {"x: &w\n  when: [create, copy]\n  template: no\n" + head + "templates:\n  /etc/hostname:\n    <<: *w\n" +
			"    template: a.tpl\n", Metadata{Templates: map[string]*Template{"/etc/hostname": {When: []string{"create", "copy"},
			Template: "a.tpl"}}}},
		"merge of several": {"x: &x {when: [copy]}\ny: &y {when: [start], template: y}\n" + head +
			"templates: {/a: {<<: [*x, *y]}}\n", Metadata{Templates: map[string]*Template{"/a": {When: []string{"copy"},
			Template: "y"}}}},
		"fraction": {"architecture: x86_64\ncreation_date: 5.75\n", Metadata{}},
		"trigger": {head + "templates: {/a: {when: [create, boot], template: b}}\n",
			Metadata{Templates: map[string]*Template{"/a": {When: []string{"create"}, Template: "b"}}}},
		"quoted": {head + "properties: {'<<': a}\n", Metadata{Properties: map[string]string{"<<": "a"}}},
	} {
		c.want.Architecture, c.want.CreationDate = "x86_64", 5
		m, err := ParseMetadata([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(&c.want, m); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestExpensive has metadata that would take long or much memory.
func TestExpensive(t *testing.T) {
	const head = "architecture: x86_64\ncreation_date: 5\n"
	var bomb, keys strings.Builder
	bomb.WriteString("a0: &a0 [x]\n")
	for i := range 40 {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i, i)
	}
	for i := range 70_000 {
		fmt.Fprintf(&keys, "k%d: v\n", i)
	}
	for name, text := range map[string]string{
		"aliases": bomb.String() + head, "keys": head + keys.String(),
		"deep": head + "x: " + strings.Repeat("[", 200) + strings.Repeat("]", 200),
	} {
		if _, err := ParseMetadata([]byte(text)); kiln.KindOf(err) != kiln.Invalid ||
			!strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
