package daemon

import (
	"fmt"
	"testing"
	"time"
)

// TestThrottleRemembers has more addresses guess wrong than are remembered: only those
// that have been quiet for longest are forgotten, and memory stays bounded.
func TestThrottleRemembers(t *testing.T) {
	var g throttle
	now := time.Unix(1000, 0)
	for range 5 {
		g.note("persistent", now)
	}
	g.note("quiet", now.Add(-time.Second))
	for n := range mostFailed + 500 {
		now = now.Add(time.Millisecond)
		g.note(fmt.Sprint("other ", n), now)
		if n%1000 == 0 {
			g.note("persistent", now)
		}
	}
	if len(g.failed) > mostFailed {
		t.Errorf("%d addresses are remembered", len(g.failed))
	}
	if n := g.note("persistent", now); n < 5+10 {
		t.Errorf("an address that goes on has %d wrong guesses", n)
	}
	if n := g.note("quiet", now); n != 0 {
		t.Errorf("one that was quiet for long still has %d", n)
	}
	g.right("persistent")
	if n := g.note("persistent", now); n != 0 {
		t.Errorf("after a right answer it still has %d", n)
	}
}
