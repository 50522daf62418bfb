package remote

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/fetch"
	"github.com/kiln-containers/kiln/internal/foreign"
	"github.com/kiln-containers/kiln/internal/signing"
)

// direct is an image behind a URL whose headers tell where it is and which
// fingerprint it has. LXD and Incus each have names of their own for them.
type direct struct {
	o      *Opener
	fetch  *fetch.Client
	http   *http.Client
	access Access
}

// families are the names that headers begin with.
var families = []string{"Kiln", "LXD", "Incus"}

// Find asks the URL. Errors: Network, Invalid, Denied.
func (d *direct) Find(ctx context.Context, name string) (kiln.Image, error) {
	if err := d.o.checkURLs(kiln.Remote{Server: name}); err != nil {
		return kiln.Image{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, name, nil)
	if err != nil {
		return kiln.Image{}, kiln.Errorf(kiln.Invalid, "%w", fetch.About(name, err))
	}
	req.Header.Set("User-Agent", d.o.UserAgent)
	for _, f := range families {
		req.Header.Set(f+"-Server-Architectures", strings.Join(d.o.Architectures, ", "))
		req.Header.Set(f+"-Server-Version", d.o.Version)
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return kiln.Image{}, fetch.Explain(fetch.About(name, err))
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return kiln.Image{}, kiln.Errorf(kiln.NotFound, "there is no image at %s: %s", fetch.Shown(name),
			cmp.Or(d.reason(req), resp.Status))
	}
	return d.answer(name, resp)
}

// The bounds of what a server may say of why it has no image.
var (
	maxReason  = foreign.Limit{Bytes: 64 << 10, Objects: 100, Values: 1000}
	reasonTime = 10 * time.Second
)

// reason asks again for what a server says in the body of its refusal, which the answer to
// HEAD hasn't got: the error of LXD's API, of 300 characters at most. It is "" where none
// is to be had.
func (d *direct) reason(head *http.Request) string {
	ctx, cancel := context.WithTimeout(head.Context(), reasonTime)
	defer cancel()
	req := head.Clone(ctx)
	req.Method = http.MethodGet
	resp, err := d.http.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var a api.Response
	if json.NewDecoder(foreign.NewReader(resp.Body, maxReason)).Decode(&a) != nil || a.Type != "error" {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, a.Error)
	return fmt.Sprintf("%.300s", text)
}

func (d *direct) answer(name string, resp *http.Response) (kiln.Image, error) {
	header := func(what string) (string, error) {
		for _, f := range families {
			if v := resp.Header.Get(f + "-Image-" + what); v != "" {
				return v, nil
			}
		}
		return "", kiln.Errorf(kiln.Network, "Missing LXD-Image-%s header: %s answered %s without it, so it doesn't serve "+
			"images this way", what, name, resp.Status)
	}
	hash, err := header("Hash")
	if err != nil {
		return kiln.Image{}, err
	}
	at, err := header("URL")
	if err != nil {
		return kiln.Image{}, err
	}
	fp, err := kiln.ParseFingerprint(strings.ToLower(hash))
	if err != nil {
		return kiln.Image{}, kiln.Errorf(kiln.Network, "%s names an image %w", name, err)
	}
	base := resp.Request.URL // after redirects
	u, err := base.Parse(at)
	if err != nil {
		return kiln.Image{}, kiln.Errorf(kiln.Network, "%s says that the image is at %q: %w", name, at, err)
	}
	// The hash came from the URL itself, so plain http can't change the image.
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return kiln.Image{}, kiln.Errorf(kiln.Network, "%s says that the image is at %s, which is neither https nor http",
			name, fetch.Shown(u.String()))
	}
	file := kiln.File{Role: kiln.Unified, Name: baseName(u), Size: -1, Hash: fp}
	signature, err := signatureHeader(resp.Header)
	return kiln.Image{Fingerprint: fp, Public: true, Files: []kiln.File{file}, Origin: &kiln.Origin{Alias: u.String()},
		Signature: signature}, err
}

// signatureHeader gives the signature that a server tells of an image, escaped as in a form; "":
// none. The error is Integrity.
func signatureHeader(h http.Header) (string, error) {
	v := h.Get("Kiln-Image-Signature")
	text, err := url.QueryUnescape(v)
	if err != nil || len(v) > 3*signing.MaxSignature {
		return "", kiln.Errorf(kiln.Integrity, "the server tells a signature of the image that can't be one")
	}
	return text, nil
}

// signedName is what an image behind a URL was asked for by, as its signature has to say it: the
// end of the path that is one of its aliases, else the whole path.
func signedName(address string, img kiln.Image) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	path := strings.Trim(u.Path, "/")
	if s, err := signing.Parse(img.Signature); err == nil {
		for _, alias := range s.Aliases {
			if strings.HasSuffix("/"+path, "/"+alias) {
				return alias
			}
		}
	}
	return path
}

// origin is the server of a URL: where the owner of its images says what counts.
func origin(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
}

func baseName(u *url.URL) string {
	if b := path.Base(u.Path); b != "/" && b != "." && b != ".." {
		return b
	}
	return "image"
}

// Open is kiln.Source's, for images that Find gave.
func (d *direct) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	return &webStream{ctx: ctx, fetch: d.fetch, access: d.access,
		files: []webFile{{File: img.Files[0], urls: []string{img.Origin.Alias}}}}, nil
}
