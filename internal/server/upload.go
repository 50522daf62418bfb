package server

import (
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
)

// header gives a header of an upload, under the names of LXD and of Incus.
func header(r *http.Request, name string) string {
	if v := r.Header.Get("X-LXD-" + name); v != "" {
		return v
	}
	return r.Header.Get("X-Incus-" + name)
}

// isFile reports whether the body of a request is a file, where JSON would do as well.
func isFile(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/octet-stream")
}

func (s *Server) postImages(w http.ResponseWriter, r *http.Request) (any, error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		if !callerOf(r).trusted {
			return nil, kiln.Errorf(kiln.Denied, "not authorized")
		}
		return s.postImagesJSON(r)
	}
	spec, err := importSpec(r)
	if err != nil {
		return nil, drained(w, r, err)
	}
	word := header(r, "secret")
	if word != "" || !callerOf(r).trusted {
		fp := spec.Fingerprint
		var ctx context.Context
		if ctx, spec, err = s.d.Expected(r.Context(), word, fp); err != nil {
			return nil, err
		}
		r = r.WithContext(ctx)
		spec.Filename, spec.Secret = header(r, "filename"), word
		unhurried(w, r)
	}
	upload, err := newUpload(r, spec.Filename)
	if err != nil {
		return nil, drained(w, r, err)
	}
	o := s.d.ImportImage(r.Context(), spec, upload)
	if final := o.Snapshot(); final.Err != nil {
		_ = drained(w, r, nil)
	}
	return o, nil
}

// postImagesJSON answers the ways of getting an image that are not an upload.
func (s *Server) postImagesJSON(r *http.Request) (any, error) {
	var post api.ImagesPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if post.Source == nil {
		return nil, kiln.Errorf(kiln.Invalid, "Invalid images JSON: the source is missing")
	}
	spec := daemon.ImportSpec{
		Filename: post.Filename, Public: post.Public, AutoUpdate: post.AutoUpdate, Properties: post.Properties,
		Profiles:    post.Profiles,
		MoveAliases: post.MoveAliases || post.Reuse,
	}
	if !unset(post.ExpiresAt) {
		spec.ExpiresAt = post.ExpiresAt
	}
	spec.TakeSignature()
	for _, a := range post.Aliases {
		spec.Aliases = append(spec.Aliases, kiln.Alias{Name: a.Name, Description: a.Description})
	}
	switch src := post.Source; {
	case src.Mode == "push":
		if spec.AutoUpdate {
			return nil, kiln.Errorf(kiln.Invalid, "Auto update is only available in pull mode: what is pushed can't be "+
				"asked for again")
		}
		fp, err := kiln.ParseFingerprint(src.Fingerprint)
		if err != nil {
			return nil, err
		}
		spec.Fingerprint = fp
		if err := s.mayWait(r); err != nil {
			return nil, err
		}
		return s.d.ExpectImage(r.Context(), spec)
	case src.Type == "instance", src.Type == "container", src.Type == "snapshot":
		return s.publish(r, post, spec)
	case post.DryRun && src.Type == "image":
		return s.estimateImage(r, pullSpec(spec, *src))
	case src.Type == "image", src.Type == "url":
		return s.d.PullImage(r.Context(), pullSpec(spec, *src))
	default:
		return nil, kiln.Errorf(kiln.Unsupported, "making an image from a source of type %q is not supported by this "+
			"version of kiln; there are image, url, instance and snapshot", src.Type)
	}
}

