package volume

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestNotedRecord keeps a record beside its file: what is kept is believed if it is whole,
// and one that can't be kept leaves none of before.
func TestNotedRecord(t *testing.T) {
	dir := t.TempDir()
	if _, err := notedRecord(dir); !errors.Is(err, kiln.NotFound) {
		t.Errorf("none: %v", err)
	}
	noteRecord(dir, record{Layers: []string{"one", "two"}})
	if r, err := notedRecord(dir); err != nil || !slices.Equal(r.Layers, []string{"one", "two"}) {
		t.Errorf("%+v, %v", r, err)
	}
	buf := make([]byte, 1000)
	n, err := unix.Lgetxattr(dir, recordXattr, buf)
	if err != nil {
		t.Fatal(err)
	}
	changed := slices.Clone(buf[:n])
	changed[slices.Index(changed, 'w')] = 'x' // another layer, in JSON that is right
	if err := unix.Lsetxattr(dir, recordXattr, changed, 0); err != nil {
		t.Fatal(err)
	}
	if r, err := notedRecord(dir); !errors.Is(err, kiln.Integrity) {
		t.Errorf("damaged: %+v, %v", r, err)
	}
	if err := unix.Lsetxattr(dir, recordXattr, buf[:n], 0); err != nil {
		t.Fatal(err)
	}
	var many []string
	for i := range 20_000 { // more than an attribute holds
		many = append(many, fmt.Sprint("layer", i))
	}
	noteRecord(dir, record{Layers: many})
	if r, err := notedRecord(dir); !errors.Is(err, kiln.NotFound) {
		t.Errorf("that of before: %+v, %v", r, err)
	}
}
