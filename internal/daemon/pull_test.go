package daemon

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/store"
)

// serveStream serves one unified image with the alias "bb" as an image server does.
func serveStream(t *testing.T, arch string, image []byte) kiln.Remote {
	t.Helper()
	index := `{"format":"index:1.0","index":{"i":{"datatype":"image-downloads","path":"l.json","products":["a"]}}}`
	list := fmt.Sprintf(`{"format":"products:1.0","products":{"a":{"arch":%q,"aliases":"bb","os":"Tiny","versions":{"20260201":`+
		`{"items":{"i":{"ftype":"lxd_combined.tar.gz","path":"bb.tar.gz","size":%d,"sha256":"%x"}}}}}}}`, arch, len(image),
		sha256.Sum256(image))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/streams/v1/index.json":
			io.WriteString(w, index)
		case "/l.json":
			io.WriteString(w, list)
		case "/bb.tar.gz":
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolStreams}
}

// TestOldIndex has an image server whose files are not those of its index any more: it
// is asked for its index before a copy fails.
func TestOldIndex(t *testing.T) {
	const index = `{"format":"index:1.0","index":{"i":{"datatype":"image-downloads","path":"l.json","products":["a"]}}}`
	for name, old := range map[string]http.HandlerFunc{
		"gone":     http.NotFound,
		"other":    func(w http.ResponseWriter, _ *http.Request) { w.Write(formattest.Tiny(t, "old")) },
		"page":     func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>moved</html>") },
		"circle":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) },
		"refused":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
	} {
		t.Run(name, func(t *testing.T) {
			image, hash := formattest.Tiny(t, name), fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
			path := "old.tar"
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/streams/v1/index.json":
					io.WriteString(w, index)
				case "/l.json":
					fmt.Fprintf(w, `{"format":"products:1.0","products":{"a":{"arch":%q,"aliases":"bb","os":"Tiny",`+
						`"versions":{"20260201":{"items":{"i":{"ftype":"lxd_combined.tar.gz","path":%q,"size":%d,`+
						`"sha256":%q}}}}}}}`, HostArch(), path, len(image), hash)
				case "/old.tar":
					old(w, r)
				case "/new.tar":
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
				default:
					http.NotFound(w, r)
				}
			}))
			defer s.Close()
			d := fresh(t)
			if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
				t.Fatal(err)
			}
			spec := PullSpec{Remote: kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolStreams}, Name: "bb", IsAlias: true,
				ImportSpec: ImportSpec{Aliases: aliases("bb")}}
			o, err := d.PullImage(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			if s := o.Wait(t.Context()); s.Err == nil {
				t.Fatal("files that the index doesn't name were taken")
			}
			path, hash = "new.tar", fmt.Sprintf("%x", sha256.Sum256(image)) // as the server says from now on
			o, err = d.PullImage(t.Context(), spec)
			wait(t, o, err)
		})
	}
}

// TestDamagedImage has an image with a bit flipped: a launch says that and what helps,
// and copying it again does help.
func TestDamagedImage(t *testing.T) {
	var image bytes.Buffer
	z := gzip.NewWriter(&image)
	z.Write(formattest.Unified(t))
	z.Close()
	d := fresh(t)
	if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	spec := PullSpec{Remote: serveStream(t, HostArch(), image.Bytes()), Name: "bb", IsAlias: true,
		ImportSpec: ImportSpec{Aliases: aliases("bb")}}
	pull := func() {
		t.Helper()
		o, err := d.PullImage(t.Context(), spec)
		wait(t, o, err)
	}
	pull()
	fp := kiln.Fingerprint(sha256.Sum256(image.Bytes()))
	path := d.blobs.Path(fp)
	for _, at := range []int{30, image.Len() / 2, image.Len() - 6} {
		b := bytes.Clone(image.Bytes())
		b[at] ^= 4
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		create := CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb"}}
		o, err := d.CreateInstance(t.Context(), create)
		if err == nil {
			err = o.Wait(t.Context()).Err
		}
		if !errors.Is(err, kiln.Integrity) {
			t.Errorf("byte %d: launch of a damaged image: %v (%v)", at, err, kiln.KindOf(err))
		}
		pull()
		if err := d.Images.Verify(t.Context(), fp); err != nil {
			t.Errorf("byte %d: after another copy: %v", at, err)
		}
	}
	img, err := d.Images.Find(t.Context(), "bb")
	if err != nil || img.Fingerprint != fp || img.Cached {
		t.Errorf("%+v, %v", img, err)
	}
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb"}})
	wait(t, o, err)
}

