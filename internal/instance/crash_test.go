package instance

import (
	"testing"
	"time"
)

func TestMayGoOn(t *testing.T) {
	s := &Set{short: map[string]int{}}
	short := func(n int) (went int) {
		for range n {
			if s.mayGoOn("a", time.Second) {
				went++
			}
		}
		return went
	}
	if n := short(2 * mostShort); n != mostShort-1 {
		t.Errorf("%d short lives may be followed by another", n)
	}
	if !s.mayGoOn("b", 0) {
		t.Error("another instance pays for it")
	}
	if !s.mayGoOn("a", shortLife) || short(1) != 1 {
		t.Error("a long life doesn't count")
	}
	short(mostShort)
	s.forgetCrashes("a")
	if short(1) != 1 {
		t.Error("a start by a user doesn't count")
	}
}
