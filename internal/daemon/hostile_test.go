package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/project"
)

// upstream is a server of the API with images of which it may have the bytes.
type upstream struct {
	images []api.Image
	bytes  map[string][]byte // by fingerprint
	gate   chan struct{}     // exports wait until it is closed; nil: they don't
	waits  atomic.Int32      // how many do, or did
	asked  atomic.Int32      // connections
	times  atomic.Int32      // requests
}

func (u *upstream) add(fp kiln.Fingerprint, b []byte, public bool, aliases ...string) {
	img := api.Image{Fingerprint: fp.String(), Architecture: HostArch(), Type: "container", Size: int64(max(len(b), 1))}
	img.Public, img.UploadedAt = public, time.Now()
	for _, a := range aliases {
		img.Aliases = append(img.Aliases, api.ImageAlias{Name: a})
	}
	u.images = append(u.images, img)
	if b != nil {
		u.bytes[fp.String()] = b
	}
}

// serve starts the server and gives how it is reached.
func (u *upstream) serve(t *testing.T) kiln.Remote {
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(api.Response{Type: "sync", Status: "Success", StatusCode: 200, Metadata: b})
	}
	mux.HandleFunc("/1.0/images", func(w http.ResponseWriter, _ *http.Request) { say(w, u.images) })
	mux.HandleFunc("/1.0/images/", func(w http.ResponseWriter, r *http.Request) {
		name, export := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/1.0/images/"), "/export")
		alias, byAlias := strings.CutPrefix(name, "aliases/")
		for _, img := range u.images {
			called := slices.ContainsFunc(img.Aliases, func(a api.ImageAlias) bool { return a.Name == alias })
			b, have := u.bytes[img.Fingerprint]
			switch {
			case byAlias && called:
				say(w, api.ImageAliasesEntry{Name: alias, Target: img.Fingerprint})
			case img.Fingerprint != name || export && !have:
				continue
			case export:
				if u.gate != nil {
					u.waits.Add(1)
					<-u.gate
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
			default:
				say(w, img)
			}
			return
		}
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(api.Response{Type: "error", Error: "Image not found", ErrorCode: 404})
	})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.times.Add(1)
		mux.ServeHTTP(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			u.asked.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return kiln.Remote{Protocol: kiln.ProtocolLXD, Server: s.URL, Certificate: string(cert)}
}

// TestClaimedFingerprint has a server name an image that is private here: nothing of
// that changes, whatever is asked for, since the server hasn't got it.
func TestClaimedFingerprint(t *testing.T) {
	d := fresh(t)
	private := formattest.Tiny(t, "private")
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("secret")}, private), nil)
	fp := kiln.Fingerprint(sha256.Sum256(private))
	before, err := d.Images.Get(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{bytes: map[string][]byte{}}
	u.add(fp, nil, true, "stolen")
	r := u.serve(t)
	unchanged := func(what string) {
		t.Helper()
		now, err := d.Images.Get(t.Context(), fp)
		if err != nil || now.Public || now.Origin != nil || now.AutoUpdate || len(now.Aliases) != 1 ||
			now.Aliases[0].Name != "secret" || !now.UploadedAt.Equal(before.UploadedAt) {
			t.Errorf("%s: %+v, %v", what, now, err)
		}
	}
	o, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: r, Public: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Wait(t.Context()); s.Err == nil {
		t.Error("a mirror without the bytes succeeds")
	}
	unchanged("mirror")
	spec := PullSpec{Remote: r, Name: "stolen", IsAlias: true}
	for what, given := range map[string]ImportSpec{"public": {Public: true}, "auto-update": {AutoUpdate: true}} {
		spec.ImportSpec = given
		o, err := d.PullImage(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if s := o.Wait(t.Context()); s.Err == nil {
			t.Errorf("%s: a copy without the bytes succeeds", what)
		}
		unchanged(what)
	}
	// Without asking for anything, the image is here as it was asked for.
	spec.ImportSpec = ImportSpec{}
	o, err = d.PullImage(t.Context(), spec)
	wait(t, o, err)
	unchanged("plain copy")
	// With the bytes, the server may say.
	u.bytes[fp.String()] = private
	spec.ImportSpec = ImportSpec{Public: true}
	o, err = d.PullImage(t.Context(), spec)
	wait(t, o, err)
	if now, err := d.Images.Get(t.Context(), fp); err != nil || !now.Public || now.Origin == nil {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestClaimedUpdate has a server name an image here as the newer version of its own:
// the aliases don't go over to that.
func TestClaimedUpdate(t *testing.T) {
	d := fresh(t)
	private, theirs := formattest.Tiny(t, "private"), formattest.Tiny(t, "theirs")
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("secret")}, private), nil)
	fp, first := kiln.Fingerprint(sha256.Sum256(private)), kiln.Fingerprint(sha256.Sum256(theirs))
	u := &upstream{bytes: map[string][]byte{}}
	u.add(first, theirs, true, "app")
	r := u.serve(t)
	o, err := d.PullImage(t.Context(), PullSpec{Remote: r, Name: "app", IsAlias: true,
		ImportSpec: ImportSpec{Aliases: aliases("app"), Public: true, AutoUpdate: true}})
	wait(t, o, err)
	u.images = nil
	u.add(fp, nil, true, "app")
	if s := d.RefreshImage(t.Context(), first, false).Wait(t.Context()); s.Err == nil {
		t.Error("an update without the bytes succeeds")
	}
	if a, err := d.Images.Alias(t.Context(), "app"); err != nil || a.Target != first {
		t.Errorf("the alias points to %v, %v", a.Target, err)
	}
	if now, err := d.Images.Get(t.Context(), fp); err != nil || now.Public || now.AutoUpdate {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestPullThroughKeepsSecrets fetches what untrusted clients ask for, and shows them
// nothing else: no private image that has the name here, nothing of a private mirror.
func TestPullThroughKeepsSecrets(t *testing.T) {
	d := fresh(t)
	private, theirs := formattest.Tiny(t, "private"), formattest.Tiny(t, "theirs")
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("app")}, private), nil)
	fp, there := kiln.Fingerprint(sha256.Sum256(private)), kiln.Fingerprint(sha256.Sum256(theirs))
	u := &upstream{bytes: map[string][]byte{}}
	u.add(there, theirs, true, "app")
	u.add(fp, private, true, "known", "apart")
	hidden := &upstream{bytes: map[string][]byte{}}
	other := formattest.Tiny(t, "other")
	hidden.add(kiln.Fingerprint(sha256.Sum256(other)), other, true, "internal")
	theirsOnly, filtered := formattest.Tiny(t, "theirs only"), formattest.Tiny(t, "filtered")
	u.add(kiln.Fingerprint(sha256.Sum256(theirsOnly)), theirsOnly, false, "app-private")
	u.add(kiln.Fingerprint(sha256.Sum256(filtered)), filtered, true, "filtered")
	machine := formattest.Tiny(t, "machine")
	u.add(kiln.Fingerprint(sha256.Sum256(machine)), machine, true, "app-machine")
	u.images[len(u.images)-1].Type = "virtual-machine"
	unnamed := formattest.Tiny(t, "unnamed")
	byNumber := kiln.Fingerprint(sha256.Sum256(unnamed))
	hidden.add(byNumber, unnamed, true)
	for _, m := range []Mirror{{Name: "a", Remote: u.serve(t), PullThrough: true, Public: true,
		Filters: []string{"ap"}},
		{Name: "b", Remote: hidden.serve(t), PullThrough: true}} {
		o, err := d.AddMirror(t.Context(), m)
		wait(t, o, err)
	}
	elsewhere := project.In(t.Context(), project.Alone("another")) // which no mirror serves
	for _, by := range []Asker{{}, {Trusted: true}} {
		if img, err := d.PullThrough(elsewhere, "app", by); !errors.Is(err, kiln.NotFound) {
			t.Errorf("into another project: %v, %v", img.Fingerprint, err)
		}
	}
	img, err := d.PullThrough(t.Context(), "app", Asker{})
	if err != nil || img.Fingerprint != there || !img.Public {
		t.Errorf("%v, %v", img.Fingerprint, err)
	}
	for _, name := range []string{"known", fp.String(), "internal", "nothing", "app-private", "app-machine",
		"filtered"} {
		if img, err := d.PullThrough(t.Context(), name, Asker{}); !errors.Is(err, kiln.NotFound) {
			t.Errorf("%s: %v, %v", name, img.Fingerprint, err)
		}
	}
	if now, err := d.Images.Get(t.Context(), fp); err != nil || now.Public {
		t.Errorf("%+v, %v", now, err)
	}
	if a, err := d.Images.Alias(t.Context(), "app"); err != nil || a.Target != fp {
		t.Errorf("the alias here points to %v, %v", a.Target, err)
	}
	if img, err := d.PullThrough(t.Context(), "internal", Asker{Trusted: true}); err != nil || img.Public {
		t.Errorf("a trusted client: %v, %v", img.Fingerprint, err)
	}

	// What has no name there gets none of what somebody typed, and isn't kept for ever.
	img, err = d.PullThrough(t.Context(), byNumber.String(), Asker{Trusted: true})
	if err != nil || img.Fingerprint != byNumber || len(img.Aliases) > 0 || !img.Cached {
		t.Errorf("by its fingerprint: %+v, %v", img, err)
	}
}

