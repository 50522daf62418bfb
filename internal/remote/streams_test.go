package remote

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/simplestreams"
)

// openStreams gives the images of a simplestreams server over plain http.
func openStreams(t *testing.T, handler http.Handler) kiln.Source {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	o := &Opener{Architectures: []string{"x86_64", "i686"}, AllowHTTP: func() bool { return true },
		Indexes: &Indexes{Dir: t.TempDir(), TTL: time.Hour}}
	src, err := o.Open(kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolStreams}, Access{})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

const indexJSON = `{"format":"index:1.0","index":{"images":{"datatype":"image-downloads","path":"streams/v1/images.json",` +
	`"products":["a"]}}}`

// product is one of a list, with a single unified image at a path.
func product(arch, aliases, path string, body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf(`%q:{"arch":%q,"aliases":%q,"os":"Tiny","release":"one","versions":{"20260201":{"items":{"i":{`+
		`"ftype":"lxd_combined.tar.gz","path":%q,"size":%d,"sha256":%q}}}}}`, arch+aliases, arch, aliases, path, len(body),
		hex.EncodeToString(sum[:]))
}

// TestStreams lists and reads the images of a server that has products of every kind,
// one of which is none.
func TestStreams(t *testing.T) {
	files := map[string][]byte{"/v_07:42/a.tar.gz": []byte("a"), "/i/b.tar.gz": []byte("b"), "/i/c#d.tar.gz": []byte("c"),
		"/i/d.tar.gz": []byte("d")}
	text := `{"format":"products:1.0","products":{"bad":{"arch":"amd64","requirements":[],"versions":[]},` +
		product("amd64", "j,default", "v_07:42/a.tar.gz", files["/v_07:42/a.tar.gz"]) + "," +
		product("arm64", "j,default", "/i/b.tar.gz", files["/i/b.tar.gz"]) + "," +
		product("amd64", "sharp", "i/c#d.tar.gz", files["/i/c#d.tar.gz"]) + "," +
		product("arm64", "arm", "i/d.tar.gz", files["/i/d.tar.gz"]) + `}}`
	src := openStreams(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch b := files[r.URL.Path]; {
		case r.URL.Path == "/streams/v1/index.json":
			io.WriteString(w, indexJSON)
		case r.URL.Path == "/streams/v1/images.json":
			io.WriteString(w, text)
		case b != nil:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		default:
			http.NotFound(w, r)
		}
	}))
	for name, want := range map[string][]string{
		"j": {"j", "default", "j/amd64", "default/amd64"}, "j/arm64": {"j/arm64", "default/arm64"},
		"sharp": {"sharp", "sharp/amd64"}, "arm": {"arm", "arm/arm64"},
	} {
		img, err := src.Find(t.Context(), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var names []string
		for _, a := range img.Aliases {
			names = append(names, a.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s is called %q, want %q", name, names, want)
		}
		s, err := src.Open(t.Context(), img)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := s.Next(); err != nil {
			t.Error(err)
		}
		b, err := io.ReadAll(s)
		if sum := kiln.Fingerprint(sha256.Sum256(b)); err != nil || sum != img.Fingerprint {
			t.Errorf("%s: other bytes, %v", name, err)
		}
		s.Close()
	}
}

// TestMissingProducts takes from a server what is there, when one of its lists of
// products isn't, or is damaged.
func TestMissingProducts(t *testing.T) {
	const index = `{"format":"index:1.0","index":{"a":{"datatype":"image-downloads","path":"a.json","products":["a"]},` +
		`"b":{"datatype":"image-downloads","path":"b.json","products":["b"]}}}`
	list := func(name string) string {
		return `{"format":"products:1.0","products":{` + product("amd64", name, "i/"+name, []byte(name)) + `}}`
	}
	answers := map[string]string{}
	var warnings []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, b)
	}))
	defer s.Close()
	for _, bad := range []string{"", "{", `{"products":7}`} {
		answers = map[string]string{"/streams/v1/index.json": index, "/a.json": list("one"), "/b.json": bad}
		if bad == "" {
			delete(answers, "/b.json")
		}
		warnings = nil
		o := &Opener{Architectures: []string{"x86_64"}, AllowHTTP: func() bool { return true },
			Indexes: &Indexes{Dir: t.TempDir(), TTL: 0}}
		src, err := o.Open(kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolStreams},
			Access{Warn: func(text string) { warnings = append(warnings, text) }})
		if err != nil {
			t.Fatal(err)
		}
		if img, err := src.Find(t.Context(), "one"); err != nil || len(img.Aliases) == 0 {
			t.Errorf("%q: the image of the other list: %v", bad, err)
		}
		all, err := src.(interface {
			List(context.Context) ([]kiln.Image, error)
		}).List(t.Context())
		if err != nil || len(all) != 1 {
			t.Errorf("%q: %d images, %v", bad, len(all), err)
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0], "b.json") {
			t.Errorf("%q: warned of %q", bad, warnings)
		}
		// What may be in the list that isn't there is not said to be nowhere.
		if _, err := src.Find(t.Context(), "two"); err == nil || !strings.Contains(err.Error(), "b.json") {
			t.Errorf("%q: an image of the missing list: %v", bad, err)
		}
		answers["/b.json"] = list("two")
		if _, err := src.Find(t.Context(), "two"); err != nil {
			t.Errorf("%q: it came back: %v", bad, err)
		}
		delete(answers, "/a.json")
		delete(answers, "/b.json")
		o.Indexes = &Indexes{Dir: t.TempDir(), TTL: 0}
		if _, err := src.Find(t.Context(), "one"); err == nil || !strings.Contains(err.Error(), "a.json") {
			t.Errorf("no list at all: %v", err)
		}
	}
}

