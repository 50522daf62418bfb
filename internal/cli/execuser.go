package cli

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// setUser fills in who a command runs as: ids, or names of the instance's own files.
// Who is named gets their primary group and their home directory, unless something
// else is asked for.
func setUser(ctx context.Context, at place.Place, post *api.InstanceExecPost, user, group string) error {
	if id, err := parseID(user); err == nil {
		post.User = id
	} else {
		f, err := entry(ctx, at, "/etc/passwd", user, 7)
		if err != nil {
			return err
		}
		if post.User, err = parseID(f[2]); err != nil {
			return err
		}
		if post.Group, err = parseID(f[3]); err != nil {
			return err
		}
		if _, said := post.Environment["HOME"]; !said {
			post.Environment["HOME"] = f[5]
		}
	}
	if group == "" {
		return nil
	}
	id, err := parseID(group)
	if err != nil {
		f, err := entry(ctx, at, "/etc/group", group, 4)
		if err != nil {
			return err
		}
		if id, err = parseID(f[2]); err != nil {
			return err
		}
	}
	post.Group = id
	return nil
}

// parseID reads an id; none is 0. The highest number isn't one: to the kernel it says
// "no change".
func parseID(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, kiln.Errorf(kiln.Invalid, "%q is not a user or group id: a number up to 4294967294", s)
	}
	return uint32(n), nil
}

// entry finds the line of a name in a file of an instance whose fields are separated by
// colons. Errors: NotFound, Invalid.
func entry(ctx context.Context, at place.Place, file, name string, fields int) ([]string, error) {
	if _, err := strconv.Atoi(name); err == nil || strings.ContainsAny(name, ":\n\x00") {
		_, err := parseID(name)
		return nil, errors.Join(err, kiln.Errorf(kiln.Invalid, "%q can't be a name", name))
	}
	var out, errs limited
	code, err := at.Exec(ctx, at.Name, api.InstanceExecPost{Command: []string{"cat", file}},
		client.ExecIO{Stdout: &out, Stderr: &errs})
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, kiln.Errorf(kiln.NotFound, "read %s of instance %q to find %q: %s; give its number", file, at.Name, name,
			strings.TrimSpace(errs.String()))
	}
	return findEntry(out.String(), file, name, fields)
}

// findEntry is entry in the text of the file.
func findEntry(text, file, name string, fields int) ([]string, error) {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < fields {
			continue
		}
		if f[0] == name {
			return f, nil
		}
		names = append(names, f[0])
	}
	return nil, kiln.Errorf(kiln.NotFound, "%s of the instance has no %q%s", file, name, kiln.DidYouMean(name, names))
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	const most = 1 << 20
	if room := most - l.Len(); room > 0 {
		l.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
