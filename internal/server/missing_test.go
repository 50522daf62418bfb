package server

import (
	"crypto/sha256"
	"os"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestMissingFile has an image whose file vanishes, or is damaged: once anybody has come
// upon that, its owner sees it and nobody is offered it, until it is imported again.
func TestMissingFile(t *testing.T) {
	p := start(t)
	b := formattest.Tiny(t, "1")
	p.upload(formattest.Tiny(t, "2"), "X-LXD-public", "true") // which has nothing to do with it
	p.upload(b, "X-LXD-public", "true", "X-LXD-aliases", "alias=web")
	fp := kiln.Fingerprint(sha256.Sum256(b))
	path := "/1.0/images/" + fp.String()
	shared, err := p.d.ShareImage(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	secret := "?secret=" + shared.Snapshot().Metadata["secret"].(string)
	verify := func() { p.d.VerifyImage(t.Context(), fp).Wait(t.Context()) }
	check := func(step string, whole bool) {
		t.Helper()
		_, inStreams := p.served()[fp]
		if n := len(p.served()); inStreams != whole || p.listed(fp, false) != whole || n < 1 {
			t.Errorf("%s: it is in streams: %v, in the list for others: %v", step, inStreams, p.listed(fp, false))
		}
		want := map[bool]int{true: 200, false: 404}[whole]
		for _, path := range []string{path, path + secret, path + "/export" + secret, path + "/export", "/1.0/images/aliases/web", "/i/web",
			"/streams/files/" + fp.String() + "/unified.tar"} {
			if w := p.untrusted(path); w.Code != want {
				t.Errorf("%s: %s: %d %.200s", step, path, w.Code, w.Body)
			}
		}
		for _, path := range []string{"/1.0/images?recursion=1", path} {
			if _, b := p.do("GET", path, ""); strings.Contains(string(b), "its unified file is ") == whole ||
				!strings.Contains(string(b), fp.String()) {
				t.Errorf("%s: %s: %.500s", step, path, b)
			}
		}
		want = map[bool]int{true: 200, false: 422}[whole] // for whom it belongs to
		if resp, b := p.do("GET", path+"/export", ""); resp.StatusCode != want {
			t.Errorf("%s: its owner is sent %d %.200s", step, resp.StatusCode, b)
		}
		if resp, b := p.do("PATCH", path, `{"properties":{"a":"b"}}`); resp.StatusCode != want {
			t.Errorf("%s: edit: %d %.200s", step, resp.StatusCode, b)
		}
	}
	check("whole", true)
	in, err := p.d.Images.Open(t.Context(), kiln.Image{Fingerprint: fp})
	if err == nil {
		_, err = in.Next()
	}
	if err != nil {
		t.Fatal(err)
	}
	file := in.(interface{ Path() string }).Path()
	in.Close()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if w := p.untrusted("/streams/files/" + fp.String() + "/unified.tar"); w.Code != 404 {
		t.Errorf("the first who asks: %d %.200s", w.Code, w.Body)
	}
	check("missing", false)
	p.upload(b)
	check("again", true)
	damaged := append([]byte{'x'}, b[1:]...)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, damaged, 0o400); err != nil {
		t.Fatal(err)
	}
	verify()
	if w := p.untrusted(path); w.Code != 404 || p.listed(fp, false) {
		t.Errorf("a damaged one: %d %.200s", w.Code, w.Body)
	}
	p.upload(b)
	verify()
	check("once more", true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	verify()
	check("missing when verified", false)
	if resp, b := p.do("DELETE", path, ""); resp.StatusCode != 202 {
		t.Errorf("delete: %d %s", resp.StatusCode, b)
	}
}
