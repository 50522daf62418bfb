package daemon

import (
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/op"
)

// TestWalksOfNobody: what remembers many files of instances has a bound when nobody asked for it.
func TestWalksOfNobody(t *testing.T) {
	d := fresh(t)
	const much = 1 << 40
	unasked, asked := d.pool.Walk(t.Context()), d.pool.Walk(op.WithOwner(t.Context(), "root"))
	defer unasked.Leave()
	defer asked.Leave()
	if err := unasked.Add(much); kiln.KindOf(err) != kiln.Busy {
		t.Errorf("unasked: %v", err)
	}
	if err := asked.Add(much); err != nil {
		t.Errorf("asked for: %v", err)
	}
}
