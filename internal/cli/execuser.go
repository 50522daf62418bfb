package cli

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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
	out, errs, code, err := readBounded(ctx, at, file)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, kiln.Errorf(kiln.NotFound, "read %s of instance %q to find %q: %s; give its number", file, at.Name, name,
			strings.TrimSpace(errs.String()))
	}
	return findEntry(out.String(), file, name, fields)
}

// Bounds of what is read of an instance's files, which its users may have replaced by a
// fifo or a link to a device that never ends.
const (
	lookupTime  = 10 * time.Second
	lookupGrace = 5 * time.Second // for the instance, to end the command
	lookupBytes = 1 << 20
)

// readBounded reads a file of an instance with cat(1), and ends that when it takes too
// long or gives too much. Errors: Timeout, TooLarge, those of the exec.
func readBounded(ctx context.Context, at place.Place, file string) (out, errs *limited, code int, err error) {
	ctx, giveUp := context.WithTimeout(ctx, lookupTime+lookupGrace)
	defer giveUp()
	bounded, end := context.WithCancelCause(ctx)
	late := time.AfterFunc(lookupTime, func() {
		end(kiln.Errorf(kiln.Timeout, "read %s of instance %q: it takes longer than %s; give the id as a number", file,
			at.Name, lookupTime))
	})
	defer late.Stop()
	full := func() {
		end(kiln.Errorf(kiln.TooLarge, "read %s of instance %q: it has more than %s; give the id as a number", file, at.Name,
			kiln.FormatSize(lookupBytes)))
	}
	out, errs = &limited{full: full}, &limited{full: full}
	quiet := func() bool { return true }
	code, err = at.Exec(ctx, at.Name, api.InstanceExecPost{Command: []string{"cat", file}},
		client.ExecIO{Stdout: out, Stderr: errs, Control: func(c client.Control) {
			quiet = context.AfterFunc(bounded, func() { _ = c.Signal(int(unix.SIGKILL)) }) // giveUp ends what it doesn't
		}})
	quiet()
	if bounded.Err() != nil {
		err = context.Cause(bounded)
	}
	end(nil)
	return out, errs, code, err
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

// limited keeps the beginning of what is written to it, and calls full when there is more.
type limited struct {
	bytes.Buffer
	full func()
}

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	room := lookupBytes - l.Len()
	if room < len(b) {
		l.full()
	}
	l.Buffer.Write(b[:min(room, len(b))])
	return len(b), nil
}
