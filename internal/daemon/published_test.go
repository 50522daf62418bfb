package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/signing"
)

// TestPublished signs the index once for each change, with a version that only grows, and keeps
// the key to itself, through restarts and what is damaged.
func TestPublished(t *testing.T) {
	d := fresh(t)
	key := newKey(t)
	plain, err := key.File("")
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{"no key": "x", "a public key": string(key.Key().File())} {
		if err := d.SetIndexKey([]byte(file), true); kiln.KindOf(err) != kiln.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := d.SignedIndex(t.Context()); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("no key: %v", err)
	}
	if err := d.SetIndexKey(plain, false); kiln.KindOf(err) != kiln.Invalid || !strings.Contains(err.Error(), "--pinned") {
		t.Errorf("the pinned key, unasked: %v", err)
	}
	inTheWay := filepath.Join(d.cfg.Dir, indexKeyFile)
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.SetIndexKey(plain, true); kiln.KindOf(err) != kiln.Integrity ||
		!strings.Contains(err.Error(), inTheWay+": it is a directory, where a file should be; move it away, and lend") {
		t.Errorf("with a directory in its place: %v", err)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := d.SetIndexKey(plain, true); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(d.cfg.Dir, indexKeyFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key is kept as %v: %v", fi, err)
	}
	index := func() signing.Index {
		t.Helper()
		document, signature, err := d.SignedIndex(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signing.NewPin(key.Key()).ReadIndex(document, signature); err != nil {
			t.Fatal(err)
		}
		var x signing.Index
		if err := json.Unmarshal(document, &x); err != nil {
			t.Fatal(err)
		}
		return x
	}
	first := index()
	if again := index(); again.Version != first.Version || len(first.Images) != 0 {
		t.Errorf("it is signed again: %+v", again)
	}
	ahead := uint64(time.Now().Unix()) + 1<<20 // the clock was wrong once
	version := filepath.Join(d.cfg.Dir, indexVersionFile)
	if err := os.WriteFile(version, fmt.Appendln(nil, ahead), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := importFiles(t, d, ImportSpec{Public: true}, formattest.Tiny(t, "1")).Wait(t.Context()).Err; err != nil {
		t.Fatal(err)
	}
	if next := index(); next.Version != ahead+1 || len(next.Images) != 0 { // nobody signed the image
		t.Errorf("the next one is %+v", next)
	}
	d.published.index.until = time.Now()
	if later := index(); later.Version != ahead+2 {
		t.Errorf("it isn't signed again in time: %+v", later)
	}

	// The next daemon goes on.
	d.published = published{}
	d.loadPublished()
	if next := index(); next.Version != ahead+3 {
		t.Errorf("after a restart: %+v", next)
	}
	if err := os.WriteFile(version, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.published.index = signedIndex{}
	_, _, err = d.SignedIndex(t.Context())
	if kiln.KindOf(err) != kiln.Integrity || !strings.Contains(err.Error(), version) {
		t.Errorf("the version is damaged: %v", err)
	}
	for _, name := range []string{indexKeyFile, keysFile} {
		if err := os.WriteFile(filepath.Join(d.cfg.Dir, name), plain[:20], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.published = published{}
	d.loadPublished()
	if _, err := d.IndexKey(); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("the key is damaged: %v", err)
	}
	if _, err := d.ImageKeys(); kiln.KindOf(err) != kiln.NotFound {
		t.Errorf("the keys file is damaged: %v", err)
	}
}
