package simplestreams

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
)

// stays fails if a path could lead out of the server.
func stays(t *testing.T, p string) {
	t.Helper()
	if p == "" || p != path.Clean(p) || path.IsAbs(p) || strings.Contains(p, "://") ||
		strings.ContainsAny(p, "\\%?\x00\n") || slices.Contains(strings.Split(p, "/"), "..") {
		t.Fatalf("path %q", p)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add(indexText(entryText("images", "image-downloads", "streams/v1/images.json", `"a"`)))
	f.Add(indexText(entryText("x", "image-downloads", "../x", `"a"`), entryText("y", "image-downloads", "https://x/y",
		`"a"`)))
	f.Add(list())
	f.Fuzz(func(t *testing.T, text string) {
		paths, err := ParseIndex(strings.NewReader(text))
		if err != nil && kiln.KindOf(err) != kiln.Invalid && kiln.KindOf(err) != kiln.TooLarge {
			t.Fatal(err)
		}
		for _, p := range paths {
			stays(t, p)
		}
	})
}

// FuzzParseProducts has "#1" for the checksum of ones and so on: short texts are
// fuzzed faster, and keep their checksums.
func FuzzParseProducts(f *testing.F) {
	sums := strings.NewReplacer("#0", sum("0"), "#1", sum("1"), "#2", sum("2"), "#a", sum("a"), "#A", sum("A"))
	product := func(fields, version, items string) string {
		return `{"products":{"p":{"arch":"arm64",` + fields + `"versions":{"` + version + `":{"items":{` + items + `}}}}}}`
	}
	f.Add(product(`"aliases":"a,b/arm64",`, "20260102_0304",
		`"":{"ftype":"squashfs","path":"x/y","size":5,"sha256":"#1"}`))
	f.Add(product(`"os":"T","support_eol":"2030-01-01",`, "20260102",
		`"":{"ftype":"lxd.tar.xz","path":"x","sha256":"#1","combined_sha256":"#2"},"r":{"ftype":"root.tar.xz","path":"y","sha256":"#a"}`))
	f.Add(product(`"requirements":{"a":"b"},`, "20260102",
		`"":{"ftype":"incus_combined.tar.gz","path":"../x","sha256":"#A","combined_type":"virtual-machine"}`))
	f.Add(product("", "20260102", `"":{"ftype":"squashfs.vcdiff","delta_base":"20260101","path":"x","sha256":"#1"}`))
	f.Fuzz(func(t *testing.T, text string) {
		text = sums.Replace(text)
		p, err := ParseProducts(strings.NewReader(text))
		if err != nil {
			if kiln.KindOf(err) != kiln.Invalid && kiln.KindOf(err) != kiln.TooLarge {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseProducts(strings.NewReader(text))
		if diff := cmp.Diff(p.Images(), again.Images()); err != nil || diff != "" {
			t.Fatalf("the second time: %v %s", err, diff)
		}
		for _, img := range p.Images() {
			checkImage(t, p, img)
		}
	})
}

// checkImage checks what must be true of every image, whatever the document says.
func checkImage(t *testing.T, p *Products, img Image) {
	t.Helper()
	if arch, err := kiln.ParseArch(img.Architecture); err != nil || arch != img.Architecture {
		t.Fatalf("architecture %q", img.Architecture)
	}
	if img.Type != "container" && img.Type != "virtual-machine" || img.Properties["serial"] != img.Version ||
		img.CreatedAt.IsZero() || img.Size < 0 {
		t.Fatalf("%+v", img)
	}
	if len(img.Files) == 0 || len(img.Files) > 2 || img.Fingerprint.IsZero() && len(img.Files) != 1 {
		t.Fatalf("files %+v", img.Files)
	}
	files := slices.Clone(img.Files)
	for _, d := range img.Deltas {
		p.BaseOf(img, d)
		files = append(files, d.File)
	}
	for _, file := range files {
		stays(t, file.Path)
		if file.Name != path.Base(file.Path) || file.SHA256.IsZero() || file.Size < 0 || file.Size > maxSize {
			t.Fatalf("file %+v", file)
		}
	}
	archs := []string{img.Architecture}
	names := Names(p.Images(), archs)
	for i, other := range p.Images() {
		for _, name := range names[i] {
			got, err := Find(p.Images(), name, archs)
			if other.Type == container && (err != nil || got.Product != other.Product && !strings.Contains(name, "/")) {
				t.Fatalf("%q: %+v, %v", name, got, err)
			}
		}
	}
}
