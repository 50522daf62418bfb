package daemon

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/delta"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/store"
)

// deltas is what lies beside the images to make other versions of them cheap to
// move: an index of each file that was asked for, and patches between two. All of it
// can be made again at any time.
type deltas struct {
	dir string
	// One of each kind is made at a time: untrusted clients can ask for them, and a patch
	// takes some 200 MB while it is made.
	indexing, patching sync.Mutex
}

// maxPatches is how many bytes of patches are kept; the oldest go first.
const maxPatches = 2 << 30

// file gives the path of a file, which is made if it isn't there.
func (x *deltas) file(lock *sync.Mutex, name string, fill func(io.Writer) error) (string, error) {
	lock.Lock()
	defer lock.Unlock()
	path := filepath.Join(x.dir, name)
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		return path, os.Chtimes(path, now, now)
	}
	return path, disk.Write(path, 0o600, fill)
}

// FileIndex gives the path of the index of an image's file, by which others find out
// what of it they have.
func (d *Daemon) FileIndex(ctx context.Context, f kiln.File) (string, error) {
	return d.deltas.file(&d.deltas.indexing, f.Hash.String()+".index", func(w io.Writer) error {
		in, err := d.Images.OpenFile(ctx, f)
		if err != nil {
			return err
		}
		defer in.Close()
		idx, err := delta.BuildIndex(ctx, in, f.Size)
		if err != nil {
			return err
		}
		b, err := idx.MarshalBinary()
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
}

// Patch gives the path of what makes one file of another. It is made when it is
// first asked for. The error is NotFound where that can't be: one of them isn't in
// the form that patches are made of.
func (d *Daemon) Patch(ctx context.Context, base, target kiln.File) (string, error) {
	path, err := d.deltas.file(&d.deltas.patching, base.Hash.String()+"-"+target.Hash.String()+".patch",
		func(w io.Writer) error {
			from, err := d.Images.OpenFile(ctx, base)
			if err != nil {
				return err
			}
			defer from.Close()
			to, err := d.Images.OpenFile(ctx, target)
			if err != nil {
				return err
			}
			defer to.Close()
			return delta.MakePatch(ctx, io.NewSectionReader(from, 0, base.Size), io.NewSectionReader(to, 0, target.Size), w)
		})
	if err == nil {
		err = d.deltas.bound()
	}
	return path, err
}

// bound removes the oldest patches while there are too many bytes of them.
func (x *deltas) bound() error {
	list, sum, err := x.list()
	for _, f := range list {
		if sum <= maxPatches {
			break
		}
		sum -= f.Size()
		err = errors.Join(err, os.Remove(filepath.Join(x.dir, f.Name())))
	}
	return err
}

// list gives the files, oldest first, and how many bytes they have.
func (x *deltas) list() (list []fs.FileInfo, sum int64, err error) {
	entries, err := os.ReadDir(x.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	for _, e := range entries {
		if of := filesOf(e.Name()); of == nil && !strings.HasPrefix(e.Name(), ".new-") {
			continue // whose that is isn't known
		}
		if fi, err := e.Info(); err == nil {
			list, sum = append(list, fi), sum+fi.Size()
		}
	}
	slices.SortFunc(list, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return list, sum, err
}

// filesOf gives the files that one is about, whose hashes are its name; nil for any other.
func filesOf(name string) (of []kiln.Fingerprint) {
	name, _, _ = strings.Cut(name, ".")
	for word := range strings.SplitSeq(name, "-") {
		fp, err := kiln.ParseFingerprint(word)
		if err != nil {
			return nil
		}
		of = append(of, fp)
	}
	return of
}

// sweep removes what is about files that are gone, and what was being made when the
// daemon died.
func (x *deltas) sweep(has func(kiln.Fingerprint) bool) error {
	list, _, err := x.list()
	for _, f := range list {
		of := filesOf(f.Name())
		keep := of != nil && !slices.ContainsFunc(of, func(fp kiln.Fingerprint) bool { return !has(fp) })
		if !keep && time.Since(f.ModTime()) > time.Hour {
			err = errors.Join(err, os.Remove(filepath.Join(x.dir, f.Name())))
		}
	}
	return err
}

// mostSeeds is how many files are looked at for parts of one that isn't here.
const mostSeeds = 4

// seeds gives files that are here and may be much like one that isn't: of versions of
// the same image first, then of the same release, then of the same system.
func (d *Daemon) seeds(ctx context.Context, spec PullSpec) func(kiln.Image, kiln.File) []remote.Seed {
	return func(img kiln.Image, f kiln.File) []remote.Seed {
		all, err := d.Images.List(ctx, store.Query{Files: true})
		if err != nil {
			return nil // the whole file will do
		}
		type candidate struct {
			kiln.File
			score int
			at    time.Time
		}
		var list []candidate
		for _, other := range all {
			score := likeness(img, other, spec.origin())
			for _, o := range other.Files {
				if score > 0 && o.Hash != f.Hash && o.Size >= leastSeed && (o.Role == f.Role || f.Role == "") {
					list = append(list, candidate{o, score, other.UploadedAt})
				}
			}
		}
		slices.SortFunc(list, func(a, b candidate) int { return cmp.Or(b.score-a.score, b.at.Compare(a.at)) })
		var seeds []remote.Seed
		for _, c := range list[:min(len(list), mostSeeds)] {
			seeds = append(seeds, remote.Seed{Path: d.blobs.Path(c.Hash), Hash: c.Hash, Size: c.Size, Kin: c.score >= kinship,
				Index: func(ctx context.Context) (delta.Index, error) {
					return d.seedIndex(ctx, c.File)
				}})
		}
		return seeds
	}
}

// leastSeed is the size of a file, in bytes, below which it isn't worth asking.
const leastSeed = 1 << 20

// kinship is the likeness of an image of the same release, or the same origin.
const kinship = 5

func likeness(a, b kiln.Image, origin *kiln.Origin) int {
	score := 1
	if a.Architecture != b.Architecture {
		return 0
	}
	if origin != nil && b.Origin != nil && b.Origin.Key() == origin.Key() {
		score += 8
	}
	for key, worth := range map[string]int{"os": 2, "release": 2, "variant": 1} {
		if v := a.Properties[key]; v != "" && strings.EqualFold(v, b.Properties[key]) {
			score += worth
		}
	}
	return score
}

func (d *Daemon) seedIndex(ctx context.Context, f kiln.File) (delta.Index, error) {
	path, err := d.FileIndex(ctx, f)
	if err != nil {
		return delta.Index{}, err
	}
	b, err := disk.ReadFile(path)
	if err != nil {
		return delta.Index{}, err
	}
	return delta.ParseIndex(b)
}
