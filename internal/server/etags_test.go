package server

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/trust"
)

// TestETagsHold has many change something that they all have seen, of each noun that
// has an ETag: one may.
func TestETagsHold(t *testing.T) {
	p := start(t)
	fp := p.upload(formattest.Tiny(t, "a")).Metadata["fingerprint"].(string)
	p.do("POST", "/1.0/images/aliases", `{"name":"x","target":"`+fp+`"}`)
	p.do("POST", "/1.0/profiles", `{"name":"x"}`)
	if o := p.finish("POST", "/1.0/instances", `{"name":"x","source":{"type":"none"}}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	cert, err := trust.Ensure(t.TempDir(), "client", trust.Client)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	p.do("POST", "/1.0/certificates", string(encode(map[string]any{"name": "x", "type": "client",
		"certificate": string(text)})))
	p.do("POST", "/1.0/projects", `{"name":"x"}`)
	p.do("POST", "/1.0/storage-pools/default/volumes/custom", `{"name":"x"}`)
	if o := p.finish("POST", "/1.0/storage-pools/default/volumes/custom/x/snapshots", `{"name":"s"}`); o.Err != "" {
		t.Fatal(o.Err)
	}
	for path, body := range map[string]string{
		"/1.0":                      `{"config":{"user.n":"%d"}}`,
		"/1.0/images/" + fp:         `{"properties":{"n":"%d"}}`,
		"/1.0/images/aliases/x":     `{"description":"%d"}`,
		"/1.0/profiles/x":           `{"description":"%d"}`,
		"/1.0/instances/x/metadata": `{"architecture":"x86_64","creation_date":1,"properties":{"n":"%d"}}`,
		"/1.0/instances/x":          `{"description":"%d"}`,
		"/1.0/projects/x":           `{"description":"%d"}`,
		"/1.0/storage-pools/default/volumes/custom/x":       `{"description":"%d"}`,
		"/1.0/certificates/" + trust.Fingerprint(cert.Leaf): `{"description":"%d"}`,
	} {
		resp, _ := p.do("GET", path, "")
		tag := resp.Header.Get("ETag")
		var changed atomic.Int32
		var wg sync.WaitGroup
		for n := range 20 {
			wg.Go(func() {
				resp, b := p.do("PATCH", path, fmt.Sprintf(body, n), "If-Match", tag)
				switch resp.StatusCode {
				case http.StatusOK, http.StatusAccepted:
					changed.Add(1)
				case http.StatusPreconditionFailed:
				default:
					t.Errorf("%s: %d %s", path, resp.StatusCode, b)
				}
			})
		}
		wg.Wait()
		if n := changed.Load(); n != 1 || tag == "" {
			t.Errorf("%s: %d of 20 changed it, its ETag was %q", path, n, tag)
		}
		if strings.HasSuffix(path, "/metadata") { // and the templates beside it
			seen := path + "/templates?path=t"
			if resp, b := p.do("POST", seen, "one"); resp.StatusCode != http.StatusOK {
				t.Errorf("%d %s", resp.StatusCode, b)
			}
			resp, _ := p.do("GET", seen, "")
			tag := resp.Header.Get("ETag")
			for _, c := range []struct {
				method, tag string
				status      int
			}{{"PUT", `"other"`, http.StatusPreconditionFailed}, {"DELETE", `"other"`, http.StatusPreconditionFailed},
				{"PUT", tag, http.StatusOK}, {"DELETE", tag, http.StatusPreconditionFailed}, {"DELETE", "", http.StatusOK},
				{"DELETE", "", http.StatusNotFound}} {
				if resp, b := p.do(c.method, seen, "two", "If-Match", c.tag); resp.StatusCode != c.status || tag == "" {
					t.Errorf("%s of what has %q: %d %s", c.method, c.tag, resp.StatusCode, b)
				}
			}
		}
		if path == "/1.0/storage-pools/default/volumes/custom/x" { // which can be restored by a change as well
			if resp, b := p.do("PUT", path, `{"restore":"s"}`, "If-Match", tag); resp.StatusCode !=
				http.StatusPreconditionFailed {
				t.Errorf("restored: %d %s", resp.StatusCode, b)
			}
			if resp, b := p.do("PUT", path+"/snapshots/s", `{"description":"y"}`, "If-Match", `"other"`); resp.StatusCode !=
				http.StatusPreconditionFailed {
				t.Errorf("its snapshot: %d %s", resp.StatusCode, b)
			}
		}
	}
}

// TestDamageIsTold has clients of every kind see what is damaged, and why.
func TestDamageIsTold(t *testing.T) {
	const why = "its column x is damaged"
	img := image(kiln.Image{Damage: why, Aliases: []kiln.Alias{{Name: "a", Damage: why}}})
	for noun, text := range map[string]string{
		"image":         img.Properties["description"],
		"image's alias": img.Aliases[0].Description,
		"alias":         aliasEntry(kiln.Alias{Damage: why}).Description,
		"snapshot":      wireSnapshot(instance.Snapshot{Damage: why}).Description,
		"profile":       profile(daemon.Profile{Profile: db.Profile{Damage: why}}, caller{}).Description,
		"certificate":   certificate(daemon.Client{Damage: why}).Description,
	} {
		if !strings.HasPrefix(text, "damaged: ") || !strings.Contains(text, why) {
			t.Errorf("%s: %q", noun, text)
		}
	}
}
