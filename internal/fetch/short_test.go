package fetch

import (
	"bytes"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
)

// TestCutOfUnknownSize: a file whose size nobody told beforehand is whole as well, or an
// error.
func TestCutOfUnknownSize(t *testing.T) {
	s := &bad{content: content(1 << 20)}
	var answers atomic.Int32
	s.cut = func() int {
		if answers.Add(1) < 4 {
			return 200_000
		}
		return -1
	}
	if got, err := read(t, client(t), File{URLs: []string{serve(t, s)}, Size: -1}); err != nil ||
		!bytes.Equal(got, s.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

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
