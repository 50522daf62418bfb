package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestPackerCounts has what is remembered of a tree while it is packed be counted, and be
// forgotten: the names of a directory when it is done, those of links with the next tree.
func TestPackerCounts(t *testing.T) {
	const files, links = 3000, 500
	dir, few := t.TempDir(), t.TempDir()
	long := strings.Repeat("x", 200)
	for i := range files {
		name := filepath.Join(dir, fmt.Sprintf("%s%d", long, i))
		err := os.WriteFile(name, nil, 0o600)
		if i < links && err == nil {
			err = os.Link(name, filepath.Join(few, fmt.Sprintf("%s%d", long, i)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, guest := NewCrowd(0, nil), Client{"a", true}
	visit := func(left int64) *Visit {
		t.Helper()
		v, err := c.Share(guest)
		if err == nil {
			err = v.Add(leastShared/clientPart - 2*streamSize - left)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Leave)
		return v
	}
	pack := func(p *Packer, dir string) error {
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return p.AddTree(t.Context(), d, ".")
	}
	mine, err := c.Share(guest)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Leave()
	p := NewPacker(io.Discard)
	p.Visit = mine
	if err := pack(p, dir); err != nil {
		t.Fatal(err)
	}
	counted := mine.bytes - streamSize
	if least, most := int64(links*len(long)), int64(links*(len(long)+200)); counted < least || counted > most {
		t.Errorf("of %d links %d bytes are counted", links, counted)
	}
	if mine.asked < files*int64(len(long)) {
		t.Errorf("of %d names %d bytes were asked for", files, mine.asked-streamSize)
	}
	if err := pack(p, t.TempDir()); err != nil || mine.bytes != streamSize {
		t.Errorf("%v; of what is forgotten %d bytes are counted", err, mine.bytes-streamSize)
	}
	mine.Leave()
	other := visit(batchSize)
	if mine, err = c.Share(guest); err != nil {
		t.Fatal(err)
	}
	p.Visit = mine
	for what, dir := range map[string]string{"names": dir, "links": few} {
		if err := pack(p, dir); !errors.Is(err, kiln.Busy) {
			t.Errorf("%s without any memory left: %v", what, err)
		}
	}
	other.Leave()
	if err := pack(p, dir); err != nil {
		t.Error(err)
	}
}

// TestNamesBound refuses more names than there may be.
func TestNamesBound(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for most, ok := range map[int64]bool{0: true, 2: false, 3: true} {
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		names, forget, err := Names(d, most, nil)
		if ok && (err != nil || strings.Join(names, "") != "abc") || !ok && !errors.Is(err, kiln.TooLarge) {
			t.Errorf("at most %d: %q, %v", most, names, err)
		}
		if forget != nil {
			forget()
		}
		d.Close()
	}
}