// TestPullThroughBounds looks for many names that nobody has: they don't open a
// connection each, and the same one isn't asked for again at once.
func TestPullThroughBounds(t *testing.T) {
	d := fresh(t)
	u := &upstream{bytes: map[string][]byte{}}
	r := u.serve(t)
	o, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: r, PullThrough: true, Public: true})
	wait(t, o, err)
	var first int32
	for i := range 200 {
		if i == 100 {
			first = u.times.Load()
		}
		_, err := d.PullThrough(t.Context(), strings.Repeat("x", 1+i%100), Asker{})
		if !errors.Is(err, kiln.NotFound) {
			t.Fatal(err)
		}
	}
	if n := u.times.Load(); first < 100 || n != first {
		t.Errorf("%d requests for 100 names, then %d for the same ones", first, n-first)
	}
	if n := u.asked.Load(); n > 4 {
		t.Errorf("%d connections for names that nobody has", n)
	}
	if n := d.asked.underWay; n != 0 {
		t.Errorf("%d look-ups are said to be under way", n)
	}
	for _, via := range [][]string{{"x", d.id}, make([]string, mostVia)} {
		if _, err := d.PullThrough(t.Context(), "new", Asker{Via: via}); !errors.Is(err, kiln.NotFound) ||
			u.times.Load() != first {
			t.Errorf("by way of %q: %v, after %d requests", via, err, u.times.Load()-first)
		}
	}
	d.asked.underWay, first = mostAsked, u.times.Load()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := d.PullThrough(ctx, "new", Asker{}); err == nil || u.times.Load() != first {
		t.Errorf("one look-up too many: %v, after %d requests", err, u.times.Load()-first)
	}
}

