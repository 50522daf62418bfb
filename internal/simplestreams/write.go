package simplestreams

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// Options says what Write can't take from the images.
type Options struct {
	Updated   time.Time // when the images changed last
	ContentID string    // what the server calls its images; "" means "images"
	// PathOf gives where a file is, from the base of the server.
	PathOf func(kiln.Image, kiln.File) string
}

type wireIndex struct {
	Index   map[string]wireList `json:"index"`
	Updated string              `json:"updated"`
	Format  string              `json:"format"`
}

type wireList struct {
	Datatype string   `json:"datatype"`
	Path     string   `json:"path"`
	Updated  string   `json:"updated"`
	Products []string `json:"products"`
	Format   string   `json:"format"`
}

type wireProducts struct {
	ContentID string                  `json:"content_id"`
	Datatype  string                  `json:"datatype"`
	Format    string                  `json:"format"`
	Updated   string                  `json:"updated"`
	Products  map[string]*wireProduct `json:"products"`
}

type wireProduct struct {
	Aliases         string                 `json:"aliases"`
	Arch            string                 `json:"arch"`
	OS              string                 `json:"os"`
	Release         string                 `json:"release"`
	ReleaseTitle    string                 `json:"release_title"`
	Version         string                 `json:"version,omitempty"`
	Variant         string                 `json:"variant"`
	Supported       bool                   `json:"supported"`
	SupportEOL      string                 `json:"support_eol,omitempty"`
	Requirements    map[string]string      `json:"requirements,omitempty"`
	LXDRequirements map[string]string      `json:"lxd_requirements,omitempty"` // the same, for LXD 5.0
	Versions        map[string]wireVersion `json:"versions"`
}

type wireVersion struct {
	Label     string              `json:"label"`
	PubName   string              `json:"pubname"`
	Signature string              `json:"kiln.signature,omitempty"` // as an image has it as a property
	Items     map[string]wireItem `json:"items"`
}

// Write makes the two documents of a server that has these images, for clients of
// every kind: the index and, at ProductsPath, the products. The same images give
// the same bytes in any order. Every image can be found by its fingerprint, and by
// its aliases, but for those with a comma, which the format can't have. An image
// needs its fingerprint, architecture and files. The error is Invalid.
func Write(images []kiln.Image, opts Options) (index, products []byte, err error) {
	drafts := make([]draft, len(images))
	for i, img := range images {
		if drafts[i], err = newDraft(img, opts.PathOf); err != nil {
			return nil, nil, kiln.Errorf(kiln.Invalid, "image %s for simplestreams: %w", img.Fingerprint.Short(), err)
		}
	}
	updated := opts.Updated.UTC().Format(time.RFC1123Z)
	doc := wireProducts{
		ContentID: cmp.Or(opts.ContentID, "images"), Datatype: "image-downloads", Format: "products:1.0",
		Updated: updated, Products: place(drafts),
	}
	list := wireList{
		Datatype: doc.Datatype, Path: ProductsPath, Updated: updated,
		Products: slices.AppendSeq([]string{}, maps.Keys(doc.Products)), Format: doc.Format,
	}
	slices.Sort(list.Products)
	if products, err = json.Marshal(doc); err != nil {
		return nil, nil, err
	}
	index, err = json.Marshal(wireIndex{Index: map[string]wireList{"images": list}, Updated: updated, Format: "index:1.0"})
	return index, products, err
}

// place gives each image a product and a version. Images share a product where
// that loses nothing: a product has one set of facts, its aliases stand for its
// newest version, and its versions have different names. Any other image gets a
// product of its own. The plain name of a product is for an image with aliases, if there
// is one: clients that go by the product get what its server calls the present version.
func place(drafts []draft) map[string]*wireProduct {
	slices.SortFunc(drafts, func(a, b draft) int { // with aliases first, the newest of these first
		return cmp.Or(
			cmp.Compare(a.key, b.key),
			cmp.Compare(b.named(), a.named()),
			cmp.Compare(b.version, a.version),
			b.img.CreatedAt.Compare(a.img.CreatedAt),
			slices.Compare(a.img.Fingerprint[:], b.img.Fingerprint[:]),
		)
	})
	products := map[string]*wireProduct{}
	shared := map[string]draft{} // the first of each product, by key and facts
	for _, d := range drafts {
		first, ok := shared[d.facts]
		if ok && d.aliases == "" && d.version <= first.version { // else it would be the newest
			p := products[first.key]
			if _, taken := p.Versions[d.version]; !taken {
				p.Versions[d.version] = d.content
				continue
			}
		}
		own := d.product
		own.Aliases, own.Versions = d.aliases, map[string]wireVersion{d.version: d.content}
		key := d.key
		if products[key] != nil {
			key += "-" + d.img.Fingerprint.Short()
		}
		for products[key] != nil {
			key += "-" + d.img.Fingerprint.String()
		}
		products[key] = &own
		if !ok {
			d.key = key
			shared[d.facts] = d
		}
	}
	return products
}

// joinAliases writes an image's aliases as a product has them.
func joinAliases(aliases []kiln.Alias) string {
	var names []string
	for _, a := range aliases {
		if isAlias(a.Name) {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// keyPart makes a text fit to be one of the parts of a product's key.
func keyPart(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, strings.ToLower(s))
}
