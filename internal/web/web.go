// Package web makes the page of an image server that people see in a browser: which images it
// has for everybody, and how to use them. It is plain HTML without scripts, and knows only the
// images that it is given.
package web

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/kiln-containers/kiln"
)

//go:embed page.html page.css
var files embed.FS

// pageTemplate is page.html, which strangers ask for as often as they like.
var pageTemplate = sync.OnceValues(func() (*template.Template, error) { return template.ParseFS(files, "page.html") })

// Bounds of a page. What is beyond is counted.
const (
	mostImages  = 500
	mostAliases = 16
	mostText    = 240 // characters of a description
)

// Mark is in every page, by which a file is known as one.
const Mark = `<meta name="generator" content="kiln">`

// A Site is what a page is about.
type Site struct {
	Address string // "https://images.example"; "": whoever reads the page has to say
	Streams bool   // it is files of simplestreams, without an API
	PathOf  func(kiln.Image, kiln.File) string
}

// page is what page.html shows.
type page struct {
	Address, Known string // an address to type, and whether it is right
	Streams        bool
	CSS            template.CSS
	Policy         string // in the page itself, where no header has it; "": one has
	Images         []shown
	More           int
}

// shown is an image.
type shown struct {
	Name, Use                       string // what it is called, and the shortest that means it
	Aliases                         []string
	Description, Architecture, Size string
	Created, Fingerprint, Short     string
	Signed                          bool
	Files                           []link
}

type link struct{ Path, Name, Size string }

// Policy is the Content-Security-Policy of a page: nothing but its own style.
func Policy() (string, error) {
	css, err := files.ReadFile("page.css")
	sum := sha256.Sum256(css)
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", err
}

var hostName = regexp.MustCompile(`^(?:[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$`)

// AddressOf is the address of a server by the name that a request has for it; "": that is none.
func AddressOf(host string) string {
	if !hostName.MatchString(host) {
		return ""
	}
	return "https://" + host
}

// Write writes the page of a site about public images; others among them are left out.
func Write(w io.Writer, s Site, images []kiln.Image) error {
	css, err := files.ReadFile("page.css")
	if err != nil {
		return err
	}
	p := page{Address: cmp.Or(s.Address, "https://SERVER"), Known: s.Address, Streams: s.Streams, CSS: template.CSS(css)}
	if s.Streams {
		if p.Policy, err = Policy(); err != nil {
			return err
		}
		p.Policy = strings.TrimSuffix(p.Policy, "; frame-ancestors 'none'") // which only a header can say
	}
	for _, img := range images {
		if img.Public {
			p.Images = append(p.Images, show(img, s))
		}
	}
	slices.SortStableFunc(p.Images, func(a, b shown) int {
		return cmp.Or(cmp.Compare(len(b.Aliases[:min(1, len(b.Aliases))]), len(a.Aliases[:min(1, len(a.Aliases))])),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	if len(p.Images) > mostImages {
		p.More, p.Images = len(p.Images)-mostImages, p.Images[:mostImages]
	}
	t, err := pageTemplate()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

// word is what a command line takes as one word, and a shell as nothing else.
var word = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/+@-]*$`)

func show(img kiln.Image, s Site) shown {
	fp := img.Fingerprint.String()
	out := shown{Description: short(img.Properties["description"]), Architecture: img.Architecture,
		Size: kiln.FormatSize(img.Size), Fingerprint: fp, Short: img.Fingerprint.Short(), Signed: img.Signature != ""}
	if !img.CreatedAt.IsZero() {
		out.Created = img.CreatedAt.UTC().Format("2006-01-02")
	}
	for _, a := range img.Aliases {
		if len(out.Aliases) < mostAliases {
			out.Aliases = append(out.Aliases, a.Name)
		}
	}
	slices.SortStableFunc(out.Aliases, func(a, b string) int { return cmp.Or(len(a)-len(b), cmp.Compare(a, b)) })
	out.Name, out.Use = out.Short, out.Short
	if len(out.Aliases) > 0 {
		out.Name = out.Aliases[0]
	}
	if i := slices.IndexFunc(out.Aliases, word.MatchString); i >= 0 {
		out.Use = out.Aliases[i]
	}
	for _, f := range img.Files {
		path := s.PathOf(img, f)
		out.Files = append(out.Files, link{path, path[strings.LastIndexByte(path, '/')+1:], kiln.FormatSize(f.Size)})
	}
	return out
}

// short is the beginning of a text.
func short(text string) string {
	if r := []rune(text); len(r) > mostText {
		return string(r[:mostText]) + "…"
	}
	return text
}