// TestAsked: only so many look-ups are under way, the next one waits for some seconds and
// is refused then; a name that nobody had is asked for again after a while, and at once by
// who may ask more mirrors.
func TestAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a asked
		var done func()
		for i := range mostAsked {
			var err error
			if done, err = a.enter(t.Context()); err != nil {
				t.Fatal(i, err)
			}
		}
		if _, err := a.enter(t.Context()); !errors.Is(err, kiln.Busy) {
			t.Errorf("one too many: %v", err)
		}
		time.AfterFunc(time.Second, done)
		if _, err := a.enter(t.Context()); err != nil {
			t.Errorf("after one is over: %v", err)
		}
		a.lack("x", false)
		for by, want := range map[bool]bool{false: true, true: false} {
			if got := a.lacks("x", by); got != want || a.lacks("y", by) {
				t.Errorf("trusted %v: lacks it: %v", by, got)
			}
		}
		time.Sleep(lackingStays)
		if a.lacks("x", false) {
			t.Error("it is never asked for again")
		}
		for i := range 2 * mostLacking {
			a.lack(fmt.Sprint(i), false)
		}
		if n := len(a.lacking); n > mostLacking || !a.lacks(fmt.Sprint(2*mostLacking-1), false) {
			t.Errorf("%d names are remembered", n)
		}
	})
}

