package daemon

import (
	"bytes"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/signing"
)

// TestPassOn mirrors images of an owner, and serves what that says of them, as it was at the last
// run; nothing where it would be taken for another's word. What was seen of the owner is brought
// back without the database.
func TestPassOn(t *testing.T) {
	d := withHTTP(t)
	o := newOwner(t)
	s := newShelf(t, o.root.Key())
	fp := s.put(t, "1")
	image := kiln.Image{Fingerprint: fp, Architecture: HostArch(), Size: int64(len(s.image)), Aliases: aliases("bb"),
		Signature: sign(t, o.image, fp, "bb")}
	s.signature = image.Signature
	withIndex := func(version uint64, good time.Duration) map[string][]byte {
		return both(o.signedKeys(o.root, func(f *signing.KeysFile) { f.IndexKeys = []signing.Key{o.index.Key()} }),
			o.signedIndex(o.index, func(x *signing.Index) { x.Version, x.Expires = version, time.Now().Add(good) }, image))
	}
	served := func(what string, want map[string][]byte) {
		t.Helper()
		got := map[string][]byte{}
		if k, err := d.ServedKeys(); err == nil {
			got["/"+signing.KeysPath], got["/"+signing.KeysPath+".minisig"] = []byte(k.Keys), []byte(k.Signature)
		}
		if x, sig, err := d.SignedIndex(t.Context()); err == nil {
			got["/"+signing.IndexPath], got["/"+signing.IndexPath+".minisig"] = x, sig
		}
		if !maps.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%s: %d documents are served: %q", what, len(got), got)
		}
	}
	s.beside = withIndex(5, time.Hour)
	op, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: s.remote, Public: true})
	wait(t, op, err)
	first := s.beside
	served("after a run", first)
	s.beside = withIndex(6, time.Hour)
	served("before the next run", first)
	run := func(stale bool) error {
		op, err := d.RunMirror(t.Context(), "m", stale)
		if err != nil {
			t.Fatal(err)
		}
		return op.Wait(t.Context()).Err
	}
	if err := run(false); err != nil {
		t.Fatal(err)
	}
	served("after the next run", s.beside)
	now := s.beside
	s.beside = withIndex(7, -time.Minute)
	if err := run(false); kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("expired: %v", err)
	}
	served("after a run that is refused", now)
	if err := run(true); err != nil {
		t.Errorf("expired, and accepted once: %v", err)
	}
	now = s.beside
	served("after a run that was accepted", now)
	if err := run(false); kiln.KindOf(err) != kiln.Integrity {
		t.Errorf("expired, and accepted for ever: %v", err)
	}
	d.published.passed = nil
	d.loadPassedOn()
	served("after a start", now)

	// One place is for the word of one owner.
	other := newOwner(t)
	kept := d.published.passed
	d.published.passed = maps.Clone(kept)
	d.published.passed["other"] = passedOn{Root: other.root.Key(), Documents: kept["m"].Documents}
	served("two owners", nil)
	d.published.passed = kept
	own := other.signedKeys(other.root, nil)
	document, signature := own["/"+signing.KeysPath], own["/"+signing.KeysPath+".minisig"]
	if err := d.SetImageKeys(ImageKeys{string(document), string(signature)}); err != nil {
		t.Fatal(err)
	}
	served("its own", own)
	if err := d.DeleteImageKeys(); err != nil {
		t.Fatal(err)
	}

	// The database is lost.
	pin, err := d.db.Pin(t.Context(), o.root.Key())
	if err != nil || pin.Indexes[o.index.Key()] != 7 {
		t.Fatalf("%+v, %v", pin, err)
	}
	if err := d.savePins(t.Context()); err != nil {
		t.Fatal(err)
	}
	empty, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "new.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	v := &recoverer{Daemon: &Daemon{cfg: d.cfg, db: empty}}
	if err := v.recoverPins(t.Context(), d.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if got, err := empty.Pin(t.Context(), o.root.Key()); err != nil || got.Exceeds(pin) || pin.Exceeds(got) {
		t.Errorf("%+v is brought back of %+v: %v", got, pin, err)
	}

	if err := d.RemoveMirror(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	served("without a mirror", nil)
}
