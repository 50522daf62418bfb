package soak

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/test/machine"
)

// A node is a machine of the soak, which the other trusts.
type node struct {
	*machine.Machine
	name   string
	other  *node
	things []*thing
	ids    map[string]bool // of everything that was ever an instance here
}

func newNode(t *testing.T, name string) *node {
	dir, err := os.MkdirTemp("", "ks-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.New(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Machine: m, name: name, ids: map[string]bool{}}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		killAll(t, dir)
		if t.Failed() {
			t.Logf("the daemon %s says:\n%s", name, m.Log())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := m.Start(t.Context(), bound); err != nil {
		t.Fatal(err)
	}
	n.must(t, "config", "set", "images.auto_update_interval", "0") // nobody else moves aliases
	return n
}

// killAll ends what still runs on a machine after a failure.
func killAll(t *testing.T, dir string) {
	boxes, err := filepath.Glob(filepath.Join(dir, "boxes", "*"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range boxes {
		if b, err := box.Open(path); err == nil {
			_ = b.Kill(context.Background()) // the test's own is over
			_, _ = b.Next(context.Background())
			_ = b.Close()
		}
	}
}

// must runs a command that succeeds.
func (n *node) must(t *testing.T, args ...string) machine.Said {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	said, err := n.Run(ctx, args...)
	if err != nil || said.Code != 0 {
		t.Fatalf("kiln %s on %s: exit %d: %s%v", said.Line, n.name, said.Code, said.Err, err)
	}
	return said
}

// trusts lets the other machine's user in.
func (n *node) trusts(t *testing.T) {
	token := n.must(t, "config", "trust", "add", "--name", n.other.name).Word()
	n.other.must(t, "remote", "add", n.name, token)
}

// fingerprint is that of an alias's image; "": there is none.
func (n *node) fingerprint(t *testing.T, alias string) string {
	var e api.ImageAliasesEntry
	if _, err := n.Client().Get(t.Context(), "/1.0/images/aliases/"+alias, nil, &e); err != nil {
		return "none"
	}
	return e.Target
}

// alias looks at an alias.
func (n *node) alias(ctx context.Context, name string) (state, error) {
	var e api.ImageAliasesEntry
	_, err := n.Client().Get(ctx, "/1.0/images/aliases/"+name, nil, &e)
	if errors.Is(err, kiln.NotFound) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	var img api.Image
	_, err = n.Client().Get(ctx, "/1.0/images/"+e.Target, nil, &img)
	return image(img.Properties["mark"]), err
}

// instances looks at all instances.
func (n *node) instances(ctx context.Context) (map[string]state, error) {
	list, err := client.List[api.InstanceFull](ctx, n.Client(), "/1.0/instances", 2)
	seen := map[string]state{}
	for _, i := range list {
		s := state{exists: true, running: i.Status == "Running", mark: unknown, snaps: map[string]string{}}
		if i.Status != "Running" && i.Status != "Stopped" {
			s.mark = "status " + i.Status
		}
		for _, snap := range i.Snapshots {
			_, name, _ := strings.Cut(snap.Name, "/")
			if name == "" {
				name = snap.Name
			}
			s.snaps[name] = unknown
		}
		seen[i.Name] = s
	}
	return seen, err
}
