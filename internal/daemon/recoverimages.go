package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/store"
)

// What bounds the search for the two files of a split image of which there is no record.
const (
	maxMetadataFile = 1 << 20 // bytes
	maxPairs        = 256
)

// recoverImages makes rows of images: of records where the files are there, then of files
// that are images by themselves, then of pairs of files that are one together.
func (v *recoverer) recoverImages(ctx context.Context) error {
	lost, err := v.blobs.Lost()
	if err != nil {
		return err
	}
	for _, fp := range lost {
		if err := v.blobs.Find(fp); err != nil {
			return err
		}
	}
	if err := v.fromRecords(func(dir string) error {
		return v.adoptImages(ctx, store.New(v.blobs, v.db, store.Options{Records: filepath.Join(dir, imagesDir)}))
	}); err != nil {
		return err
	}
	slices.Sort(v.r.Aliases)
	files, err := v.unnamedBlobs(ctx)
	if err != nil {
		return err
	}
	for _, fp := range files {
		if err := v.takeImage(ctx, fp, fp); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := v.recoverPairs(ctx); err != nil {
		return err
	}
	if err := v.remarkMissing(ctx); err != nil {
		return err
	}
	if files, err = v.unnamedBlobs(ctx); err != nil {
		return err
	}
	for _, fp := range files {
		if err := v.blobs.Keep(fp); err != nil {
			return err
		}
		v.left("the file %s is no image by itself, and makes none with another file here; if it is a part of a split "+
			"image, import or copy that again", fp)
	}
	return nil
}

// remarkMissing tells of the images that have rows but not all of their files: those of a
// copy of the database may have been deleted since.
func (v *recoverer) remarkMissing(ctx context.Context) error {
	list, err := v.images.List(ctx, store.Query{Files: true})
	for _, img := range list {
		if whole, some := v.images.Whole(store.Record{Image: img}); !whole && img.Damage == "" {
			lacks := "no files"
			if some {
				lacks = "not all of its files"
			}
			v.remark("image %s is in the database, but has %s; if it was deleted since: kiln image delete %s; else import or "+
				"copy it again", img.Fingerprint.Short(), lacks, img.Fingerprint.Short())
		}
	}
	return err
}

// adoptImages makes the rows of images that have files and one of some records.
func (v *recoverer) adoptImages(ctx context.Context, records *store.Store) error {
	all, err := records.Records()
	if err != nil {
		return err
	}
	of := map[string][]db.Image{}
	for _, i := range all {
		of[i.Project] = append(of[i.Project], i)
	}
	for name, list := range of {
		in, err := v.inProject(ctx, name)
		if err != nil {
			return err
		}
		if err := v.adoptFrom(project.In(in, project.Alone(name)), records, list); err != nil {
			return err
		}
	}
	return nil
}

// adoptFrom is adoptImages for the records of one project.
func (v *recoverer) adoptFrom(ctx context.Context, records *store.Store, all []db.Image) error {
	var list []store.Record
	aged := map[string]bool{}
	for _, i := range all {
		fp := i.Fingerprint
		img, err := v.images.Get(ctx, fp)
		keep := err == nil && img.Damage == "" && !v.overrule
		r, err := records.Record(i)
		if keep {
			if err == nil {
				err = v.compareAliases(ctx, img, r, aged)
			}
			if err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			v.remark("what was known of image %s is lost: %v", fp.Short(), err)
			continue
		}
		whole, some := v.images.Whole(r)
		if whole {
			list = append(list, r)
		} else if some && img.Fingerprint.IsZero() { // else remarkMissing tells
			v.remark("image %s can't be brought back: not all of its files are there as they were", fp.Short())
		}
	}
	if names := slices.Sorted(maps.Keys(aged)); len(names) > 0 {
		v.remark("aliases point in the database where they didn't last, or weren't rolled back, by the records of images: "+
			"%s; compare: kiln image history NAME", some(names))
	}
	adopted, err := v.images.Adopt(ctx, list)
	v.r.Aliases = append(v.r.Aliases, adopted...)
	if err != nil && ctx.Err() == nil && !errors.Is(err, kiln.NoSpace) { // one by one, then
		good := list[:0]
		for _, r := range list {
			aliases, err := v.images.Adopt(ctx, []store.Record{r})
			if err != nil {
				v.remark("what was known of image %s can't be used: %v", r.Image.Fingerprint.Short(), err)
				continue
			}
			good, v.r.Aliases = append(good, r), append(v.r.Aliases, aliases...)
		}
		list, err = good, nil
	}
	for _, r := range list {
		v.r.Images = append(v.r.Images, r.Image.Fingerprint.String())
	}
	return err
}

// compareAliases notes the aliases that pointed to an image last, or were rolled back from it,
// by its record, and don't and weren't by its row.
func (v *recoverer) compareAliases(ctx context.Context, img kiln.Image, r store.Record, aged map[string]bool) error {
	for _, a := range r.Image.Aliases {
		if !slices.ContainsFunc(img.Aliases, func(b kiln.Alias) bool { return a.Name == b.Name }) {
			aged[a.Name] = true
		}
	}
	events, err := v.db.EventsOf(ctx, img.Fingerprint)
	if err != nil {
		return err
	}
	has := events[db.Image{Project: img.Project, Fingerprint: img.Fingerprint}]
	for _, e := range r.Events {
		known := slices.ContainsFunc(has, func(h db.Event) bool {
			return h.Alias == e.Alias && h.RolledBackAt.Equal(e.RolledBackAt)
		})
		if !known && !e.RolledBackAt.IsZero() {
			aged[e.Alias] = true
		}
	}
	return nil
}

// unnamedBlobs gives the files that no image has.
func (v *recoverer) unnamedBlobs(ctx context.Context) ([]kiln.Fingerprint, error) {
	named, err := v.db.Blobs(ctx)
	if err != nil {
		return nil, err
	}
	var list []kiln.Fingerprint
	err = v.blobs.List(func(fp kiln.Fingerprint, _ int64) error {
		if named[fp] == 0 {
			list = append(list, fp)
		}
		return nil
	})
	return list, err
}

// takeImage imports files that are one image; of a fingerprint, if that isn't zero.
func (v *recoverer) takeImage(ctx context.Context, want kiln.Fingerprint, files ...kiln.Fingerprint) error {
	var paths []string
	for _, fp := range files {
		paths = append(paths, v.blobs.Path(fp))
	}
	img := kiln.Image{Fingerprint: want, Filename: files[len(files)-1].String(), Profiles: []string{defaultProfile}}
	s, err := remote.Files{Paths: paths}.Open(ctx, img)
	if err != nil {
		return err
	}
	got, err := v.images.Put(project.InDefault(ctx), img, s)
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	v.r.Images = append(v.r.Images, got.Fingerprint.String())
	v.remark("image %s has no aliases, and is private: what was known of it is lost", got.Fingerprint.Short())
	return nil
}

// recoverPairs finds split images of which there is no record: two files whose hash is
// the name of an image that something else here speaks of. Are there just two files, they
// are tried without that.
func (v *recoverer) recoverPairs(ctx context.Context) error {
	files, err := v.unnamedBlobs(ctx)
	if err != nil {
		return err
	}
	known, err := v.knownImages()
	if err != nil {
		return err
	}
	var metas []kiln.Fingerprint
	for _, fp := range files {
		if size, err := v.blobs.Stat(fp); err == nil && size <= maxMetadataFile {
			metas = append(metas, fp)
		}
	}
	if len(metas)*len(files) > maxPairs {
		v.remark("there are too many files without a record (%d) to try which of them are one image together", len(files))
		return nil
	}
	for _, rootfs := range files {
		hashes, err := v.pairHashes(ctx, metas, rootfs)
		if err != nil {
			return err
		}
		for n, fp := range hashes {
			if !known[fp] || metas[n] == rootfs {
				continue
			}
			if err := v.takeImage(ctx, fp, metas[n], rootfs); err != nil {
				v.remark("the files %s and %s are those of image %s, but: %v", metas[n].Short(), rootfs.Short(), fp.Short(), err)
			}
			break
		}
	}
	if files, err = v.unnamedBlobs(ctx); err == nil && len(files) == 2 {
		_ = v.takeImage(ctx, kiln.Fingerprint{}, files...) // else they are put away
	}
	return errors.Join(err, ctx.Err())
}

// knownImages gives the fingerprints that anything here but a row speaks of.
func (v *recoverer) knownImages() (map[kiln.Fingerprint]bool, error) {
	known := map[kiln.Fingerprint]bool{}
	records, err := v.images.Records()
	trees, terr := v.pool.Images()
	if err := errors.Join(err, terr); err != nil {
		return nil, err
	}
	for _, i := range records {
		known[i.Fingerprint] = true
	}
	for _, t := range trees {
		known[t.Fingerprint] = true
	}
	volumes, err := v.pool.List()
	for _, name := range volumes {
		if vol, err := v.pool.Get(name); err == nil && !vol.Base().IsZero() {
			known[vol.Base()] = true
		}
	}
	return known, err
}

// pairHashes gives the fingerprints that a file has as an image after each of some
// others, reading it once.
func (v *recoverer) pairHashes(ctx context.Context, metas []kiln.Fingerprint, rootfs kiln.Fingerprint) (
	[]kiln.Fingerprint, error) {
	var sums []hash.Hash
	var all []io.Writer
	for _, m := range metas {
		h := sha256.New()
		if err := v.readBlob(ctx, m, h); err != nil {
			return nil, err
		}
		sums, all = append(sums, h), append(all, h)
	}
	if err := v.readBlob(ctx, rootfs, all...); err != nil {
		return nil, err
	}
	list := make([]kiln.Fingerprint, len(sums))
	for n, h := range sums {
		list[n] = kiln.Fingerprint(h.Sum(nil))
	}
	return list, nil
}

func (v *recoverer) readBlob(ctx context.Context, fp kiln.Fingerprint, to ...io.Writer) error {
	f, err := v.blobs.Open(fp)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(to) == 0 {
		return nil
	}
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		_, _ = io.MultiWriter(to...).Write(buf[:n]) // hashes take everything
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
