package cli

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
)

// edit lets the user change YAML and saves it: from standard input when that is
// no terminal, unconditionally; else in an editor, again and again until it is
// right, on the condition that nobody else changed the thing (tag).
func edit[T any](a *app, help string, now any, tag string, save func(T, string) error) error {
	if !terminal(a.In) {
		b, err := io.ReadAll(a.In)
		if err != nil {
			return err
		}
		v, err := parseYAML[T](b)
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
		v, err := parseYAML[T](edited)
		if err == nil {
			err = save(v, tag)
		}
		if err == nil {
			return nil
		}
		fmt.Fprintf(a.Err, "kiln: %v\nPress enter to edit again, or ctrl-c to give up\n", err)
		if _, rerr := bufio.NewReader(a.In).ReadString('\n'); rerr != nil {
			return err
		}
		content = edited
	}
}

func parseYAML[T any](b []byte) (T, error) {
	var v T
	if err := yaml.Unmarshal(b, &v); err != nil {
		return v, kiln.Errorf(kiln.Invalid, "this is not the YAML that is expected here: %w", err)
	}
	return v, nil
}

// editor runs the user's editor on a file of its own.
func (a *app) editor(content []byte) ([]byte, error) {
	f, err := os.CreateTemp("", "kiln-*.yaml")
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
