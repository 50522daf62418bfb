package server

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/instance"
)

// TestLargeSnapshots lists instances whose snapshots are configured with much: a few of these
// are in memory at once.
func TestLargeSnapshots(t *testing.T) {
	p := start(t)
	const instances, each, size = 4, 12, 1 << 18
	text := strings.Repeat("x", size)
	for n := range instances {
		name := fmt.Sprintf("c%d", n)
		p.empty(name)
		if _, err := p.d.UpdateInstance(t.Context(), name, func(i instance.Instance) (instance.Config, error) {
			i.Options["user.text"] = text
			return i.Config, nil
		}); err != nil {
			t.Fatal(err)
		}
		for range each {
			o, err := p.d.CreateSnapshot(t.Context(), name, instance.NewSnapshot{})
			if err == nil {
				err = o.Wait(t.Context()).Err
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	p.empty("none")
	before := heap()
	most := int64(0)
	for path, want := range map[string]int{"/1.0/instances?recursion=2": instances * each,
		"/1.0/instances/c0?recursion=1":                            each,
		"/1.0/instances/c0/snapshots?recursion=1":                  each,
		"/1.0/storage-pools/default/volumes?recursion=1":           0,
		"/1.0/storage-pools/default/volumes/container?recursion=1": 0} {
		resp, err := p.Get("http://x" + path)
		if err != nil {
			t.Fatal(err)
		}
		const mark = `"last_used_at":"1970-01-01T00:00:00Z","name":"snap`
		found, held, kept := 0, make([]byte, len(mark)-1+256<<10), 0
		for n, round := 0, 0; err == nil; round++ {
			n, err = io.ReadFull(resp.Body, held[kept:])
			found += bytes.Count(held[:kept+n], []byte(mark))
			kept = copy(held, held[max(0, kept+n-len(mark)+1):kept+n])
			if round%32 == 0 {
				most = max(most, heap()-before)
			}
		}
		resp.Body.Close()
		if !bytes.HasSuffix(held[:kept], []byte("}\n")) || found != want {
			t.Errorf("%s: %d snapshots, want %d; ends with %q, %v", path, found, want, held[max(0, kept-9):kept], err)
		}
	}
	if most > 16<<20 {
		t.Errorf("%d MB of %d are in memory", most>>20, instances*each*size*2>>20)
	}
}