// TestURLImport remembers the URL of an image, and gets its next version from there.
func TestURLImport(t *testing.T) {
	d := fresh(t)
	if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	now := formattest.Unified(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("LXD-Image-Hash", fmt.Sprintf("%x", sha256.Sum256(now)))
		w.Header().Set("LXD-Image-URL", "/file.tar")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(now))
	}))
	defer s.Close()
	at := s.URL + "/image"
	spec := PullSpec{Remote: kiln.Remote{Server: at, Protocol: kiln.ProtocolDirect}, Name: at,
		ImportSpec: ImportSpec{Aliases: aliases("bb")}}
	o, err := d.PullImage(t.Context(), spec)
	wait(t, o, err)
	img, err := d.Images.Find(t.Context(), "bb")
	if err != nil || img.Origin == nil || img.Origin.Alias != at || img.Origin.Protocol != kiln.ProtocolDirect {
		t.Fatalf("%+v, %v", img.Origin, err)
	}
	now = formattest.Tiny(t, "next")
	wait(t, d.RefreshImage(t.Context(), img.Fingerprint, false), nil)
	next, err := d.Images.Find(t.Context(), "bb")
	if err != nil || next.Fingerprint != sha256.Sum256(now) {
		t.Errorf("after the refresh: %s, %v", next.Fingerprint, err)
	}
	spec.Name = strings.Replace(at, "http://", "http://me:secret@", 1)
	if spec.origin() != nil {
		t.Error("a password in a URL is kept")
	}
}

// TestStoppedServer tells which server it waits for, and doesn't wait for it twice.
func TestStoppedServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // whose connections nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := Open(t.Context(), Config{Dir: filepath.Join(t.TempDir(), "kiln"), Log: slog.New(slog.DiscardHandler),
		Version: "test", Stall: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, d)
	if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	server := "http://" + l.Addr().String()
	for _, protocol := range []string{kiln.ProtocolStreams, kiln.ProtocolLXD} {
		o, err := d.PullImage(t.Context(), PullSpec{Remote: kiln.Remote{Server: server, Protocol: protocol}, Name: "bb",
			IsAlias: true})
		if err != nil {
			t.Fatal(err)
		}
		s := o.Wait(t.Context())
		if !errors.Is(s.Err, kiln.Network) {
			t.Errorf("%s: %v", protocol, s.Err)
		}
		if text := fmt.Sprint(s.Metadata["download_progress"]); text != "waiting for an answer of "+server {
			t.Errorf("%s: the operation says %q", protocol, text)
		}
	}
}

// TestForeignImage refuses to launch what can't run here before it is fetched. It can
// be copied.
func TestForeignImage(t *testing.T) {
	d := fresh(t)
	if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	r := serveStream(t, "s390x", formattest.Unified(t))
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "bb", Remote: r}})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Wait(t.Context()).Err; !errors.Is(err, kiln.Unsupported) || !strings.Contains(err.Error(), "is for s390x") {
		t.Error(err)
	}
	if list, err := d.Images.List(t.Context(), store.Query{}); err != nil || len(list) > 0 {
		t.Errorf("%d images were fetched, %v", len(list), err)
	}
	o, err = d.PullImage(t.Context(), PullSpec{Remote: r, Name: "bb", IsAlias: true})
	wait(t, o, err)
}

