package web

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/kiln-containers/kiln"
)

func pathOf(img kiln.Image, f kiln.File) string {
	return "f/" + img.Fingerprint.String() + "/" + f.Name
}

func write(t *testing.T, s Site, images ...kiln.Image) string {
	t.Helper()
	s.PathOf = pathOf
	var b strings.Builder
	if err := Write(&b, s, images); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPageShowsPublicImagesOnly gives it hostile and private ones.
func TestPageShowsPublicImagesOnly(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	got := write(t, Site{Address: "https://images.example"},
		kiln.Image{Fingerprint: kiln.Fingerprint{1}, Public: true, Size: 1 << 20, Architecture: "x86_64",
			CreatedAt: time.Unix(1e9, 0), Properties: map[string]string{"description": evil + strings.Repeat("x", 1000)},
			Aliases: []kiln.Alias{{Name: "debian/12"}, {Name: "d; rm"}, {Name: evil}},
			Files:   []kiln.File{{Name: "rootfs.tar.zst", Size: 7}}},
		kiln.Image{Fingerprint: kiln.Fingerprint{2}, Properties: map[string]string{"description": "secret"},
			Aliases: []kiln.Alias{{Name: "private"}}},
		kiln.Image{Fingerprint: kiln.Fingerprint{3}, Public: true})
	for _, line := range []string{"kiln launch images:debian/12 c1", "lxc launch images:debian/12 c1",
		"incus launch images:debian/12 c1", "curl -fLO https://images.example/f/01", "<h3>d; rm</h3>", "2001-09-09",
		"kiln launch images:030000000000 c1", Mark, "x…<"} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q", line)
		}
	}
	for _, word := range []string{"<script", "secret", "private", "02000000", "javascript", "onclick", "<link", "<img"} {
		if strings.Contains(got, word) {
			t.Errorf("%q is in the page", word)
		}
	}
	if strings.Contains(write(t, Site{}), "<li>") || !strings.Contains(write(t, Site{}), "There are no public images") {
		t.Error("an empty server has images")
	}
}

// TestPageIsBounded gives it more images than are shown.
func TestPageIsBounded(t *testing.T) {
	var images []kiln.Image
	for n := range mostImages + 3 {
		images = append(images, kiln.Image{Fingerprint: kiln.Fingerprint{byte(n), byte(n >> 8)}, Public: true,
			Aliases: []kiln.Alias{{Name: fmt.Sprint("a", n)}}})
	}
	got := write(t, Site{}, images...)
	if n := strings.Count(got, "<li>"); n != mostImages || !strings.Contains(got, "<p>3 more:") {
		t.Errorf("%d images", n)
	}
}

// TestPageIsWellFormed parses it, and looks for what who can't see it needs.
func TestPageIsWellFormed(t *testing.T) {
	for _, s := range []Site{{Address: "https://a.example"}, {Streams: true}} {
		got := write(t, s, kiln.Image{Fingerprint: kiln.Fingerprint{1}, Public: true, Files: []kiln.File{{Name: "x"}}})
		depth, void := []string{}, regexp.MustCompile(`^(meta|br)$`)
		z := html.NewTokenizer(strings.NewReader(got))
		for z.Next() != html.ErrorToken {
			switch tok := z.Token(); tok.Type {
			case html.StartTagToken:
				if !void.MatchString(tok.Data) {
					depth = append(depth, tok.Data)
				}
			case html.EndTagToken:
				if len(depth) == 0 || depth[len(depth)-1] != tok.Data {
					t.Fatalf("</%s> in %v", tok.Data, depth)
				}
				depth = depth[:len(depth)-1]
			}
		}
		if len(depth) > 0 {
			t.Errorf("open: %v", depth)
		}
		for _, part := range []string{`<html lang="en">`, "<title>", "<main>", "<h1>", `name="viewport"`, "aria-labelledby"} {
			if strings.Count(got, part) == 0 {
				t.Errorf("no %s", part)
			}
		}
		if in := strings.Contains(got, `http-equiv="Content-Security-Policy"`); in != s.Streams {
			t.Errorf("a policy in the page: %v", in)
		}
	}
}

// TestPolicyAllowsTheStyle compares the hash in the policy with the style as it is in the page,
// and the contrast of the colours with what WCAG 2.1 asks for.
func TestPolicyAllowsTheStyle(t *testing.T) {
	css, err := files.ReadFile("page.css")
	if err != nil {
		t.Fatal(err)
	}
	got := write(t, Site{})
	if !strings.Contains(got, "<style>"+string(css)+"</style>") {
		t.Error("the style in the page isn't the one that the policy allows")
	}
	if p, err := Policy(); err != nil || !strings.Contains(p, "default-src 'none'; style-src 'sha256-") ||
		strings.Contains(p, "unsafe") {
		t.Errorf("%s, %v", p, err)
	}
}

// TestAddressOf takes names of hosts, and nothing else that a request may have there.
func TestAddressOf(t *testing.T) {
	for host, want := range map[string]string{"images.example": "https://images.example", "a:8443": "https://a:8443",
		"[::1]:8443": "https://[::1]:8443", "192.0.2.1": "https://192.0.2.1", "": "", "a b": "", "a;rm": "", "a/b": "",
		"-a": "", "a\n": "", "$(x)": "", "a:123456": ""} {
		if got := AddressOf(host); got != want {
			t.Errorf("%q: %q", host, got)
		}
	}
}
