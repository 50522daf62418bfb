package place

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

func TestPatient(t *testing.T) {
	heard := make(chan string, 8)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			heard <- "warning: " + <-heard // answers once somebody was told
		}
	}))
	defer srv.Close()
	tell := func(s string) { heard <- s }
	hc := &http.Client{Transport: patient{http.DefaultTransport, time.Millisecond, tell, new(sync.Once)}}
	resp, err := hc.Get(srv.URL + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, want := <-heard, "warning: waiting for an answer of "+srv.URL; got != want {
		t.Errorf("%q, want %q", got, want)
	}

	hc.Transport = patient{http.DefaultTransport, time.Hour, func(s string) { t.Error(s) }, new(sync.Once)}
	if resp, err = hc.Get(srv.URL + "/quick"); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	(&Resolver{}).patiently(hc) // nobody to tell
	hc.CloseIdleConnections()
}
