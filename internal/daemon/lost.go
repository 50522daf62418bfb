package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Lost is something on the disk that no row names.
type Lost struct {
	Name   string // for DropLost
	Kind   string // "volume", "snapshot", "tree" or "file"
	About  string // what is known of it; "": nothing
	Size   int64  // bytes that it takes by itself
	Since  time.Time
	GoesAt time.Time // when the daemon removes it; zero: never
}

// ListLost gives what is put away in a daemon's directory, oldest first. A daemon may run
// there. The error is NotFound when there is no such directory.
func ListLost(ctx context.Context, dir string) ([]Lost, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	files, err := lostFiles(dir)
	if err != nil {
		return nil, err
	}
	trees, err := volume.ListLost(filepath.Join(dir, "volumes"))
	if err != nil {
		return nil, err
	}
	about := instance.RecordedIn(filepath.Join(dir, "volumes"))
	for _, t := range trees {
		l := Lost{Name: t.Entry, Kind: "volume", About: about[t.Name], Since: t.At}
		switch {
		case t.Snapshot:
			l.Kind = "snapshot"
		case t.Tree:
			l.Kind, l.About = "tree", "of image "+t.Name[:min(12, len(t.Name))]+", made again since"
		}
		if !t.Kept {
			l.GoesAt = t.At.Add(volume.LostTime)
		}
		// One that can't be counted is listed all the same.
		l.Size, _ = volume.LostSize(ctx, filepath.Join(dir, "volumes"), t)
		files = append(files, l)
	}
	slices.SortStableFunc(files, func(a, b Lost) int { return a.Since.Compare(b.Since) })
	return files, ctx.Err()
}

// lostFiles gives the blobs that are put away.
func lostFiles(dir string) ([]Lost, error) {
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, err
	}
	lost, err := blobs.Lost()
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	images := store.New(blobs, nil, store.Options{Records: filepath.Join(dir, imagesDir)})
	records, err := images.Records()
	if err != nil {
		return nil, err
	}
	about := map[kiln.Fingerprint]string{}
	for _, i := range records {
		if r, err := images.Record(i); err == nil { // else nothing is known
			for _, f := range r.Image.Files {
				about[f.Hash] = fmt.Sprintf("%s file of image %s", f.Role, i.Fingerprint.Short())
			}
		}
	}
	var list []Lost
	for _, fp := range lost {
		at, size, kept, err := blobs.StatLost(fp)
		if err != nil {
			continue // removed meanwhile
		}
		l := Lost{Name: fp.String(), Kind: "file", About: about[fp], Size: size, Since: at}
		if !kept {
			l.GoesAt = at.Add(blob.LostTime)
		}
		list = append(list, l)
	}
	return list, nil
}

// DropLost removes something that is put away in a daemon's directory, by its name in the
// list or the beginning of it. A daemon may run there. It gives the name.
// Errors: NotFound, Ambiguous.
func DropLost(ctx context.Context, dir, name string) (string, error) {
	list, err := ListLost(ctx, dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, l := range list {
		if l.Name == name || len(name) >= 8 && strings.HasPrefix(l.Name, name) {
			found = append(found, l.Name)
		}
	}
	if len(found) != 1 {
		if len(found) > 1 {
			return "", kiln.Errorf(kiln.Ambiguous, "%q may be any of %s; type more of it", name, strings.Join(found, ", "))
		}
		return "", kiln.Errorf(kiln.NotFound, "nothing that is lost is called %q; see: kiln admin lost", name)
	}
	if fp, err := kiln.ParseFingerprint(found[0]); err == nil {
		blobs, err := blob.Open(filepath.Join(dir, "blobs"))
		if err == nil {
			err = blobs.DropLost(fp)
		}
		return found[0], err
	}
	pool := filepath.Join(dir, "volumes")
	trees, err := volume.ListLost(pool)
	for _, t := range trees {
		if t.Entry == found[0] {
			err = errors.Join(err, volume.DropLost(pool, t))
		}
	}
	return found[0], err
}
