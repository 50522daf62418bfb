package volume

import (
	"context"
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

// A Custom volume is a directory of files that instances have beside their own, several
// at once maybe: with owners as instances see them. Its directory is all that tells of it:
//
//	custom/<in>/<name>/   custom.json, files/, and snapshots/ if there are any
//
// It appears, gets another name and goes in one rename. So there is none without a record,
// no record without files, and no other list of them that could be of another age.
type Custom struct {
	CustomName
	CustomState
	Damage string // what of it can't be read; "": nothing
}

// CustomName names a custom volume, within what keeps it apart from the others of that name.
type CustomName struct{ In, Name string }

// CustomState is what can be said of a custom volume.
type CustomState struct {
	Description string            `json:"description,omitempty"`
	Config      map[string]string `json:"config"`
	CreatedAt   time.Time         `json:"created_at"`
	// Backups is the UUID by which the backups of the volume are kept; "": it had none yet.
	Backups string `json:"backups,omitempty"`
}

const (
	customFile = "custom.json"
	maxCustom  = 4 << 20 // bytes of a record
)

// check says whether a name is that of a directory and no other. The error is Invalid.
func (n CustomName) check() error {
	if err := kiln.CheckProjectName(n.In); err != nil {
		return err
	}
	return kiln.CheckVolumeName(n.Name)
}

func (n CustomName) missing() error {
	return kiln.Errorf(kiln.NotFound, "no storage volume %q; see: kiln storage volume list default", n.Name)
}

// Taken says that there is a storage volume of this name already. The error is Conflict.
func (n CustomName) Taken() error {
	return kiln.Errorf(kiln.Conflict, "Storage volume %q already exists; give another name, or delete that one first: "+
		"kiln storage volume delete default %[1]s", n.Name)
}

// Another is the error about a name that another custom volume has got meanwhile.
func (n CustomName) Another() error {
	return kiln.Errorf(kiln.Conflict, "storage volume %q is another one now: that of before was renamed or deleted "+
		"meanwhile; look which is which (kiln storage volume list default), then try again", n.Name)
}

func (p *Pool) customDir(n CustomName) string { return filepath.Join(p.dir, "custom", n.In, n.Name) }

// CustomFiles gives the directory with the files of a custom volume. Errors: Invalid,
// NotFound, Integrity when the files are lost.
func (p *Pool) CustomFiles(n CustomName) (string, error) {
	if err := n.check(); err != nil {
		return "", err
	}
	if fi, err := os.Lstat(p.customDir(n)); errors.Is(err, fs.ErrNotExist) {
		return "", n.missing()
	} else if err != nil {
		return "", err
	} else if !fi.IsDir() {
		return "", kiln.Errorf(kiln.Integrity, "storage volume %q is lost: %s is no directory", n.Name, p.customDir(n))
	}
	dir := filepath.Join(p.customDir(n), "files")
	fi, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
		return "", kiln.Errorf(kiln.Integrity, "the files of storage volume %q are lost: there is no directory %s", n.Name,
			dir)
	}
	return dir, err
}

// CreateCustom makes an empty custom volume, whole or not at all. Errors: Invalid, Conflict.
func (p *Pool) CreateCustom(n CustomName, s CustomState) error {
	return p.placeCustom(n, func(temp string) error {
		files := filepath.Join(temp, "files")
		if err := errors.Join(os.Mkdir(files, 0o700), os.Chmod(files, 0o711)); err != nil {
			return err
		}
		return writeCustom(temp, s)
	})
}

// placeCustom makes a custom volume of the directory that fill fills.
func (p *Pool) placeCustom(n CustomName, fill func(temp string) error) error {
	if err := n.check(); err != nil {
		return err
	}
	if err := disk.MkdirAll(filepath.Dir(p.customDir(n)), 0o700); err != nil {
		return err
	}
	exists, err := p.placeNew(p.customDir(n), fill)
	if exists {
		return n.Taken()
	}
	return err
}

// placeNew is appear for who tells by itself that something is there.
func (p *Pool) placeNew(dir string, fill func(temp string) error) (exists bool, err error) {
	temp, err := p.prepare(fill)
	if err != nil {
		return false, err
	}
	if err = disk.RenameNew(temp, dir); err != nil {
		return errors.Is(err, fs.ErrExist), errors.Join(err, removeTree(temp))
	}
	return false, nil
}

func writeCustom(dir string, s CustomState) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return disk.WriteSealed(filepath.Join(dir, customFile), 0o600, b)
}

