package simplestreams

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kiln-containers/kiln"
)

func pathOf(img kiln.Image, f kiln.File) string {
	return "images/" + img.Fingerprint.String() + "/" + string(f.Role) + f.Ext
}

var updated = time.Date(2026, 11, 21, 2, 0, 0, 0, time.FixedZone("", 3600))

// write writes images and gives the products as they read.
func write(t testing.TB, images ...kiln.Image) []Image {
	t.Helper()
	_, products, err := Write(images, Options{Updated: updated, PathOf: pathOf})
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(products))
}

// image is a split image with a squashfs.
func image(t testing.TB, digits string, properties map[string]string, aliases ...string) kiln.Image {
	img := kiln.Image{
		Fingerprint: fingerprint(t, digits), Type: "container", Architecture: "x86_64", Properties: properties,
		CreatedAt: time.Date(2026, 2, 1, 15, 30, 0, 0, time.UTC),
		Files: []kiln.File{
			{Role: kiln.Metadata, Size: 5, Hash: fingerprint(t, "e"), Ext: ".tar.xz"},
			{Role: kiln.Rootfs, Size: 6, Hash: fingerprint(t, "f"), Ext: ".squashfs"},
		},
	}
	for _, a := range aliases {
		img.Aliases = append(img.Aliases, kiln.Alias{Name: a, Target: img.Fingerprint})
	}
	return img
}

// TestSignatures has a signature travel with its image, and enough of what is too long for
// one to see that it is.
func TestSignatures(t *testing.T) {
	signed, huge := image(t, "1", nil, "a"), image(t, "2", nil, "b")
	signed.Signature = "untrusted comment: x\nRU\ntrusted comment: y\nz"
	huge.Signature = strings.Repeat("ä", 1<<20)
	for _, img := range write(t, signed, huge, image(t, "3", nil, "c")) {
		want := map[kiln.Fingerprint]string{signed.Fingerprint: signed.Signature, huge.Fingerprint: huge.Signature[:701]}
		if got := img.Signature; got != want[img.Fingerprint] {
			t.Errorf("%s: %.20q, %d bytes", img.Aliases, got, len(got))
		}
	}
}

