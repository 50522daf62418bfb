package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/disk"
)

// Every snapshot of a volume that isn't in use leaves a layer, and each layer makes
// every mount and every look at a name slower. So eight neighbours in a stack are
// made one, beside whoever works, and eight of these one again: of n snapshots a
// volume stands on fewer than 8·log8(n) layers, and a file that changed once is
// copied at most log8(n) times, or shared where the file system can.
//
// A stack that is in use never changes. The next upper layer, of a snapshot or a
// restore, stands on the merged layer; snapshots keep the ones they name.

// fanout is how many layers are merged into one.
const fanout = 8

// mergesBeside is how many stacks are merged at once while nobody waits for it.
const mergesBeside = 2

// mergedLayer is layer.json.
type mergedLayer struct {
	Parts []string `json:"parts"` // top first
	Level int      `json:"level"` // how often what is in it was merged
}

// maxMerged is the most bytes that layer.json has.
const maxMerged = 64 << 10

// writeMerged writes the record of a merged layer into its directory.
func writeMerged(dir string, m mergedLayer) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return disk.WriteSealed(filepath.Join(dir, layerFile), 0o600, b)
}

// readMerged reads the record of a merged layer. One of an older version has no hash at its end.
// Errors: fs.ErrNotExist for a layer that isn't several in one; Integrity.
func readMerged(dir string) (mergedLayer, error) {
	var m mergedLayer
	path := filepath.Join(dir, layerFile)
	b, err := disk.ReadSealed(path, maxMerged)
	if errors.Is(err, kiln.Integrity) {
		if old, rerr := disk.ReadFile(path); rerr == nil && !bytes.Contains(old, []byte("\n")) {
			b, err = old, nil
		}
	}
	if errors.Is(err, kiln.TooLarge) {
		err = kiln.Errorf(kiln.Integrity, "%w", err)
	}
	if err == nil && (json.Unmarshal(b, &m) != nil || len(m.Parts) < 2 || slices.Contains(m.Parts, filepath.Base(dir))) {
		err = kiln.Errorf(kiln.Integrity, "%s doesn't say what the layer was made of", path)
	}
	return m, err
}

// MergedDamage is a damaged record of a merged layer, and what was done about it.
type MergedDamage struct {
	Layer    string
	Problem  error
	Repaired string // "": nothing
}

// CheckMerged reads the records of merged layers again. One that is damaged is written again, if
// this pool has read it before that; else it goes: the layer is one like others then, and
// nothing but the speed of stacks depends on that.
func (p *Pool) CheckMerged() (list []MergedDamage, err error) {
	p.stacks.Lock() // no layer comes or goes meanwhile
	defer p.stacks.Unlock()
	entries, err := os.ReadDir(filepath.Join(p.dir, "layers"))
	for _, e := range entries {
		dir := p.layerDir(e.Name())
		p.mu.Lock()
		known, merged := p.merged[e.Name()]
		p.mu.Unlock()
		got, problem := readMerged(dir)
		switch {
		case errors.Is(problem, fs.ErrNotExist) && !merged, problem == nil && !merged:
			continue
		case problem == nil && got.Level == known.Level && slices.Equal(got.Parts, known.Parts):
			continue
		case problem == nil:
			problem = kiln.Errorf(kiln.Integrity, "%s isn't as it was", filepath.Join(dir, layerFile))
		case errors.Is(problem, fs.ErrNotExist):
			problem = kiln.Errorf(kiln.Integrity, "%s is lost", filepath.Join(dir, layerFile))
		case !lasting(problem) && !errors.Is(problem, kiln.Integrity):
			err = errors.Join(err, problem)
			continue
		}
		d := MergedDamage{Layer: e.Name(), Problem: problem}
		var rerr error
		if d.Repaired = "written again"; merged {
			rerr = writeMerged(dir, known)
		} else {
			d.Repaired, rerr = "removed: nothing depends on it", os.RemoveAll(filepath.Join(dir, layerFile))
		}
		if rerr != nil {
			d.Repaired, d.Problem = "", fmt.Errorf("%w; not repaired: %w", problem, rerr)
		}
		list = append(list, d)
	}
	return list, err
}