// TestMirrorsApart has two servers with an image of one name each: the second doesn't get
// the name that the first has here, nor does a name that can't be one.
func TestMirrorsApart(t *testing.T) {
	d := fresh(t)
	var list []kiln.Fingerprint
	for _, name := range []string{"first", "second"} {
		u := &upstream{bytes: map[string][]byte{}}
		b := formattest.Tiny(t, name)
		fp := kiln.Fingerprint(sha256.Sum256(b))
		list = append(list, fp)
		u.add(fp, b, true, name, "app", "a/ b")
		o, err := d.AddMirror(t.Context(), Mirror{Name: name, Remote: u.serve(t)})
		wait(t, o, err)
	}
	for i, want := range [][]string{{"app", "first"}, {"second"}} {
		img, err := d.Images.Get(t.Context(), list[i])
		var names []string
		for _, a := range img.Aliases {
			names = append(names, a.Name)
		}
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("%q, want %q; %v", names, want, err)
		}
	}
}

// TestMirrorLeavesOut has a mirror run after its alias was rolled back here: the version
// that was left doesn't come back, but what is newer does.
func TestMirrorLeavesOut(t *testing.T) {
	d := fresh(t)
	u := &upstream{bytes: map[string][]byte{}}
	r := u.serve(t)
	var fps []kiln.Fingerprint
	publish := func(text string) {
		b := formattest.Tiny(t, text)
		fps = append(fps, kiln.Fingerprint(sha256.Sum256(b)))
		u.images = nil
		u.add(fps[len(fps)-1], b, true, "app")
	}
	publish("1")
	o, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: r, Keep: 3})
	wait(t, o, err)
	run := func(step string, want int) {
		t.Helper()
		o, err := d.RunMirror(t.Context(), "m", false)
		wait(t, o, err)
		if a, err := d.Images.Alias(t.Context(), "app"); err != nil || a.Target != fps[want] {
			t.Errorf("%s: the alias points to %s, %v", step, a.Target.Short(), err)
		}
	}
	publish("2")
	run("a new version", 1)
	if _, _, err := d.RollBackAlias(t.Context(), "app", 1); err != nil {
		t.Fatal(err)
	}
	run("rolled back", 0)
	// Who isn't trusted isn't shown the version that is kept here, which is private.
	o, err = d.AddMirror(t.Context(), Mirror{Name: "p", Remote: r, PullThrough: true, Public: true})
	wait(t, o, err)
	wait(t, d.DeleteImage(t.Context(), fps[1]), nil)
	if img, err := d.PullThrough(t.Context(), "app", Asker{}); !errors.Is(err, kiln.NotFound) {
		t.Errorf("it is shown %s, public %v, %v", img.Fingerprint.Short(), img.Public, err)
	}
	publish("3")
	run("a newer version", 2)
}

// TestClaimedMeanwhile has a server name an image that is just coming from another one: it
// doesn't get to say anything of it by that.
func TestClaimedMeanwhile(t *testing.T) {
	d := fresh(t)
	private := formattest.Tiny(t, "private")
	fp := kiln.Fingerprint(sha256.Sum256(private))
	honest := &upstream{bytes: map[string][]byte{}, gate: make(chan struct{})}
	honest.add(fp, private, true, "app")
	open := sync.OnceFunc(func() { close(honest.gate) })
	pull, err := d.PullImage(t.Context(), PullSpec{Remote: honest.serve(t), Name: "app", IsAlias: true})
	t.Cleanup(open) // before the server ends, which waits for it
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return honest.waits.Load() > 0 })
	liar := &upstream{bytes: map[string][]byte{}}
	liar.add(fp, nil, true, "stolen")
	o, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: liar.serve(t), Public: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	o.Wait(ctx) // one that takes the other's bytes for its own waits for them
	open()
	wait(t, pull, nil)
	if s := o.Wait(t.Context()); s.Err == nil {
		t.Error("a mirror without the bytes succeeds")
	}
	if now, err := d.Images.Get(t.Context(), fp); err != nil || now.Public || len(now.Aliases) > 0 {
		t.Errorf("%+v, %v", now, err)
	}
}