// Custom gives one custom volume. What can't be read of it is its Damage. Errors: Invalid,
// NotFound.
func (p *Pool) Custom(n CustomName) (Custom, error) {
	_, damage := p.CustomFiles(n)
	if damage != nil && !errors.Is(damage, kiln.Integrity) {
		return Custom{}, damage
	}
	c := Custom{CustomName: n}
	b, err := disk.ReadSealed(filepath.Join(p.customDir(n), customFile), maxCustom)
	if err == nil {
		err = json.Unmarshal(b, &c.CustomState)
	}
	if err != nil {
		c.CustomState = CustomState{}
		damage = errors.Join(damage, fmt.Errorf("what is known of it can't be read: %w", err))
	}
	if fi, err := os.Lstat(p.customSnapshots(n)); err == nil && !fi.IsDir() {
		damage = errors.Join(damage, fmt.Errorf("its snapshots are lost: %s is no directory", p.customSnapshots(n)))
	}
	if damage != nil {
		c.Damage = damage.Error()
	}
	return c, nil
}

// Customs gives the custom volumes within one of CustomIns, by name.
func (p *Pool) Customs(in string) ([]Custom, error) {
	names, err := p.CustomNames(in)
	var list []Custom
	for _, name := range names {
		n := CustomName{in, name}
		c, err := p.Custom(n)
		if errors.Is(err, kiln.NotFound) { // it is gone
			continue
		}
		if err != nil {
			c = Custom{CustomName: n, Damage: err.Error()}
		}
		list = append(list, c)
	}
	return list, err
}

// CustomNames gives the names of the custom volumes within one of CustomIns.
func (p *Pool) CustomNames(in string) ([]string, error) {
	if kiln.CheckProjectName(in) != nil {
		return nil, nil
	}
	entries, err := os.ReadDir(p.customDir(CustomName{In: in}))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) { // which has none, either
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if kiln.CheckVolumeName(e.Name()) == nil { // others aren't ours
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// CustomIns gives everything that custom volumes are, or were, within.
func (p *Pool) CustomIns() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "custom"))
	var list []string
	for _, e := range entries {
		if kiln.CheckProjectName(e.Name()) == nil {
			list = append(list, e.Name())
		}
	}
	return list, err
}

// EditCustom changes what is said of a custom volume. Errors: Invalid, NotFound, Integrity
// when the volume is damaged, and those of f.
func (p *Pool) EditCustom(n CustomName, f func(*CustomState) error) error {
	p.customs.Lock()
	defer p.customs.Unlock()
	c, err := p.Custom(n)
	if err != nil {
		return err
	}
	if c.Damage != "" { // what can't be read would be overwritten
		return kiln.Errorf(kiln.Integrity, "storage volume %q can't be changed: %s; what is left of it is in %s; if that is "+
			"of no use: kiln storage volume delete default %s", n.Name, c.Damage, p.customDir(n), n.Name)
	}
	if err := f(&c.CustomState); err != nil {
		return err
	}
	return writeCustom(p.customDir(n), c.CustomState)
}

// RenameCustom gives a custom volume that nobody uses another name. free may be nil; it is
// asked when nobody can begin to use the volume any more, and may refuse it. Other volumes
// can be used meanwhile. Errors: NotFound, Invalid, Conflict, and those of free.
func (p *Pool) RenameCustom(n CustomName, name string, free func() error) error {
	to := CustomName{n.In, name}
	if err := errors.Join(n.check(), to.check()); err != nil {
		return err
	}
	release, err := p.unused(n, free)
	if err != nil {
		return err
	}
	defer release()
	p.customs.Lock()
	defer p.customs.Unlock()
	err = disk.RenameNew(p.customDir(n), p.customDir(to))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return n.missing()
	case errors.Is(err, fs.ErrExist):
		return to.Taken()
	}
	return err
}

// DeleteCustom removes a custom volume with its files. It is gone for everybody when
// DeleteCustom returns; many files are removed after that. Errors: Invalid, NotFound.
// free is as for RenameCustom.
func (p *Pool) DeleteCustom(n CustomName, free func() error) error {
	if err := n.check(); err != nil {
		return err
	}
	release, err := p.unused(n, free)
	if err != nil {
		return err
	}
	defer release()
	p.customs.Lock()
	defer p.customs.Unlock()
	if _, err := os.Lstat(p.customDir(n)); errors.Is(err, fs.ErrNotExist) {
		return n.missing()
	}
	if err := p.discard(p.customDir(n)); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(p.customDir(n)))
}

// unused keeps everybody from beginning to use a custom volume, until the function is called
// that it gives, and asks free then, which may be nil. Errors: Conflict, and those of free.
func (p *Pool) unused(n CustomName, free func() error) (release func(), err error) {
	if release, err = p.use(n, true); err != nil || free == nil {
		return release, err
	}
	if err := free(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// CustomUsage is how many bytes the files of a custom volume take. When ctx ends, what was
// counted until then comes with the error. Errors: Invalid, NotFound, Integrity.
func (p *Pool) CustomUsage(ctx context.Context, n CustomName) (int64, error) {
	dir, err := p.CustomFiles(n)
	if err != nil {
		return 0, err
	}
	return usage(ctx, dir)
}
