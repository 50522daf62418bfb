package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
)

// State names what a volume that isn't in use has in it: it is the same for as long as
// nobody changes a file of it, nor its metadata, takes a snapshot of what was changed, or
// restores one. Of a volume with changes that no snapshot has it is another each time.
// Errors: NotFound, Integrity.
func (p *Pool) State(name string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	r, err := p.volumeRecord(name)
	if err != nil {
		return "", err
	}
	same := false
	if len(r.Layers) > 0 {
		if same, err = unchanged(filepath.Join(p.volumeDir(name), "upper"), p.layerTree(r.Layers[0])); err != nil {
			return "", err
		}
	}
	if !same {
		return uuid.NewString(), nil
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %q\n", r.Base, r.Layers)
	meta := filepath.Join(p.volumeDir(name), "meta") // written by kiln only: a few files
	err = filepath.WalkDir(meta, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			fmt.Fprintf(h, "%q %d %d\n", path, fi.Size(), fi.ModTime().UnixNano())
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
