package simplestreams

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/kiln-containers/kiln"
)

// manyImages are like those of a large server: versions of products.
func manyImages(t testing.TB, n int) []kiln.Image {
	images := make([]kiln.Image, n)
	for i := range images {
		img := image(t, "1", map[string]string{
			"os": "Debian", "release": fmt.Sprint("release", i/10), "serial": fmt.Sprint(20260101 + i%10), "variant": "default",
			"description": "Debian",
		})
		img.Fingerprint[0], img.Fingerprint[1] = byte(i), byte(i>>8)
		if i%10 == 9 {
			img.Aliases = []kiln.Alias{{Name: fmt.Sprint("debian/", i)}, {Name: fmt.Sprint("debian/default/", i)}}
		}
		images[i] = img
	}
	return images
}

func BenchmarkWrite10000(b *testing.B) {
	images := manyImages(b, 10000)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Write(images, Options{Updated: updated, PathOf: pathOf}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse10000(b *testing.B) {
	_, products, err := Write(manyImages(b, 10000), Options{Updated: updated, PathOf: pathOf})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(products)))
	b.ReportAllocs()
	for b.Loop() {
		if p, err := ParseProducts(bytes.NewReader(products)); err != nil || len(p.Images()) != 10000 {
			b.Fatal(err)
		}
	}
}
