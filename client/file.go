package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// The types of files in an instance, as they are called on the wire.
const (
	RegularFile = "file"
	Directory   = "directory"
	Symlink     = "symlink"
)

// A File is one of an instance, as its root sees it.
type File struct {
	Type     string // RegularFile, Directory or Symlink
	UID, GID int64  // in the instance; -1: unknown
	Mode     uint32 // permissions
	Size     int64  // bytes of a regular file; -1: unknown
	Target   string // of a symbolic link
	Names    []string
	Body     io.ReadCloser // of a regular file; the caller closes it
}

// maxTarget is more than the longest target of a symbolic link, in bytes.
const maxTarget = 8 << 10

func filesRequest(method, instance, path string) Request {
	return Request{Method: method, Path: Path("/1.0/instances", instance) + "/files", Query: url.Values{"path": {path}},
		Header: http.Header{}}
}

// OpenFile reads a file of an instance: what is in it, the names in a directory, or the
// target of a symbolic link. Errors: NotFound, Conflict, Denied, Invalid for a device.
func (c *Client) OpenFile(ctx context.Context, instance, path string) (*File, error) {
	resp, err := c.Raw(ctx, filesRequest(http.MethodGet, instance, path))
	if err != nil {
		return nil, err
	}
	f := readInfo(resp)
	if resp.StatusCode == http.StatusOK && f.Type == RegularFile {
		f.Body = resp.Body
		return f, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && f.Type == Symlink {
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxTarget))
		f.Target = string(b)
		return f, err
	}
	a, err := c.envelope(resp)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(a.Metadata, &f.Names); err != nil || f.Type != Directory {
		return nil, kiln.Errorf(kiln.Network, "%s answers for the file %q what can't be understood", c.where, path)
	}
	for _, n := range f.Names { // they become names of files here
		if n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00") {
			return nil, kiln.Errorf(kiln.Integrity, "%s says that %q has a file with the name %q, which none can have",
				c.where, path, n)
		}
	}
	return f, nil
}

func readInfo(resp *http.Response) *File {
	header := func(name string) string {
		if v := resp.Header.Get("X-LXD-" + name); v != "" {
			return v
		}
		return resp.Header.Get("X-Incus-" + name)
	}
	f := &File{Type: header("type"), UID: -1, GID: -1, Size: -1, Mode: 0o644}
	if f.Type == RegularFile {
		f.Size = resp.ContentLength
	}
	if n, err := strconv.ParseInt(header("uid"), 10, 64); err == nil {
		f.UID = n
	}
	if n, err := strconv.ParseInt(header("gid"), 10, 64); err == nil {
		f.GID = n
	}
	if n, err := strconv.ParseUint(header("mode"), 8, 32); err == nil {
		f.Mode = uint32(n) & 0o7777
	}
	return f
}

// A FileSpec says what a file of an instance is to be.
type FileSpec struct {
	Type     string  // "": RegularFile
	UID, GID *int64  // nil: root's, if it is new
	Mode     *uint32 // nil: the usual, if it is new
	// Modify is the attributes, "uid", "gid" and "mode", that a file gets that is there
	// already.
	Modify []string
	Append bool
	Body   io.Reader // of a regular file; the target of a symbolic link
	Size   int64     // of Body, 0: unknown
}

// PutFile makes or replaces a file of an instance, makes a directory or a symbolic link.
// Errors: NotFound, Conflict when something else is there, Denied, NoSpace, Invalid.
func (c *Client) PutFile(ctx context.Context, instance, path string, s FileSpec) error {
	r := filesRequest(http.MethodPost, instance, path)
	set := func(name, value string) {
		r.Header.Set("X-LXD-"+name, value)
		r.Header.Set("X-Incus-"+name, value)
	}
	if s.Type == "" {
		s.Type = RegularFile
	}
	set("type", s.Type)
	if s.UID != nil {
		set("uid", fmt.Sprint(*s.UID))
	}
	if s.GID != nil {
		set("gid", fmt.Sprint(*s.GID))
	}
	if s.Mode != nil {
		set("mode", fmt.Sprintf("%04o", *s.Mode))
	}
	if len(s.Modify) > 0 {
		set("modify-perm", strings.Join(s.Modify, ","))
	}
	if s.Append {
		set("write", "append")
	} else {
		set("write", "overwrite")
	}
	if s.Body != nil {
		r.Body, r.Size = s.Body, s.Size
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	_, _, err := c.Do(ctx, r, nil)
	return err
}

// DeleteFile deletes a file of an instance, or an empty directory. Errors: NotFound,
// Conflict, Denied.
func (c *Client) DeleteFile(ctx context.Context, instance, path string) error {
	_, _, err := c.Do(ctx, filesRequest(http.MethodDelete, instance, path), nil)
	return err
}

// SFTP opens a connection that speaks SFTP (draft-ietf-secsh-filexfer-02) about the files of
// an instance, as its root sees them. The caller closes it. Errors: NotFound, Conflict,
// Unsupported when the server doesn't do it.
func (c *Client) SFTP(ctx context.Context, instance string) (io.ReadWriteCloser, error) {
	resp, err := c.Raw(ctx, Request{Method: http.MethodGet, Path: Path("/1.0/instances", instance) + "/sftp",
		Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"sftp"}}})
	if err != nil {
		return nil, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode == http.StatusSwitchingProtocols && ok {
		return conn, nil
	}
	defer resp.Body.Close()
	if _, err := c.envelope(resp); err != nil {
		return nil, err
	}
	return nil, kiln.Errorf(kiln.Unsupported, "%s doesn't speak SFTP", c.where)
}
