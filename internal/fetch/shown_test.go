package fetch

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestNoSecretInErrors: whatever becomes of a download, no error has the query of its URL.
func TestNoSecretInErrors(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"forbidden": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"gone":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) },
		"broken":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"short":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) },
		"cut":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"circle":    func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) },
	} {
		s := httptest.NewServer(answer)
		_, err := read(t, client(t), File{URLs: []string{s.URL + "/file?secret=hush"}, Size: 1000})
		s.Close()
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"http://127.0.0.1:1/file?secret=hush", "http://u:hush@127.0.0.1:1/f", "http://[::1/?hush"} {
		if _, err := read(t, client(t), File{URLs: []string{url}, Size: 1000}); err == nil ||
			strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
