package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
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

// mergedLayer is layer.json.
type mergedLayer struct {
	Parts []string `json:"parts"` // top first
	Level int      `json:"level"` // how often what is in it was merged
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
func (p *Pool) mergeLater(layers []string) {
	if run, _ := p.due(layers); run == nil {
		return
	}
	p.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		p.wg.Go(func() {
			select {
			case <-p.closing:
				cancel()
			case <-ctx.Done():
			}
		})
		_, _ = p.mergeAll(ctx, layers)
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
	p.merging.Lock()
	defer p.merging.Unlock()
	for {
		layers = p.compact(layers)
		run, level := p.due(layers)
		if run == nil {
			return layers, nil
		}
		if err := p.merge(ctx, run, level); err != nil {
			return nil, fmt.Errorf("merge layers: %w", err)
		}
	}
}

// merge makes one layer of several. When they are swept meanwhile, nobody will
// ask for it, and the next sweep takes it too.
func (p *Pool) merge(ctx context.Context, parts []string, level int) error {
	m := mergedLayer{slices.Clone(parts), level}
	temp, err := p.prepare(func(temp string) error {
		g := merger{to: filepath.Join(temp, "upper"), links: map[fileID]string{}}
		for _, part := range parts {
			g.layers = append(g.layers, p.layerTree(part))
		}
		if err := g.run(ctx); err != nil {
			return err
		}
		if err := disk.SyncSystem(temp); err != nil {
			return err
		}
		return writeJSON(filepath.Join(temp, layerFile), m)
	})
	if err != nil {
		return err
	}
	// A sweep sees the layer and what it is for, or neither.
	p.stacks.RLock()
	defer p.stacks.RUnlock()
	id := uuid.NewString()
	if err := disk.Rename(temp, p.layerDir(id)); err != nil {
		return errors.Join(err, removeTree(temp))
	}
	p.mu.Lock()
	p.merged[id] = m
	p.mu.Unlock()
	return nil
}

// A merger makes one layer of several, which looks the same on top of whatever
// they stood on.
type merger struct {
	layers []string // directories, top first
	to     string
	links  map[fileID]string // copies of files with several names
}

// fileID names a file of one of the layers.
type fileID struct {
	layer int
	ino   uint64
}

func (g *merger) run(ctx context.Context) error {
	if err := os.Mkdir(g.to, 0o700); err != nil {
		return err
	}
	return g.dir(ctx, ".", nil)
}

// dir writes the directory at a path of the merged view. below is the path that
// the layers further down have its parent at; nil if none of them is looked into.
func (g *merger) dir(ctx context.Context, path string, parentBelow *string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v, err := g.resolve(0, path)
	if err != nil {
		return err
	}
	to := filepath.Join(g.to, path)
	if len(v.dirs) == 0 {
		return kiln.Errorf(kiln.Integrity, "%s is in none of the layers", path)
	}
	done := map[string]bool{}
	for _, d := range v.dirs {
		entries, err := os.ReadDir(d.path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if done[e.Name()] {
				continue
			}
			done[e.Name()] = true
			if err := g.entry(ctx, d, filepath.Join(path, e.Name()), v.below); err != nil {
				return err
			}
		}
	}
	return g.finishDir(v, to, path, parentBelow)
}

// finishDir gives a directory its attributes, and says what it is merged with in
// the layers further down.
func (g *merger) finishDir(v view, to, path string, parentBelow *string) error {
	from := v.dirs[0].path
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
	if v.below == nil {
		err = writeXattrs(to, []xattr{{overlayXattr + "opaque", "y"}})
	} else if path != "." && (parentBelow == nil || *v.below != filepath.Join(*parentBelow, filepath.Base(path))) {
		err = writeXattrs(to, []xattr{{overlayXattr + "redirect", "/" + *v.below}})
	}
	return errors.Join(err, setTimes(to, st))
}

// entry writes what the merged view has at a path, which is first found in d. A
// whiteout is needed only where there is something below.
func (g *merger) entry(ctx context.Context, d place, path string, parentBelow *string) error {
	from := filepath.Join(d.path, filepath.Base(path))
	st, err := lstat(from)
	if err != nil {
		return err
	}
	to := filepath.Join(g.to, path)
	switch {
	case isDir(st):
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		return g.dir(ctx, path, parentBelow)
	case isWhiteout(st) && parentBelow == nil:
		return nil
	}
	id := fileID{d.layer, st.Ino}
	if first, ok := g.links[id]; ok {
		return os.Link(first, to)
	}
	_, meta, err := overlayAttribute(from, "metacopy")
	if err != nil {
		return err
	}
	if meta {
		err = g.metacopy(d, from, to, path, st, parentBelow)
	} else {
		err = copyFile(from, to, st)
	}
	if st.Nlink > 1 {
		g.links[id] = to
	}
	return err
}
