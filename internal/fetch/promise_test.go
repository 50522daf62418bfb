package fetch

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestLongerThanPromised has servers send more than the file was said to have: what is
// promised comes, and no byte more. A range of a file ends where it was asked to.
func TestLongerThanPromised(t *testing.T) {
	want := content(1 << 20)
	for _, plain := range []bool{false, true} {
		url := serve(t, &bad{content: append(bytes.Clone(want), "and more, that nobody promised"...), plain: plain})
		c := client(t)
		if got, err := read(t, c, File{URLs: []string{url}, Size: int64(len(want))}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("without ranges %v: %d bytes, %v", plain, len(got), err)
		}
		r := c.OpenRange(t.Context(), File{URLs: []string{url}, Size: int64(len(want))}, 1000, 5000)
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, want[1000:6000]) {
			t.Errorf("a range, without ranges %v: %d bytes, %v", plain, len(got), err)
		}
	}
}

// TestShorterThanPromised has a mirror with a file that is too short: nothing of it is
// taken, and the next one is asked; when there is none, the error says so.
func TestShorterThanPromised(t *testing.T) {
	want := content(300_000)
	short := &bad{content: want[:200_000]}
	shortURL, wholeURL := serve(t, short), serve(t, &bad{content: want})
	moved := map[string]int64{}
	f := File{URLs: []string{shortURL, wholeURL}, Size: int64(len(want)),
		Progress: func(server string, done int64) { moved[server] = done }}
	if got, err := read(t, client(t), f); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := moved[host(shortURL)]; n != 0 {
		t.Errorf("%d bytes came from the mirror with another file", n)
	}
	f = File{URLs: []string{shortURL}, Size: int64(len(want))}
	if got, err := read(t, client(t), f); !errors.Is(err, kiln.Network) || len(got) != 0 {
		t.Errorf("only the short one: %d bytes, %v", len(got), err)
	}
}
