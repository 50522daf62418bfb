package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/yamlerr"
)

// maxYAML is the most that is read of what somebody edits, in bytes.
const maxYAML = 16 << 20

// edit lets the user change YAML and saves it: from standard input when that is
// no terminal, unconditionally; else in an editor, again and again until it is
// right, on the condition that nobody else changed the thing (tag).
//
// now is what can be changed. whole is all that is shown of the thing elsewhere: its
// other keys may be there, too, as long as they say what is so.
func edit[T any](a *app, help string, now T, whole any, tag string, save func(T, string) error) error {
	if !terminal(a.In) {
		b, err := readYAML(a.In)
		if err != nil {
			return err
		}
		v, err := parseEdit(b, now, whole)
		if err != nil {
			return err
		}
		return save(v, "")
	}
	b, err := yaml.Marshal(now)
	if err != nil {
		return err
	}
	content := append([]byte(help), b...)
	for {
		edited, err := a.editor(content)
		if err != nil {
			return err
		}
		v, err := parseEdit(edited, now, whole)
		if err == nil {
			err = save(v, tag)
		}
		if err == nil {
			return nil
		}
		fmt.Fprintf(a.Err, "kiln: %s\nPress enter to edit again, or ctrl-c to discard the changes\n", printable(err.Error()))
		switch _, rerr := a.readLine(); {
		case errors.Is(rerr, interruptedPrompt):
			return rerr
		case rerr != nil:
			return err
		}
		content = edited
	}
}

func readYAML(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxYAML+1))
	if err == nil && len(b) > maxYAML {
		err = kiln.Errorf(kiln.TooLarge, "standard input is larger than %s", size(maxYAML))
	}
	return b, err
}

// parseEdit reads an edited object. Keys that are left out stay as they are now; so
// nothing becomes empty that nobody wrote to be empty. The error is Invalid.
func parseEdit[T any](b []byte, now T, whole any) (T, error) {
	keys, err := topKeys(b)
	if err != nil {
		return now, err
	}
	if len(keys) == 0 {
		return now, kiln.Errorf(kiln.Invalid, "there is no YAML on standard input or in the file; nothing was changed")
	}
	v, err := decode[T](b, now, whole, keys)
	if err != nil {
		return now, err
	}
	// The fields of v that weren't written are those of now.
	eachField(reflect.ValueOf(&v).Elem(), reflect.ValueOf(&now).Elem(), func(key string, field, old reflect.Value) {
		if _, written := keys[key]; !written {
			field.Set(old)
		}
	})
	return v, nil
}

// parseNew reads the description of a new object; nothing is one, too. The error is
// Invalid.
func parseNew[T any](b []byte) (T, error) {
	var none T
	keys, err := topKeys(b)
	if err != nil || len(keys) == 0 {
		return none, err
	}
	return decode[T](b, none, nil, keys)
}

// topKeys gives the values of the keys of an object.
func topKeys(b []byte) (map[string]yaml.Node, error) {
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(b, &keys); err != nil {
		return nil, notYAML(err)
	}
	for k, n := range keys {
		if n.Tag == "!!null" {
			return nil, kiln.Errorf(kiln.Invalid, "%q has no value; leave the key out to keep what there is, or write {} "+
				"or \"\" to empty it; nothing was changed", k)
		}
	}
	return keys, nil
}

// decode reads an object whose keys are those of T, and those of whole if they say
// what whole says.
func decode[T any](b []byte, now T, whole any, keys map[string]yaml.Node) (v T, err error) {
	known, fixed := keysOf(now), map[string]yaml.Node{}
	if whole != nil {
		w, err := yaml.Marshal(whole)
		if err != nil {
			return v, err
		}
		if err := yaml.Unmarshal(w, &fixed); err != nil {
			return v, err
		}
	}
	var drop []string
	for k, n := range keys {
		if slices.Contains(known, k) {
			continue
		}
		is, there := fixed[k]
		if !there {
			known = slices.DeleteFunc(known, func(k string) bool { return k == oldAutoUpdate })
			return v, kiln.Errorf(kiln.Invalid, "unknown key %q%s; the keys are %s; nothing was changed", k,
				kiln.DidYouMean(k, known), strings.Join(known, ", "))
		}
		if !sameYAML(n, is) {
			return v, kiln.Errorf(kiln.Invalid, "%q can't be changed; leave it as it is, or leave it out; nothing was changed",
				k)
		}
		drop = append(drop, k)
	}
	for _, k := range drop {
		delete(keys, k)
	}
	if len(drop) > 0 {
		if b, err = yaml.Marshal(keys); err != nil {
			return v, err
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return v, notYAML(err)
	}
	return v, nil
}

// sameYAML reports whether two nodes have the same content.
func sameYAML(a, b yaml.Node) bool {
	var x, y any
	return a.Decode(&x) == nil && b.Decode(&y) == nil && reflect.DeepEqual(x, y)
}

// keysOf gives the YAML keys of a struct, in order.
func keysOf(v any) []string {
	var keys []string
	e := reflect.New(reflect.TypeOf(v)).Elem()
	eachField(e, e, func(key string, _, _ reflect.Value) { keys = append(keys, key) })
	return keys
}

// eachField calls f for the fields of two structs of one type, also of those inlined.
func eachField(a, b reflect.Value, f func(key string, a, b reflect.Value)) {
	for i := range a.NumField() {
		key, options, _ := strings.Cut(a.Type().Field(i).Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			eachField(a.Field(i), b.Field(i), f)
		case key != "" && key != "-":
			f(key, a.Field(i), b.Field(i))
		}
	}
}

// notYAML is an error about YAML in words for people.
func notYAML(err error) error {
	return kiln.Errorf(kiln.Invalid, "this is not the YAML that is expected here: %s; nothing was changed",
		yamlerr.Plain(err))
}

// editor runs the user's editor on YAML.
func (a *app) editor(content []byte) ([]byte, error) { return a.editorOf(content, "kiln-*.yaml") }

// editorOf runs the user's editor on a file of its own, whose name is like os.CreateTemp's.
func (a *app) editorOf(content []byte, pattern string) ([]byte, error) {
	f, err := os.CreateTemp("", pattern)
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	editor := strings.Fields(cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi"))
	cmd := exec.Command(editor[0], append(editor[1:], f.Name())...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run the editor %q: %w", editor[0], err)
	}
	return os.ReadFile(f.Name())
}
