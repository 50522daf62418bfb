package simplestreams

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
)

// ParseProducts reads a list of products. What is wrong with a file or a product
// costs that one, unless nothing is left. Errors: Invalid, TooLarge.
func ParseProducts(r io.Reader) (*Products, error) {
	d := newDocument(r, MaxProducts)
	aliases := 0
	byKey := map[string][]Image{} // a key that is there twice means the last one, as in Go's and Python's maps
	err := d.entries("products", "list of products", func(key string) error {
		list, err := d.product(key)
		if len(list) > 0 {
			byKey[key] = list
			aliases += len(list[0].Aliases)
		}
		if aliases > maxAliases {
			return kiln.Errorf(kiln.TooLarge, "it has more than %d aliases", maxAliases)
		}
		return err
	})
	if err == nil && len(byKey) == 0 {
		err = d.useless()
	}
	if err != nil {
		return nil, fmt.Errorf("products of an image server: %w", err)
	}
	p := &Products{images: slices.Concat(slices.Collect(maps.Values(byKey))...)}
	arrange(p.images)
	return p, nil
}

// A product is what is kept of one while it is read. Its fields come in any order.
type product struct {
	aliases, arch, os, release, title string
	version, variant, eol             string
	requirements                      map[string]string // as properties
	versions                          map[string]*version
}

// A version is one of a product's, with the files that are of use.
type version struct {
	label     string
	signature string          // of the image that is signed
	items     map[string]item // by kind; the first of each
	deltas    []Delta
}

// product reads one product and makes images of it.
func (d *document) product(key string) ([]Image, error) {
	p := product{requirements: map[string]string{}, versions: map[string]*version{}}
	texts := map[string]*string{
		"arch": &p.arch, "os": &p.os, "release": &p.release, "release_title": &p.title,
		"version": &p.version, "variant": &p.variant, "support_eol": &p.eol,
	}
	err := d.object("a product", func(field string) error {
		switch field {
		case "aliases":
			_, err := d.value(&p.aliases)
			return err
		case "requirements", "lxd_requirements":
			return d.requirements(p.requirements)
		case "versions":
			return d.object("a product's versions", func(name string) error { return d.version(&p, name) })
		}
		if s := texts[field]; s != nil {
			return d.text(s)
		}
		return d.ignore()
	})
	if err != nil {
		return nil, err
	}
	return d.images(key, &p), nil
}

// requirements reads what a product needs of its host. Servers write them under
// two names, for LXD and for Incus.
func (d *document) requirements(into map[string]string) error {
	return d.object("a product's requirements", func(name string) error {
		var value string
		err := d.text(&value)
		if value != "" && name != "" && len(name) <= maxText && len(into) < maxRequirements {
			into["requirements."+name] = value
		}
		return err
	})
}

// version reads one version of a product.
func (d *document) version(p *product, name string) error {
	v := &version{items: map[string]item{}}
	err := d.object("a version", func(field string) error {
		switch field {
		case "label":
			return d.text(&v.label)
		case kiln.SignatureProperty:
			return d.signature(&v.signature)
		case "items":
			return d.object("a version's items", func(string) error { return d.item(v, name) })
		}
		return d.ignore()
	})
	switch {
	case err != nil:
		return err
	case !v.hasBody():
		d.skip("version %q has no file of an image", clip(name))
	case len(name) > maxText:
		d.skip("version %q… has too long a name", clip(name))
	case versionTime(name).IsZero():
		d.skip("version %q doesn't begin with a date", name)
	default:
		p.versions[name] = v
	}
	return nil
}

// signature reads a text that may be a signature: of one that is too long, enough for that
// to be said.
func (d *document) signature(s *string) error {
	_, err := d.value(s)
	if len(*s) > signing.MaxSignature {
		*s = strings.Clone((*s)[:signing.MaxSignature+1])
	}
	return err
}

var versionName = regexp.MustCompile(`^(\d{8})(?:_(\d\d):?(\d\d))?`)

// versionTime reads the date that the name of a version begins with, and the time
// of day that can follow: 20260201, 20260201_1530, 20260201_15:30. Zero: no date.
func versionTime(name string) time.Time {
	m := versionName.FindStringSubmatch(name)
	if m == nil {
		return time.Time{}
	}
	t, err := time.Parse("200601021504", m[1]+m[2]+m[3])
	if err != nil {
		t, _ = time.Parse("20060102", m[1])
	}
	return t
}

// images makes images of a product: the newest version first, so that the first
// image of each type is the one that the aliases stand for.
func (d *document) images(key string, p *product) []Image {
	arch, err := kiln.ParseArch(p.arch)
	if err != nil {
		d.skip("product %q: %w", clip(key), err)
		return nil
	}
	expires, _ := time.Parse(time.DateOnly, p.eol) // zero when there is none
	var list []Image
	aliased := map[string]bool{}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(p.versions))) {
		v := p.versions[name]
		for _, kind := range bodies {
			img, err := v.image(kind)
			if err != nil {
				d.skip("product %q, version %q: %w", clip(key), name, err)
			}
			if err != nil || len(img.Files) == 0 {
				continue
			}
			img.Architecture, img.Product, img.Version = arch, key, name
			img.CreatedAt, img.ExpiresAt = versionTime(name), expires
			img.Properties, img.Signature = p.properties(name, v.label, kind), v.signature
			if !aliased[img.Type] {
				aliased[img.Type], img.Aliases = true, splitAliases(p.aliases)
			}
			list = append(list, img)
		}
	}
	return list
}

// properties makes an image's properties of its product's fields. Empty ones are
// left out.
func (p *product) properties(version, label, kind string) map[string]string {
	if kind == ftypeLXDCombined || kind == ftypeIncusCombined {
		kind = "tar.gz"
	}
	words := []string{p.os, cmp.Or(p.title, p.release), p.arch}
	for _, s := range []string{p.variant, label, version} {
		if s != "" {
			words = append(words, "("+s+")")
		}
	}
	m := map[string]string{
		"os": p.os, "release": p.release, "version": p.version, "variant": p.variant,
		"architecture": p.arch, "label": label, "serial": version, "type": kind,
		"description": strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " "),
	}
	maps.DeleteFunc(m, func(_, value string) bool { return value == "" })
	maps.Copy(m, p.requirements)
	return m
}

// splitAliases reads the aliases of a product, which are one string.
func splitAliases(s string) []string {
	var list []string
	seen := map[string]bool{}
	for a := range strings.SplitSeq(s, ",") {
		a = strings.TrimSpace(a)
		if isAlias(a) && !seen[a] && len(list) < maxAliases {
			seen[a], list = true, append(list, a)
		}
	}
	return list
}

// isAlias reports whether simplestreams can have s as an alias.
func isAlias(s string) bool {
	return s != "" && len(s) <= maxText && strings.TrimSpace(s) == s && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == ',' || unicode.IsControl(r) })
}
