package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Lost is something on the disk that no row names.
type Lost struct {
	Name   string // for DropLost
	Kind   string // "volume", "snapshot", "layer", "tree" or "file"
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
	about := aboutLost(dir)
	for _, t := range trees {
		l := Lost{Name: t.Entry, Kind: "volume", About: about[t.Name], Since: t.At}
		switch {
		case t.Snapshot:
			l.Kind = "snapshot"
		case t.Tree:
			l.Kind, l.About = "tree", "of image "+t.Name[:min(12, len(t.Name))]
			if _, err := os.Stat(filepath.Join(dir, "volumes/images", t.Name)); err == nil {
				l.About += ", made again since"
			}
		case t.Layer:
			l.Kind = "layer"
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
	odd, oerr := blobs.Odd()
	if err := errors.Join(err, oerr); err != nil || len(lost)+len(odd) == 0 {
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
	for _, o := range odd {
		list = append(list, Lost{Name: o.Name, Kind: "file", About: strings.TrimSuffix("damaged "+about[o.Blob], " "),
			Size: o.Size, Since: o.At, GoesAt: o.At.Add(blob.LostTime)})
	}
	return list, nil
}

// tellLost says which layers and trees this start put away.
func (d *Daemon) tellLost() {
	lost, err := d.pool.Lost()
	if err != nil {
		d.cfg.Log.Warn("look for what is put away", "err", err)
	}
	for _, l := range lost {
		if (l.Layer || l.Tree) && d.putAwayNow(l) {
			d.cfg.Log.Warn("nobody has some files; they are kept for a while, see kiln admin lost", "files", l.Entry,
				"days", int(volume.LostTime.Hours()/24))
		}
	}
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
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return found[0], err
	}
	if fp, err := kiln.ParseFingerprint(found[0]); err == nil {
		return found[0], blobs.DropLost(fp)
	}
	if err := blobs.DropOdd(found[0]); !errors.Is(err, kiln.NotFound) {
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
