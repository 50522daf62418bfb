package server

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/files"
)

// maxTarget is more than the longest target of a symbolic link, in bytes.
const maxTarget = 8 << 10

// filePath gives the path of a request about a file of an instance, from the root
// directory on. The error is Invalid.
func filePath(r *http.Request) (string, error) {
	name := r.URL.Query().Get("path")
	switch {
	case name == "":
		return "", kiln.Errorf(kiln.Invalid, "the path of the file is missing: ?path=/etc/hostname")
	case strings.ContainsRune(name, 0):
		return "", kiln.Errorf(kiln.Invalid, "%.40q has a NUL byte, which paths can't have", name)
	}
	return path.Clean("/" + name), nil
}

// ofInstance says of which instance an error about a file is.
func ofInstance(r *http.Request, err error) error {
	return kiln.Errorf(kiln.KindOf(err), "instance %q: %w", r.PathValue("name"), err)
}

// getFile sends a file of an instance: what is in it, the names in a directory, or the
// target of a symbolic link.
func (s *Server) getFile(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := filePath(r)
	if err != nil {
		return nil, err
	}
	t, err := s.d.InstanceFiles(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer t.Close()
	i, err := t.Lstat(name)
	if err != nil {
		return nil, ofInstance(r, err)
	}
	if r.Method == http.MethodHead {
		setInfo(w, i)
		if i.Type == files.File && i.Size > 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(i.Size, 10))
		}
		return handled{}, nil
	}
	switch i.Type {
	case files.Directory:
		names, err := t.List(r.Context(), name)
		if err != nil {
			return nil, ofInstance(r, err)
		}
		setInfo(w, i)
		return names, nil
	case files.Symlink:
		target, err := t.Readlink(name)
		if err != nil {
			return nil, ofInstance(r, err)
		}
		setInfo(w, i)
		_, _ = io.WriteString(w, target) // a client that went away needs no answer
	default:
		f, err := t.Open(name) // which says why a device can't be
		if err != nil {
			return nil, ofInstance(r, err)
		}
		defer f.Close()
		if err := s.sendContent(w, r, i, f); err != nil {
			return nil, ofInstance(r, err)
		}
	}
	s.d.FileTransferred(r.Context(), r.PathValue("name"), name, "retrieved")
	return handled{}, nil
}

// sendContent sends what is in a file. Once that has begun, an error breaks the answer off.
func (s *Server) sendContent(w http.ResponseWriter, r *http.Request, i files.Info, f io.WriterTo) error {
	out := &content{w: w, left: i.Size}
	out.begin = func() {
		setInfo(w, i)
		if i.Size > 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(i.Size, 10))
		}
	}
	_, err := f.WriteTo(out)
	switch {
	case out.begun && errors.Is(err, errWhole):
		return nil
	case err == nil && !out.begun && i.Size == 0:
		out.begin()
		return nil
	case err == nil && i.Size == 0:
		return nil
	case err == nil:
		err = kiln.Errorf(kiln.Conflict, "the file got shorter while it was read; try again")
	}
	if !out.begun {
		return err
	}
	s.logOf(r).Debug("send a file of an instance", "err", err)
	panic(http.ErrAbortHandler)
}

// content is the answer with what is in a file: as many bytes as it had when it was looked
// at, all of one that didn't say.
type content struct {
	w     io.Writer
	begin func()
	begun bool
	left  int64
	known bool
}

var errWhole = errors.New("all of it was sent")

// Write implements io.Writer.
func (c *content) Write(b []byte) (int, error) {
	if !c.begun {
		c.begun, c.known = true, c.left > 0
		c.begin()
	}
	if !c.known {
		return c.w.Write(b)
	}
	n, err := c.w.Write(b[:min(int64(len(b)), c.left)])
	if c.left -= int64(n); err == nil && c.left == 0 {
		err = errWhole
	}
	return n, err
}

