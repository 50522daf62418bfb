package machine

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

// Images are those in the store, with their files.
func (m *Machine) Images(ctx context.Context) ([]api.Image, error) {
	list, err := client.List[api.Image](ctx, m.Client(), "/1.0/images", 1)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if _, err := m.Client().Get(ctx, "/1.0/images/"+list[i].Fingerprint, nil, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Operate starts an operation by a request and waits for its end.
func (m *Machine) Operate(ctx context.Context, path string, body any) error {
	_, op, err := m.Client().Do(ctx, client.Request{Method: http.MethodPost, Path: path, Body: body}, nil)
	if err != nil {
		return err
	}
	_, err = m.Client().Wait(ctx, op.ID)
	return err
}

// A Store is what CheckStore found.
type Store struct {
	Images   []string // fingerprints
	Partial  int64    // bytes that are kept for another attempt
	Lost     int      // files that were put away, and are removed in a week
	Problems []string
}

// CheckStore looks for what must not be in the store of a daemon that nobody talks to:
// an image that is damaged, a row without its files, a file without a row, anything
// half-made.
func (m *Machine) CheckStore(ctx context.Context) (Store, error) {
	var s Store
	list, err := m.Images(ctx)
	if err != nil {
		return s, err
	}
	files := map[string]bool{}
	for _, img := range list {
		s.Images = append(s.Images, img.Fingerprint)
		for _, f := range img.Files {
			files[f.Hash] = true
		}
		if err := m.Operate(ctx, "/1.0/images/"+img.Fingerprint+"/verify", struct{}{}); err != nil {
			s.Problems = append(s.Problems, fmt.Sprintf("image %s is damaged: %v", img.Fingerprint, err))
		}
	}
	blobs := filepath.Join(m.Dir, "blobs")
	settled(filepath.Join(blobs, "tmp"))
	err = filepath.WalkDir(blobs, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		switch kind, _, _ := strings.Cut(strings.TrimPrefix(path, blobs+"/"), "/"); {
		case kind == "partial":
			fi, err := e.Info()
			if err == nil {
				s.Partial += fi.Size()
			}
			return err
		case kind == "lost" && !files[e.Name()]:
			s.Lost++
			return nil
		case kind != "sha256" || !files[e.Name()]:
			s.Problems = append(s.Problems, path+" is of no image")
		}
		delete(files, e.Name())
		return nil
	})
	for f := range files {
		s.Problems = append(s.Problems, "an image has no file "+f)
	}
	return s, err
}

// settled waits until nobody writes any more: whoever sends an image may know
// sooner than who receives it that it breaks off.
func settled(tmp string) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if list, err := os.ReadDir(tmp); err == nil && len(list) == 0 {
			return
		}
	}
}
