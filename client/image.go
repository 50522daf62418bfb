package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// Images are the images of a server: a kiln.Source and a kiln.Sink.
type Images struct {
	*Client
	Cached   bool        // Put brings what nobody asked to keep
	ImageKey string      // public key with which that has to be signed; "": as the server's settings say
	Expected http.Header // by which a server that expects an image knows it; nil: it trusts the client

	// Warn is called with what the server says of an image that Put brought; may be nil.
	Warn func(string)
}

// Images gives the images of the server.
func (c *Client) Images() Images { return Images{Client: c} }

// Resolve gives the image that a word means: an alias, or the beginning of a
// fingerprint. Errors: NotFound with what looks like it, Ambiguous.
func (i Images) Resolve(ctx context.Context, name string) (api.Image, string, error) {
	var img api.Image
	target := strings.ToLower(name)
	var a api.ImageAliasesEntry
	_, err := i.Get(ctx, Path("/1.0/images/aliases", name), nil, &a)
	switch {
	case err == nil:
		target = a.Target
	case errors.Is(err, kiln.Denied) && kiln.IsPrefix(target): // untrusted clients may see an image, not what it is called
	case !errors.Is(err, kiln.NotFound):
		return img, "", err
	case !kiln.IsPrefix(target):
		return img, "", i.unknown(ctx, name)
	}
	tag, err := i.Get(ctx, Path("/1.0/images", target), nil, &img)
	if errors.Is(err, kiln.NotFound) {
		err = i.unknown(ctx, name)
	}
	return img, tag, err
}

func (i Images) unknown(ctx context.Context, name string) error {
	aliases, _ := List[api.ImageAliasesEntry](ctx, i.Client, "/1.0/images/aliases", 1) // only to suggest one
	var names []string
	for _, a := range aliases {
		names = append(names, a.Name)
	}
	return kiln.Errorf(kiln.NotFound, "%s", i.retold(kiln.NoImage(name, names).Error()))
}

// Find is kiln.Source's.
func (i Images) Find(ctx context.Context, name string) (kiln.Image, error) {
	img, _, err := i.Resolve(ctx, name)
	if err != nil {
		return kiln.Image{}, err
	}
	return Image(img)
}

// Image reads what a server says of an image. The error is Network when that
// can't be.
func Image(img api.Image) (kiln.Image, error) {
	fp, err := kiln.ParseFingerprint(img.Fingerprint)
	if err != nil {
		return kiln.Image{}, kiln.Errorf(kiln.Network, "the server names an image %w", err)
	}
	out := kiln.Image{
		Fingerprint: fp, Type: img.Type, Architecture: img.Architecture, Size: img.Size, Filename: img.Filename,
		Properties: img.Properties,
		Public:     img.Public, CreatedAt: img.CreatedAt, ExpiresAt: img.ExpiresAt, UploadedAt: img.UploadedAt,
	}
	out.TakeSignature()
	if out.ExpiresAt.Unix() <= 0 {
		out.ExpiresAt = time.Time{}
	}
	if next, err := kiln.ParseFingerprint(img.ReplacedBy); err == nil {
		out.ReplacedBy = next
	}
	for _, a := range img.Aliases {
		out.Aliases = append(out.Aliases, kiln.Alias{Name: a.Name, Description: a.Description, Target: fp})
	}
	for _, f := range img.Files {
		hash, err := kiln.ParseFingerprint(f.Hash)
		if err != nil || f.Size < 0 {
			return kiln.Image{}, kiln.Errorf(kiln.Network, "the server says of a file of image %s that its hash is %q and "+
				"its size %d", fp.Short(), f.Hash, f.Size)
		}
		out.Files = append(out.Files, kiln.File{Role: kiln.Role(f.Role), Name: baseName(f.Name), Size: f.Size, Hash: hash,
			Ext: extension(baseName("x" + f.Ext))})
	}
	return out, nil
}

