package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/fetch"
)

// server is the images of a kiln, LXD or Incus server, as the API has them.
type server struct {
	images client.Images
	fetch  *fetch.Client
	remote kiln.Remote
	access Access
}

// Find is kiln.Source's.
func (s *server) Find(ctx context.Context, name string) (kiln.Image, error) {
	return s.images.Find(ctx, name)
}

// List gives the images that may be seen.
func (s *server) List(ctx context.Context) ([]kiln.Image, error) { return s.images.List(ctx) }

// Open is kiln.Source's. kiln says which files an image has, so that each can be
// gone on with; others give a unified image in pieces, and a split one in one go.
func (s *server) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	base := "/1.0/images/" + img.Fingerprint.String()
	if len(img.Files) > 0 {
		w := &webStream{ctx: ctx, fetch: s.fetch, access: s.access, img: img}
		for _, f := range img.Files {
			path := "/1.0/kiln/images/" + img.Fingerprint.String() + "/files/" + f.Hash.String()
			w.files = append(w.files, webFile{f, s.urls(path), func(kind string, base kiln.Fingerprint) []string {
				if kind == "patch" {
					return s.urls(path + "/patch/" + base.String())
				}
				return s.urls(path + "/index")
			}})
		}
		return w, nil
	}
	return s.export(ctx, img, base+"/export")
}

// export asks for one byte: a unified image then comes in pieces, a split one as a
// whole all the same.
func (s *server) export(ctx context.Context, img kiln.Image, path string) (kiln.Stream, error) {
	resp, err := s.images.Raw(ctx, client.Request{Method: http.MethodGet, Path: path,
		Header: http.Header{"Range": {"bytes=0-0"}}})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusPartialContent {
		in, err := s.images.Files(resp, img)
		if err != nil {
			return nil, err
		}
		return &counted{Stream: in, progress: s.access.Progress, server: s.remote.Server}, nil
	}
	resp.Body.Close()
	_, whole, _ := strings.Cut(resp.Header.Get("Content-Range"), "/")
	size, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || size <= 0 {
		return nil, kiln.Errorf(kiln.Network, "%s says that an image has %q bytes", s.remote.Server, whole)
	}
	f := kiln.File{Role: kiln.Unified, Name: img.Filename, Size: size, Hash: img.Fingerprint}
	return &webStream{ctx: ctx, fetch: s.fetch, access: s.access, files: []webFile{{File: f, urls: s.urls(path)}}}, nil
}

// urls are where a path is at the server and its mirrors.
func (s *server) urls(path string) []string {
	list := []string{s.images.URL(path)}
	for _, m := range s.remote.Mirrors {
		list = append(list, strings.Replace(list[0], strings.TrimSuffix(s.remote.Server, "/"), strings.TrimSuffix(m, "/"), 1))
	}
	return list
}

// counted reports the progress of a stream.
type counted struct {
	kiln.Stream
	progress func(string, int64)
	server   string
	done     int64
}

// Read is kiln.Stream's.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	c.done += int64(n)
	if c.progress != nil && n > 0 {
		c.progress(c.server, c.done)
	}
	if err != nil && !errors.Is(err, io.EOF) && kiln.KindOf(err) == kiln.Internal {
		err = kiln.Errorf(kiln.Network, "read from %s: %w", c.server, err)
	}
	return n, err
}