// TestWrite shows the documents as they are, for every kind of image.
func TestWrite(t *testing.T) {
	debian := image(t, "1", map[string]string{
		"os": "Debian", "release": "bookworm", "version": "12", "serial": "20260131", "variant": "Cloud Init",
		"label":                "release",
		"requirements.nesting": "true", "description": "not used",
	}, "debian/12", "debian", "no,commas")
	debian.ExpiresAt = time.Date(2028, 6, 10, 0, 0, 0, 0, time.UTC)
	tarball := image(t, "2", nil)
	tarball.Files[1].Ext = ".tar.zst"
	tarball.Architecture = "s390x"
	unified := image(t, "3", map[string]string{"description": "Web server", "serial": "12"})
	unified.Files = []kiln.File{{Role: kiln.Unified, Size: 7, Hash: unified.Fingerprint, Ext: ".tar.zst"}}
	index, products, err := Write([]kiln.Image{unified, debian, tarball}, Options{Updated: updated, PathOf: pathOf})
	if err != nil {
		t.Fatal(err)
	}
	keys := `["debian:bookworm:amd64:cloud-init","linux:unknown:amd64:default","linux:unknown:s390x:default"]`
	stamp := `"updated":"Sat, 21 Nov 2026 01:00:00 +0000"`
	wantIndex := `{"index":{"images":{"datatype":"image-downloads","path":"streams/v1/images.json",` + stamp +
		`,"products":` + keys + `,"format":"products:1.0"}},` + stamp + `,"format":"index:1.0"}`
	if diff := cmp.Diff(wantIndex, string(index)); diff != "" {
		t.Error(diff)
	}
	item := func(name, kind, digits, file string, size int, sha, more string) string {
		return fmt.Sprintf(`%q:{"ftype":%q,"path":"images/%s/%s","size":%d,"sha256":"%s"%s}`, name, kind, sum(digits), file,
			size, sum(sha), more)
	}
	squashfs, rootTar := `,"combined_squashfs_sha256":"`+sum("1")+`"`, `,"combined_sha256":"`+sum("2")+`","combined_rootxz_sha256":"`+sum("2")+`"`
	want := `{"content_id":"images","datatype":"image-downloads","format":"products:1.0",` + stamp + `,"products":{` +
		`"debian:bookworm:amd64:cloud-init":{"aliases":"debian,debian/12","arch":"amd64","os":"Debian","release":"bookworm","release_title":"12",` +
		`"version":"12","variant":"Cloud Init","supported":true,"support_eol":"2028-06-10","requirements":{"nesting":"true"},"lxd_requirements":{"nesting":"true"},` +
		`"versions":{"20260131":{"label":"release","pubname":"","items":{` +
		item("incus.tar.xz", "incus.tar.xz", "1", "metadata.tar.xz", 5, "e", squashfs) + "," +
		item("lxd.tar.xz", "lxd.tar.xz", "1", "metadata.tar.xz", 5, "e", squashfs) + "," +
		item("root.squashfs", "squashfs", "1", "rootfs.squashfs", 6, "f", "") + `}}}},` +
		`"linux:unknown:amd64:default":{"aliases":"","arch":"amd64","os":"Linux","release":"","release_title":"Web server","variant":"default","supported":true,` +
		`"versions":{"20260201_15:30":{"label":"","pubname":"","items":{` +
		item("incus_combined.tar.gz", "incus_combined.tar.gz", "3", "unified.tar.zst", 7, "3", "") + "," +
		item("lxd_combined.tar.gz", "lxd_combined.tar.gz", "3", "unified.tar.zst", 7, "3", "") + `}}}},` +
		`"linux:unknown:s390x:default":{"aliases":"","arch":"s390x","os":"Linux","release":"","release_title":"","variant":"default","supported":true,` +
		`"versions":{"20260201_15:30":{"label":"","pubname":"","items":{` +
		item("incus.tar.xz", "incus.tar.xz", "2", "metadata.tar.xz", 5, "e", rootTar) + "," +
		item("lxd.tar.xz", "lxd.tar.xz", "2", "metadata.tar.xz", 5, "e", rootTar) + "," +
		item("root.tar.xz", "root.tar.xz", "2", "rootfs.tar.zst", 6, "f", "") + `}}}}}}`
	if diff := cmp.Diff(want, string(products)); diff != "" {
		t.Error(diff)
	}
	if paths, err := ParseIndex(bytes.NewReader(index)); err != nil || !slices.Equal(paths, []string{ProductsPath}) {
		t.Errorf("the index has %q, %v", paths, err)
	}
}