// compact puts merged layers in the place of what they were made of.
func (p *Pool) compact(layers []string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(layers)
	for again := true; again; {
		again = false
		for id, m := range p.merged {
			if at := indexRun(out, m.Parts); at >= 0 {
				out = slices.Replace(out, at, at+len(m.Parts), id)
				again = true
			}
		}
	}
	return out
}

// indexRun finds a list within another; -1 for nowhere.
func indexRun(list, run []string) int {
	for at := 0; at+len(run) <= len(list); at++ {
		if slices.Equal(list[at:at+len(run)], run) {
			return at
		}
	}
	return -1
}

// due gives neighbours of a stack that are to be merged, the lowest first; nil
// when there are none.
func (p *Pool) due(layers []string) (run []string, level int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for end := len(layers); end >= fanout; end-- {
		run := layers[end-fanout : end]
		level := p.merged[run[0]].Level
		if !slices.ContainsFunc(run, func(id string) bool { return p.merged[id].Level != level }) {
			return run, level + 1
		}
	}
	return nil, 0
}

// mergeLater merges what is due in a stack beside the caller. What fails or is
// interrupted is tried again with the next snapshot.
func (p *Pool) mergeLater(ctx context.Context, layers []string) {
	if run, _ := p.due(layers); run == nil {
		return
	}
	p.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		p.wg.Go(func() {
			select {
			case <-p.closing:
				cancel()
			case <-ctx.Done():
			}
		})
		select {
		case p.beside <- struct{}{}:
			defer func() { <-p.beside }()
			_, _ = p.mergeAll(ctx, layers)
		case <-ctx.Done():
		}
	})
}

// shallow gives a stack that has no more than maxLayers: merging has fallen behind
// if it must wait for that.
func (p *Pool) shallow(ctx context.Context, layers []string) ([]string, error) {
	layers = p.compact(layers)
	if len(layers) < maxLayers {
		return layers, nil
	}
	return p.mergeAll(ctx, layers)
}

// mergeAll merges until nothing is due.
func (p *Pool) mergeAll(ctx context.Context, layers []string) ([]string, error) {
	for {
		layers = p.compact(layers)
		run, level := p.due(layers)
		if run == nil {
			return layers, nil
		}
		if err := p.mergeOnce(ctx, run, level); err != nil {
			return nil, fmt.Errorf("merge layers: %w", err)
		}
	}
}

