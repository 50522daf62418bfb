package client

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestNotShared: a source that has forgotten a copy is told as such, not as one that
// doesn't trust somebody.
func TestNotShared(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"type":"error","error":"not authorized","error_code":403}`)
	}))
	defer s.Close()
	c := HTTPS(s.URL, s.Client())
	_, err := c.Transfer(t.Context(), "c1")
	_, perr := c.TransferPart(t.Context(), "c1", "x")
	for _, err := range []error{err, perr} {
		if !errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), s.URL) || !strings.Contains(err.Error(), `"c1"`) {
			t.Errorf("%v", err)
		}
	}
}
