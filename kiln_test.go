package kiln

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestParseFingerprint(t *testing.T) {
	good := strings.Repeat("0a", 32)
	fp, err := ParseFingerprint(good)
	if err != nil || fp.String() != good || fp.Short() != good[:12] || fp.IsZero() {
		t.Fatalf("ParseFingerprint(%q) = %v, %v", good, fp, err)
	}
	for _, bad := range []string{"", "abc", strings.Repeat("0A", 32), strings.Repeat("zz", 32), good + "00",
		"%" + good[1:]} {
		if _, err := ParseFingerprint(bad); !errors.Is(err, Invalid) {
			t.Errorf("ParseFingerprint(%q): %v, want Invalid", bad, err)
		}
	}
}

func TestCheckAlias(t *testing.T) {
	for name, ok := range map[string]bool{
		"debian/12": true, "ubuntu:22.04": true, "d": true, "": false, "a b": false, "a\nb": false, "x'y": false, "a*": false,
		"x/": false, "/x": false, "/": false, ".": false, "..": false, "a//b": false, "a/../b": false, "a/.": false,
		"a/b/c": true, "...": true, ".a": true, "a/.b": true, "-a": false, "a-": true, "a\xff": false, "größe": true,
		"web@1": true, "100%": true, "a#b": true,
		strings.Repeat("a", 64): false, strings.Repeat("A", 64): false, strings.Repeat("x", 64): true,
		strings.Repeat("x", 65): false,
	} {
		if err := CheckAlias(name); (err == nil) != ok {
			t.Errorf("CheckAlias(%q): %v", name, err)
		}
	}
}

func TestCheckInstanceName(t *testing.T) {
	for name, ok := range map[string]bool{
		"c1": true, "C-1": true, "a": true, strings.Repeat("a", 63): true,
		"": false, "1c": false, "-a": false, "a-": false, "a_b": false, "a.b": false, "a/b": false, "é": false,
		strings.Repeat("a", 64): false,
	} {
		if err := CheckInstanceName(name); (err == nil) != ok {
			t.Errorf("CheckInstanceName(%q): %v", name, err)
		}
	}
}

func TestParseArch(t *testing.T) {
	for name, want := range map[string]string{"amd64": "x86_64", "X86_64": "x86_64", "arm64": "aarch64", "armhf": "armv7l",
		"ppc64el": "ppc64le", "pdp11": "", "": ""} {
		got, err := ParseArch(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseArch(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{Errorf(NotFound, "x"), NotFound},
		{fmt.Errorf("while: %w", Errorf(Conflict, "x")), Conflict},
		{Errorf(Invalid, "outer: %w", Errorf(NotFound, "inner")), Invalid},
		{context.Canceled, Cancelled},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), Timeout},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, NoSpace},
		{fs.ErrNotExist, NotFound},
		{errors.New("x"), Internal},
	} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("KindOf(%v) = %q, want %q", c.err, got, c.want)
		}
	}
	if err := Errorf(NotFound, "image %q", "a"); err.Error() != `image "a"` {
		t.Errorf("a kind shows in the text: %q", err)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1, "10B": 10, "1kB": 1000, "1KiB": 1024, "1 MiB": 1 << 20,
		"2GB": 2e9, "1EiB": 1 << 60, "9EiB": -1, "-1": -1, "x": -1, "1mB": -1, "": -1, "1.5GB": -1} {
		got, err := ParseSize(s)
		if want >= 0 && (err != nil || got != want) || want < 0 && !errors.Is(err, Invalid) {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 258_000_000: "258 MB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	if got := DidYouMean("debain/12", []string{"debian/12", "ubuntu/22.04"}); got != `; did you mean "debian/12"?` {
		t.Errorf("got %q", got)
	}
	if got := DidYouMean("limits.foo", []string{"limits.cpu", "limits.memory"}); got != "" {
		t.Error(got)
	}
	if got := DidYouMean("limits.memry", []string{"limits.cpu", "limits.memory"}); got != `; did you mean "limits.memory"?` {
		t.Error(got)
	}
	if got := DidYouMean("x", []string{"ubuntu"}); got != "" {
		t.Errorf("far words are suggested: %q", got)
	}
}

// place is a source and a sink in memory.
type place struct {
	content map[string]string
	kept    map[Fingerprint]string
	opened  int
}

func (p *place) Find(_ context.Context, name string) (Image, error) {
	c, ok := p.content[name]
	if !ok {
		return Image{}, Errorf(NotFound, "no image %q", name)
	}
	return Image{Fingerprint: sha256.Sum256([]byte(c)), Filename: name}, nil
}

func (p *place) Open(_ context.Context, img Image) (Stream, error) {
	p.opened++
	return &oneFile{Reader: strings.NewReader(p.content[img.Filename])}, nil
}

func (p *place) Has(_ context.Context, fp Fingerprint) (bool, error) {
	_, ok := p.kept[fp]
	return ok, nil
}

func (p *place) Put(_ context.Context, img Image, s Stream) (Image, error) {
	if _, err := s.Next(); err != nil {
		return img, err
	}
	var b bytes.Buffer
	_, err := io.Copy(&b, s)
	p.kept[img.Fingerprint] = b.String()
	return img, err
}

type oneFile struct {
	io.Reader
	nexts int
}

func (s *oneFile) Next() (File, error) {
	if s.nexts++; s.nexts > 1 {
		return File{}, io.EOF
	}
	return File{Role: Unified, Size: -1}, nil
}

func (*oneFile) Close() error { return nil }

func TestCopy(t *testing.T) {
	src := &place{content: map[string]string{"a": "hello"}}
	dst := &place{kept: map[Fingerprint]string{}}
	for range 2 {
		img, err := Copy(t.Context(), dst, src, "a")
		if err != nil || dst.kept[img.Fingerprint] != "hello" {
			t.Fatalf("Copy: %v, %v", img, err)
		}
	}
	if src.opened != 1 {
		t.Errorf("an image that was there was moved again")
	}
	if _, err := Copy(t.Context(), dst, src, "b"); !errors.Is(err, NotFound) {
		t.Errorf("Copy of nothing: %v", err)
	}
}

func TestCheckDescription(t *testing.T) {
	for text, ok := range map[string]bool{"": true, "one\n\ttwo\r\n": true, "a\x00": false, "\x1b[2J": false, "\u0085": false} {
		if err := CheckDescription(text); (err == nil) != ok || err != nil && !errors.Is(err, Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
