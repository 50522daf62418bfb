package server

import (
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestSecretOpensOneImage has an untrusted client ask, with the secret of one private
// image, for another in each way that takes a secret.
func TestSecretOpensOneImage(t *testing.T) {
	p := start(t)
	upload := func(seed string) string {
		return p.upload(formattest.Tiny(t, seed)).Metadata["fingerprint"].(string)
	}
	a, b := upload("a"), upload("b")
	fp, err := kiln.ParseFingerprint(a)
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.d.ShareImage(t.Context(), fp)
	if err != nil {
		t.Fatal(err)
	}
	pull := o.Snapshot().Metadata["secret"].(string)
	if o, err = p.d.ExpectImage(t.Context(), daemon.ImportSpec{Fingerprint: fp}); err != nil {
		t.Fatal(err)
	}
	push := o.Snapshot().Metadata["secret"].(string)
	for _, c := range []struct {
		fp, secret string
		want       int
	}{
		{a, pull, 200}, {b, pull, 404}, {a, push, 404}, {b, push, 404}, {b, "", 404},
	} {
		for _, path := range []string{"/1.0/images/" + c.fp, "/1.0/images/" + c.fp + "/export",
			"/1.0/kiln/images/" + c.fp + "/files/" + c.fp} {
			if w := p.untrusted(path + "?secret=" + c.secret); w.Code != c.want {
				t.Errorf("%s with %.4q: %d, want %d: %.100s", path, c.secret, w.Code, c.want, w.Body)
			}
		}
	}
}
