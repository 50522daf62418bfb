package fetch

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestShortFileIsAskedForOnce: a file that is shorter than it should be is so the next
// time, too, and none of it is read.
func TestShortFileIsAskedForOnce(t *testing.T) {
	var asked atomic.Int32
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		text("abc").ServeHTTP(w, r)
	})
	c := client(t)
	c.Tries, c.Stall = 3, time.Minute
	b, err := read(t, c, File{URLs: []string{serve(t, h)}, Size: 10})
	if kiln.KindOf(err) != kiln.Network || len(b) > 0 || asked.Load() != 1 {
		t.Errorf("asked %d times for %q: %v", asked.Load(), b, err)
	}
}
