package server

import (
	"encoding/base64"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/trust"
)

// FuzzShown reads the certificate of a request, in each form that clients send.
func FuzzShown(f *testing.F) {
	pair, err := trust.Ensure(f.TempDir(), "client", trust.Client)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(trust.PEM(pair.Leaf))
	f.Add(base64.StdEncoding.EncodeToString(pair.Leaf.Raw))
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		cert, err := shown(caller{}, text)
		if (cert == nil) == (err == nil) || err != nil && kiln.KindOf(err) != kiln.Invalid {
			t.Errorf("%v, %v", cert, err)
		}
	})
}