// TestCopiedAgain: an image that is here goes on being updated from where it came from,
// whoever else has it, and whoever asks for more is told.
func TestCopiedAgain(t *testing.T) {
	d := fresh(t)
	b := formattest.Tiny(t, "both")
	fp := kiln.Fingerprint(sha256.Sum256(b))
	var servers []kiln.Remote
	for range 2 {
		u := &upstream{bytes: map[string][]byte{}}
		u.add(fp, b, true, "x")
		servers = append(servers, u.serve(t))
	}
	spec := PullSpec{Remote: servers[0], Name: "x", IsAlias: true, ImportSpec: ImportSpec{AutoUpdate: true}}
	o, err := d.PullImage(t.Context(), spec)
	wait(t, o, err)
	for _, given := range []ImportSpec{{Aliases: aliases("one")}, {Aliases: aliases("two"), AutoUpdate: true},
		{Aliases: aliases("three"), Public: true}} {
		spec.Remote, spec.ImportSpec = servers[1], given
		o, err := d.PullImage(t.Context(), spec)
		wait(t, o, err)
		now, err := d.Images.Get(t.Context(), fp)
		if err != nil || now.Origin == nil || now.Origin.Server != servers[0].Server {
			t.Errorf("%+v, %v", now.Origin, err)
		}
		warning, _ := o.Snapshot().Metadata["warning"].(string)
		if strings.Contains(warning, servers[0].Server) != given.AutoUpdate {
			t.Errorf("%+v: %q", given, warning)
		}
	}
}

// TestCopiedByAnotherName: an image goes on being updated from the alias that it was copied
// by, whoever copies another alias that means it at the moment; so do its names.
func TestCopiedByAnotherName(t *testing.T) {
	d := fresh(t)
	u := &upstream{bytes: map[string][]byte{}}
	add := func(name string, aliases ...string) kiln.Fingerprint {
		b := formattest.Tiny(t, name)
		fp := kiln.Fingerprint(sha256.Sum256(b))
		u.add(fp, b, true, aliases...)
		return fp
	}
	three := add("3", "stable", "testing")
	r := u.serve(t)
	pull := func(name string, given ImportSpec) (*op.Operation, error) {
		o, err := d.PullImage(t.Context(), PullSpec{Remote: r, Name: name, IsAlias: true, ImportSpec: given})
		if err != nil {
			t.Fatal(err)
		}
		return o, o.Wait(t.Context()).Err
	}
	check := func(what, local, alias string, want kiln.Fingerprint) {
		t.Helper()
		img, err := d.Images.Find(t.Context(), local)
		if err == nil {
			img, err = d.Images.Get(t.Context(), img.Fingerprint)
		}
		if err != nil || img.Fingerprint != want || !img.AutoUpdate || img.Origin.Alias != alias {
			t.Errorf("%s: %s is %s, updated: %t from %+v, %v", what, local, img.Fingerprint.Short(), img.AutoUpdate,
				img.Origin, err)
		}
	}
	if _, err := pull("testing", ImportSpec{Cached: true}); err != nil { // which nobody keeps
		t.Fatal(err)
	}
	if _, err := pull("stable", ImportSpec{Aliases: aliases("s"), AutoUpdate: true}); err != nil {
		t.Fatal(err)
	}
	check("the first", "s", "stable", three)
	_, err := pull("testing", ImportSpec{Aliases: aliases("t"), AutoUpdate: true})
	if !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), `"stable"`) ||
		!strings.Contains(err.Error(), `"testing"`) {
		t.Errorf("updated from two names: %v", err)
	}
	if _, err := d.Images.Alias(t.Context(), "t"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("what was refused has its name: %v", err)
	}
	o, err := pull("testing", ImportSpec{Aliases: aliases("u")})
	warning, _ := o.Snapshot().Metadata["warning"].(string)
	if err != nil || !strings.Contains(warning, `from "stable"`) {
		t.Errorf("%v, warned %q", err, warning)
	}
	check("copied as testing", "s", "stable", three)
	o, err = d.CreateInstance(t.Context(), CreateSpec{Name: "c1", Source: Source{Type: "image", Alias: "testing",
		Remote: r}})
	wait(t, o, err)
	check("launched as testing", "s", "stable", three)

	// They part, and come together again.
	u.images = nil
	add("3", "stable")
	four := add("4", "testing")
	wait(t, d.RefreshImage(t.Context(), three, false), nil)
	check("testing has moved", "s", "stable", three)
	if _, err = pull("testing", ImportSpec{Aliases: aliases("t"), AutoUpdate: true}); err != nil {
		t.Fatal(err)
	}
	u.images = nil
	add("4", "stable", "testing")
	if err := d.RefreshImage(t.Context(), three, false).Wait(t.Context()).Err; !errors.Is(err, kiln.Conflict) {
		t.Errorf("promoted: %v", err)
	}
	check("promoted", "s", "stable", three)
	check("promoted", "t", "testing", four)
	o, err = d.CreateInstance(t.Context(), CreateSpec{Name: "c2", Source: Source{Type: "image", Alias: "stable",
		Remote: r}})
	wait(t, o, err)
	if i, err := d.Instance(t.Context(), "c2"); err != nil || i.Base != four {
		t.Errorf("launched what was promoted: %s, %v", i.Base, err)
	}
	u.images = nil
	add("4", "stable")
	five := add("5", "testing")
	wait(t, d.RefreshImage(t.Context(), four, false), nil)
	check("moved on", "t", "testing", five)
	wait(t, d.RefreshImage(t.Context(), three, false), nil)
	check("moved on", "s", "stable", four)
	check("moved on", "t", "testing", five)
}

