package server

import (
	"errors"
	"io"
	"net/http"
	"testing"
)

// TestBrokenAnswer makes sure that an answer which fails after it began can't be
// taken for a whole one, and that a handler that panics before is an error.
func TestBrokenAnswer(t *testing.T) {
	p := start(t)
	p.s.mux.HandleFunc("/test/broken", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "the first half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	p.s.mux.HandleFunc("/test/panics", func(http.ResponseWriter, *http.Request) { panic("a mistake") })
	resp, err := p.Get("http://x/test/broken")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q reads as a whole answer: %v", b, err)
	}
	if resp, b := p.do("GET", "/test/panics", ""); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}
