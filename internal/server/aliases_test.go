package server

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestAliasETag has many change an alias that they all have seen: one may.
func TestAliasETag(t *testing.T) {
	p := start(t)
	fp := p.upload(formattest.Tiny(t, "a")).Metadata["fingerprint"].(string)
	const path = "/1.0/images/aliases/x"
	p.do("POST", "/1.0/images/aliases", `{"name":"x","target":"`+fp+`"}`)
	resp, _ := p.do("GET", path, "")
	tag := resp.Header.Get("ETag")
	var changed atomic.Int32
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			resp, b := p.do("PATCH", path, fmt.Sprintf(`{"description":"%d"}`, n), "If-Match", tag)
			switch resp.StatusCode {
			case http.StatusOK:
				changed.Add(1)
			case http.StatusPreconditionFailed:
			default:
				t.Errorf("%d %s", resp.StatusCode, b)
			}
		})
	}
	wg.Wait()
	if n := changed.Load(); n != 1 {
		t.Errorf("%d of 40 changed it", n)
	}
	if a := get[api.ImageAliasesEntry](p, path); a.Target != fp || a.Description == "" {
		t.Errorf("%+v", a)
	}
}