// TestRefreshAtOnce: two images whose aliases come to mean one new version at their server
// are both replaced by it, also when they are refreshed at once.
func TestRefreshAtOnce(t *testing.T) {
	images := map[string][]byte{}
	for _, name := range []string{"one", "two", "three"} {
		images[name] = formattest.Tiny(t, name)
	}
	product := func(alias, version, name string) string {
		return fmt.Sprintf(`%q:{"arch":%q,"aliases":%q,"os":"Tiny","versions":{%q:{"items":{"i":{"ftype":"lxd_combined.tar.gz",`+
			`"path":%q,"size":%d,"sha256":"%x"}}}}}`, name, HostArch(), alias, version, name, len(images[name]),
			sha256.Sum256(images[name]))
	}
	var newer atomic.Bool
	asked, release := make(chan struct{}, 10), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/streams/v1/index.json":
			io.WriteString(w, `{"format":"index:1.0","index":{"i":{"datatype":"image-downloads","path":"l.json",`+
				`"products":["a"]}}}`)
		case "/l.json":
			w.Header().Set("Cache-Control", "no-cache")
			list := product("a", "20260201", "one") + "," + product("b", "20260201", "two")
			if newer.Load() {
				list = product("a,b", "20260301", "three")
			}
			fmt.Fprintf(w, `{"format":"products:1.0","products":{%s}}`, list)
		default:
			if r.URL.Path == "/three" {
				asked <- struct{}{}
				<-release
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(images[r.URL.Path[1:]]))
		}
	}))
	defer s.Close()
	d := fresh(t)
	if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	where := kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolStreams}
	for _, name := range []string{"a", "b"} {
		o, err := d.PullImage(t.Context(), PullSpec{Remote: where, Name: name, IsAlias: true,
			ImportSpec: ImportSpec{Aliases: aliases("my-" + name)}})
		wait(t, o, err)
	}
	newer.Store(true)
	refresh := func(name string) *op.Operation {
		img, err := d.Images.Find(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return d.RefreshImage(t.Context(), img.Fingerprint, false)
	}
	first := refresh("my-a")
	<-asked
	second := refresh("my-b")
	for joined := false; !joined; time.Sleep(time.Millisecond) {
		d.flights.mu.Lock()
		for _, f := range d.flights.flying {
			joined = joined || f.waiting == 2
		}
		d.flights.mu.Unlock()
	}
	close(release)
	wait(t, first, nil)
	wait(t, second, nil)
	for _, name := range []string{"my-a", "my-b"} {
		img, err := d.Images.Find(t.Context(), name)
		if want := kiln.Fingerprint(sha256.Sum256(images["three"])); err != nil || img.Fingerprint != want {
			t.Errorf("%s is %v, %v", name, img.Fingerprint, err)
		}
	}
}