// mergeOnce is merge, but waits for whoever is merging the same layers. Merges of others
// are no reason to wait: these may be large, and somebody else's.
func (p *Pool) mergeOnce(ctx context.Context, run []string, level int) error {
	key := strings.Join(run, " ")
	p.mu.Lock()
	others, busy := p.merging[key]
	mine := make(chan struct{})
	if !busy {
		p.merging[key] = mine
	}
	p.mu.Unlock()
	if busy {
		select {
		case <-others: // if it failed, the caller tries
			return nil
		case <-p.closing:
			return kiln.Errorf(kiln.Cancelled, "the daemon is stopping")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer func() {
		p.mu.Lock()
		delete(p.merging, key)
		p.mu.Unlock()
		close(mine)
	}()
	if len(p.compact(run)) == 1 {
		return nil // somebody did it a moment ago
	}
	return p.merge(ctx, run, level)
}

// merge makes one layer of several. When they are swept meanwhile, nobody will
// ask for it, and the next sweep takes it too.
func (p *Pool) merge(ctx context.Context, parts []string, level int) error {
	m := mergedLayer{slices.Clone(parts), level}
	temp, err := p.prepareLarge(func(temp string) error {
		var trees []string
		for _, part := range parts {
			trees = append(trees, p.layerTree(part))
		}
		visit := p.walk(ctx)
		defer visit.Leave()
		if err := mergeTrees(ctx, trees, filepath.Join(temp, "upper"), visit); err != nil {
			return err
		}
		if err := disk.SyncSystem(temp); err != nil {
			return err
		}
		return writeMerged(temp, m)
	})
	if err != nil {
		return err
	}
	// A sweep sees the layer and what it is for, or neither.
	p.stacks.RLock()
	defer p.stacks.RUnlock()
	id := uuid.NewString()
	if err := disk.Rename(temp, p.layerDir(id)); err != nil {
		p.removeLater(temp)
		return err
	}
	p.mu.Lock()
	p.merged[id] = m
	p.mu.Unlock()
	return nil
}

// countEntries counts what is below a directory.
func countEntries(ctx context.Context, dir string) (n int64, err error) {
	c, err := openCursor(dir)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	err = c.walk(ctx, func(string, *unix.Stat_t) error {
		n++
		return nil
	})
	return n, err
}

// A merger makes one layer of several, which looks the same on top of whatever they stood
// on. It is in one directory of each of them at a time, and of what it makes, which may be
// deeper than any path is long: it holds two descriptors of each, however deep they are.
type merger struct {
	roots, fds []int   // descriptors of the layers and of the directories in them, top first
	places     []place // which those are
	out        *cursor // the directory that is being made
	top        int     // descriptor of the root of what is made
	left       int64   // entries that may be made yet
	links      map[fileID]fileName
	list       *listing       // by which the directory is gone through
	visit      *archive.Visit // counts what is remembered; nil: nobody does
}

// A place is a directory of a layer.
type place struct {
	at   *folder
	here bool // overlayfs merges it into the one that is being made
}

// fileID names a file of one of the layers that has several names.
type fileID struct {
	layer int
	ino   uint64
}

// mergeTrees makes a directory of several, top first.
func mergeTrees(ctx context.Context, trees []string, to string, visit *archive.Visit) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	g, err := openMerger(trees)
	if err != nil {
		return err
	}
	defer g.close()
	if g.out, err = openCursor(to); err != nil {
		return err
	}
	g.visit, g.out.visit = visit, visit
	for _, tree := range trees {
		n, err := countEntries(ctx, tree)
		if err != nil {
			return err
		}
		g.left += n
	}
	if g.top, err = unix.Open(to, unix.O_PATH|openDirFlags, 0); err != nil {
		return err
	}
	root := &folder{}
	return g.dir(ctx, root, root, root)
}

// openMerger is a merger that is in the roots of some layers, top first, and makes nothing.
func openMerger(trees []string) (*merger, error) {
	g := &merger{top: -1, links: map[fileID]fileName{}}
	for _, tree := range trees {
		for _, list := range []*[]int{&g.roots, &g.fds} {
			fd, err := unix.Open(tree, unix.O_PATH|openDirFlags, 0)
			if err != nil {
				g.close()
				return nil, &os.PathError{Op: "open", Path: tree, Err: err}
			}
			*list = append(*list, fd)
		}
		g.places = append(g.places, place{&folder{}, true})
	}
	return g, nil
}

func (g *merger) close() {
	for _, fd := range slices.Concat(g.roots, g.fds, []int{g.top}) {
		unix.Close(fd)
	}
	if g.out != nil {
		g.out.Close()
	}
}

// dir makes what is in the directory that the merger is in, and then gives that its
// attributes. made is that directory in what is made. below is what the layers further down
// have it as, and above what they have its parent as; nil if none of them is looked into.
func (g *merger) dir(ctx context.Context, made, below, above *folder) error {
	first := -1
	for i, p := range g.places {
		if !p.here {
			continue
		}
		if first < 0 {
			first = i
		}
		if err := g.layer(ctx, i, made, below); err != nil {
			return err
		}
	}
	if first < 0 {
		return kiln.Errorf(kiln.Integrity, "%.100q is in none of the layers", made.name)
	}
	return g.finish(fdPath(g.fds[first], "."), made, below, above)
}

// layer makes what one layer has in the directory that the merger is in, and none above it.
func (g *merger) layer(ctx context.Context, i int, made, below *folder) error {
	var l listing
	defer l.drop()
	was := g.list
	g.list = &l
	defer func() { g.list = was }()
	for {
		name, err := l.next(g.fds[i])
		if errors.Is(err, io.EOF) {
			return nil
		}
		hidden := false
		if err == nil {
			hidden, err = g.above(i, name)
		}
		if err == nil && !hidden {
			err = g.entry(ctx, i, name, made, below)
		}
		if err != nil {
			return err
		}
	}
}

// above reports whether a layer above one has a name in the directory that the merger is in.
func (g *merger) above(layer int, name string) (bool, error) {
	for i := range layer {
		if !g.places[i].here {
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(g.fds[i], name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			return true, nil
		}
		if err != unix.ENOENT {
			return false, of(name, err)
		}
	}
	return false, nil
}

// finish gives a directory its attributes, and says what it is merged with in the layers
// further down.
func (g *merger) finish(from string, made, below, above *folder) error {
	to := g.out.path(".")
	st, err := lstat(from)
	if err != nil {
		return err
	}
	if err := copyAttributes(from, to, st); err != nil {
		return err
	}
	for _, name := range []string{"opaque", "redirect", "origin", "impure"} {
		if err := dropXattr(to, name); err != nil {
			return err
		}
	}
	if below == nil {
		err = writeXattrs(to, []xattr{{overlayXattr + "opaque", "y"}})
	} else if made.above != nil {
		err = writeRedirect(to, made.name, below, above)
	}
	return errors.Join(err, setTimes(to, st))
}

// writeRedirect says under which path the layers below have something, unless it is under
// the same name in what they have its parent as.
func writeRedirect(to, name string, below, above *folder) error {
	value := below.name
	switch {
	case above == nil || !below.above.is(above):
		value = "/" + below.path() // as long as overlayfs made it, whatever the depth
	case below.name == name:
		return nil
	}
	return writeXattrs(to, []xattr{{overlayXattr + "redirect", value}})
}

// entry makes what the layers from one on have under a name in the directory that the
// merger is in. A whiteout is needed only where there is something below.
func (g *merger) entry(ctx context.Context, layer int, name string, made, below *folder) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if g.left--; g.left < 0 {
		return kiln.Errorf(kiln.Integrity,
			"they show more files than they have: several directories of one are redirected to the same one")
	}
	from := fdPath(g.fds[layer], name)
	st, err := lstat(from)
	if err != nil {
		return err
	}
	switch {
	case isDir(st):
		return g.subdir(ctx, layer, name, made, below)
	case isWhiteout(st) && below == nil:
		return nil
	}
	if err := g.file(layer, from, name, st, made, below); err != nil {
		return of(name, err)
	}
	return nil
}

// subdir is entry for a directory.
func (g *merger) subdir(ctx context.Context, layer int, name string, made, below *folder) error {
	if len(g.out.above) >= openListings {
		g.list.drop()
	}
	v, err := g.look(layer, name, below)
	if err == nil {
		err = unix.Mkdirat(g.out.fd, name, 0o700)
	}
	if err == nil {
		err = g.out.enter(name)
	}
	if err != nil {
		v.close()
		return of(name, err)
	}
	was := g.enter(v)
	if err := g.dir(ctx, &folder{made, name}, v.below, below); err != nil {
		return err
	}
	if err := errors.Join(g.leave(was), g.out.leave()); err != nil {
		return of(name, err)
	}
	return nil
}

// enter goes to the directories of a view, whose descriptors it takes. It gives where it
// was.
func (g *merger) enter(v view) (was []place) {
	was = g.places
	g.places = make([]place, len(was))
	for i := range was {
		g.places[i].at = was[i].at
	}
	for _, d := range v.dirs {
		unix.Close(g.fds[d.layer])
		g.fds[d.layer], g.places[d.layer] = d.fd, place{d.at, true}
	}
	return was
}

// leave goes back to where enter was called.
func (g *merger) leave(was []place) error {
	for i, p := range g.places {
		if p.at == was[i].at {
			continue
		}
		var fd int
		var err error
		if p.at.above == was[i].at {
			fd, err = unix.Openat(g.fds[i], "..", unix.O_PATH|openDirFlags, 0)
		} else {
			fd, err = openBeneath(g.roots[i], was[i].at.path())
		}
		if err != nil {
			return err
		}
		unix.Close(g.fds[i])
		g.fds[i] = fd
	}
	g.places = was
	return nil
}

// file is entry for what is no directory.
func (g *merger) file(layer int, from, name string, st *unix.Stat_t, made, below *folder) error {
	id := fileID{layer, st.Ino}
	if first, ok := g.links[id]; ok {
		return first.link(g.top, g.out.fd, name)
	}
	_, meta, err := overlayAttribute(from, "metacopy")
	if err != nil {
		return err
	}
	if meta {
		err = g.metacopy(layer, from, name, st, below)
	} else {
		err = copyFile(from, g.out.path(name), st)
	}
	if err == nil && st.Nlink > 1 {
		first := fileName{made, name}
		g.links[id] = first
		err = g.visit.Add(first.size())
	}
	return err
}
