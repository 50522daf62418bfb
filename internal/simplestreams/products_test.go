package simplestreams

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

// sum is a checksum that is easy to tell apart.
func sum(digits string) string { return strings.Repeat(digits, 64/len(digits)) }

func fingerprint(t testing.TB, digits string) kiln.Fingerprint {
	t.Helper()
	fp, err := kiln.ParseFingerprint(sum(digits))
	if err != nil {
		t.Fatal(err)
	}
	return fp
}

// list is a document with these products, each `"key":{…}`.
func list(products ...string) string {
	return `{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{` +
		strings.Join(products, ",") + `}}`
}

// product is a product of Tiny Linux, with fields of its own before the versions.
func productText(key, arch, fields string, versions ...string) string {
	return fmt.Sprintf(`%q:{"arch":%q,"os":"Tiny","release":"one","release_title":"1.0","version":"1.0",%s"versions":{%s}}`,
		key, arch, fields, strings.Join(versions, ","))
}

func versionText(name string, items ...string) string {
	return fmt.Sprintf(`%q:{"label":"","pubname":"x","items":{%s}}`, name, strings.Join(items, ","))
}

var items int

// itemText is an item with a path of its own and more fields, each `,"x":"y"`.
func itemText(ftype, digits, more string) string {
	items++
	return fmt.Sprintf(`"item%d":{"ftype":%q,"path":"images/%d/x","size":10,"sha256":%q%s}`, items, ftype, items,
		sum(digits), more)
}

// pair is a version's metadata and squashfs, whose image has the checksum digits.
func pair(digits string) string {
	return itemText("lxd.tar.xz", "e", `,"combined_squashfs_sha256":"`+sum(digits)+`"`) + "," +
		itemText("squashfs", "f", "")
}

