package store

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// TestDamagedRecordStays: what a damaged row says doesn't take the place of what the
// record of the image says from before.
func TestDamagedRecordStays(t *testing.T) {
	s := open(t, t.TempDir())
	s.opts.Records = t.TempDir()
	r := testRecord(1, "web", time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	if err := s.saveRecord(r); err != nil {
		t.Fatal(err)
	}
	path := s.recordPath(r.of())
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	row, alias := r, r
	row.Image.Properties, row.Image.Damage = nil, "its column properties is damaged"
	alias.Image.Aliases = append(alias.Image.Aliases[:0:0], alias.Image.Aliases...)
	alias.Image.Aliases[0].Description, alias.Image.Aliases[0].Damage = "", "its column description is damaged"
	for what, damaged := range map[string]Record{"image": row, "alias": alias} {
		if err := s.saveRecord(damaged); err != nil {
			t.Error(err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: %v\n%s", what, err, after)
		}
	}
}
