package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// What another pool needs to have a snapshot: its layers, by their ids; the metadata
// of a snapshot or of an image; and the tree of an image that is nowhere else.
const (
	metaPart      = "meta-"       // and the snapshot's name
	imagePart     = "image-"      // and the fingerprint
	imageMetaPart = "image-meta-" // and the fingerprint
)

// Stack names what the snapshot stands on, as other pools get to know it.
func (s *Snapshot) Stack() kiln.Stack {
	stack := kiln.Stack{Base: s.Base(), Layers: slices.Clone(s.Layers)}
	if _, err := os.Stat(filepath.Join(s.pool.snapshotDir(s.name), "meta")); err == nil {
		stack.Meta = MetaPart(s.name)
	}
	return stack
}

// Parts gives what stacks name, each part once.
func (p *Pool) Parts(stacks []kiln.Stack) ([]kiln.Part, error) {
	var parts []kiln.Part
	seen := map[string]bool{"": true}
	for _, s := range stacks {
		if !seen[s.Meta] {
			seen[s.Meta] = true
			parts = append(parts, kiln.Part{ID: s.Meta})
		}
		for _, id := range s.Layers {
			if seen[id] {
				continue
			}
			seen[id] = true
			n, err := p.layerUsage(id)
			if err != nil {
				return nil, err
			}
			parts = append(parts, kiln.Part{ID: id, Size: n})
		}
	}
	return parts, nil
}

// ImageParts gives what stands for an image where that can't be had: its tree, as
// one more layer, and its metadata.
func (p *Pool) ImageParts(fp kiln.Fingerprint) ([]kiln.Part, error) {
	n, err := usage(context.Background(), p.imageDir(fp))
	ids := ImagePartIDs(fp)
	return []kiln.Part{{ID: ids[0], Size: n}, {ID: ids[1]}}, err
}

// ImagePartIDs names the parts that stand for an image.
func ImagePartIDs(fp kiln.Fingerprint) []string {
	return []string{imagePart + fp.String(), imageMetaPart + fp.String()}
}

// WithoutImage gives a stack that stands on the parts of its image in the place of
// the image.
func WithoutImage(s kiln.Stack) kiln.Stack {
	out := kiln.Stack{Layers: append(slices.Clone(s.Layers), imagePart+s.Base.String()), Meta: s.Meta}
	if out.Meta == "" {
		out.Meta = imageMetaPart + s.Base.String()
	}
	return out
}

// HasImage reports whether the pool has the tree of an image.
func (p *Pool) HasImage(fp kiln.Fingerprint) bool {
	_, err := p.imageRecord(fp)
	return err == nil
}

// Fill makes the tree of an image unless it is there, as Clone does.
func (p *Pool) Fill(ctx context.Context, fp kiln.Fingerprint, content func(context.Context) (Content, error)) error {
	return p.fill(ctx, fp, func() error { return p.hasImage(fp) }, content)
}

// Export writes a part as tar. It must be one of a snapshot that nobody deletes
// meanwhile. The bytes are the same each time. visit counts what is remembered of the files; it
// may be nil.
func (p *Pool) Export(ctx context.Context, part string, w io.Writer, visit *archive.Visit) error {
	if err := checkName(part); err != nil {
		return err
	}
	err := p.export(ctx, part, w, visit)
	if errors.Is(err, fs.ErrNotExist) {
		err = kiln.Errorf(kiln.NotFound, "there is no part %q", part)
	}
	if err != nil {
		return fmt.Errorf("export %s: %w", part, err)
	}
	return nil
}

func (p *Pool) export(ctx context.Context, part string, w io.Writer, visit *archive.Visit) error {
	if fp, ok := strings.CutPrefix(part, imageMetaPart); ok {
		return pack(ctx, filepath.Join(p.dir, "images", fp, "meta"), w, visit)
	}
	if word, ok := strings.CutPrefix(part, imagePart); ok {
		fp, err := kiln.ParseFingerprint(word)
		if err != nil {
			return err
		}
		tree, err := p.mount(ctx, record{Base: fp}, "", nil)
		if err != nil {
			return err
		}
		defer tree.Close()
		return pack(ctx, fmt.Sprintf("/proc/self/fd/%d/.", tree.Fd()), w, visit)
	}
	if name, ok := strings.CutPrefix(part, metaPart); ok {
		return pack(ctx, filepath.Join(p.snapshotDir(name), "meta"), w, visit)
	}
	return pack(ctx, p.layerTree(part), w, visit)
}

// MetaPart names the part with the metadata of a snapshot.
func MetaPart(name string) string { return metaPart + name }

// isMeta reports whether a part is metadata.
func isMeta(part string) bool {
	return strings.HasPrefix(part, metaPart) || strings.HasPrefix(part, imageMetaPart)
}