// setInfo tells of a file in headers, as both families of clients read them.
func setInfo(w http.ResponseWriter, i files.Info) {
	if i.Type != files.Directory {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	for _, family := range []string{"X-LXD-", "X-Incus-"} {
		w.Header().Set(family+"uid", fmt.Sprint(i.UID))
		w.Header().Set(family+"gid", fmt.Sprint(i.GID))
		w.Header().Set(family+"mode", fmt.Sprintf("%04o", i.Mode))
		w.Header().Set(family+"type", string(i.Type))
		w.Header().Set(family+"modified", i.Modified.UTC().String())
	}
}

// fileSpec is what the headers of a request want of a file.
type fileSpec struct {
	files.Attributes
	kind files.Type
	add  bool
}

// parseFileSpec reads the headers of a request. Of a file that is there, owner and mode
// are changed only if modify-perm names them: clients send those of their own files
// without being asked to. The error is Invalid.
func parseFileSpec(r *http.Request) (spec fileSpec, keep files.Attributes, err error) {
	id := func(name string) (*uint32, error) {
		v := header(r, name)
		if v == "" || v == "-1" {
			return nil, nil
		}
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n == 1<<32-1 {
			return nil, kiln.Errorf(kiln.Invalid, "%q is no %s; it is a number from 0 to %d", v, name, uint32(1<<32-2))
		}
		return new(uint32(n)), nil
	}
	var errs [2]error
	spec.UID, errs[0] = id("uid")
	spec.GID, errs[1] = id("gid")
	if err := errors.Join(errs[:]...); err != nil {
		return spec, keep, err
	}
	if v := header(r, "mode"); v != "" {
		n, err := strconv.ParseUint(v, 8, 32)
		if err != nil || n > 0o7777 {
			return spec, keep, kiln.Errorf(kiln.Invalid, "%q is no mode; it is an octal number such as 0644", v)
		}
		spec.Mode = new(uint32(n))
	}
	switch v := header(r, "type"); v {
	case "", string(files.File):
		spec.kind = files.File
	case string(files.Directory), string(files.Symlink):
		spec.kind = files.Type(v)
	default:
		return spec, keep, kiln.Errorf(kiln.Invalid, "%q is no type of a file; it is one of file, directory, symlink", v)
	}
	switch v := header(r, "write"); v {
	case "", "overwrite":
	case "append":
		spec.add = true
	default:
		return spec, keep, kiln.Errorf(kiln.Invalid, "%q is no way to write a file; it is overwrite or append", v)
	}
	for word := range strings.SplitSeq(header(r, "modify-perm"), ",") {
		switch strings.TrimSpace(word) {
		case "":
		case "uid":
			keep.UID = spec.UID
		case "gid":
			keep.GID = spec.GID
		case "mode":
			keep.Mode = spec.Mode
		default:
			return spec, keep, kiln.Errorf(kiln.Invalid, "%q can't be in modify-perm; it is one of uid, gid, mode", word)
		}
	}
	return spec, keep, nil
}

// postFile makes or changes a file of an instance, a directory or a symbolic link.
func (s *Server) postFile(w http.ResponseWriter, r *http.Request) (any, error) {
	streamed(r)
	name, err := filePath(r)
	if err != nil {
		return nil, drained(w, r, err)
	}
	spec, keep, err := parseFileSpec(r)
	if err != nil {
		return nil, drained(w, r, err)
	}
	t, err := s.d.InstanceFiles(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, drained(w, r, err)
	}
	defer t.Close()
	switch spec.kind {
	case files.Directory:
		err = t.Mkdir(name, spec.Attributes, keep)
	case files.Symlink:
		var target []byte
		if target, err = readBody(r, maxTarget); err == nil {
			err = t.Symlink(string(target), name)
		}
	default:
		body := &requestBody{Reader: r.Body}
		err = t.Write(name, body, spec.Attributes, keep, spec.add)
		err = cmp.Or(body.err, err) // with which the request's context ends, and what it was written by
	}
	if err != nil {
		return nil, drained(w, r, ofInstance(r, err))
	}
	s.d.FileTransferred(r.Context(), r.PathValue("name"), name, "pushed")
	return nil, nil
}

// requestBody is a request's body whose errors are the client's.
type requestBody struct {
	io.Reader
	err error // but for io.EOF
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		if !errors.Is(err, kiln.Timeout) {
			err = kiln.Errorf(kiln.Invalid, "read the request: %w", err)
		}
		b.err = err
	}
	return n, err
}

func (s *Server) deleteFile(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := filePath(r)
	if err != nil {
		return nil, err
	}
	t, err := s.d.InstanceFiles(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if err := t.Remove(name); err != nil {
		return nil, ofInstance(r, err)
	}
	s.d.FileTransferred(r.Context(), r.PathValue("name"), name, "deleted")
	return nil, nil
}

// getSFTP makes the connection of a request one that speaks SFTP with the instance.
func (s *Server) getSFTP(w http.ResponseWriter, r *http.Request) (any, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "sftp") || r.Method != http.MethodGet {
		return nil, kiln.Errorf(kiln.Invalid, "this path is for connections that speak SFTP: send the header \"Upgrade: "+
			"sftp\"")
	}
	inside, err := s.d.InstanceSFTP(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	outside, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	defer outside.Close()
	streamed(r)
	_ = outside.SetDeadline(time.Time{})
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: sftp\r\n\r\n"
	if _, err := io.WriteString(outside, answer); err != nil {
		return handled{}, nil // it went away
	}
	audit.Began(r.Context())
	s.logOf(r).Debug("SFTP begins", "instance", r.PathValue("name"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What came with the request is buffered.
		_, _ = io.Copy(inside, io.MultiReader(io.LimitReader(buffered, int64(buffered.Reader.Buffered())), outside))
		closeWrite(inside)
	}()
	_, _ = io.Copy(outside, inside) // either end may go when it likes
	outside.Close()
	<-done
	return handled{}, nil
}

// closeWrite tells the other end that nothing more comes.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
