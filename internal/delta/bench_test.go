package delta

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// upgraded changes a tar as an upgrade of packages does: in stretches of members,
// 5 % get other contents and another time, 27 % another time only. Each changed
// content has a few other bytes in every kilobyte, like a program built again.
func upgraded(v1 []byte) []byte {
	v2 := bytes.Clone(v1)
	r := rand.New(rand.NewPCG(1, 2))
	left, dice := 0, 0
	for pos := 0; pos+block <= len(v2); {
		b := v2[pos : pos+block]
		h, ok := parseHeader(b)
		body := v2[min(len(v2), pos+block):min(len(v2), pos+block+int(h.size))]
		pos += block + int(h.size)
		if !ok || h.extends {
			continue
		}
		if left--; left < 0 {
			left, dice = r.IntN(80), r.IntN(100)
		}
		if dice < 32 {
			copy(b[136:147], fmt.Sprintf("%011o", 1700000000+r.IntN(1e6)))
			copy(b[148:156], fmt.Sprintf("%06o\x00 ", checksum(b)))
		}
		for i := r.IntN(1000); dice < 5 && i+8 < len(body); i += r.IntN(2000) {
			for range 8 {
				body[i+r.IntN(8)] = byte(r.Uint32())
			}
		}
	}
	return v2
}

func BenchmarkCompress(b *testing.B) {
	tar := debian(b)
	b.SetBytes(int64(len(tar)))
	var n counter
	for b.Loop() {
		n = 0
		if _, err := Compress(context.Background(), &n, bytes.NewReader(tar), Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/float64(len(tar)), "ratio")
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func BenchmarkIndex(b *testing.B) {
	tar := debian(b)
	for name, file := range map[string][]byte{"tar": tar, "framed": framed(b, tar, Options{})} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			for b.Loop() {
				index(b, file)
			}
		})
	}
}

func BenchmarkAssemble(b *testing.B) {
	v1 := debian(b)
	base, target := framed(b, v1, Options{}), framed(b, upgraded(v1), Options{})
	idx, seeds := index(b, target), []Seed{{bytes.NewReader(base), index(b, base)}}
	b.SetBytes(int64(len(target)))
	var st Stats
	for b.Loop() {
		var err error
		if st, err = Assemble(context.Background(), idx, seeds, server(target), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(st.Fetched)/float64(len(target)), "fetched")
	b.ReportMetric(float64(st.Ranges), "ranges")
}
