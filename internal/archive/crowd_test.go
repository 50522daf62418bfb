package archive

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestCrowd has many remember more entries than a few: one does at a time, so many wait for it,
// and small archives wait for none of them.
func TestCrowd(t *testing.T) {
	waiting := make(chan context.Context, mostCrowded)
	c := NewCrowd(0, func(ctx context.Context) { waiting <- ctx })
	enter := func(ctx context.Context) *Visit {
		t.Helper()
		v, err := c.Enter(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const fewEntries = fewBytes / entrySize
	grow := func(v *Visit, n int) error {
		for range n {
			if err := v.entry(1, 0); err != nil {
				return err
			}
		}
		return nil
	}
	first := enter(t.Context())
	if err := grow(first, 2*fewEntries); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, mostCrowded)
	for range mostCrowded {
		v := enter(ctx)
		go func() {
			err := grow(v, fewEntries+1)
			v.Leave()
			ended <- err
		}()
		<-waiting
	}
	last := enter(t.Context())
	if err := grow(last, fewEntries+1); !errors.Is(err, kiln.Busy) {
		t.Error("one more waits:", err)
	}
	last.Leave()
	for range turns { // as many turns as ever
		v := enter(t.Context())
		if err := grow(v, fewEntries); err != nil {
			t.Error(err)
		}
		defer v.Leave()
	}
	if _, err := c.Enter(canceled(t)); err == nil {
		t.Error("there is one more turn")
	}
	first.Leave()
	if err := <-ended; err != nil { // the next one
		t.Error(err)
	}
	cancel()
	for range mostCrowded - 1 {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if n := c.waiting.Load(); n != 0 {
		t.Errorf("%d wait yet", n)
	}
	v := &Visit{crowd: c, ctx: t.Context()}
	if err := grow(v, fewEntries+1); err != nil {
		t.Error("after all have left:", err)
	}
	v.Leave()
	v.Leave() // once more is nothing
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// TestShares has clients take memory: each has its share, and one thing at a time that takes
// more; those who aren't restricted don't depend on those who are.
func TestShares(t *testing.T) {
	c := NewCrowd(1<<40, nil)
	var left []*Visit
	share := func(of Client, bytes int64) (*Visit, error) {
		v, err := c.Share(of)
		if err == nil {
			left = append(left, v)
			err = v.Add(bytes - streamSize)
		}
		return v, err
	}
	must := func(of Client, bytes int64) *Visit {
		t.Helper()
		v, err := share(of, bytes)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	refused := func(of Client, bytes int64, text string) {
		t.Helper()
		v, err := share(of, bytes)
		if !errors.Is(err, kiln.Busy) || !strings.Contains(err.Error(), text) {
			t.Error(of, bytes, "is refused:", err)
		}
		v.Leave()
	}
	const mib = 1 << 20
	a, b, other := Client{"a", true}, Client{"b", true}, Client{"c", true}
	admin := Client{Name: "a"}
	one := must(a, 500*mib) // of 512
	refused(a, 20*mib, "2 images, backups, copies and snapshots")
	if err := one.Add(1000 * mib); err != nil { // it is the only one
		t.Error(err)
	}
	refused(a, streamSize, "this client")
	must(b, 400*mib) // of what is left of 2048
	refused(b, 113*mib, "this client has 2 images")
	refused(other, 300*mib, "of restricted clients")
	must(other, alwaysFree-mib)
	big := must(admin, 10_000*mib)
	refused(admin, 20*mib, "this client")
	big.Leave()
	must(admin, 1000*mib)
	must(admin, 1000*mib)
	if err := one.Add(-1200 * mib); err != nil { // what was asked for stays its own
		t.Error(err)
	}
	if err := one.Add(1100 * mib); err != nil {
		t.Error(err)
	}
	one.Leave()
	one.Leave()
	must(a, 250*mib)
	must(a, 250*mib)
	must(other, 300*mib)
	for len(left) > 0 {
		left[0].Leave()
		left = left[1:]
	}
	if len(c.shares) != 0 || c.theirs != 0 {
		t.Errorf("after all have left: %v, %d", c.shares, c.theirs)
	}
}

// TestWalks goes through files: few of them are nobody's, many are the client's, and what nobody
// asked for has a bound even when it is alone.
func TestWalks(t *testing.T) {
	const mib = 1 << 20
	c, guest, server := NewCrowd(0, nil), Client{"a", true}, Client{Name: "this server"}
	full, err := c.Share(guest)
	if err == nil {
		err = full.Add(leastShared/clientPart - streamSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	few, many := c.Walk(guest, false), c.Walk(guest, false)
	if err := few.Add(walkFree); err != nil {
		t.Error("a few files:", err)
	}
	if err := many.Add(walkFree + 1); !errors.Is(err, kiln.Busy) {
		t.Error("many files:", err)
	}
	many.Leave()
	full.Leave()
	many = c.Walk(guest, false)
	if err := many.Add(300 * mib); err != nil {
		t.Error("alone:", err)
	}
	few.Leave()
	many.Leave()
	if len(c.shares) != 0 || c.theirs != 0 {
		t.Errorf("after all have left: %v, %d bytes", c.shares, c.theirs)
	}
	bounded, asked := c.Walk(server, true), c.Walk(Client{Name: "root"}, false)
	if err := bounded.Add(leastShared + walkFree + 1); !errors.Is(err, kiln.Busy) ||
		!strings.Contains(err.Error(), "unasked") {
		t.Error("what nobody asked for:", err)
	}
	if err := asked.Add(2 * leastShared); err != nil {
		t.Error("what somebody asked for:", err)
	}
	bounded.Leave()
	asked.Leave()
}
