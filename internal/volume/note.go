package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// MaxNote is how many bytes a note may have. What an instance and its snapshots may be
// configured with fits.
const MaxNote = 64 << 20

func notePath(dir, name string) string { return filepath.Join(dir, "notes", name+".json") }

func (p *Pool) notePath(name string) string { return notePath(p.dir, name) }

// Notes gives the names of the volumes that have notes in the pool in a directory.
func Notes(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "notes"))
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			names = append(names, name)
		}
	}
	return names, err
}

// SetNote keeps a text that the owner of a volume wants to find beside it, whatever else
// is lost, in the place of what was there. It goes with the volume. It is on the disk
// when SetNote returns. Errors: NotFound when there is no such volume, TooLarge.
func (p *Pool) SetNote(name string, b []byte) error {
	return p.SetNoteBy(name, func(w io.Writer) error {
		_, err := w.Write(bytes.TrimRight(b, "\n"))
		return err
	})
}

// SetNoteBy is SetNote of a text that write writes piece by piece, the same each time it is
// asked to. Where that is there already, nothing is written.
// Errors: as SetNote, those of write.
func (p *Pool) SetNoteBy(name string, write func(w io.Writer) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	var size counter
	same, err := disk.IsSealed(p.notePath(name), func(w io.Writer) error { return write(io.MultiWriter(w, &size)) })
	if err != nil || same {
		return err
	}
	if size > MaxNote {
		return kiln.Errorf(kiln.TooLarge, "the note of volume %q has %d bytes, more than %d", name, size, MaxNote)
	}
	p.noting.Lock() // so that one doesn't appear after its volume is gone
	defer p.noting.Unlock()
	if _, err := os.Stat(p.volumeDir(name)); errors.Is(err, fs.ErrNotExist) {
		return kiln.Errorf(kiln.NotFound, "no volume %q", name)
	} else if err != nil {
		return err
	}
	return disk.WriteSealedBy(p.notePath(name), 0o600, write)
}

// counter counts the bytes that are written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// Note gives the note of a volume, whether the volume is there or was put away. It ends
// with a new line. Errors: NotFound, Integrity, TooLarge.
func (p *Pool) Note(name string) ([]byte, error) { return ReadNote(p.dir, name) }

// ReadNote is Note of the pool in a directory, which others may be using.
func ReadNote(dir, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	b, err := disk.ReadSealed(notePath(dir, name), MaxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.NotFound, "there is no record beside volume %q", name)
	}
	return b, err
}

// dropNote removes the note of a volume that isn't there any more.
func (p *Pool) dropNote(name string) error {
	p.noting.Lock()
	defer p.noting.Unlock()
	return p.dropNoteLocked(name)
}

func (p *Pool) dropNoteLocked(name string) error {
	if _, err := os.Stat(p.volumeDir(name)); err == nil {
		return nil
	}
	err := os.Remove(p.notePath(name))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("remove the note of volume %q: %w", name, err)
}

// sweepNotes removes the notes of volumes that were neither there nor put away for a
// while, and that the pool's owner hasn't.
func (p *Pool) sweepNotes() error {
	p.noting.Lock() // nothing is put away, or brought back, between the looks
	defer p.noting.Unlock()
	lost, err := p.Lost()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(p.dir, "notes"))
	if err != nil {
		return err
	}
	var owned []string
	if p.owned != nil {
		if owned, _, err = p.owned(); err != nil {
			return err
		}
	}
	var errs []error
	for _, e := range entries {
		name, path := strings.TrimSuffix(e.Name(), ".json"), filepath.Join(p.dir, "notes", e.Name())
		old, err := disk.Stale(path, LostTime)
		errs = append(errs, err)
		switch {
		case !old:
		case disk.IsUnfinished(e.Name()): // of who was killed
			errs = append(errs, os.Remove(path))
		case checkName(name) == nil && !slices.Contains(owned, name) &&
			!slices.ContainsFunc(lost, func(l Lost) bool { return l.Name == name }):
			errs = append(errs, p.dropNoteLocked(name))
		}
	}
	return errors.Join(errs...)
}
