package signing

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// MaxIndex is the largest signed index, in bytes.
const MaxIndex = 32 << 20

// indexType is what an index begins with, see statementType.
const indexType = "kiln-index-v1"

// IndexPath is where a server has its signed index, see KeysPath.
const IndexPath = "streams/v1/kiln.json"

// An Index is what the owner of images says that a server has at a time.
// docs/reference/signatures.md has the format, and what each part is there for.
type Index struct {
	Type    string             `json:"type"`
	Origin  Key                `json:"origin"`  // a root of the owner, whose index it is
	Version uint64             `json:"version"` // grows
	Created time.Time          `json:"created"` // to the second
	Expires time.Time          `json:"expires"`
	Images  []Listed           `json:"images"`
	Revoked []kiln.Fingerprint `json:"revoked"` // images that nobody is to use, here or not

	by            Key              // that signed it
	digest        kiln.Fingerprint // of the document
	byFingerprint map[kiln.Fingerprint]int
}

// A Listed is an image in an Index.
type Listed struct {
	Fingerprint  kiln.Fingerprint `json:"fingerprint"`
	Architecture string           `json:"architecture"`
	Size         int64            `json:"size"`    // of all files, in bytes
	Aliases      []string         `json:"aliases"` // escaped as in a statement
}

// normal is the index in the order that it is written in.
func (x Index) normal() Index {
	x.Type, x.Created, x.Expires = indexType, second(x.Created), second(x.Expires)
	order := func(a, b kiln.Fingerprint) int { return slices.Compare(a[:], b[:]) }
	x.Images = append([]Listed{}, x.Images...)
	for i := range x.Images {
		x.Images[i].Aliases = slices.Compact(slices.Sorted(slices.Values(x.Images[i].Aliases)))
		if x.Images[i].Aliases == nil {
			x.Images[i].Aliases = []string{}
		}
	}
	slices.SortFunc(x.Images, func(a, b Listed) int { return order(a.Fingerprint, b.Fingerprint) })
	x.Revoked = append([]kiln.Fingerprint{}, x.Revoked...)
	slices.SortFunc(x.Revoked, order)
	x.Revoked = slices.Compact(x.Revoked)
	return x
}

// String gives the index as it is signed.
func (x Index) String() string {
	b, _ := encode(x.normal()) // see KeysFile.String
	return string(b)
}

// List adds an image. Its aliases are those that its signature says as well, if it has one.
func (x *Index) List(img kiln.Image) {
	e := Listed{Fingerprint: img.Fingerprint, Architecture: img.Architecture, Size: img.Size}
	s, err := ParseOf(img.Signature, img.Fingerprint)
	for _, a := range img.Aliases {
		if err == nil && slices.Contains(s.Aliases, a.Name) {
			e.Aliases = append(e.Aliases, escape(a.Name))
		}
	}
	x.Images = append(x.Images, e)
}

// SignIndex gives an index as it is served, and its signature.
func SignIndex(key Secret, x Index) (document, signature []byte, err error) {
	x = x.normal()
	document = []byte(x.String())
	if len(document) > MaxIndex || len(document) == 0 {
		return nil, nil, kiln.Errorf(kiln.TooLarge, "the index of %d images is larger than %s", len(x.Images),
			kiln.FormatSize(MaxIndex))
	}
	signature, err = signDocument(key, document, fmt.Sprintf("%s version=%d expires=%s", indexType, x.Version,
		x.Expires.Format(serialLayout)))
	return document, signature, err
}

// parseIndex reads an index that is known to be its owner's. The error is Integrity.
func parseIndex(b []byte) (*Index, error) {
	var x Index
	if err := decode(b, &x, "an index"); err != nil {
		return nil, err
	}
	if x.Type != indexType || x.Version == 0 || x.Version > MaxVersion || x.Origin.IsZero() ||
		!x.Expires.After(x.Created) {
		return nil, kiln.Errorf(kiln.Integrity, "the index says no origin, or no version, or expired before it was made")
	}
	x.byFingerprint = make(map[kiln.Fingerprint]int, len(x.Images))
	for i, e := range x.Images {
		for j, a := range e.Aliases {
			alias, err := url.PathUnescape(a)
			if err != nil || escape(alias) != a || kiln.CheckAlias(alias) != nil {
				return nil, kiln.Errorf(kiln.Integrity, "the index has an alias that can't be: %q", a)
			}
			e.Aliases[j] = alias
		}
		if _, twice := x.byFingerprint[e.Fingerprint]; twice {
			return nil, kiln.Errorf(kiln.Integrity, "the index has the image %s twice", e.Fingerprint.Short())
		}
		x.byFingerprint[e.Fingerprint] = i
	}
	return &x, nil
}

// check says whether an image is what a name means, by the index. The error is Integrity.
func (x *Index) check(img kiln.Image, name string) error {
	if slices.Contains(x.Revoked, img.Fingerprint) {
		return kiln.Errorf(kiln.Integrity, "the image %s was revoked by its owner (index version %d, of %s)",
			img.Fingerprint.Short(), x.Version, x.Created.Format(time.DateOnly))
	}
	i, listed := x.byFingerprint[img.Fingerprint]
	if !listed && (name == "" || isDigitsOf(img.Fingerprint, name)) {
		return nil // one that isn't offered any more, or not to everybody
	}
	if !listed {
		return kiln.Errorf(kiln.Integrity, "the signed index (version %d, of %s) says that %q is %s, and not %s", x.Version,
			x.Created.Format(time.DateOnly), name, x.meaning(name), img.Fingerprint.Short())
	}
	e := x.Images[i]
	switch {
	case img.Size > 0 && e.Size != img.Size:
		return kiln.Errorf(kiln.Integrity, "by the signed index the image %s has %d bytes, and by the server %d",
			img.Fingerprint.Short(), e.Size, img.Size)
	case name == "" || says(e.Fingerprint, e.Aliases, name, e.Architecture) || isVersion(name):
		return nil
	}
	return kiln.Errorf(kiln.Integrity, "the signed index (version %d, of %s) says that %q is %s, and not %s", x.Version,
		x.Created.Format(time.DateOnly), name, x.meaning(name), img.Fingerprint.Short())
}

// isVersion reports whether a name is that of an older version, which no index tells.
func isVersion(name string) bool {
	_, n, ok := strings.Cut(name, "@")
	return ok && n != "" && strings.Trim(n, "0123456789") == ""
}

// meaning says what a name is, for an error.
func (x *Index) meaning(name string) string {
	for _, e := range x.Images {
		if says(e.Fingerprint, e.Aliases, name, e.Architecture) {
			return e.Fingerprint.Short()
		}
	}
	return "no image"
}