// Has is kiln.Sink's.
func (i Images) Has(ctx context.Context, fp kiln.Fingerprint) (bool, error) {
	_, err := i.Get(ctx, "/1.0/images/"+fp.String(), nil, nil)
	if errors.Is(err, kiln.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// Put is kiln.Sink's. Aliases are taken away from other images. An image that is
// there already is a Conflict; its fingerprint is in what is returned.
func (i Images) Put(ctx context.Context, img kiln.Image, s kiln.Stream) (kiln.Image, error) {
	first, err := s.Next()
	if err != nil {
		return img, err
	}
	h := uploadHeader(img)
	if i.Expected != nil {
		h = i.Expected.Clone()
	}
	if i.Cached {
		h.Set("X-Kiln-Cached", "true")
	}
	if i.ImageKey != "" {
		h.Set("X-Kiln-Image-Key", i.ImageKey)
	}
	r := Request{Method: http.MethodPost, Path: "/1.0/images", Header: h}
	if first.Role == kiln.Metadata {
		form := newForm(s, first)
		defer form.Close()
		h.Set("Content-Type", form.contentType)
		r.Body = form
	} else {
		h.Set("Content-Type", "application/octet-stream")
		r.Body, r.Size = io.Reader(s), first.Size
	}
	_, op, err := i.Do(ctx, r, nil)
	if err != nil {
		return img, err
	}
	if op == nil {
		return img, kiln.Errorf(kiln.Network, "the server didn't start an operation")
	}
	secret, _ := op.Metadata["secret"].(string) // for who isn't trusted
	done, err := i.wait(ctx, op.ID, secret)
	if text, ok := done.Metadata["warning"].(string); ok && i.Warn != nil {
		i.Warn(text)
	}
	if fp, ok := done.Metadata["fingerprint"].(string); ok {
		var perr error
		img.Fingerprint, perr = kiln.ParseFingerprint(fp)
		err = errors.Join(err, perr)
	}
	return img, err
}

// uploadHeader says in headers what is known of an image that is sent.
func uploadHeader(img kiln.Image) http.Header {
	h := http.Header{}
	h.Set("X-LXD-filename", img.Filename)
	h.Set("X-Kiln-Move-Aliases", "true")
	if !img.Fingerprint.IsZero() { // whatever is on the way, the server keeps this one or none
		h.Set("X-LXD-fingerprint", img.Fingerprint.String())
	}
	if img.Public {
		h.Set("X-LXD-public", "true")
	}
	q := url.Values{}
	for k, v := range img.WithSignature() {
		q.Set(k, v)
	}
	if len(q) > 0 {
		h.Set("X-LXD-properties", q.Encode())
	}
	q = url.Values{}
	for _, a := range img.Aliases {
		q.Add("alias", a.Name)
	}
	if len(q) > 0 {
		h.Set("X-LXD-aliases", q.Encode())
	}
	return h
}

// form is a split image as the body of a request.
type form struct {
	*io.PipeReader
	contentType string
}

func newForm(s kiln.Stream, first kiln.File) form {
	r, w := io.Pipe()
	m := multipart.NewWriter(w)
	go func() {
		err := writeForm(m, s, first)
		w.CloseWithError(errors.Join(err, m.Close()))
	}()
	return form{r, m.FormDataContentType()}
}

func writeForm(m *multipart.Writer, s kiln.Stream, f kiln.File) error {
	for {
		part, err := m.CreateFormFile(string(f.Role), f.Name)
		if err != nil {
			return err
		}
		if _, err := io.CopyBuffer(onlyWriter{part}, s, make([]byte, 1<<20)); err != nil {
			return err
		}
		f, err = s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type onlyWriter struct{ io.Writer }

// Open is kiln.Source's. What is read to its end has been compared with the
// fingerprint: the error is Integrity then. Names are never paths.
func (i Images) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	resp, err := i.Raw(ctx, Request{Method: http.MethodGet, Path: "/1.0/images/" + img.Fingerprint.String() + "/export"})
	if err != nil {
		return nil, err
	}
	return i.Files(resp, img)
}

// Files is the stream of an answer to GET …/export, which it closes. The error
// is what the answer says.
func (i Images) Files(resp *http.Response, img kiln.Image) (kiln.Stream, error) {
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		if _, err := i.envelope(resp); err != nil {
			return nil, err
		}
		return nil, kiln.Errorf(kiln.Network, "%s answers %q in the place of an image", i.where, resp.Status)
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return nil, errors.Join(kiln.Errorf(kiln.Network, "the answer has no type: %w", err), resp.Body.Close())
	}
	d := &download{body: resp.Body, want: img.Fingerprint, hash: sha256.New()}
	if strings.HasPrefix(kind, "multipart/") {
		d.parts = multipart.NewReader(resp.Body, params["boundary"])
		return d, nil
	}
	_, disposition, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
	if err != nil {
		return nil, errors.Join(kiln.Errorf(kiln.Network, "the answer names no file: %w", err), resp.Body.Close())
	}
	d.file = kiln.File{Role: kiln.Unified, Name: baseName(disposition["filename"]), Size: resp.ContentLength}
	return d, nil
}

// baseName makes a plain file name of what a server says.
func baseName(s string) string {
	s = path.Base("/" + strings.ReplaceAll(s, "\\", "/"))
	if s == "/" || s == "." || s == ".." {
		return "image"
	}
	return s
}

// extension is all after the first dot of a file name.
func extension(name string) string {
	if _, ext, ok := strings.Cut(name, "."); ok {
		return "." + ext
	}
	return ""
}

// download is an image on its way from a server.
type download struct {
	body  io.ReadCloser
	parts *multipart.Reader
	file  kiln.File // of an answer with one
	now   io.Reader
	count int
	hash  hash.Hash
	want  kiln.Fingerprint
}

// Next is kiln.Stream's.
func (d *download) Next() (kiln.File, error) {
	d.count++
	if d.parts == nil {
		if d.count > 1 {
			return kiln.File{}, io.EOF
		}
		d.now = d.body
		d.file.Ext = extension(d.file.Name)
		return d.file, nil
	}
	part, err := d.parts.NextRawPart()
	if errors.Is(err, io.EOF) {
		return kiln.File{}, d.check()
	}
	if err != nil {
		return kiln.File{}, kiln.Errorf(kiln.Network, "the download broke off: %w", err)
	}
	if d.count > 2 {
		return kiln.File{}, kiln.Errorf(kiln.Network, "the server sends more than two files")
	}
	d.now = part
	name := baseName(part.FileName())
	return kiln.File{Role: [...]kiln.Role{1: kiln.Metadata, 2: kiln.Rootfs}[d.count], Name: name, Ext: extension(name),
		Size: -1}, nil
}

// check gives io.EOF for an image that is what it should be.
func (d *download) check() error {
	if got := kiln.Fingerprint(d.hash.Sum(nil)); got != d.want {
		return kiln.Errorf(kiln.Integrity, "Image fingerprint doesn't match. Got %s expected %s", got, d.want)
	}
	return io.EOF
}

// Read is kiln.Stream's.
func (d *download) Read(b []byte) (int, error) {
	if d.now == nil {
		return 0, io.EOF
	}
	n, err := d.now.Read(b)
	d.hash.Write(b[:n])
	switch {
	case errors.Is(err, io.EOF) && d.parts == nil:
		return n, d.check()
	case err != nil && !errors.Is(err, io.EOF):
		return n, kiln.Errorf(kiln.Network, "the download broke off: %w", err)
	}
	return n, err
}

// Close is kiln.Stream's.
func (d *download) Close() error { return d.body.Close() }

// List gives the images that the server lets the client see. What it says of one
// that can't be costs that one.
func (i Images) List(ctx context.Context) ([]kiln.Image, error) {
	all, err := List[api.Image](ctx, i.Client, "/1.0/images", 1)
	if err != nil {
		return nil, err
	}
	list := make([]kiln.Image, 0, len(all))
	for _, w := range all {
		if img, err := Image(w); err == nil {
			list = append(list, img)
		}
	}
	return list, nil
}