// estimateImage tells what a pull would move.
func (s *Server) estimateImage(r *http.Request, spec daemon.PullSpec) (any, error) {
	img, list, err := s.d.EstimateImage(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	e := api.ImageEstimate{Fingerprint: img.Fingerprint.String(), Size: img.Size, Here: len(list) == 0,
		Files: []api.FileEstimate{}}
	for _, f := range list {
		e.Files = append(e.Files, api.FileEstimate{Role: string(f.File.Role), Size: f.File.Size, Moves: f.Moves, How: f.How})
	}
	return e, nil
}

// pullSpec reads where an image is to come from.
func pullSpec(spec daemon.ImportSpec, src api.ImagesPostSource) daemon.PullSpec {
	p := daemon.PullSpec{ImportSpec: spec, Remote: remoteOf(src.Server, src.Protocol, src.Certificate, src.RemoteAccess),
		Secret: src.Secret, Project: src.Project}
	switch {
	case src.Type == "url":
		p.Remote.Protocol, p.Remote.Server, p.Name = kiln.ProtocolDirect, src.URL, src.URL
	case src.Alias != "":
		p.Name, p.IsAlias = src.Alias, true
	default:
		// Clients put the alias of a public image here, too.
		p.Name, p.IsAlias = src.Fingerprint, !kiln.IsPrefix(strings.ToLower(src.Fingerprint))
	}
	return p
}

func remoteOf(server, protocol, certificate string, more api.RemoteAccess) kiln.Remote {
	if protocol == "" {
		protocol = kiln.ProtocolLXD
	}
	return kiln.Remote{Protocol: protocol, Server: strings.TrimSuffix(server, "/"), Mirrors: more.Mirrors,
		Certificate: certificate, CA: more.CA, Proxy: more.Proxy, ImageKey: more.ImageKey,
		Stale: more.Stale}
}

// importSpec reads what the headers of an upload say.
func importSpec(r *http.Request) (daemon.ImportSpec, error) {
	spec := daemon.ImportSpec{
		Filename: header(r, "filename"), Public: kiln.IsTrue(header(r, "public")),
		Cached:      kiln.IsTrue(r.Header.Get("X-Kiln-Cached")),
		ImageKey:    r.Header.Get("X-Kiln-Image-Key"),
		MoveAliases: kiln.IsTrue(r.Header.Get("X-Kiln-Move-Aliases")),
	}
	properties, err := url.ParseQuery(header(r, "properties"))
	if err != nil {
		return spec, kiln.Errorf(kiln.Invalid, "the properties of the upload: %w", err)
	}
	spec.Properties = map[string]string{}
	for k := range properties {
		spec.Properties[k] = properties.Get(k)
	}
	spec.TakeSignature()
	if spec.Profiles, err = names(header(r, "profiles"), "profile"); err != nil {
		return spec, err
	}
	aliases, err := names(header(r, "aliases"), "alias")
	if err != nil {
		return spec, err
	}
	for _, a := range aliases {
		spec.Aliases = append(spec.Aliases, kiln.Alias{Name: a})
	}
	if fp := header(r, "fingerprint"); fp != "" {
		spec.Fingerprint, err = kiln.ParseFingerprint(fp)
	}
	return spec, err
}

// names reads a header that has one name, or several as a query.
func names(v, key string) ([]string, error) {
	if v == "" {
		return nil, nil
	}
	if !strings.Contains(v, key+"=") {
		v = key + "=" + url.QueryEscape(v)
	}
	q, err := url.ParseQuery(v)
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "the %s header of the upload: %w", key, err)
	}
	return q[key], nil
}

// drainTime is how long the rest of an upload that failed is read.
const drainTime = 10 * time.Second

// drained reads the rest of an upload that failed, for a while: a client that is
// still sending would see a broken connection in the place of the answer.
func drained(w http.ResponseWriter, r *http.Request, err error) error {
	if stalled(r) {
		return err
	}
	streamed(r)
	readWithin(w, r, time.Now().Add(drainTime))
	_, _ = io.Copy(io.Discard, r.Body)
	return err
}

// upload is the body of a request as the files of an image, read once.
type upload struct {
	name  string
	size  int64
	body  io.Reader
	parts *multipart.Reader // of a split image
	count int
}

func newUpload(r *http.Request, name string) (*upload, error) {
	u := &upload{name: name, size: r.ContentLength, body: r.Body}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		var err error
		if u.parts, err = r.MultipartReader(); err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "the upload is not a multipart form: %w", err)
		}
		u.body = nil
	}
	return u, nil
}

// Next implements kiln.Stream.
func (u *upload) Next() (kiln.File, error) {
	u.count++
	if u.parts == nil {
		if u.count > 1 {
			return kiln.File{}, io.EOF
		}
		return kiln.File{Name: u.name, Size: u.size}, nil
	}
	part, err := u.parts.NextRawPart()
	if errors.Is(err, io.EOF) {
		return kiln.File{}, io.EOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, kiln.Timeout) {
		return kiln.File{}, brokenOff(err)
	}
	if err != nil {
		return kiln.File{}, kiln.Errorf(kiln.Invalid, "the upload is cut off or no form: %w", err)
	}
	switch want := [...]string{1: "metadata", 2: "rootfs"}; {
	case part.FormName() == "rootfs.img":
		return kiln.File{}, kiln.Errorf(kiln.Unsupported,
			"this is an image of a virtual machine; kiln runs system containers")
	case u.count >= len(want) || part.FormName() != want[u.count]:
		return kiln.File{}, kiln.Errorf(kiln.Invalid, "part %d of the upload is %q; an upload of two files has the parts "+
			"\"metadata\" and \"rootfs\", in this order", u.count, part.FormName())
	}
	u.body = part
	return kiln.File{Name: part.FileName(), Size: -1}, nil
}

// Read implements kiln.Stream. A connection that breaks is how a client cancels.
func (u *upload) Read(b []byte) (int, error) {
	if u.body == nil {
		return 0, io.EOF
	}
	n, err := u.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = brokenOff(err)
	}
	return n, err
}

func brokenOff(err error) error {
	if errors.Is(err, kiln.Timeout) {
		return err
	}
	return kiln.Errorf(kiln.Cancelled, "the client broke the upload off: %w", err)
}

// Close implements kiln.Stream.
func (u *upload) Close() error { return nil }
