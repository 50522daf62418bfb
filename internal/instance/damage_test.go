package instance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestLostLayers: without what an instance and its snapshot stand on, each verb names the
// instance, what is lost and what to do, as damage.
func TestLostLayers(t *testing.T) {
	for _, lost := range []string{"layers/*", "volumes/*/upper", "volumes/*"} {
		t.Run(lost, func(t *testing.T) {
			s, _, p := set(t)
			create(t, s, p, "a", Config{})
			if err := s.CreateSnapshot(t.Context(), "a", NewSnapshot{Name: "s"}); err != nil {
				t.Fatal(err)
			}
			list, err := filepath.Glob(filepath.Join(filepath.Dir(p.TempDir()), lost))
			if err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			if err := os.RemoveAll(list[0]); err != nil {
				t.Fatal(err)
			}
			copyOf := func(from string) error { return s.CopyFiles(t.Context(), from, s.NewFiles(), false) }
			verbs := map[string]func() error{
				"copy":     func() error { return copyOf("a") },
				"snapshot": func() error { return s.CreateSnapshot(t.Context(), "a", NewSnapshot{Name: "s1"}) },
				"publish":  func() error { return s.snapshotFor(t.Context(), "a", "x") },
				"share": func() error {
					_, err := s.Share(t.Context(), "a", true)
					return err
				},
				"files": func() error {
					_, err := s.openTree(t.Context(), "a")
					return err
				},
				"start": func() error { return s.Start(t.Context(), "a") },
			}
			if strings.HasPrefix(lost, "layers") {
				verbs["copy of a snapshot"] = func() error { return copyOf("a/s") }
				verbs["restore"] = func() error { return s.Restore(t.Context(), "a", "s") }
				verbs["publish a snapshot"] = func() error { return s.snapshotFor(t.Context(), "a/s", "x") }
			}
			for name, verb := range verbs {
				err := verb()
				if !errors.Is(err, kiln.Integrity) {
					t.Errorf("%s: %v", name, err)
					continue
				}
				for _, want := range []string{" \"a\"", "lost", "kiln admin recover"} {
					if strings.HasSuffix(name, "a snapshot") || name == "restore" {
						want = strings.Replace(want, " \"a\"", " a/s", 1)
					}
					if lost == "volumes/*" && want == "lost" {
						want = "no volume"
					}
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: nobody says %q: %v", name, want, err)
					}
				}
			}
		})
	}
}
