package daemon

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestProxy lays the settings over the environment.
func TestProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://environment:1")
	d := fresh(t)
	through := func(url string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		u, err := d.proxy(r)
		if err != nil {
			t.Fatal(err)
		}
		if u == nil {
			return ""
		}
		return u.Host
	}
	if got := through("https://images.example/x"); got != "environment:1" {
		t.Errorf("%q", got)
	}
	set := map[string]string{proxyHTTPS: "http://proxy:3128", proxyIgnore: "near.example"}
	if err := d.SetSettings(t.Context(), set, false); err != nil {
		t.Fatal(err)
	}
	if got := through("https://images.example/x"); got != "proxy:3128" {
		t.Errorf("%q", got)
	}
	if got := through("https://near.example/x"); got != "" {
		t.Errorf("%q", got)
	}
	if err := d.SetSettings(t.Context(), map[string]string{proxyHTTP: "proxy"}, false); err == nil {
		t.Error("a proxy that is no URL passes")
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, ":8443": {":8443"}, "[::]:1, 10.0.0.1": {"[::]:1", "10.0.0.1:8443"}, "::1": {"[::1]:8443"},
		"images.example:9": {"images.example:9"},
	} {
		if got, err := parseAddresses(in, DefaultPort); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, bad := range []string{"a:b:c", "x:notaport", "x:99999"} {
		if _, err := parseAddresses(bad, DefaultPort); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// TestFlights has several who wait for one download.
func TestFlights(t *testing.T) {
	var f flights
	var started int
	begun, end := make(chan struct{}), make(chan struct{})
	start := func(ctx context.Context, report func(string, int64)) (kiln.Image, error) {
		started++
		close(begun)
		select {
		case <-end:
			return kiln.Image{Size: 7}, nil
		case <-ctx.Done():
			return kiln.Image{}, context.Cause(ctx)
		}
	}
	impatient, leave := context.WithCancel(t.Context())
	results := make(chan error, 3)
	quiet := func(string, int64) {}
	join := func(ctx context.Context) {
		img, err := f.join(ctx, t.Context(), "x", quiet, start)
		if err == nil && img.Size != 7 {
			t.Errorf("%+v", img)
		}
		results <- err
	}
	go join(impatient)
	<-begun
	go join(t.Context())
	go join(t.Context())
	for n := 0; n < 3; {
		f.mu.Lock()
		n = f.flying["x"].waiting
		f.mu.Unlock()
	}
	leave()
	if err := <-results; kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("who left: %v", err)
	}
	close(end)
	for range 2 {
		if err := <-results; err != nil {
			t.Errorf("who waited: %v", err)
		}
	}
	if started != 1 {
		t.Errorf("%d downloads", started)
	}
	// When nobody waits any more, it ends.
	begun, end = make(chan struct{}), make(chan struct{})
	alone, leave := context.WithCancel(t.Context())
	go join(alone)
	<-begun
	leave()
	<-results
	f.wg.Wait()
}

func TestProgressText(t *testing.T) {
	for want, got := range map[string]string{
		"rootfs: 50% (1.0 MB/s), 5.0 MB of 10.0 MB, 5s left, from a": progressText("a", 5e6, 10e6, 1e6),
		"rootfs: 5.0 MB (0 B/s)":                                     progressText("", 5e6, 0, 0),
	} {
		if strings.ReplaceAll(got, "  ", " ") != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
