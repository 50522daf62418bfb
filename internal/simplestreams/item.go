package simplestreams

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"github.com/kiln-containers/kiln"
)

// A wireItem is one file of a version as documents have it. A metadata item also
// has the fingerprints of the images it makes with each root file.
type wireItem struct {
	FType        string `json:"ftype"`
	Path         string `json:"path"`
	Size         int64  `json:"size"`
	SHA256       string `json:"sha256"`
	DeltaBase    string `json:"delta_base,omitempty"`
	CombinedType string `json:"combined_type,omitempty"`
	Combined     string `json:"combined_sha256,omitempty"`
	RootTar      string `json:"combined_rootxz_sha256,omitempty"`
	Squashfs     string `json:"combined_squashfs_sha256,omitempty"`
	DiskKVM      string `json:"combined_disk-kvm-img_sha256,omitempty"`
	Disk         string `json:"combined_disk1-img_sha256,omitempty"`
	UEFI         string `json:"combined_uefi1-img_sha256,omitempty"`
}

// sums gives, by kind of root file, the fingerprint of this metadata item with it.
func (w wireItem) sums() map[string]kiln.Fingerprint {
	m := map[string]kiln.Fingerprint{}
	for kind, s := range map[string]string{
		ftypeSquashfs: w.Squashfs, ftypeRootTar: cmp.Or(w.RootTar, w.Combined),
		ftypeDiskKVM: w.DiskKVM, ftypeDisk: w.Disk, ftypeUEFI: w.UEFI,
	} {
		if fp, err := kiln.ParseFingerprint(s); err == nil && !fp.IsZero() {
			m[kind] = fp
		}
	}
	return m
}

// An item is a file that was checked.
type item struct {
	File
	vm    bool                        // of a unified image: a virtual machine
	sums  map[string]kiln.Fingerprint // of metadata, see wireItem.sums
	fault error                       // of metadata that can't be used: it must not look as if there were none
}

// item reads one item and keeps it in v if it is of use.
func (d *document) item(v *version, name string) error {
	var w wireItem
	ok, err := d.value(&w)
	if err != nil {
		return err
	}
	isMetadata := w.FType == ftypeIncus || w.FType == ftypeLXD
	isBody := slices.Contains(bodies[:], w.FType)
	isDelta := w.FType == ftypeDelta && w.DeltaBase != "" && len(w.DeltaBase) <= maxText && w.DeltaBase != name
	if !isMetadata && !isBody && !isDelta {
		return nil
	}
	if first, ok := v.items[w.FType]; ok && first.fault == nil {
		return nil
	}
	it := item{vm: w.CombinedType == virtualMachine}
	if ok {
		it.File, it.fault = fileOf(w)
	} else {
		it.fault = fmt.Errorf("an item of kind %s isn't formed like one", w.FType)
	}
	if it.fault != nil {
		d.skip("version %q: %w", clip(name), it.fault)
	}
	switch {
	case isMetadata:
		it.sums = w.sums()
		v.items[w.FType] = it
	case it.fault != nil:
	case isDelta:
		v.deltas = append(v.deltas, Delta{it.File, w.DeltaBase})
	default:
		v.items[w.FType] = it
		if d.bodies++; d.bodies > MaxImages {
			return kiln.Errorf(kiln.TooLarge, "it has more than %d images", MaxImages)
		}
	}
	return nil
}

// hasBody reports whether any image can be made of a version.
func (v *version) hasBody() bool {
	return slices.ContainsFunc(bodies[:], func(kind string) bool { _, ok := v.items[kind]; return ok })
}

// fileOf checks what an item says of its file.
func fileOf(w wireItem) (File, error) {
	p, err := checkPath(w.Path)
	if err != nil {
		return File{}, err
	}
	sum, err := kiln.ParseFingerprint(w.SHA256)
	if err != nil || sum.IsZero() {
		return File{}, fmt.Errorf("%q: sha256 %q is not 64 lower-case hexadecimal digits", p, clip(w.SHA256))
	}
	if w.Size < 0 || w.Size > maxSize {
		return File{}, fmt.Errorf("%q: %d bytes is no size of a file", p, w.Size)
	}
	return File{Name: path.Base(p), Path: p, FType: w.FType, Size: w.Size, SHA256: sum}, nil
}

// image makes the image of one kind of body. It has no files if the version has
// no such body, or has it under two names.
func (v *version) image(kind string) (Image, error) {
	body, ok := v.items[kind]
	if !ok {
		return Image{}, nil
	}
	img := Image{Type: container, Files: []File{body.File}}
	switch kind {
	case ftypeIncusCombined, ftypeLXDCombined:
		if kind == ftypeLXDCombined && v.items[ftypeIncusCombined].SHA256 == body.SHA256 {
			return Image{}, nil
		}
		img.Fingerprint = body.SHA256
		if body.vm {
			img.Type = virtualMachine
		}
	default:
		if kind != ftypeSquashfs && kind != ftypeRootTar {
			img.Type = virtualMachine
		}
		meta, err := v.metadata(kind)
		if err != nil {
			return Image{}, err
		}
		if meta.FType != "" {
			img.Fingerprint, img.Files = meta.sums[kind], []File{meta.File, body.File}
		}
	}
	if kind == ftypeSquashfs {
		img.Deltas = v.deltas
	}
	for _, f := range img.Files {
		if f.Size == 0 {
			img.Size = 0
			break
		}
		img.Size += f.Size
	}
	return img, nil
}

// metadata gives the metadata file that belongs to a kind of root file: one that
// has their fingerprint. The zero item means that the version has no metadata.
func (v *version) metadata(kind string) (item, error) {
	var why error
	for _, name := range []string{ftypeIncus, ftypeLXD} {
		meta, ok := v.items[name]
		switch {
		case !ok:
		case meta.fault != nil:
			why = meta.fault
		case meta.sums[kind].IsZero():
			why = fmt.Errorf("%s has no fingerprint of the image with %s", name, kind)
		default:
			return meta, nil
		}
	}
	return item{}, why
}
