package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
)

// capturePasses and enough bound the work that is done before what uses a volume
// has to stand still.
const (
	capturePasses = 3
	enough        = 8 << 20 // bytes
)

// capture is hold for a volume in use. Its upper layer can't become a lower one
// while it is mounted, so it is copied: what that costs grows with what the
// volume has changed. Most is copied before everything has to stand still; then
// only what changed meanwhile is.
func (p *Pool) capture(ctx context.Context, name string, r record, pause Pause, u user) error {
	visit := p.walk(ctx)
	defer visit.Leave()
	temp, err := p.prepare(func(temp string) error {
		if err := captureUpper(ctx, p.volumeDir(name), temp, pause, visit); err != nil {
			return err
		}
		// While the stack is the one that overlayfs knows.
		if err := p.completeLinks(ctx, r, temp); err != nil {
			return err
		}
		return errors.Join(removeTree(filepath.Join(temp, "work")), disk.SyncSystem(temp))
	})
	if err != nil {
		return err
	}
	if r.Layers, err = p.shallow(ctx, r.Layers); err != nil {
		return errors.Join(err, removeTree(temp))
	}
	id := uuid.NewString()
	r.Layers = append([]string{id}, r.Layers...)
	made, err := p.prepare(func(made string) error { return u.fill(made, r, filepath.Join(temp, "upper")) })
	if err != nil {
		return errors.Join(err, removeTree(temp))
	}
	p.stacks.RLock()
	defer p.stacks.RUnlock()
	if err := disk.Rename(temp, p.layerDir(id)); err != nil {
		return errors.Join(err, removeTree(temp), removeTree(made))
	}
	if err := p.put(made, u.dir); err != nil {
		return errors.Join(err, p.discard(p.layerDir(id)))
	}
	return nil
}

// captureUpper copies upper/ of a volume, and of work/ what tells which files have
// names in lower layers as well.
func captureUpper(ctx context.Context, dir, to string, pause Pause, visit *archive.Visit) error {
	index := filepath.Join(to, "work", "index")
	if err := errors.Join(os.Mkdir(filepath.Join(to, "upper"), 0o700), os.MkdirAll(index, 0o700)); err != nil {
		return err
	}
	m := mirror{from: filepath.Join(dir, "upper"), to: filepath.Join(to, "upper"), visit: visit}
	return m.atOnce(ctx, pause, func() error { return m.index(filepath.Join(dir, "work", "index"), index) })
}

// atOnce copies all as at one moment: most before pause, what changed until then after it,
// and what more copies.
func (m *mirror) atOnce(ctx context.Context, pause Pause, more func() error) error {
	for range capturePasses {
		n, err := m.early(ctx)
		if err != nil {
			return err
		}
		if n < enough {
			break
		}
	}
	resume, err := pause(ctx)
	if err != nil {
		return err
	}
	err = m.last(ctx)
	if err == nil {
		err = more()
	}
	return errors.Join(err, resume())
}

// index copies overlayfs's index, whose entries are names of files in upper/.
func (m *mirror) index(from, to string) error {
	c, err := openCursor(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	top, err := unix.Open(m.to, unix.O_PATH|openDirFlags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	return c.each(func(name string) error {
		if strings.HasPrefix(name, "#") {
			return nil // what it is about to make
		}
		st, err := c.lstat(name)
		if err != nil {
			return of(name, err)
		}
		if first, ok := m.links[st.Ino]; ok {
			return first.link(top, unix.AT_FDCWD, filepath.Join(to, name))
		}
		return copyFile(c.path(name), filepath.Join(to, name), &st)
	})
}