// TestTooManyLists has a server with more images in two lists than one may have.
func TestTooManyLists(t *testing.T) {
	var list strings.Builder
	list.WriteString(`{"format":"products:1.0","products":{"p":{"arch":"amd64","versions":{`)
	for i := range simplestreams.MaxImages/2 + 1 {
		if i > 0 {
			list.WriteString(",")
		}
		fmt.Fprintf(&list, `"20260201_%d":{"items":{"i":{"ftype":"lxd_combined.tar.gz","path":"x","sha256":%q}}}`, i,
			strings.Repeat("a", 64))
	}
	list.WriteString(`}}}}`)
	const entry = `"datatype":"image-downloads","products":["p"]}`
	for two, kind := range map[string]error{"": nil, `,"b":{"path":"b.json",` + entry: kiln.TooLarge} {
		src := openStreams(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/streams/v1/index.json" {
				io.WriteString(w, `{"format":"index:1.0","index":{"a":{"path":"a.json",`+entry+two+`}}`)
				return
			}
			io.WriteString(w, list.String())
		}))
		if _, err := src.(lister).List(t.Context()); !errors.Is(err, kind) {
			t.Errorf("%q: %v", two, err)
		}
	}
}

// lister is a source whose images can be listed.
type lister interface {
	List(context.Context) ([]kiln.Image, error)
}

