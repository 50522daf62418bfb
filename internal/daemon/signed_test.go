package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/store"
)

// A shelf is an image server with one image, of the alias "bb", that says and sends what it
// is told to.
type shelf struct {
	remote      kiln.Remote
	image, sent []byte
	signature   string
	beside      map[string][]byte // what the owner of the key says, by path
	moved       atomic.Int64
}

func newShelf(t *testing.T, key signing.Key) *shelf {
	t.Helper()
	s := &shelf{}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=0")
		switch r.URL.Path {
		case "/streams/v1/index.json":
			io.WriteString(w, `{"format":"index:1.0","index":{"i":{"datatype":"image-downloads","path":"l.json","products":["a"]}}}`)
		case "/l.json":
			signature, _ := json.Marshal(s.signature)
			fmt.Fprintf(w, `{"format":"products:1.0","products":{"a":{"arch":%q,"aliases":"bb","os":"Tiny","versions":{"20260201":{`+
				`"kiln.signature":%s,"items":{"i":{"ftype":"lxd_combined.tar.gz","path":"bb.tar.gz","size":%d,"sha256":"%x"}}}}}}}`,
				HostArch(), signature, len(s.image), sha256.Sum256(s.image))
		case "/bb.tar.gz":
			s.moved.Add(1)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.sent))
		default:
			if b, ok := s.beside[r.URL.Path]; ok {
				w.Write(b)
				return
			}
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(web.Close)
	s.remote = kiln.Remote{Server: web.URL, Protocol: kiln.ProtocolStreams, ImageKey: key.String()}
	return s
}

// put has the shelf offer an image, and gives its fingerprint.
func (s *shelf) put(t *testing.T, seed string) kiln.Fingerprint {
	t.Helper()
	s.image = formattest.Tiny(t, seed)
	s.sent, s.signature = s.image, ""
	return sha256.Sum256(s.image)
}

// sign gives a signature as somebody makes it.
func sign(t *testing.T, key signing.Secret, fp kiln.Fingerprint, aliases ...string) string {
	t.Helper()
	sig, err := signing.Sign(key, signing.Statement{Fingerprint: fp, Serial: time.Now(), Aliases: aliases})
	if err != nil {
		t.Fatal(err)
	}
	return sig.Text()
}

