package instance

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestSnapshotsAreBounded: what the snapshots of an instance are configured with together
// has a bound, within which its record can always be written, whatever the texts are.
func TestSnapshotsAreBounded(t *testing.T) {
	s, _, p := set(t)
	ctx := t.Context()
	text := strings.Repeat("<", 2_000_000) // six bytes each in JSON
	create(t, s, p, "a", Config{Options: map[string]string{"user.x": text}})
	made := 0
	var err error
	for ; err == nil && made < 10; made++ {
		err = s.CreateSnapshot(ctx, "a", NewSnapshot{Name: fmt.Sprintf("s%d", made)})
	}
	if made != 3 || !errors.Is(err, kiln.TooLarge) || !strings.Contains(err.Error(), "kiln delete a/") {
		t.Errorf("snapshot %d: %v", made, err)
	}
	if files, err := p.Snapshots(); len(files) != 2 || err != nil {
		t.Errorf("the files of %d snapshots, %v", len(files), err)
	}
	if err := s.SaveRecords(ctx); err != nil {
		t.Fatal(err)
	}
	if r, err := Recorded(p, "uuid-a"); err != nil || len(r.Snapshots) != 2 || r.Snapshots[1].Config["user.x"] != text {
		t.Errorf("a record of %d snapshots, %v", len(r.Snapshots), err)
	}
	if err := s.DeleteSnapshot(ctx, "a", "s0"); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateSnapshot(ctx, "a", NewSnapshot{Name: "s9"}); err != nil {
		t.Errorf("with one less: %v", err)
	}
}

// TestArrivingSnapshotsAreBounded refuses one large text in many snapshots, and takes many
// snapshots as they are.
func TestArrivingSnapshotsAreBounded(t *testing.T) {
	s, _, _ := set(t)
	arrive := func(n int, config map[string]string) error {
		var transfer kiln.Transfer
		for i := range n {
			transfer.Snapshots = append(transfer.Snapshots, kiln.InstanceState{Name: fmt.Sprintf("s%d", i), Config: config,
				Profiles: []string{"default"},
				Devices:  map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"}}})
		}
		return s.CheckTransfer(t.Context(), transfer)
	}
	if err := arrive(300, map[string]string{"user.x": strings.Repeat("x", 2_000_000)}); !errors.Is(err, kiln.TooLarge) {
		t.Errorf("large: %v", err)
	}
	if err := arrive(10_000, map[string]string{"user.x": strings.Repeat("x", 1_000), "limits.cpu": "2"}); err != nil {
		t.Errorf("many: %v", err)
	}
}
