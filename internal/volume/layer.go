package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// The records of volumes, snapshots and layers.
const (
	volumeFile   = "volume.json"
	snapshotFile = "snapshot.json"
	layerFile    = "layer.json"
)

// record is volume.json and snapshot.json: the stack that a tree stands on.
type record struct {
	Base   kiln.Fingerprint `json:"base"`             // zero: no image
	Layers []string         `json:"layers,omitempty"` // between the image and what is changed, top first
}

func (r record) equal(other record) bool {
	return r.Base == other.Base && slices.Equal(r.Layers, other.Layers)
}

// maxLayers bounds the layers of a stack: each is a mount, and is looked into for
// every name. Merging keeps them far below.
const maxLayers = 60

func (p *Pool) layerDir(id string) string  { return filepath.Join(p.dir, "layers", id) }
func (p *Pool) layerTree(id string) string { return filepath.Join(p.layerDir(id), "upper") }

func (p *Pool) volumeRecord(name string) (record, error) {
	return readRecord(filepath.Join(p.volumeDir(name), volumeFile), "volume", name)
}

// readRecord reads a record. One that doesn't say which image it stands on, such as
// "null", is no record: a volume of no image says that. A snapshot has a layer at least.
// Errors: NotFound when there is nothing of that name; Integrity, also when its
// directory is there and the record isn't.
func readRecord(path, what, name string) (record, error) {
	var r record
	b, err := disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Dir(path)); err == nil {
			return r, damagef("%s %q: its record %s is lost", what, name, path)
		}
		return r, kiln.Errorf(kiln.NotFound, "no %s %q", what, name)
	}
	if err != nil && !lasting(err) { // it says nothing, so it may say anything
		return r, kiln.Errorf(kiln.Integrity, "%s %q: its record can't be read: %w", what, name, err)
	}
	if err != nil { // such as a directory in its place
		return r, damagef("%s %q: its record can't be read: %w", what, name, err)
	}
	var f struct {
		Base   *kiln.Fingerprint `json:"base"`
		Layers []string          `json:"layers"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return r, damagef("%s %q: read %s: %w", what, name, path, err)
	}
	if f.Base == nil {
		return r, damagef("%s %q: %s doesn't say what it stands on", what, name, path)
	}
	if filepath.Base(path) == snapshotFile && len(f.Layers) == 0 {
		return r, damagef("%s %q: %s names no layers", what, name, path)
	}
	return record{*f.Base, f.Layers}, nil
}

// Damage is what is wrong with a volume or a snapshot whose record, upper layer or layer
// below is lost or damaged. Errors of it are Integrity.
type Damage struct{ error }

func (d *Damage) Unwrap() error { return d.error }

func damagef(format string, args ...any) error {
	return kiln.Errorf(kiln.Integrity, "%w", &Damage{fmt.Errorf(format, args...)})
}

// whole makes sure that the layers of a stack are there, and what a volume has changed of
// them in a directory, unless that is "". The error is Damage.
func (p *Pool) whole(r record, dir string) error {
	var need []string
	if dir != "" {
		need = []string{filepath.Join(dir, "upper"), filepath.Join(dir, "work")}
	}
	for _, id := range r.Layers {
		need = append(need, p.layerTree(id))
	}
	for _, path := range need {
		fi, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return damagef("the layer %s is lost", path)
		case err != nil && !lasting(err):
			return err
		case err != nil:
			return damagef("the layer %s can't be read: %w", path, err)
		case !fi.IsDir():
			return damagef("the layer %s is no directory", path)
		}
	}
	return nil
}

// A Pause holds still what uses a volume. The function it gives lets it go on.
type Pause func(ctx context.Context) (resume func() error, err error)

// A user is what is made on the stack of a volume as it is held: fill makes the content of
// dir. The files of the top layer are in a directory that isn't that of the layer yet.
type user struct {
	dir  string
	fill func(temp string, r record, top string) error
}

// hold keeps what a volume has at this moment in read-only layers, and makes something on
// the stack of them, which has its place before a sweep can see that nobody names that.
// pause is nil for a volume that isn't in use.
func (p *Pool) hold(ctx context.Context, name string, pause Pause, u user) error {
	if err := checkName(name); err != nil {
		return err
	}
	r, err := p.volumeRecord(name)
	if err != nil {
		return err
	}
	if err := p.whole(r, p.volumeDir(name)); err != nil {
		return err
	}
	if pause != nil {
		return p.capture(ctx, name, r, pause, u)
	}
	if err := p.completeLinks(ctx, r, p.volumeDir(name)); err != nil {
		return err
	}
	if err := disk.SyncSystem(p.volumeDir(name)); err != nil {
		return err
	}
	r.Layers, err = p.shallow(ctx, r.Layers)
	if err != nil {
		return err
	}
	dir := p.volumeDir(name)
	upper := filepath.Join(dir, "upper")
	next, top := "", upper // the volume as it will be; "": as it is
	if len(r.Layers) > 0 {
		same, err := unchanged(upper, p.layerTree(r.Layers[0]))
		if err != nil {
			return err
		}
		if same {
			top = p.layerTree(r.Layers[0])
		}
	}
	if top == upper {
		r.Layers = append([]string{uuid.NewString()}, r.Layers...)
		next, err = p.prepare(func(temp string) error { return writeVolume(temp, r, upper, filepath.Join(dir, "meta")) })
		if err != nil {
			return err
		}
	}
	made, err := p.prepare(func(temp string) error { return u.fill(temp, r, top) })
	if err != nil {
		return errors.Join(err, removeTree(next))
	}
	p.stacks.RLock()
	defer p.stacks.RUnlock()
	if next != "" {
		if err := p.freeze(name, next, r.Layers[0]); err != nil {
			return errors.Join(err, removeTree(made))
		}
	}
	p.mergeLater(ctx, r.Layers)
	return p.put(made, u.dir)
}

// freeze makes the upper layer of a volume read-only, as a layer, and gives the volume an
// empty one on top of it: nothing is copied. next is the volume as it will be.
func (p *Pool) freeze(name, next, id string) error {
	// In the place of the layer; then they change places in one step. A crash before that
	// leaves a layer that nobody names.
	layer := p.layerDir(id)
	if err := p.put(next, layer); err != nil {
		return err
	}
	if err := disk.Exchange(p.volumeDir(name), layer); err != nil {
		return errors.Join(fmt.Errorf("freeze the upper layer of volume %q: %w", name, err), p.discard(layer))
	}
	return p.tidyLayer(id)
}

// unchanged reports whether an upper layer has nothing that the layer below hasn't.
func unchanged(upper, below string) (bool, error) {
	d, err := disk.OpenDir(upper)
	if err != nil {
		return false, err
	}
	defer d.Close()
	if names, _ := d.Readdirnames(1); len(names) > 0 {
		return false, nil
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat(upper, &a), unix.Stat(below, &b)); err != nil {
		return false, err
	}
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim {
		return false, nil
	}
	x, err1 := readXattrs(upper)
	y, err2 := readXattrs(below)
	// What overlayfs keeps there is there also when somebody only looked.
	x, y = slices.DeleteFunc(x, xattr.ofOverlay), slices.DeleteFunc(y, xattr.ofOverlay)
	return slices.EqualFunc(x, y, func(x, y xattr) bool { return x == y }), errors.Join(err1, err2)
}

// tidyLayer leaves of what was a volume just the tree. What overlayfs kept beside
// it has links to its files, which would count.
func (p *Pool) tidyLayer(id string) error {
	dir := p.layerDir(id)
	if err := os.RemoveAll(filepath.Join(dir, volumeFile)); err != nil {
		return err
	}
	return errors.Join(p.discard(filepath.Join(dir, "work")), p.discard(filepath.Join(dir, "meta")))
}

// openLayers finds the layers that are several in one, finishes what a crash
// interrupted, and removes what nobody needs.
func (p *Pool) openLayers() error {
	entries, err := os.ReadDir(filepath.Join(p.dir, "layers"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		// One without a record that makes sense is a layer like others: compact ends since
		// each that it puts in has the place of several.
		if m, err := readMerged(p.layerDir(e.Name())); err == nil {
			p.merged[e.Name()] = m
		}
	}
	if err := p.findNamed(); err != nil {
		return err
	}
	if err := p.sweepLayers(); err != nil {
		return err
	}
	named, err := p.named()
	if err != nil && !errors.Is(err, kiln.Integrity) {
		return err
	}
	for id := range named {
		if _, err := os.Stat(filepath.Join(p.layerDir(id), "work")); err == nil {
			if err := p.tidyLayer(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// findNamed brings layers back that were put away and that somebody names again.
func (p *Pool) findNamed() error {
	lost, err := p.Lost()
	if err != nil || !slices.ContainsFunc(lost, func(l Lost) bool { return l.Layer }) {
		return err
	}
	named, err := p.named()
	if err != nil && !errors.Is(err, kiln.Integrity) {
		return err
	}
	for _, l := range lost {
		if !l.Layer || !named[l.Name] {
			continue
		}
		if err := p.Find(l); err != nil && !errors.Is(err, kiln.Conflict) {
			return err
		}
	}
	return nil
}

// sweepLayers removes the layers that nobody needs: those that no volume and no
// snapshot names, unless they are several in one that a volume will name next. What the
// first sweep finds, which may have been somebody's whose files are gone, is put away;
// later ones remove what verbs have left.
func (p *Pool) sweepLayers() error {
	p.stacks.Lock()
	defer p.stacks.Unlock()
	entries, err := os.ReadDir(filepath.Join(p.dir, "layers"))
	if err != nil {
		return err
	}
	named, err := p.named()
	if errors.Is(err, kiln.Integrity) {
		p.trusted = false
		return nil // a record that can't be read may name any of them
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := e.Name()
		if named[id] || p.awaited(id, named) {
			continue
		}
		if p.trusted {
			err = p.discard(p.layerDir(id))
		} else {
			_, err = p.putAway(lostLayer, id, p.layerDir(id))
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		delete(p.merged, id)
		delete(p.sizes, id)
		p.mu.Unlock()
	}
	p.trusted = true
	return nil
}

// Withheld says why no layers and no trees of images are removed: somebody whose record
// is lost or damaged may stand on any of them. nil: they are.
func (p *Pool) Withheld() error {
	err := p.records(func(string, record) {})
	if errors.Is(err, kiln.Integrity) {
		return err
	}
	return nil // whatever else it is, the sweep tells
}

// CheckStacks says what is wrong with the lists of layers of volumes and snapshots: one that is
// damaged or lost, and layers that they name and that aren't there. What is in a layer can't be
// compared with anything. The error is Integrity.
func (p *Pool) CheckStacks() error {
	p.stacks.Lock() // no layer comes or goes meanwhile
	defer p.stacks.Unlock()
	named, err := p.named()
	for _, id := range slices.Sorted(maps.Keys(named)) {
		_, lerr := os.Lstat(p.layerDir(id))
		if errors.Is(lerr, fs.ErrNotExist) {
			lerr = kiln.Errorf(kiln.Integrity, "%s is lost", p.layerDir(id))
		}
		err = errors.Join(err, lerr)
	}
	return err
}

// awaited reports whether a layer is several in one of those that are named, or of
// those that are awaited themselves.
func (p *Pool) awaited(id string, named map[string]bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var awaited func(id string) bool
	awaited = func(id string) bool {
		m, ok := p.merged[id]
		return ok && !slices.ContainsFunc(m.Parts, func(part string) bool { return !named[part] && !awaited(part) })
	}
	return awaited(id)
}

// named gives the layers that volumes and snapshots stand on.
func (p *Pool) named() (map[string]bool, error) {
	all := map[string]bool{}
	err := p.records(func(_ string, r record) {
		for _, id := range r.Layers {
			all[id] = true
		}
	})
	return all, err
}

// whose are the records in a directory of the pool.
var whose = map[string]string{"volumes": "volume", "snapshots": "snapshot", "lost": "what is put away as"}

// records calls f with the record of every volume and every snapshot, also of those
// in lost/. The error is Integrity when some can't be read, or are lost of volumes and
// snapshots that the pool's owner has; f has heard of the others.
func (p *Pool) records(f func(name string, r record)) error {
	var damaged error
	err := p.each(func(dir, file string) error {
		r, err := readRecord(filepath.Join(dir, file), whose[filepath.Base(filepath.Dir(dir))], filepath.Base(dir))
		switch {
		case err == nil:
			f(filepath.Base(dir), r)
		case errors.Is(err, kiln.Integrity):
			damaged = err
		case !errors.Is(err, kiln.NotFound): // deleted meanwhile
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return errors.Join(damaged, p.missing())
}

// missing tells of a volume or a snapshot that the pool's owner has and the pool hasn't,
// as when a disk wasn't mounted: what it stands on isn't known. The error is Integrity.
func (p *Pool) missing() error {
	if p.owned == nil {
		return nil
	}
	first, err := p.unfound()
	if err != nil || len(first) == 0 {
		return err
	}
	// Who deletes takes them from the owner first: one that was being deleted is gone
	// from both by now.
	second, err := p.unfound()
	if err != nil {
		return err
	}
	for _, dir := range second {
		if slices.Contains(first, dir) {
			return kiln.Errorf(kiln.Integrity, "%s is lost", dir)
		}
	}
	return nil
}

// unfound gives the directories of volumes and snapshots that the pool's owner had a
// moment ago, and that are neither there nor put away. The error is Integrity.
func (p *Pool) unfound() ([]string, error) {
	volumes, snapshots, err := p.owned()
	if err != nil {
		return nil, kiln.Errorf(kiln.Integrity, "what the pool is to have isn't known: %w", err)
	}
	lost, err := p.Lost()
	if err != nil {
		return nil, err
	}
	away := map[string]bool{}
	for _, l := range lost {
		away[l.Name] = true
	}
	var list []string
	for _, dirs := range []struct {
		names []string
		dir   func(string) string
	}{{volumes, p.volumeDir}, {snapshots, p.snapshotDir}} {
		for _, name := range dirs.names {
			if _, err := os.Lstat(dirs.dir(name)); err != nil && !away[name] {
				list = append(list, dirs.dir(name))
			}
		}
	}
	return list, nil
}

// recordFile is the name of the record of an entry of a directory of the pool.
func recordFile(dir, entry string) string {
	if dir == "snapshots" || dir == "lost" && strings.Contains(entry, "."+lostSnapshot+".") {
		return snapshotFile
	}
	return volumeFile
}

// layerUsage gives the size of a layer in bytes, which never changes.
func (p *Pool) layerUsage(id string) (int64, error) {
	p.mu.Lock()
	n, ok := p.sizes[id]
	p.mu.Unlock()
	if ok {
		return n, nil
	}
	n, err := usage(context.Background(), p.layerTree(id))
	if err == nil {
		p.mu.Lock()
		p.sizes[id] = n
		p.mu.Unlock()
	}
	return n, err
}
