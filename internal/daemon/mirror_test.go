package daemon

import (
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestMirrorKeeps has a mirror keep as many older versions as it is told to, whatever
// the daemon keeps of others.
func TestMirrorKeeps(t *testing.T) {
	d := fresh(t)
	u := &upstream{bytes: map[string][]byte{}}
	m := Mirror{Name: "m", Remote: u.serve(t), Keep: 2}
	var fps []kiln.Fingerprint
	for _, text := range []string{"1", "2", "3", "4"} {
		b := formattest.Tiny(t, text)
		fps = append(fps, kiln.Fingerprint(sha256.Sum256(b)))
		u.images = nil
		u.add(fps[len(fps)-1], b, true, "app")
		if text == "1" {
			o, err := d.AddMirror(t.Context(), m)
			wait(t, o, err)
		} else {
			o, err := d.RunMirror(t.Context(), "m", false)
			wait(t, o, err)
		}
	}
	for n, want := range []error{kiln.NotFound, nil, nil, nil} {
		if _, err := d.Images.Get(t.Context(), fps[n]); !errors.Is(err, want) {
			t.Errorf("version %d: %v", n+1, err)
		}
	}
}

// TestMirrorOfItself: a server that mirrors itself would bring nothing for ever.
func TestMirrorOfItself(t *testing.T) {
	d := fresh(t)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.cert.Certificate[0]})
	m := Mirror{Name: "m", Remote: kiln.Remote{Server: "https://127.0.0.1:1", Protocol: kiln.ProtocolLXD,
		Certificate: string(own)}}
	if _, err := d.AddMirror(t.Context(), m); !errors.Is(err, kiln.Invalid) {
		t.Error(err)
	}
	if list, err := d.Mirrors(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestDamagedMirror: a rule of which something can't be read is followed by nobody, since
// what can be read may say more than was allowed.
func TestDamagedMirror(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	u := &upstream{bytes: map[string][]byte{}}
	b := formattest.Tiny(t, "1")
	u.add(kiln.Fingerprint(sha256.Sum256(b)), b, true, "app")
	o, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: u.serve(t), PullThrough: true, Public: true,
		Filters: []string{"other"}})
	wait(t, o, err)
	end(t, d)
	execute(t, dir, "UPDATE mirrors SET filters = "+noJSON)
	d = open(t, dir)
	defer end(t, d)
	if img, err := d.PullThrough(t.Context(), "app", Asker{}); !errors.Is(err, kiln.NotFound) || u.times.Load() > 0 {
		t.Errorf("%s, %v, after %d requests", img.Fingerprint.Short(), err, u.times.Load())
	}
	if _, err := d.RunMirror(t.Context(), "m", false); !errors.Is(err, kiln.Integrity) {
		t.Error(err)
	}
}