// TestPlace says which images share a product: version and first digit of the
// fingerprint by key.
func TestPlace(t *testing.T) {
	debian := func(serial string, more ...string) map[string]string {
		m := map[string]string{"os": "Debian", "release": "12", "serial": serial}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	const key = "debian:12:amd64:default"
	for name, c := range map[string]struct {
		images []kiln.Image
		want   map[string]string
	}{
		"one after the other": {[]kiln.Image{image(t, "1", debian("20260101")),
			image(t, "2", debian("20260102"), "debian")}, map[string]string{key: "20260102=2 20260101=1"}},
		"both have aliases": {[]kiln.Image{image(t, "1", debian("20260101"), "old"),
			image(t, "2", debian("20260102"), "debian")}, map[string]string{key: "20260102=2",
			key + "-111111111111": "20260101=1"}},
		"the older has one": {[]kiln.Image{image(t, "1", debian("20260101"), "old"), image(t, "2", debian("20260102"))},
			map[string]string{key: "20260101=1", key + "-222222222222": "20260102=2"}},
		"one before and one after that with the alias": {[]kiln.Image{image(t, "1", debian("20260101")),
			image(t, "2", debian("20260102"), "debian"), image(t, "3", debian("20260103"))},
			map[string]string{key: "20260102=2 20260101=1", key + "-333333333333": "20260103=3"}},
		"one version twice": {[]kiln.Image{image(t, "1", debian("20260101")), image(t, "2", debian("20260101"))},
			map[string]string{key: "20260101=1", key + "-222222222222": "20260101=2"}},
		"different facts": {[]kiln.Image{image(t, "1", debian("20260101", "requirements.nesting", "true")),
			image(t, "2", debian("20260102"))}, map[string]string{key: "20260102=2", key + "-111111111111": "20260101=1"}},
		"the same key": {[]kiln.Image{image(t, "1", debian("20260101")),
			image(t, "2", debian("20260102", "os", "DEBIAN"))}, map[string]string{key: "20260102=2",
			key + "-111111111111": "20260101=1"}},
		"a key that is taken": {[]kiln.Image{image(t, "1", debian("20260101")), image(t, "2", debian("20260101")),
			image(t, "3", debian("20260101", "variant", "default-222222222222"))},
			map[string]string{key: "20260101=1", key + "-222222222222": "20260101=2",
				key + "-222222222222-333333333333": "20260101=3"}},
		"strange": {[]kiln.Image{image(t, "1", debian("20260101", "os", "Ä \xff:/x", "release", "1.0_a-b"))},
			map[string]string{"---" + "--x:1.0_a-b:amd64:default": "20260101=1"}},
		"no date in serial": {[]kiln.Image{image(t, "1", debian("weekly"))}, map[string]string{key: "20260201_15:30=1"}},
		"serial isn't a name": {[]kiln.Image{image(t, "1", debian("20260101/../x"))},
			map[string]string{key: "20260201_15:30=1"}},
		"serial on another day": {[]kiln.Image{image(t, "1", debian("20260101_1530"))},
			map[string]string{key: "20260101_1530=1"}},
	} {
		got := map[string]string{}
		for _, img := range write(t, c.images...) {
			got[img.Product] = strings.TrimSpace(fmt.Sprintf("%s %s=%s", got[img.Product], img.Version,
				img.Fingerprint.String()[:1]))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	first, second := image(t, "1", debian("20260101")), image(t, "2", debian("20260101"))
	second.CreatedAt = second.CreatedAt.Add(time.Second)
	if got := write(t, first, second)[0]; got.Product != key || got.Fingerprint != second.Fingerprint {
		t.Errorf("of two with one serial the newest is %+v", got)
	}
	unborn := image(t, "1", nil)
	unborn.CreatedAt = time.Time{}
	if got := write(t, unborn)[0].Version; got != "19700101_00:00" {
		t.Errorf("an image without a date is version %q", got)
	}
}

// TestWriteErrors refuses what can't be served.
func TestWriteErrors(t *testing.T) {
	broken := map[string]func(*kiln.Image){
		"no fingerprint":    func(img *kiln.Image) { img.Fingerprint = kiln.Fingerprint{} },
		"isn't supported":   func(img *kiln.Image) { img.Architecture = "pdp11" },
		"neither a unified": func(img *kiln.Image) { img.Files = nil },
		"nor a split image": func(img *kiln.Image) { slices.Reverse(img.Files) },
		// of another fingerprint
		"neither":          func(img *kiln.Image) { img.Files[0].Role, img.Files = kiln.Unified, img.Files[:1] },
		"-1 bytes":         func(img *kiln.Image) { img.Files[0].Size = -1 },
		"is not 64":        func(img *kiln.Image) { img.Files[1].Hash = kiln.Fingerprint{} },
		`path "images/111`: func(img *kiln.Image) { img.Files[1].Ext = "/../../x" },
	}
	for want, breakIt := range broken {
		img := image(t, "1", nil)
		breakIt(&img)
		_, _, err := Write([]kiln.Image{img}, Options{PathOf: pathOf})
		if !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	index, products, err := Write(nil, Options{})
	if err != nil || len(parse(t, string(products))) != 0 {
		t.Errorf("no image: %s %v", products, err)
	}
	if paths, err := ParseIndex(bytes.NewReader(index)); err != nil || len(paths) != 0 {
		t.Errorf("no image: %q %v", paths, err)
	}
}

// drawImages makes images that have much in common and aliases of their own.
func drawImages(rt *rapid.T) []kiln.Image {
	names := []string{"a", "b", "a/amd64", "a/arm64", "b/x86_64", "ab", "1", "tiny/1.0", "ä", "a/b", "x:y", "0123"}
	names = rapid.Permutation(names).Draw(rt, "aliases")
	values := rapid.OneOf(rapid.SampledFrom([]string{"", "Tiny", "tiny", "1", "20260101", "20260101_00:00", "default",
		"default-000000000000", "a,b", strings.Repeat("ä", 200)}), rapid.String())
	property := rapid.SampledFrom([]string{"os", "release", "version", "variant", "serial", "label", "name", "description",
		"requirements.a", "requirements.\xff"})
	fp := rapid.Custom(func(rt *rapid.T) kiln.Fingerprint {
		fp := kiln.Fingerprint{31: 1} // many share a prefix
		fp[5], fp[6] = rapid.Byte().Draw(rt, "digits"), rapid.ByteRange(0, 1).Draw(rt, "digits")
		return fp
	})
	var images []kiln.Image
	for _, id := range rapid.SliceOfNDistinct(fp, 0, 12, rapid.ID).Draw(rt, "fingerprints") {
		img := kiln.Image{
			Fingerprint: id, Type: "container",
			Architecture: rapid.SampledFrom([]string{"x86_64", "aarch64", "armv8l"}).Draw(rt, "arch"),
			Properties:   rapid.MapOfN(property, values, 0, 5).Draw(rt, "properties"),
			CreatedAt:    time.Unix(rapid.SampledFrom([]int64{0, 1, 1 << 31, -1 << 40, 1 << 40}).Draw(rt, "created"), 0),
		}
		if rapid.Bool().Draw(rt, "expires") {
			img.ExpiresAt = time.Date(2030, 1, rapid.IntRange(1, 2).Draw(rt, "day"), 0, 0, 0, 0, time.UTC)
		}
		size := rapid.Int64Range(0, maxSize)
		img.Files = []kiln.File{{Role: kiln.Unified, Size: size.Draw(rt, "size"), Hash: id}}
		if rapid.Bool().Draw(rt, "split") {
			img.Files = []kiln.File{
				{Role: kiln.Metadata, Size: size.Draw(rt, "size"), Hash: fp.Draw(rt, "metadata")},
				{Role: kiln.Rootfs, Size: size.Draw(rt, "size"), Hash: fp.Draw(rt, "rootfs"),
					Ext: rapid.SampledFrom([]string{".squashfs", ".tar.xz", ""}).Draw(rt, "ext")},
			}
		}
		n := rapid.IntRange(0, min(2, len(names))).Draw(rt, "how many aliases")
		for _, name := range names[:n] {
			img.Aliases = append(img.Aliases, kiln.Alias{Name: name, Target: id})
		}
		names, images = names[n:], append(images, img)
	}
	return images
}

// TestRoundTrip finds whatever was written, by every name, with every file.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		images := drawImages(rt)
		_, products, err := Write(images, Options{Updated: updated, PathOf: pathOf})
		if err != nil {
			rt.Fatal(err)
		}
		rand.Shuffle(len(images), func(i, j int) { images[i], images[j] = images[j], images[i] })
		if _, again, _ := Write(images, Options{Updated: updated, PathOf: pathOf}); !bytes.Equal(products, again) {
			rt.Fatalf("another order gives another document:\n%s\n%s", products, again)
		}
		p, err := ParseProducts(bytes.NewReader(products))
		if err != nil {
			rt.Fatal(err)
		}
		if len(p.Images()) != len(images) {
			rt.Fatalf("%d images became %d", len(images), len(p.Images()))
		}
		for _, img := range images {
			names := []string{img.Fingerprint.String()}
			for _, a := range img.Aliases {
				names = append(names, a.Name)
			}
			for _, name := range names {
				got, err := Find(p.Images(), name, []string{img.Architecture})
				if err != nil || got.Fingerprint != img.Fingerprint || got.Architecture != img.Architecture ||
					len(got.Aliases) != len(img.Aliases) {
					rt.Fatalf("%q is %+v, %v\nwant %+v\nin %s", name, got, err, img, products)
				}
				checkFiles(rt, img, got)
			}
		}
	})
}

func checkFiles(rt *rapid.T, img kiln.Image, got Image) {
	if len(got.Files) != len(img.Files) {
		rt.Fatalf("%d files became %d", len(img.Files), len(got.Files))
	}
	for i, f := range img.Files {
		if g := got.Files[i]; g.SHA256 != f.Hash || g.Size != f.Size || g.Path != pathOf(img, f) {
			rt.Fatalf("file %+v became %+v", f, g)
		}
	}
}
