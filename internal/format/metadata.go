// Package format says what makes files an image: the metadata, which file has
// which part, and how a tree is taken out of them. It reads archives through
// package archive and doesn't know where files are kept.
package format

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/foreign"
	"github.com/kiln-containers/kiln/internal/yamlerr"
)

// MaxMetadata is the largest metadata.yaml, in bytes (the limit of Incus).
const MaxMetadata = 1 << 20

// Metadata is the content of metadata.yaml, as the image format of LXD has it.
type Metadata struct {
	Architecture string               `yaml:"architecture"`  // any name ParseArch knows
	CreationDate int64                `yaml:"creation_date"` // Unix seconds
	ExpiryDate   int64                `yaml:"expiry_date,omitempty"`
	Properties   map[string]string    `yaml:"properties,omitempty"`
	Templates    map[string]*Template `yaml:"templates,omitempty"` // by path of the file made

	// Warnings say what ParseMetadata read otherwise than it is written, or left out.
	Warnings []string `yaml:"-"`
}

// A Template says when and how one file is made.
type Template struct {
	When       []string          `yaml:"when"` // "create", "copy", "rename", "start"
	CreateOnly bool              `yaml:"create_only,omitempty"`
	Template   string            `yaml:"template"` // name of a file in templates/
	Properties map[string]string `yaml:"properties,omitempty"`
	UID        string            `yaml:"uid,omitempty"`
	GID        string            `yaml:"gid,omitempty"`
	Mode       string            `yaml:"mode,omitempty"` // octal
}

// triggers are what a template can be rendered at.
var triggers = []string{"create", "copy", "rename", "start"}

// ParseMetadata reads and checks a metadata.yaml. It takes what LXD takes: the last of
// equal keys, anchors, dates with a fraction; triggers that kiln doesn't know are left
// out. The error is Invalid and says what to fix.
func ParseMetadata(b []byte) (*Metadata, error) {
	if len(b) > MaxMetadata {
		return nil, kiln.Errorf(kiln.Invalid, "metadata.yaml is larger than %d bytes", MaxMetadata)
	}
	var m *Metadata
	err := foreign.YAML(b, foreign.Limit{Bytes: MaxMetadata, Values: maxMarks}, func(doc *yaml.Node) (err error) {
		m, err = readMetadata(doc)
		return err
	})
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "metadata.yaml: %w", err)
	}
	return m, m.Check()
}

func readMetadata(doc *yaml.Node) (*Metadata, error) {
	plain, warnings, err := plainTree(doc)
	if err != nil {
		return nil, err
	}
	if err := checkTree(plain); err != nil {
		return nil, err
	}
	wholeSeconds(plain, &warnings)
	var m Metadata
	if err := plain.Decode(&m); err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "%s", yamlerr.Plain(err))
	}
	for _, file := range slices.Sorted(maps.Keys(m.Templates)) {
		if t := m.Templates[file]; t != nil {
			t.When = knownTriggers(file, t.When, &warnings)
		}
	}
	m.Warnings = warnings
	return &m, nil
}

// knownTriggers leaves out what a file is never made at.
func knownTriggers(file string, when []string, warn *warnings) []string {
	return slices.DeleteFunc(when, func(w string) bool {
		known := slices.Contains(triggers, w)
		if !known {
			warn.add("metadata.yaml: the template of %.100q is for %.100q, which never happens; it can be for %s", file, w,
				strings.Join(triggers, ", "))
		}
		return !known
	})
}

// wholeSeconds takes the fractions off the dates.
func wholeSeconds(doc *yaml.Node, warn *warnings) {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return
	}
	top := doc.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		key, value := top[i].Value, top[i+1]
		if key != "creation_date" && key != "expiry_date" || value.Tag != "!!float" {
			continue
		}
		if f, err := strconv.ParseFloat(value.Value, 64); err == nil && f >= 0 && f <= lastYear {
			warn.add("metadata.yaml line %d: %s is in whole seconds; the fraction of %.100s is dropped", value.Line, key,
				value.Value)
			value.Tag, value.Value = "!!int", strconv.FormatInt(int64(f), 10)
		}
	}
}

// checkTree refuses properties that aren't text.
func checkTree(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "properties" {
				if err := checkProperties(n.Content[i+1]); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range n.Content {
		if err := checkTree(c); err != nil {
			return err
		}
	}
	return nil
}

// checkProperties lets every scalar stand for its text, as in "release: 12.10".
func checkProperties(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return nil // null, or an error of the decoder
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if value.Kind != yaml.ScalarNode {
			return kiln.Errorf(kiln.Invalid, "line %d: property %q is not a text", value.Line, key.Value)
		}
		if value.Tag == "!!null" {
			value.Value = ""
		}
		value.Tag, key.Tag = "!!str", "!!str"
	}
	return nil
}

// lastYear is the end of the year 9999, in Unix seconds.
const lastYear = 253402300799

// Check says what is wrong with the metadata. The error is Invalid.
func (m *Metadata) Check() error {
	if m.Architecture == "" {
		return kiln.Errorf(kiln.Invalid, "metadata.yaml: Architecture isn't supported: it has no architecture")
	}
	if _, err := kiln.ParseArch(m.Architecture); err != nil {
		return kiln.Errorf(kiln.Invalid, "metadata.yaml: %w", err)
	}
	if m.CreationDate == 0 {
		return kiln.Errorf(kiln.Invalid, "metadata.yaml: Missing creation date: creation_date is the seconds since 1970")
	}
	for key, date := range map[string]int64{"creation_date": m.CreationDate, "expiry_date": m.ExpiryDate} {
		if date < 0 || date > lastYear {
			return kiln.Errorf(kiln.Invalid, "metadata.yaml: %s %d is not a date from 1970 to 9999 in seconds", key, date)
		}
	}
	for target, t := range m.Templates {
		if err := t.check(); err != nil {
			return kiln.Errorf(kiln.Invalid, "metadata.yaml: template of %q: %w", target, err)
		}
	}
	return nil
}

func (t *Template) check() error {
	if t == nil || t.Template == "" {
		return fmt.Errorf("the name of the template file is missing")
	}
	if t.Template == "." || t.Template == ".." || path.Base(t.Template) != t.Template {
		return fmt.Errorf("Template path is attempting to read outside of template directory: %q", t.Template)
	}
	for _, w := range t.When {
		if !slices.Contains(triggers, w) {
			return fmt.Errorf("%q is not a time to render it; it is one of %s", w, strings.Join(triggers, ", "))
		}
	}
	for what, id := range map[string]string{"UID": t.UID, "GID": t.GID} {
		if _, err := strconv.ParseUint(id, 10, 31); id != "" && err != nil {
			return fmt.Errorf("Bad file %s: %q is not a number", what, id)
		}
	}
	if _, err := strconv.ParseUint(t.Mode, 8, 12); t.Mode != "" && err != nil {
		return fmt.Errorf("Bad file mode: %q is not an octal number", t.Mode)
	}
	return nil
}

// YAML writes the metadata as metadata.yaml.
func (m *Metadata) YAML() ([]byte, error) { return yaml.Marshal(m) }

// Created is when the image was made.
func (m *Metadata) Created() time.Time { return time.Unix(m.CreationDate, 0).UTC() }

// Expires is when the image shouldn't be used any more; zero: never.
func (m *Metadata) Expires() time.Time {
	if m.ExpiryDate == 0 {
		return time.Time{}
	}
	return time.Unix(m.ExpiryDate, 0).UTC()
}