func parse(t testing.TB, text string) []Image {
	t.Helper()
	p, err := ParseProducts(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return p.Images()
}

const tiny = `{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{
"tiny:1.0:amd64:default":{"aliases":"tiny/1.0,tiny,tiny/default","arch":"amd64","os":"Tiny","release":"one","release_title":"1.0","release_codename":"","version":"1.0","variant":"default","supported":true,"support_eol":"2030-01-01",
 "requirements":{"nesting":"true","empty":""},"lxd_requirements":{"secureboot":"false"},
 "versions":{
 "20260101_00:00":{"items":{
  "lxd.tar.xz":{"ftype":"lxd.tar.xz","path":"images/old/lxd.tar.xz","size":5,"sha256":"1111111111111111111111111111111111111111111111111111111111111111","combined_squashfs_sha256":"2222222222222222222222222222222222222222222222222222222222222222"},
  "root.squashfs":{"ftype":"squashfs","path":"images/old/root.squashfs","size":6,"sha256":"3333333333333333333333333333333333333333333333333333333333333333"}}},
 "20260201_15:30":{"label":"daily","pubname":"","items":{
  "lxd.tar.xz":{"ftype":"lxd.tar.xz","path":"images/new/lxd.tar.xz","size":696,"sha256":"4444444444444444444444444444444444444444444444444444444444444444","combined_rootxz_sha256":"5555555555555555555555555555555555555555555555555555555555555555","combined_squashfs_sha256":"6666666666666666666666666666666666666666666666666666666666666666","combined_disk-kvm-img_sha256":"7777777777777777777777777777777777777777777777777777777777777777"},
  "root.squashfs":{"ftype":"squashfs","path":"images/new/root.squashfs","size":1040384,"sha256":"8888888888888888888888888888888888888888888888888888888888888888"},
  "root.tar.xz":{"ftype":"root.tar.xz","path":"images/new/root.tar.xz","size":878356,"sha256":"9999999999999999999999999999999999999999999999999999999999999999"},
  "disk.qcow2":{"ftype":"disk-kvm.img","path":"images/new/disk.qcow2","size":9,"sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
  "root.manifest":{"ftype":"squashfs.manifest","path":"images/new/m","size":9,"sha256":"aa"},
  "root.delta-20260101_00:00.vcdiff":{"ftype":"squashfs.vcdiff","delta_base":"20260101_00:00","path":"images/new/d.vcdiff","size":77,"sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}}}}}}}`

// TestImages reads all that a version can have.
func TestImages(t *testing.T) {
	p, err := ParseProducts(strings.NewReader(tiny))
	if err != nil {
		t.Fatal(err)
	}
	meta := File{"lxd.tar.xz", "images/new/lxd.tar.xz", "lxd.tar.xz", 696, fingerprint(t, "4")}
	properties := func(kind string) map[string]string {
		return map[string]string{
			"os": "Tiny", "release": "one", "version": "1.0", "architecture": "amd64", "label": "daily",
			"serial":  "20260201_15:30",
			"variant": "default", "type": kind, "description": "Tiny 1.0 amd64 (default) (daily) (20260201_15:30)",
			"requirements.nesting": "true", "requirements.secureboot": "false",
		}
	}
	image := func(digits, kind string, size int64, root File) Image {
		return Image{
			Fingerprint: fingerprint(t, digits), Type: kind, Architecture: "x86_64", Properties: properties(root.FType),
			Product: "tiny:1.0:amd64:default", Version: "20260201_15:30", CreatedAt: time.Date(2026, 2, 1, 15, 30, 0, 0,
				time.UTC),
			ExpiresAt: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Size: size, Files: []File{meta, root},
		}
	}
	squashfs := image("6", "container", 1041080, File{"root.squashfs", "images/new/root.squashfs", "squashfs", 1040384,
		fingerprint(t, "8")})
	squashfs.Aliases = []string{"tiny/1.0", "tiny", "tiny/default"}
	squashfs.Deltas = []Delta{{File{"d.vcdiff", "images/new/d.vcdiff", "squashfs.vcdiff", 77, fingerprint(t, "b")},
		"20260101_00:00"}}
	tarball := image("5", "container", 879052, File{"root.tar.xz", "images/new/root.tar.xz", "root.tar.xz", 878356,
		fingerprint(t, "9")})
	disk := image("7", "virtual-machine", 705, File{"disk.qcow2", "images/new/disk.qcow2", "disk-kvm.img", 9,
		fingerprint(t, "a")})
	disk.Aliases = squashfs.Aliases
	got := p.Images()
	if len(got) != 4 {
		t.Fatalf("%d images", len(got))
	}
	if diff := cmp.Diff([]Image{squashfs, tarball, disk}, got[:3]); diff != "" {
		t.Error(diff)
	}
	old := got[3]
	if old.Version != "20260101_00:00" || len(old.Aliases) > 0 || old.Size != 11 || len(old.Deltas) > 0 {
		t.Errorf("the older version is %+v", old)
	}
	if base, ok := p.BaseOf(got[0], got[0].Deltas[0]); !ok || base != old.Fingerprint {
		t.Errorf("the delta starts from %s, %v", base, ok)
	}
	if base, ok := p.BaseOf(got[0], Delta{Base: "20250101"}); ok {
		t.Errorf("a delta without a base starts from %s", base)
	}
	want := []string{"tiny/1.0", "tiny", "tiny/default", "tiny/1.0/amd64", "tiny/amd64", "tiny/default/amd64"}
	if diff := cmp.Diff(want, Names(got[:1], []string{"x86_64"})[0]); diff != "" {
		t.Error(diff)
	}
}

// TestVersionTime reads dates and times of day.
func TestVersionTime(t *testing.T) {
	for name, want := range map[string]string{
		"20260201":         "2026-02-01T00:00:00Z",
		"20260201.1":       "2026-02-01T00:00:00Z",
		"20260201_1530":    "2026-02-01T15:30:00Z",
		"20260201_15:30":   "2026-02-01T15:30:00Z",
		"20260201_15:30:9": "2026-02-01T15:30:00Z",
		"20260201_99:99":   "2026-02-01T00:00:00Z",
		"2026020":          "",
		"20261301":         "",
		"v20260201":        "",
		"":                 "",
	} {
		got := ""
		if at := versionTime(name); !at.IsZero() {
			got = at.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%q is at %q, want %q", name, got, want)
		}
	}
}

// TestItems says which images a version's files make, by kind of root file and
// first digit of the fingerprint.
func TestItems(t *testing.T) {
	with := func(field, digits string) string { return `,"` + field + `":"` + sum(digits) + `"` }
	for name, c := range map[string]struct {
		items []string
		want  string // kind:digit:number of files; "-" is no fingerprint
	}{
		"split": {[]string{pair("1")}, "squashfs:1:2"},
		"incus only": {[]string{itemText("incus.tar.xz", "a", with("combined_squashfs_sha256", "1")),
			itemText("squashfs", "c", "")}, "squashfs:1:2"},
		"rootxz": {[]string{itemText("lxd.tar.xz", "a", with("combined_rootxz_sha256", "1")+with("combined_sha256",
			"2")), itemText("root.tar.xz", "c", "")}, "root.tar.xz:1:2"},
		"older name": {[]string{itemText("lxd.tar.xz", "a", with("combined_sha256", "2")),
			itemText("root.tar.xz", "c", "")}, "root.tar.xz:2:2"},
		"the one with sum": {[]string{itemText("incus.tar.xz", "a", ""), itemText("lxd.tar.xz", "b",
			with("combined_squashfs_sha256", "3")), itemText("squashfs", "c", "")}, "squashfs:3:2"},
		"incus first": {[]string{itemText("lxd.tar.xz", "b", with("combined_squashfs_sha256", "3")),
			itemText("incus.tar.xz", "a", with("combined_squashfs_sha256", "4")), itemText("squashfs", "c", "")},
			"squashfs:4:2"},
		"pair without sum": {[]string{itemText("lxd.tar.xz", "a", with("combined_rootxz_sha256", "1")),
			itemText("squashfs", "c", ""), itemText("root.tar.xz", "d", "")}, "root.tar.xz:1:2"},
		"no metadata": {[]string{itemText("squashfs", "c", "")}, "squashfs:-:1"},
		"two names": {[]string{itemText("lxd_combined.tar.gz", "5", ""), itemText("incus_combined.tar.gz", "5", "")},
			"incus_combined.tar.gz:5:1"},
		"two combined": {[]string{itemText("lxd_combined.tar.gz", "5", ""), itemText("incus_combined.tar.gz", "6", "")},
			"incus_combined.tar.gz:6:1 lxd_combined.tar.gz:5:1"},
		"the first of two": {[]string{pair("1"), itemText("squashfs", "c", "")}, "squashfs:1:2"},
		"a bad one first":  {[]string{itemText("lxd.tar.xz", "E", ""), pair("1")}, "squashfs:1:2"},
		"disks": {[]string{itemText("lxd.tar.xz", "a", with("combined_uefi1-img_sha256",
			"1")+with("combined_disk1-img_sha256", "2")), itemText("disk1.img", "c", ""), itemText("uefi1.img", "d", "")},
			"uefi1.img:1:2 disk1.img:2:2"},
		"bad delta": {[]string{pair("1"), itemText("squashfs.vcdiff", "c", ""),
			itemText("squashfs.vcdiff", "c", `,"delta_base":"20260201"`)}, "squashfs:1:2"},
	} {
		var got []string
		for _, img := range parse(t, list(productText("p", "amd64", "", versionText("20260201", c.items...)))) {
			digit := img.Fingerprint.String()[:1]
			if img.Fingerprint.IsZero() {
				digit = "-"
			}
			got = append(got, fmt.Sprintf("%s:%s:%d", img.body(), digit, len(img.Files)))
			if vm := strings.HasSuffix(img.body(), ".img"); vm != (img.Type == "virtual-machine") {
				t.Errorf("%s: %s is a %s", name, img.body(), img.Type)
			}
			if len(img.Deltas) > 0 {
				t.Errorf("%s: delta %+v", name, img.Deltas)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	vm := parse(t, list(productText("p", "amd64", "", versionText("20260201",
		itemText("incus_combined.tar.gz", "5", `,"combined_type":"virtual-machine"`)))))
	if vm[0].Type != "virtual-machine" || vm[0].Properties["type"] != "tar.gz" {
		t.Errorf("a unified virtual machine is %+v", vm[0])
	}
}

// TestUnknown keeps apart what is zero and what isn't known.
func TestUnknown(t *testing.T) {
	unsized := `"m":{"ftype":"lxd.tar.xz","path":"m","size":5,"sha256":"` + sum("1") + `","combined_sha256":"` + sum("2") + `"},` +
		`"r":{"ftype":"root.tar.xz","path":"r","sha256":"` + sum("3") + `"}`
	delta := itemText("squashfs", "a", "") + "," + itemText("squashfs.vcdiff", "b", `,"delta_base":"20260201"`)
	p, err := ParseProducts(strings.NewReader(list(productText("p", "amd64", "",
		versionText("20260203", unsized), versionText("20260202", delta), versionText("20260201",
			itemText("squashfs", "c", ""))))))
	if err != nil {
		t.Fatal(err)
	}
	images := p.Images()
	if images[0].Size != 0 || images[0].Files[1].Size != 0 {
		t.Errorf("an image of unknown size is %+v", images[0])
	}
	if base, ok := p.BaseOf(images[1], images[1].Deltas[0]); ok {
		t.Errorf("the base without a fingerprint is %s", base)
	}
}

// TestUnusable has documents with one fault each, which must be in the error.
func TestUnusable(t *testing.T) {
	one := func(item string) string { return list(productText("p", "amd64", "", versionText("20260201", item))) }
	squashfs := func(path, size, sha string) string {
		return one(fmt.Sprintf(`"x":{"ftype":"squashfs","path":%q,"size":%s,"sha256":%q}`, path, size, sha))
	}
	for text, want := range map[string]string{
		squashfs("a/b", "1", strings.ToUpper(sum("a"))):    `"AAA`,
		squashfs("a/b", "1", "abc"):                        `sha256 "abc" is not`,
		squashfs("a/b", "1", sum("0")):                     "is not 64",
		squashfs("a/b", "-1", sum("a")):                    "-1 bytes is no size",
		squashfs("a/b", "2000000000000000", sum("a")):      "is no size",
		squashfs("a/b", "1e300", sum("a")):                 "cannot unmarshal",
		squashfs("", "1", sum("a")):                        "it has no path",
		squashfs("//host/x", "1", sum("a")):                "is absolute",
		squashfs("https://host/x", "1", sum("a")):          "is absolute",
		squashfs("./http://host/x", "1", sum("a")):         "is absolute",
		squashfs("a/../../b", "1", sum("a")):               "leads out",
		squashfs("a/%2e%2e/b", "1", sum("a")):              "one of",
		squashfs(`a\\..\\b`, "1", sum("a")):                "one of",
		squashfs("a?b", "1", sum("a")):                     "one of",
		squashfs(strings.Repeat("a", 2000), "1", sum("a")): "longer than",
		one(itemText("manifest", "a", "")):                 "has no file of an image",
		// never as if it had no metadata
		one(itemText("lxd.tar.xz", "A", "") + "," + itemText("squashfs", "a", "")): "is not 64",
		one(itemText("lxd.tar.xz", "a", "") + "," + itemText("squashfs", "a",
			"")): "no fingerprint of the image with squashfs",
		one(`"x":{"ftype":"lxd.tar.xz","path":5},` + itemText("squashfs", "a", "")): "cannot unmarshal",
		list(productText("p", "pdp11", "", versionText("20260201", pair("1")))):     `"pdp11"`,
		list(productText("p", "amd64", "", versionText("yesterday", pair("1")))):    "doesn't begin with a date",
		list(productText("p", "amd64", "", versionText("20260201"+sum("a")+sum("a")+sum("a")+sum("a"),
			pair("1")))): "too long a name",
		"":                                   "ends in the middle, after 0 bytes",
		tiny[:len(tiny)/2]:                   "ends in the middle",
		"<html>":                             "invalid character '<'",
		"[]":                                 "is not an object",
		"1e1000":                             "is not an object",
		`{"format":"index:1.0"}`:             `it is no list of products (format "index:1.0")`,
		`{"format":5}`:                       "cannot unmarshal",
		list() + "x":                         "not JSON",
		list() + "{}":                        "more after its end",
		list(`"p":[]`):                       "a product, before byte",
		list(`"p":[[{"a":[1]}],5]`):          "a product, before byte",
		`{"products":{"p":[5`:                "ends in the middle",
		list(`"p":{"versions":"none"}`):      "a product's versions, before byte",
		`{"x":` + strings.Repeat(`[`, 20000): "exceeded max depth",
	} {
		p, err := ParseProducts(strings.NewReader(text))
		if !errors.Is(err, kiln.Invalid) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%.200s\ngives %v, %v; want %q", text, p, err, want)
		}
	}
}

// TestUnusableIsLeftOut has what is wrong beside what is right.
func TestUnusableIsLeftOut(t *testing.T) {
	text := list(
		productText("bad", "pdp11", "", versionText("20260201", pair("1"))),
		productText("good", "amd64",
			`"aliases":5,"requirements":{"a":"`+
				sum("long")+sum("long")+sum("long")+sum("long")+sum("long")+`","b":5},"unknown":{"x":[1,{}]},`,
			versionText("20260301", itemText("squashfs", "X", "")), versionText("20260201", pair("2")),
			versionText("20260201", pair("3"))),
		productText("empty", "amd64", ""), `"nothing":null`,
		productText("twice", "amd64", "", versionText("20260201", pair("4"))),
		productText("twice", "arm64", "", versionText("20260202", pair("5"))),
	)
	got := parse(t, text)
	if len(got) != 2 || got[0].Fingerprint != fingerprint(t, "5") || got[1].Fingerprint != fingerprint(t, "3") {
		t.Errorf("got %+v", got)
	}
	if n := len(got[1].Properties["requirements.a"]); n != maxText {
		t.Errorf("a property has %d bytes", n)
	}
	for _, empty := range []string{list(), list(productText("empty", "amd64", "")), `{"products":null}`} {
		if got := parse(t, empty); len(got) != 0 {
			t.Errorf("%s has %+v", empty, got)
		}
	}
}

// TestEmptyListsForMaps takes what PHP makes of an empty map for one, and costs no
// other product anything.
func TestEmptyListsForMaps(t *testing.T) {
	good := productText("good", "amd64", "", versionText("20260201", pair("1")))
	for bad, images := range map[string]int{
		productText("bad", "amd64", `"requirements":[],`, versionText("20260201", pair("2"))):   2,
		productText("bad", "amd64", `"requirements":[{}],`, versionText("20260201", pair("2"))): 2,
		`"bad":{"arch":"amd64","versions":[]}`:                                                  1,
		`"bad":{"arch":"amd64","versions":[[],{"items":{}},"x"]}`:                               1,
		`"bad":{"arch":"amd64","versions":{"20260201":{"items":[]}}}`:                           1,
		`"bad":{"arch":"amd64","versions":{"20260201":[]}}`:                                     1,
		`"bad":[]`:   1,
		`"bad":"no"`: 1,
	} {
		if got := parse(t, list(bad, good)); len(got) != images {
			t.Errorf("%s: %d images, want %d", bad, len(got), images)
		}
	}
}

// TestPaths keeps odd paths that lead somewhere.
func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		"20260201_07:42/x.squashfs": "20260201_07:42/x.squashfs",
		"/images/x":                 "images/x",
		"images//x":                 "images/x",
		"a#b/c d":                   "a#b/c d",
	} {
		item := fmt.Sprintf(`"x":{"ftype":"squashfs","path":%q,"size":1,"sha256":%q}`, path, sum("a"))
		got := parse(t, list(productText("p", "amd64", "", versionText("20260201", item))))
		if len(got) != 1 || got[0].Files[0].Path != want {
			t.Errorf("%q: %+v", path, got)
		}
	}
}
