package disk

import (
	"testing"
	"time"
)

func TestLongAgo(t *testing.T) {
	now, while := time.Now(), 24*time.Hour
	for at, want := range map[time.Time][2]bool{
		now: {}, now.Add(-while / 2): {}, now.Add(while): {}, now.Add(-while - time.Minute): {true, false},
		time.Unix(0, 0): {false, true}, time.Unix(5, 0): {false, true}, {}: {false, true},
	} {
		if long, unknown := LongAgo(at, while); [2]bool{long, unknown} != want {
			t.Errorf("%v: %v, %v", at, long, unknown)
		}
	}
}
