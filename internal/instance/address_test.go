package instance

import (
	"context"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestTakenAddress: whose a hardware address is that an instance brings along is told to who may
// know of that project only; the instance gets another one, whoever asks.
func TestTakenAddress(t *testing.T) {
	s, rows, _ := set(t)
	const mac = "00:16:3e:12:34:56"
	key := AddressKey("eth0")
	there := project.In(t.Context(), project.Alone("hidden"))
	if err := rows.CreateProject(t.Context(), db.Project{Name: "hidden"}); err != nil {
		t.Fatal(err)
	}
	if err := rows.CreateInstance(there, db.Instance{Name: "secret", Config: map[string]string{key: mac}}); err != nil {
		t.Fatal(err)
	}
	n := New{Name: "c", Config: Config{Options: map[string]string{key: mac},
		Devices: map[string]map[string]string{"eth0": {"type": "nic", "nictype": "p2p"}}}}
	f := s.NewFiles()
	f.UUID = "11111111-2222-3333-4444-555555555555"
	for _, c := range []struct {
		ctx   context.Context
		named bool
	}{
		{t.Context(), true},
		{Restricted(t.Context(), "default", "hidden"), true},
		{Restricted(t.Context(), "default"), false},
	} {
		keep, said, err := s.addresses(c.ctx, n, f)
		if err != nil || len(said) != 1 || strings.Contains(said[0], "secret") != c.named ||
			strings.Contains(said[0], "hidden") != c.named || keep[key] == mac || keep[key] == "" {
			t.Errorf("named: %v: %v, %q, %v", c.named, keep, said, err)
		}
	}
}