// TestPace: a download that goes on from what is here, and begins again when that proves
// wrong, is never slower than nothing.
func TestPace(t *testing.T) {
	var p pace
	begun := time.Now()
	for _, c := range []struct {
		after, done int64 // seconds, bytes
		rate        float64
	}{{0, 500, 0}, {1, 600, 100}, {2, 900, 200}, {3, 0, 0}, {4, 100, 100}, {5, 700, 350}} {
		if got := p.rate(begun.Add(time.Duration(c.after)*time.Second), c.done); got != c.rate {
			t.Errorf("after %d s, with %d bytes: %v a second, want %v", c.after, c.done, got, c.rate)
		}
	}
}

// TestUpdateTurnedOff has somebody turn the updates of an image off while those before it are
// updated.
func TestUpdateTurnedOff(t *testing.T) {
	images := map[string][]byte{}
	for _, name := range []string{"one", "two", "three", "four"} {
		images[name] = formattest.Tiny(t, name)
	}
	product := func(alias, version, name string) string {
		return fmt.Sprintf(`%q:{"arch":%q,"aliases":%q,"os":"Tiny","versions":{%q:{"items":{"i":{"ftype":"lxd_combined.tar.gz",`+
			`"path":%q,"size":%d,"sha256":"%x"}}}}}`, name, HostArch(), alias, version, name, len(images[name]),
			sha256.Sum256(images[name]))
	}
	d := fresh(t)
	newer, off := false, ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/streams/v1/index.json":
			io.WriteString(w, `{"format":"index:1.0","index":{"i":{"datatype":"image-downloads","path":"l.json",`+
				`"products":["a"]}}}`)
			return
		case "/l.json":
			w.Header().Set("Cache-Control", "no-cache")
			list := product("a", "20260201", "one") + "," + product("b", "20260201", "two")
			if newer {
				list = product("a", "20260301", "three") + "," + product("b", "20260301", "four")
			}
			fmt.Fprintf(w, `{"format":"products:1.0","products":{%s}}`, list)
			return
		case "/three", "/four": // the first of them has the other turned off
			if other := map[string]string{"/three": "my-b", "/four": "my-a"}[r.URL.Path]; off == "" {
				off = other
				img, err := d.Images.Find(t.Context(), other)
				if err == nil {
					err = d.UpdateImage(t.Context(), img.Fingerprint, func(img *kiln.Image) error {
						img.AutoUpdate = false
						return nil
					})
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(images[r.URL.Path[1:]]))
	}))
	defer s.Close()
	if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	before := map[string]kiln.Fingerprint{}
	for _, name := range []string{"a", "b"} {
		o, err := d.PullImage(t.Context(), PullSpec{Remote: kiln.Remote{Server: s.URL, Protocol: kiln.ProtocolStreams},
			Name: name, IsAlias: true, ImportSpec: ImportSpec{Aliases: aliases("my-" + name), AutoUpdate: true}})
		wait(t, o, err)
		img, err := d.Images.Find(t.Context(), "my-"+name)
		if err != nil {
			t.Fatal(err)
		}
		before["my-"+name] = img.Fingerprint
	}
	newer = true
	d.updateImages()
	for name, fp := range before {
		if img, err := d.Images.Find(t.Context(), name); (img.Fingerprint == fp) != (name == off) || off == "" || err != nil {
			t.Errorf("%s is %s, was %s, %q was turned off; %v", name, img.Fingerprint.Short(), fp.Short(), off, err)
		}
	}
}
