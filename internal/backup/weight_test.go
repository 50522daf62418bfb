package backup

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// begun is where a backup goes of which no files come.
type begun struct {
	Trees
	t kiln.Transfer
}

func (b *begun) Begin(t kiln.Transfer) error {
	b.t = t
	return errBegun
}

var errBegun = errors.New("begun")

// TestIndexIsCounted has what an index says of snapshots, devices and profiles be counted
// together while the files come, at no less than it takes.
func TestIndexIsCounted(t *testing.T) {
	devices := func(n int) map[string]map[string]string {
		m := map[string]map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = map[string]string{"type": "none"}
		}
		return m
	}
	state := kiln.InstanceState{Name: "c1", Architecture: "x86_64", CreatedAt: time.Now()}
	of := func(snapshots, each, profiles int) kiln.Transfer {
		tr := kiln.Transfer{InstanceState: state}
		for i := range snapshots {
			s := state
			s.Name, s.Devices = fmt.Sprintf("snap%d", i), devices(each)
			s.Profiles = strings.Fields(strings.Repeat("default ", profiles))
			tr.Snapshots = append(tr.Snapshots, s)
		}
		return tr
	}
	for what, tr := range map[string]kiln.Transfer{"devices": of(80, 500, 0), "snapshots": of(5000, 0, 0),
		"profiles": of(10, 0, 10_000)} {
		idx, _, err := encode(tr, func(kiln.InstanceState) (map[string]string, map[string]map[string]string) {
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		out := archive.NewPacker(&b)
		if err := errors.Join(out.AddFile(indexPath, idx, time.Now()), out.Close()); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		var got begun
		runtime.GC()
		runtime.ReadMemStats(&before)
		if _, err := Read(t.Context(), bytes.NewReader(b.Bytes()), archive.Limits{}, &got); !errors.Is(err, errBegun) {
			t.Fatalf("%s: %v", what, err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		took, counted := int64(after.HeapAlloc)-int64(before.HeapAlloc), got.t.Memory()
		if counted < took || counted > 8*took {
			t.Errorf("%s take %d bytes; %d are counted", what, took, counted)
		}
		c, guest := archive.NewCrowd(0, nil), archive.Client{Name: "a", Restricted: true}
		other, err := c.Share(guest)
		if err == nil {
			err = other.Add(106 << 20) // beside what both have anyway, of 128 MiB
		}
		if err != nil {
			t.Fatal(err)
		}
		visit, err := c.Share(guest)
		if err != nil {
			t.Fatal(err)
		}
		refused := begun{}
		_, err = Read(t.Context(), bytes.NewReader(b.Bytes()), archive.Limits{Visit: visit}, &refused)
		if !errors.Is(err, kiln.Busy) || refused.t.Name != "" {
			t.Errorf("%s without any memory left: %v", what, err)
		}
		other.Leave()
		if _, err = Read(t.Context(), bytes.NewReader(b.Bytes()), archive.Limits{Visit: visit}, &refused); !errors.Is(err,
			errBegun) {
			t.Errorf("%s: %v", what, err)
		}
		visit.Leave()
	}
}
