package instance

import (
	"context"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/files"
)

func (s *Set) openTree(ctx context.Context, name string) (*files.Tree, error) {
	c, err := s.OpenFiles(ctx, name)
	if err != nil {
		return nil, err
	}
	return files.NewTree(ctx, c) // until ctx ends
}

// TestFilesStandStill: a snapshot isn't made of files that change meanwhile, neither by who
// has them open nor by who comes then.
func TestFilesStandStill(t *testing.T) {
	s, _, p := set(t)
	root := Config{Devices: map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"}}}
	for name, open := range map[string]bool{"open": true, "new": false} {
		create(t, s, p, name, root)
		i, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		var f *files.Tree
		if open {
			if f, err = s.openTree(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		resume, err := s.pauseFiles(i.Options[UUIDKey])
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			if f == nil {
				var err error
				if f, err = s.openTree(t.Context(), name); err != nil {
					done <- err
					return
				}
			}
			done <- f.Mkdir("/made", files.Attributes{}, files.Attributes{})
		}()
		select {
		case err := <-done:
			t.Errorf("%s: it went on: %v", name, err)
		case <-time.After(100 * time.Millisecond):
		}
		resume()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFilesAreLetGo by whoever works on the instance.
func TestFilesAreLetGo(t *testing.T) {
	s, _, p := set(t)
	create(t, s, p, "c", Config{Devices: map[string]map[string]string{"root": {"type": "disk", "path": "/",
		"pool": "default"}}})
	f, err := s.openTree(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Rename(t.Context(), "c", "d"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lstat("/"); kiln.KindOf(err) != kiln.Conflict {
		t.Errorf("it is open still: %v", err)
	}
	if f, err = s.openTree(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lstat("/"); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "d", ""); err != nil {
		t.Error(err)
	}
	if len(s.served) != 0 {
		t.Errorf("left: %v", s.served)
	}
}