// TestIndexIsAskedAgain asks a server before it says that an image is nowhere, when the
// server says that its index changes often, and when somebody wants to be sure; it
// doesn't otherwise, and what hasn't changed isn't sent again.
func TestIndexIsAskedAgain(t *testing.T) {
	list, control, sent, unchanged := `{"format":"products:1.0","products":{}}`, "", 0, 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := map[bool]string{true: indexJSON, false: list}[r.URL.Path == "/streams/v1/index.json"]
		tag := fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(text)))
		w.Header().Set("ETag", tag)
		if control != "" {
			w.Header().Set("Cache-Control", control)
		}
		if r.Header.Get("If-None-Match") == tag {
			unchanged++
			w.WriteHeader(http.StatusNotModified)
			return
		}
		sent++
		io.WriteString(w, text)
	})
	s := httptest.NewServer(h)
	defer s.Close()
	x := &Indexes{Dir: t.TempDir(), TTL: time.Hour}
	find := func(a Access, name string) error {
		t.Helper()
		o := &Opener{Architectures: []string{"x86_64"}, AllowHTTP: func() bool { return true }, Indexes: x}
		src, err := o.Open(kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolStreams}, a)
		if err != nil {
			t.Fatal(err)
		}
		if name == "" {
			all, err := src.(lister).List(t.Context())
			if err == nil && len(all) == 0 {
				err = kiln.NotFound
			}
			return err
		}
		_, err = src.Find(t.Context(), name)
		return err
	}
	serve := func(name string) {
		list = `{"format":"products:1.0","products":{` + product("amd64", name, "i/"+name, []byte(name)) + `}}`
		time.Sleep(missAge)
	}
	if err := find(Access{}, "one"); !errors.Is(err, kiln.NotFound) {
		t.Fatal(err)
	}
	serve("one")
	if err := find(Access{}, ""); err != nil {
		t.Errorf("the list is empty, though the server has something by now: %v", err)
	}
	for _, name := range []string{"two", "three", "one"} {
		serve(name)
		if err := find(Access{}, name); err != nil {
			t.Errorf("%q, which the server has by now: %v", name, err)
		}
	}
	before, same := sent, unchanged
	if err := find(Access{}, "one"); err != nil || sent != before || unchanged != same {
		t.Errorf("%v; a young index was asked for", err)
	}
	if err := find(Access{Fresh: true}, ""); err != nil || sent != before || unchanged != same+2 {
		t.Errorf("%v; %d sent again, %d not", err, sent-before, unchanged-same)
	}
	for _, control = range []string{"public, max-age=0", "no-cache", "MAX-AGE = 1"} {
		if err := find(Access{Fresh: true}, "one"); err != nil {
			t.Error(err)
		}
		if strings.Contains(control, "1") {
			control = "max-age=1"
			time.Sleep(time.Second)
		}
		same = unchanged
		if err := find(Access{}, "one"); err != nil || unchanged == same {
			t.Errorf("%s: %v; wasn't asked for again", control, err)
		}
	}
}

// TestStreamsAreBounded keeps an image server from taking all memory or disk.
func TestStreamsAreBounded(t *testing.T) {
	block := []byte(strings.Repeat(" ", 1<<20))
	for _, path := range []string{"/streams/v1/index.json", "/streams/v1/images.json"} {
		src := openStreams(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != path {
				io.WriteString(w, indexJSON)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
			io.WriteString(z, `{"format":`)
			for range 1 << 10 {
				if _, err := z.Write(block); err != nil {
					return
				}
			}
		}))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := src.Find(t.Context(), "j")
		runtime.ReadMemStats(&after)
		if !errors.Is(err, kiln.TooLarge) {
			t.Errorf("%s: %v", path, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 100<<20 {
			t.Errorf("%s: took %d MiB of memory", path, used>>20)
		}
	}
}

// FuzzDirect reads the headers of a URL that has an image.
func FuzzDirect(f *testing.F) {
	sum := strings.Repeat("a", 64)
	f.Add(sum, "https://images.example/x.tar.xz", true)
	f.Add(strings.ToUpper(sum), "../x", false)
	f.Add("x", "http://[::1", true)
	f.Add(sum, "file:///etc/passwd", true)
	f.Fuzz(func(t *testing.T, hash, at string, https bool) {
		scheme := "http"
		if https {
			scheme = "https"
		}
		req := httptest.NewRequest(http.MethodHead, scheme+"://images.example/a/b", nil)
		resp := &http.Response{Request: req, Header: http.Header{"Lxd-Image-Hash": {hash}, "Lxd-Image-Url": {at}}}
		img, err := (&direct{o: &Opener{}}).answer("https://images.example/a/b", resp)
		if err != nil {
			return
		}
		if img.Fingerprint.String() != strings.ToLower(hash) || strings.Contains(img.Files[0].Name, "/") {
			t.Errorf("%q, %q: %+v", hash, at, img)
		}
		if u := img.Origin.Alias; !strings.HasPrefix(u, "https://") && !strings.HasPrefix(u, "http://") {
			t.Errorf("%q is read from %q", at, u)
		}
	})
}