func newKey(t *testing.T) signing.Secret {
	t.Helper()
	key, err := signing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pulled gives what became of an operation.
func pulled(t *testing.T, o *op.Operation, err error) error {
	t.Helper()
	if err != nil {
		return err
	}
	return o.Wait(t.Context()).Err
}

// withHTTP is fresh, for servers over plain http.
func withHTTP(t *testing.T) *Daemon {
	t.Helper()
	d := fresh(t)
	if err := d.SetSettings(t.Context(), map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestPinned takes from a remote with a key what is signed with it, for what it is called,
// and of nothing else a byte.
func TestPinned(t *testing.T) {
	d := withHTTP(t)
	key, other := newKey(t), newKey(t)
	s := newShelf(t, key.Key())
	fp := s.put(t, "1")
	good := sign(t, key, fp, "bb")
	another := fp
	another[0] ^= 1
	spec := PullSpec{Remote: s.remote, Name: "bb", IsAlias: true, ImportSpec: ImportSpec{Aliases: aliases("bb")}}
	launch := Source{Type: "image", Alias: "bb", Remote: s.remote}
	mirror := Mirror{Name: "m", Remote: s.remote}
	for name, attack := range map[string]struct{ signature, want string }{
		"unsigned":      {"", "isn't signed, and has to be with the key " + key.Key().ID()},
		"wrong key":     {sign(t, other, fp, "bb"), "with the key " + other.Key().ID() + ", not with " + key.Key().ID()},
		"another image": {sign(t, key, another, "bb"), "of another image: of " + another.Short() + ", not of " + fp.Short()},
		"another alias": {sign(t, key, fp, "cc"), `signed as cc, not as "bb"`},
		"tampered":      {strings.Replace(sign(t, key, fp, "cc"), "alias=cc", "alias=bb", 1), "was changed"},
		"truncated":     {good[:len(good)/2], "cut off"},
		"huge":          {good + strings.Repeat(" ", 1<<20), "at most 700"},
	} {
		s.signature = attack.signature
		_, cached := d.cachedImage(t.Context(), nil, launch)
		o, err := d.PullImage(t.Context(), spec)
		_, _, estimate := d.EstimateImage(t.Context(), spec)
		for how, err := range map[string]error{"pull": pulled(t, o, err), "launch": cached, "estimate": estimate,
			"mirror": d.startMirror(t.Context(), mirror).Wait(t.Context()).Err} {
			if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), attack.want) {
				t.Errorf("%s, %s: %v, not %q", name, how, err, attack.want)
			}
		}
		list, err := d.Images.List(t.Context(), store.Query{})
		if err != nil || len(list) > 0 || s.moved.Load() > 0 {
			t.Fatalf("%s: there are %d images, and %d files were asked for; %v", name, len(list), s.moved.Load(), err)
		}
	}

	// The signature is good, the bytes aren't.
	s.signature, s.sent = good, append([]byte{}, s.image...)
	s.sent[len(s.sent)/2] ^= 1
	o, err := d.PullImage(t.Context(), spec)
	if err := pulled(t, o, err); kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("other bytes: %v", err)
	}
	if list, err := d.Images.List(t.Context(), store.Query{}); err != nil || len(list) > 0 {
		t.Fatalf("%d images: %v", len(list), err)
	}
	s.sent = s.image
	o, err = d.PullImage(t.Context(), spec)
	wait(t, o, err)
	img, err := d.Images.Get(t.Context(), fp)
	if err != nil || img.Signature != good || img.Origin.ImageKey != key.Key().String() {
		t.Fatalf("it is here as %+v: %v", img, err)
	}

	// What isn't signed is no news.
	s.put(t, "2")
	if err := d.RefreshImage(t.Context(), fp, false).Wait(t.Context()).Err; kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("an update that isn't signed: %v", err)
	}
	unpinned := launch
	unpinned.Remote.ImageKey = ""
	if _, err := d.cachedImage(t.Context(), nil, unpinned); kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("somebody who pinned nothing: %v", err)
	}
	if img, err := d.Images.Find(t.Context(), "bb"); err != nil || img.Fingerprint != fp {
		t.Errorf("the alias means %s: %v", img.Fingerprint, err)
	}
	next := s.put(t, "3")
	s.signature = sign(t, key, next, "bb")
	if err := d.RefreshImage(t.Context(), fp, false).Wait(t.Context()).Err; err != nil {
		t.Fatal(err)
	}
	img, err = d.Images.Find(t.Context(), "bb")
	if err != nil || img.Fingerprint != next || img.Signature != s.signature || img.Origin.ImageKey == "" {
		t.Errorf("the update: %+v, %v", img, err)
	}
	spec.Remote.ImageKey = "nonsense"
	if _, err := d.PullImage(t.Context(), spec); kiln.KindOf(err) != kiln.Invalid {
		t.Errorf("no key: %v", err)
	}
}

// TestPinnedLater has images that were here before a key was pinned: they are used once the
// remote has shown a signature of them.
func TestPinnedLater(t *testing.T) {
	d := withHTTP(t)
	key := newKey(t)
	s := newShelf(t, key.Key())
	fp := s.put(t, "1")
	s.signature = "nonsense"
	plain := s.remote
	plain.ImageKey = ""
	o, err := d.PullImage(t.Context(), PullSpec{Remote: plain, Name: "bb", IsAlias: true})
	wait(t, o, err)
	if text, _ := o.Snapshot().Metadata["warning"].(string); !strings.Contains(text, "signature") {
		t.Errorf("nobody is told that the signature is none: %q", text)
	}
	if img, err := d.Images.Get(t.Context(), fp); err != nil || img.Signature != "" {
		t.Errorf("it is kept all the same: %q, %v", img.Signature, err)
	}
	byName := Source{Type: "image", Alias: "bb", Remote: s.remote, Offline: true}
	byDigits := Source{Type: "image", Fingerprint: fp.String(), Remote: s.remote}
	for _, src := range []Source{byName, byDigits} {
		if _, err := d.cachedImage(t.Context(), nil, src); kiln.KindOf(err) != kiln.Integrity {
			t.Errorf("%+v: %v", src, err)
		}
	}
	s.signature = sign(t, key, fp, "bb")
	moved := s.moved.Load()
	if _, err := d.cachedImage(t.Context(), nil, byDigits); err != nil {
		t.Error(err)
	}
	if _, err := d.cachedImage(t.Context(), nil, byName); err != nil {
		t.Error(err)
	}
	img, err := d.Images.Get(t.Context(), fp)
	if err != nil || img.Signature != s.signature || img.Origin.ImageKey != s.remote.ImageKey || s.moved.Load() != moved {
		t.Errorf("%+v, %d files moved: %v", img, s.moved.Load()-moved, err)
	}
	o, err = d.PullImage(t.Context(), PullSpec{Remote: plain, Name: "bb", IsAlias: true})
	wait(t, o, err)
	if img, err := d.Images.Get(t.Context(), fp); err != nil || img.Origin.ImageKey == "" {
		t.Errorf("who pinned nothing has taken the key away: %v", err)
	}
}

