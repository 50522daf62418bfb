package faults

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMirrorsInCircle has two servers get from one another what they lack. A question ends
// where it began; and an untrusted client isn't told of mirrors that don't answer.
func TestMirrorsInCircle(t *testing.T) {
	t.Parallel()
	a, b, _ := pair(t)
	a.knows("b", b, b.Address)
	a.ok("mirror", "add", "b", "--pull-through")
	b.knows("there", a, a.Address)
	b.ok("mirror", "add", "there", "--pull-through")
	b.holds(unified(t, "circle", 10<<10), "--public", "--alias", "x")
	hc, _ := untrusted(t)
	get := func(path string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // look-ups that wait for each other take longer
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+a.Address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := hc.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if status, body := get("/1.0/images/aliases/nope"); status != http.StatusNotFound {
		t.Errorf("%d: %s", status, body)
	}
	if status, body := get("/1.0/images/aliases/x"); status != http.StatusOK {
		t.Errorf("%d: %s", status, body)
	}
	b.End(os.Kill)
	status, body := get("/1.0/images/aliases/another")
	if status == http.StatusOK || strings.Contains(body, b.Address) || !strings.Contains(body, "try again") {
		t.Errorf("%d: %s", status, body)
	}
}
