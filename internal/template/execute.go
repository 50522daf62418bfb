package template

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/flosch/pongo2/v6"

	"github.com/kiln-containers/kiln"
)

// maxOutput bounds what one template writes, in bytes.
const maxOutput = 1 << 20

// A job is one template with what it is told.
type job struct {
	Source     []byte
	Instance   Instance
	Trigger    string
	Path       string // of the file it makes, as metadata.yaml has it
	Properties map[string]string
	Created    time.Time // of a name: all that it is told
}

// variables is the context that the template sees.
func (j job) variables() pongo2.Context {
	if !j.Created.IsZero() {
		return pongo2.Context{"creation_date": j.Created}
	}
	i := j.Instance
	instance := map[string]string{
		"name": i.Name, "type": i.Type, "architecture": i.Architecture,
		"privileged": strconv.FormatBool(i.Privileged), "ephemeral": strconv.FormatBool(i.Ephemeral),
	}
	properties := j.Properties
	if properties == nil {
		properties = map[string]string{}
	}
	return pongo2.Context{
		"trigger": j.Trigger, "path": j.Path, "instance": instance, "container": instance,
		"config": i.Config, "devices": i.Devices, "properties": properties,
		"config_get": func(key string, otherwise *pongo2.Value) *pongo2.Value {
			if v, ok := i.Config[key]; ok {
				return pongo2.AsValue(strings.TrimRight(v, "\r\n"))
			}
			return otherwise
		},
	}
}

// banned are the tags that read files.
var banned = [...]string{"extends", "import", "include", "ssi"}

// noFiles is a loader that has none.
type noFiles struct{}

func (noFiles) Abs(_, name string) string { return name }

func (noFiles) Get(name string) (io.Reader, error) {
	return nil, fmt.Errorf("templates can't read files: %q", name)
}

// execute renders one template. It may take any time and memory, or never end:
// the library can't be interrupted, so it runs in a process that can. The error
// is Invalid or TooLarge.
func execute(j job) (text string, err error) {
	defer func() {
		switch p := recover(); {
		case p == errTooMuch:
			text, err = "", kiln.Errorf(kiln.TooLarge, "Failed to render template: %w", errTooMuch)
		case p != nil:
			text, err = "", kiln.Errorf(kiln.Invalid, "Failed to render template: it panicked: %v", p)
		}
	}()
	set := pongo2.NewSet("instance", noFiles{})
	for _, tag := range banned {
		if err := set.BanTag(tag); err != nil {
			return "", err
		}
	}
	// What these files are is no HTML.
	t, err := set.FromString("{% autoescape off %}" + string(j.Source) + "{% endautoescape %}")
	if err != nil {
		return "", kiln.Errorf(kiln.Invalid, "Failed to render template: %w", err)
	}
	var out bounded
	if err := t.ExecuteWriterUnbuffered(j.variables(), &out); err != nil {
		return "", kiln.Errorf(kiln.Invalid, "Failed to render template: %w", err)
	}
	return out.text.String(), nil
}

var errTooMuch = errors.New("it writes more than " + strconv.Itoa(maxOutput) + " bytes")

// bounded takes so much and no more. Beyond that it panics, since the library
// doesn't look at the errors of its writer and would go on.
type bounded struct{ text strings.Builder }

func (b *bounded) Write(p []byte) (int, error) { return b.WriteString(string(p)) }

// WriteString is io.StringWriter's.
func (b *bounded) WriteString(s string) (int, error) {
	if b.text.Len()+len(s) > maxOutput {
		panic(errTooMuch)
	}
	return b.text.WriteString(s)
}