// TestRequireSignature takes images from remotes with a key only, if it is told to.
func TestRequireSignature(t *testing.T) {
	d := withHTTP(t)
	key := newKey(t)
	s := newShelf(t, key.Key())
	fp := s.put(t, "1")
	s.signature = sign(t, key, fp, "bb")
	if err := d.SetSettings(t.Context(), map[string]string{requireSignature: "always"}, false); err != nil {
		t.Fatal(err)
	}
	spec := PullSpec{Remote: s.remote, Name: "bb", IsAlias: true}
	spec.Remote.ImageKey = ""
	o, err := d.PullImage(t.Context(), spec)
	_, cached := d.cachedImage(t.Context(), nil, Source{Type: "image", Alias: "bb", Remote: spec.Remote})
	mirrored := d.startMirror(t.Context(), Mirror{Name: "m", Remote: spec.Remote}).Wait(t.Context()).Err
	arrives := func(r kiln.Remote) error { // the image of an instance
		a := &arrival{spec: CreateSpec{Source: Source{Remote: r}}}
		a.Images = []kiln.Fingerprint{fp}
		if has, err := d.findBase(t.Context(), nil, a, fp); err != nil || !has {
			return err
		}
		return d.bringImage(t.Context(), nil, a, fp)
	}
	for _, err := range []error{pulled(t, o, err), cached, mirrored, arrives(spec.Remote)} {
		if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), "kiln remote set-key") {
			t.Error(err)
		}
	}
	o, err = d.PullImage(t.Context(), PullSpec{Remote: s.remote, Name: "bb", IsAlias: true})
	wait(t, o, err)

	// What comes along with an instance has to be signed, too.
	tiny := formattest.Tiny(t, "3")
	along := ImportSpec{Cached: true, Fingerprint: sha256.Sum256(tiny)}
	named, mine := along, along
	named.ImageKey, mine.ImageKey = key.Key().String(), key.Key().String()
	named.Signature, mine.Signature = sign(t, newKey(t), along.Fingerprint), sign(t, key, along.Fingerprint)
	for what, spec := range map[string]ImportSpec{"without a key": along, "with another key": named} {
		brought := importFiles(t, d, spec, tiny).Wait(t.Context()).Err
		if kiln.KindOf(brought) != kiln.Integrity {
			t.Errorf("a client brings it %s: %v", what, brought)
		}
	}
	wait(t, importFiles(t, d, mine, tiny), nil)
	fp = s.put(t, "2")
	if err := arrives(s.remote); kiln.KindOf(err) != kiln.Integrity || s.moved.Load() != 1 {
		t.Errorf("%v, %d downloads", err, s.moved.Load())
	}
	s.signature = sign(t, key, fp, "bb")
	if err := arrives(s.remote); err != nil {
		t.Error(err)
	}
}

// TestVouchedByNewKey: the next version of an image has to be signed with the key that is pinned
// now, though the signature of this one is known.
func TestVouchedByNewKey(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "1")
	old := newKey(t)
	signature := sign(t, old, fp, "bb")
	r := kiln.Remote{Server: "https://example.org", Protocol: kiln.ProtocolKiln, ImageKey: old.Key().String()}
	must(t, d.Images.Update(t.Context(), fp, func(img *kiln.Image) error {
		img.Signature, img.Origin = signature, &kiln.Origin{Remote: r, Alias: "bb"}
		return nil
	}))
	here, err := d.Images.Get(t.Context(), fp)
	must(t, err)
	r.ImageKey = newKey(t).Key().String()
	if now, err := d.vouched(t.Context(), r, kiln.Image{Signature: signature}, here); err != nil ||
		now.Origin.ImageKey != r.ImageKey {
		t.Errorf("%+v, %v", now.Origin, err)
	}
}
