package simplestreams

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// A draft is an image on its way into a document.
type draft struct {
	img     kiln.Image
	key     string      // of the product it would like to be in
	product wireProduct // what that has to say, but for aliases and versions
	facts   string      // key and product as one text
	aliases string
	version string
	content wireVersion
}

// named is 1 for an image with aliases, else 0.
func (d draft) named() int { return min(len(d.aliases), 1) }

func newDraft(img kiln.Image, pathOf func(kiln.Image, kiln.File) string) (draft, error) {
	items, err := itemsOf(img, pathOf)
	if err != nil {
		return draft{}, err
	}
	d := draft{img: img, aliases: joinAliases(img.Aliases), version: versionOf(img)}
	d.content = wireVersion{Label: clip(img.Properties["label"]), Signature: img.Signature, Items: items}
	if d.product, err = productOf(img); err != nil {
		return draft{}, err
	}
	p := d.product
	d.key = strings.Join([]string{
		keyPart(p.OS), keyPart(cmp.Or(p.Release, "unknown")), p.Arch, keyPart(p.Variant),
	}, ":")
	d.facts = fmt.Sprintf("%q %q", d.key, []any{p.OS, p.Release, p.ReleaseTitle, p.Version, p.Variant, p.SupportEOL,
		p.Requirements})
	return d, nil
}

// archNames are the architectures that images have another name for: Debian's,
// which servers of images use.
var archNames = map[string]string{
	"i686": "i386", "x86_64": "amd64", "armv6l": "armel", "armv7l": "armhf", "aarch64": "arm64",
	"ppc": "powerpc", "ppc64le": "ppc64el", "loongarch64": "loong64",
}

// productOf gives what an image's product has to say. What the image doesn't say
// of itself is made up where clients show it.
func productOf(img kiln.Image) (wireProduct, error) {
	arch, err := kiln.ParseArch(img.Architecture)
	if err != nil {
		return wireProduct{}, err
	}
	get := func(fallback string, names ...string) string {
		for _, n := range names {
			if v := strings.TrimSpace(img.Properties[n]); v != "" {
				return clip(strings.ToValidUTF8(v, "�"))
			}
		}
		return fallback
	}
	p := wireProduct{
		Arch: cmp.Or(archNames[arch], arch), OS: get("Linux", "os"), Release: get("", "release", "version"),
		Version: get("", "version"), Variant: get("default", "variant"), Supported: true,
	}
	p.ReleaseTitle = get("", "release_title", "version", "release", "name", "description")
	if !img.ExpiresAt.IsZero() {
		p.SupportEOL = img.ExpiresAt.UTC().Format(time.DateOnly)
	}
	for name := range img.Properties {
		if short, ok := strings.CutPrefix(name, "requirements."); ok && get("", name) != "" {
			if p.Requirements == nil {
				p.Requirements = map[string]string{}
			}
			p.Requirements[short] = get("", name)
		}
	}
	p.LXDRequirements = p.Requirements
	return p, nil
}

var plainVersion = regexp.MustCompile(`^[0-9A-Za-z._:-]{8,64}$`)

// versionOf names the version: by the serial that the image came with, or by the
// time it was made.
func versionOf(img kiln.Image) string {
	serial := img.Properties["serial"]
	if plainVersion.MatchString(serial) && !versionTime(serial).IsZero() {
		return serial
	}
	made := img.CreatedAt.UTC()
	if made.Year() < 1970 || made.Year() > 9999 {
		made = time.Unix(0, 0).UTC()
	}
	return made.Format("20060102_15:04")
}

// itemsOf gives the items of an image's files. Metadata and unified images are
// there once for Incus and once for LXD, which look for different kinds.
func itemsOf(img kiln.Image, pathOf func(kiln.Image, kiln.File) string) (map[string]wireItem, error) {
	var list []wireItem
	for _, f := range img.Files {
		w := wireItem{Path: pathOf(img, f), Size: f.Size, SHA256: f.Hash.String()}
		file, err := fileOf(w)
		if err != nil {
			return nil, err
		}
		w.Path = file.Path
		list = append(list, w)
	}
	fp := img.Fingerprint.String()
	switch {
	case img.Fingerprint.IsZero():
		return nil, fmt.Errorf("it has no fingerprint")
	case len(list) == 1 && img.Files[0].Role == kiln.Unified && img.Files[0].Hash == img.Fingerprint:
		return itemMap(list[0].as(ftypeIncusCombined), list[0].as(ftypeLXDCombined)), nil
	case len(list) == 2 && img.Files[0].Role == kiln.Metadata && img.Files[1].Role == kiln.Rootfs:
	default:
		return nil, fmt.Errorf("its files are neither a unified nor a split image")
	}
	meta, root := list[0], list[1]
	if img.Files[1].Ext == ".squashfs" {
		meta.Squashfs = fp
		root.FType = ftypeSquashfs
	} else {
		meta.Combined, meta.RootTar = fp, fp
		root.FType = ftypeRootTar
	}
	return itemMap(meta.as(ftypeIncus), meta.as(ftypeLXD), root), nil
}

// as gives an item with another kind.
func (w wireItem) as(kind string) wireItem {
	w.FType = kind
	return w
}

// itemMap gives items names that say what they are. Clients look at kinds only.
func itemMap(list ...wireItem) map[string]wireItem {
	m := map[string]wireItem{}
	for _, w := range list {
		name := w.FType
		if name == ftypeSquashfs {
			name = "root.squashfs"
		}
		m[name] = w
	}
	return m
}
