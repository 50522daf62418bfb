package volume

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// A record never changes; where its volume stands on something else, there is a new
// directory with a new one. So what it says is also kept as an attribute of the directory,
// with its hash before it: it comes and goes with the directory, in the same step, and is
// nobody's to choose from when the file is lost.
const recordXattr = "trusted.kiln.record"

// writeRecord writes the record of a directory that has no place yet.
func writeRecord(dir, file string, r record) error {
	noteRecord(dir, r) // before the file, with which it is synced
	return writeJSON(filepath.Join(dir, file), r)
}

// noteRecord keeps a record as an attribute, where the file system can: it is needed only
// when the file is lost.
func noteRecord(dir string, r record) {
	b, err := json.Marshal(r)
	if err != nil {
		return
	}
	sum := sha256.Sum256(b)
	value := string(append(sum[:], b...))
	buf := make([]byte, len(value)+1)
	if n, err := unix.Lgetxattr(dir, recordXattr, buf); err == nil && string(buf[:n]) == value {
		return
	}
	if unix.Lsetxattr(dir, recordXattr, []byte(value), 0) != nil {
		_ = unix.Lremovexattr(dir, recordXattr) // of another record
	}
}

// notedRecord gives the record that noteRecord kept. Errors: NotFound, Integrity.
func notedRecord(dir string) (record, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(dir, recordXattr, buf)
	if err != nil {
		return record{}, kiln.Errorf(kiln.NotFound, "nothing else says what it stands on")
	}
	var r record
	if n < sha256.Size || sha256.Sum256(buf[sha256.Size:n]) != [sha256.Size]byte(buf[:min(n, sha256.Size)]) ||
		json.Unmarshal(buf[sha256.Size:n], &r) != nil {
		return record{}, kiln.Errorf(kiln.Integrity, "what is kept of it is damaged, too")
	}
	return r, nil
}

// noteRecords keeps the records of an older kiln, and those that somebody edited.
func (p *Pool) noteRecords() error {
	return p.each(func(dir, file string) error {
		if r, err := readRecord(filepath.Join(dir, file), "", ""); err == nil {
			noteRecord(dir, r)
		}
		return nil
	})
}

// each calls f with the directory of every volume and snapshot, also of those in lost/,
// and the name of its record.
func (p *Pool) each(f func(dir, file string) error) error {
	for _, sub := range []string{"volumes", "snapshots", "lost"} {
		entries, err := os.ReadDir(filepath.Join(p.dir, sub))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if l, ok := parseLost(e.Name()); sub == "lost" && ok && (l.Tree || l.Layer) {
				continue // it names nothing
			}
			if err := f(filepath.Join(p.dir, sub, e.Name()), recordFile(sub, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// A Mended is a record that was lost or damaged.
type Mended struct {
	Name     string // of the volume or snapshot
	Snapshot bool
	Lacks    []string // directories of layers that it stands on and that are lost
}

// MendRecords makes the records of volumes and snapshots again that are lost or damaged,
// where what they said is known for certain. What is in the place of one is kept beside it.
// Nobody may use the pool meanwhile.
func (p *Pool) MendRecords() ([]Mended, error) {
	var list []Mended
	err := p.each(func(dir, file string) error {
		path := filepath.Join(dir, file)
		if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
			return nil
		}
		if _, err := readRecord(path, "", ""); !errors.Is(err, kiln.Integrity) {
			return nil
		}
		r, err := notedRecord(dir)
		if err != nil || file == snapshotFile && len(r.Layers) == 0 {
			return nil // who needs it says what is wrong with it
		}
		aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format(lostFormat))
		if err := disk.RenameNew(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b, err := json.Marshal(r)
		if err == nil {
			err = disk.WriteBytes(path, 0o600, b)
		}
		if err != nil {
			return err
		}
		m := Mended{Name: filepath.Base(dir), Snapshot: file == snapshotFile}
		for _, id := range r.Layers {
			if _, err := os.Stat(p.layerTree(id)); err != nil {
				m.Lacks = append(m.Lacks, p.layerDir(id))
			}
		}
		list = append(list, m)
		return nil
	})
	return list, err
}
