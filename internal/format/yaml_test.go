package format

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestLenient has metadata as it is found in public images.
func TestLenient(t *testing.T) {
	const head = "architecture: x86_64\ncreation_date: 5\n"
	warned := map[string][]string{
		"equal keys":       {`metadata.yaml line 4: the key "architecture" was there before; the last one counts`},
		"equal properties": {`metadata.yaml line 5: the key "os" was there before; the last one counts`},
		"fraction": {"metadata.yaml line 2: creation_date is in whole seconds; " +
			"the fraction of 5.75 is dropped"},
		"trigger": {`metadata.yaml: the template of "/a" is for "boot", which never happens; ` +
			`it can be for create, copy, rename, start`},
	}
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
		c.want.Architecture, c.want.CreationDate, c.want.Warnings = "x86_64", 5, warned[name]
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

// TestManyWarnings has more to warn of than anybody reads.
func TestManyWarnings(t *testing.T) {
	var b strings.Builder
	b.WriteString("architecture: x86_64\ncreation_date: 5\nproperties:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  k%d: a\n  k%d: b\n", i, i)
	}
	m, err := ParseMetadata([]byte(b.String()))
	if err != nil || len(m.Warnings) != maxWarnings+1 || len(m.Properties) != 1000 {
		t.Errorf("%v: %d warnings, %d properties", err, len(m.Warnings), len(m.Properties))
	}
}

// TestSameWarning repeats a mapping with an equal key in it: it is told of once.
func TestSameWarning(t *testing.T) {
	m, err := ParseMetadata([]byte("x: &x {when: [copy], when: [start], template: y}\narchitecture: x86_64\n" +
		"creation_date: 5\ntemplates: {/a: *x, /b: *x, /c: {<<: *x}}\n"))
	if err != nil || len(m.Warnings) != 1 {
		t.Errorf("%v: %q", err, m.Warnings)
	}
}

// TestNodes has device nodes: those of /dev every image has, and others.
func TestNodes(t *testing.T) {
	node := func(name string) formattest.File { return formattest.File{Name: name, Type: tar.TypeChar} }
	for prefix, meta := range map[string][]formattest.File{"rootfs/": formattest.Meta(), "": nil} {
		files := append(meta, formattest.Rootfs(t, prefix)...)
		files = append(files, node(prefix+"dev/null"))
		for n, want := range []string{"", `device nodes outside of /dev are left out: "srv/dev/random", 1 in all`,
			`device nodes outside of /dev are left out: "srv/dev/random", 2 in all`} {
			l, err := Arrange([]Facts{inspect(t, formattest.Tar(t, files...))})
			if err != nil || strings.Join(l.Warnings, "|") != want {
				t.Errorf("%q with %d nodes: %v, %q", prefix, n, err, l.Warnings)
			}
			files = append(files, node(prefix+[]string{"srv/dev/random", "srv/dev/null", "x"}[n]))
		}
	}
}
