package simplestreams

import (
	"errors"
	"slices"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestFind resolves names as clients do.
func TestFind(t *testing.T) {
	disk := itemText("lxd.tar.xz", "a", `,"combined_disk1-img_sha256":"`+sum("d")+`","combined_squashfs_sha256":"`+sum("7")+`"`) + "," + itemText("disk1.img", "c", "")
	images := parse(t, list(
		productText("12:amd64", "amd64", `"aliases":"debian/12, debian/12,,debian/bookworm,shared",`,
			versionText("20260201_00:00", pair("12")), versionText("20260101", pair("1234"))),
		productText("12:i386", "i386", `"aliases":"debian/12,old",`, versionText("20260301", pair("3"))),
		productText("12:arm64", "arm64", `"aliases":"debian/12,arm,old",`, versionText("20260301", pair("4"))),
		productText("13:amd64", "amd64", `"aliases":"debian/13,shared",`, versionText("20260202", pair("5"))),
		productText("exact", "amd64", `"aliases":"arm/arm64",`, versionText("20260202", pair("6"))),
		productText("vm", "amd64", `"aliases":"windows,both,arm",`, versionText("20260202", disk)),
		productText("both", "amd64", `"aliases":"both",`, versionText("20260201", pair("8"))),
		productText("raw", "amd64", `"aliases":"raw",`, versionText("20260201", itemText("squashfs", "9", ""))),
	))
	amd64, arm64 := []string{"x86_64", "i686"}, []string{"aarch64"}
	for _, c := range []struct {
		name  string
		archs []string
		want  string // digits of the fingerprint, or the error
		kind  kiln.Kind
	}{
		{"debian/12", amd64, "12", ""},
		{"debian/12", []string{"i686", "x86_64"}, "3", ""},
		{"debian/bookworm", amd64, "12", ""},
		{"debian/12/i386", amd64, "3", ""},
		{"debian/12/arm64", amd64, "4", ""},
		{"debian/12/aarch64", amd64, "4", ""}, // by another name of it
		{"debian/12/s390x", amd64, `no image "debian/12/s390x"; see: kiln image list`, kiln.NotFound},
		{"old", amd64, "3", ""}, // by personality
		{"shared", amd64, "5", ""},
		{"shared/amd64", nil, "5", ""},
		{"both", amd64, "8", ""},
		{"arm/arm64", amd64, "6", ""}, // though "arm" is there for arm64
		{"arm/arm64", arm64, "4", ""},
		{"1234", amd64, "1234", ""},
		{"12", amd64, `more than one image matches "12": 121212121212, 123412341234; type more digits`, kiln.Ambiguous},
		{"4444", amd64, "4", ""},
		{sum("12"), nil, "12", ""},
		{"dd", amd64, `"dd" exists only as a virtual machine`, kiln.NotFound},
		{"windows", amd64, `"windows" exists only as a virtual machine`, kiln.NotFound},
		{"debian/13", arm64, "5", ""}, // there is no other
		{"old", []string{"s390x"}, `"old" exists only for aarch64, i686; say which, as in "old/aarch64"`, kiln.NotFound},
		{"debain/13", amd64, `no image "debain/13"; did you mean "debian/13"?`, kiln.NotFound},
		{"fedora", amd64, `no image "fedora"; see: kiln image list`, kiln.NotFound},
		{"00", amd64, `no image "00"; see: kiln image list`, kiln.NotFound}, // not the image that has no fingerprint
		{"", amd64, `no image ""; see: kiln image list`, kiln.NotFound},
	} {
		got, err := Find(images, c.name, c.archs)
		switch {
		case c.kind != "":
			if !errors.Is(err, c.kind) || err.Error() != c.want {
				t.Errorf("%q for %v: %v (%v), want %s", c.name, c.archs, err, kiln.KindOf(err), c.want)
			}
		case err != nil || got.Fingerprint != fingerprint(t, c.want):
			t.Errorf("%q for %v: %s, %v, want %s", c.name, c.archs, got.Fingerprint.Short(), err, c.want)
		}
	}
	if img, err := Find(images, "raw", amd64); err != nil || img.Product != "raw" {
		t.Errorf("an image without a fingerprint: %+v, %v", img, err)
	}
}

// TestFindInLists takes the newest version of all lists that a server has.
func TestFindInLists(t *testing.T) {
	older := parse(t, list(productText("a", "amd64", `"aliases":"x",`, versionText("20260201", pair("1")))))
	newer := parse(t, list(productText("b", "amd64", `"aliases":"x",`, versionText("20260202", pair("2")))))
	same := parse(t, list(productText("c", "amd64", `"aliases":"x",`, versionText("20260202", pair("3")))))
	for _, images := range [][]Image{slices.Concat(older, newer, same), slices.Concat(newer, same, older)} {
		if got, err := Find(images, "x", []string{"x86_64"}); err != nil || got.Product != "b" {
			t.Errorf("x is %+v, %v", got, err)
		}
	}
	if got, err := Find(slices.Concat(older, older), sum("1"), nil); err != nil || got.Product != "a" {
		t.Errorf("an image that is there twice is %+v, %v", got, err)
	}
}

// TestAliasBelongsToOne takes an alias from the older of two products.
func TestAliasBelongsToOne(t *testing.T) {
	older := productText("a", "amd64", `"aliases":"x,only",`, versionText("20260201", pair("1")))
	newer := productText("b", "amd64", `"aliases":"x",`, versionText("20260202", pair("2")))
	same := productText("c", "amd64", `"aliases":"x",`, versionText("20260202", pair("3")))
	for _, text := range []string{list(older, newer, same), list(same, newer, older)} {
		for _, img := range parse(t, text) {
			if got, want := len(img.Aliases), map[string]int{"a": 1, "b": 1}[img.Product]; got != want {
				t.Errorf("%s has the aliases %q", img.Product, img.Aliases)
			}
		}
	}
}

// TestNames gives bare names to the images that they lead to, and to no others.
func TestNames(t *testing.T) {
	images := parse(t, list(
		productText("amd64", "amd64", `"aliases":"j,default",`, versionText("20260201", pair("1")),
			versionText("20260101", pair("2"))),
		productText("arm64", "arm64", `"aliases":"j,default,arm",`, versionText("20260301", pair("3"))),
		productText("i386", "i386", `"aliases":"j,old",`, versionText("20260301", pair("4"))),
		productText("s390x", "s390x", `"aliases":"big",`, versionText("20260301", pair("5"))),
		productText("ppc64el", "ppc64el", `"aliases":"big",`, versionText("20260301", pair("6"))),
	))
	want := map[string][]string{
		"1": {"j", "default", "j/amd64", "default/amd64"}, "2": nil,
		"3": {"arm", "j/arm64", "default/arm64", "arm/arm64"}, "4": {"old", "j/i386", "old/i386"},
		"5": {"big/s390x"}, "6": {"big/ppc64el"},
	}
	archs := []string{"x86_64", "i686"}
	for i, names := range Names(images, archs) {
		for digits, w := range want {
			if images[i].Fingerprint == fingerprint(t, digits) && !slices.Equal(names, w) {
				t.Errorf("%s is called %q, want %q", digits, names, w)
			}
		}
		for _, n := range names {
			if got, err := Find(images, n, archs); err != nil || got.Fingerprint != images[i].Fingerprint {
				t.Errorf("%q leads to %s, %v", n, got.Product, err)
			}
		}
	}
}
