package client_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

// bomb serves a text that is repeated until a gigabyte came, in a megabyte of gzip.
func bomb(t *testing.T, begin, repeat string) *httptest.Server {
	t.Helper()
	zip := func(text string) []byte {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		io.WriteString(z, text)
		z.Close()
		return b.Bytes()
	}
	first, block := zip(begin), zip(strings.Repeat(repeat, 1<<20/len(repeat)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(first)
		for range 1 << 10 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// allocated tells how many bytes fn took from the heap, those that were given back
// included.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestAnswersAreBounded keeps a server from taking all memory of who asks it.
func TestAnswersAreBounded(t *testing.T) {
	for name, b := range map[string][2]string{
		"bytes":   {`{"type":"sync","metadata":["`, strings.Repeat("a", 64)},
		"objects": {`{"type":"sync","metadata":[{}`, `,{}`},
		"values":  {`{"type":"sync","metadata":[{"profiles":[""`, `,""`},
		"error":   {`{"type":"error","error":"`, strings.Repeat("a", 64)},
		"spaces":  {`{"type":"sync",`, strings.Repeat(" ", 64)},
	} {
		c := client.HTTPS(bomb(t, b[0], b[1]).URL, http.DefaultClient)
		for what, ask := range map[string]func() error{
			"list":     func() error { _, err := c.Images().List(t.Context()); return err },
			"transfer": func() error { _, err := c.Transfer(t.Context(), "c1"); return err },
			"wait":     func() error { _, err := c.Wait(t.Context(), "1"); return err },
		} {
			if name != "objects" && what != "list" { // which is the one that is over soonest
				continue // all read their answers in one way
			}
			var err error
			used := allocated(func() { err = ask() })
			if !errors.Is(err, kiln.TooLarge) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			most := uint64(400 << 20)
			if name == "objects" { // of which each takes more than its text
				most = 16 << 20
			}
			if used > most {
				t.Errorf("%s, %s: took %d MiB of memory", name, what, used>>20)
			}
		}
	}
}

// TestLargeList reads what a server with many images says.
func TestLargeList(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"type":"sync","metadata":[{"fingerprint":"no image"}`)
		for i := range 20_000 {
			fmt.Fprintf(w, `,{"fingerprint":"%064x","architecture":"x86_64","aliases":[{"name":"a%d"}],"properties":{"os":"x"},`+
				`"update_source":{"alias":"a%d"},"size":5,"type":"container","profiles":["default"]}`, i+1, i, i)
		}
		io.WriteString(w, `]}`)
	}))
	defer s.Close()
	list, err := client.HTTPS(s.URL, http.DefaultClient).Images().List(t.Context())
	if err != nil || len(list) != 20_000 {
		t.Errorf("%d images, %v; one of them was no image", len(list), err)
	}
}

// FuzzTransfer reads what other servers say of instances.
func FuzzTransfer(f *testing.F) {
	f.Add([]byte(`{"name":"c1","architecture":"x86_64","layers":["1"],"parts":[{"id":"1","size":5}],"snapshots":[{}]}`))
	f.Add([]byte(`{"base":"00","architecture":"amd64"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var w api.InstanceTransfer
		if json.Unmarshal(b, &w) != nil {
			return
		}
		got, err := client.ParseTransfer(w)
		if err != nil {
			return
		}
		if len(got.Snapshots) != len(w.Snapshots) || len(got.Parts) != len(w.Parts) {
			t.Errorf("%s: %+v", b, got)
		}
		if arch, err := kiln.ParseArch(got.Architecture); err != nil || arch != got.Architecture {
			t.Errorf("the architecture is %q", got.Architecture)
		}
	})
}
