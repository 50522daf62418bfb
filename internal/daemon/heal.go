package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/remote"
)

// healTime is how long one source may take to bring a file.
const healTime = 6 * time.Hour

// heal has a file of images, which is damaged or lost, be what it was: with the bytes that are
// elsewhere here, else with those of where the images came from, else with those of mirrors.
// It gives from where they are. Whoever has other bytes changes nothing. The error is Integrity
// when nobody has them, and says who was asked.
func (d *Daemon) heal(ctx context.Context, o *op.Operation, f kiln.File, images []kiln.Image) (from string, err error) {
	var errs []error
	for _, s := range d.healSources(ctx, f, images) {
		err := d.healFrom(ctx, o, f, s)
		if err == nil {
			d.healed(f, images, s.name)
			return s.name, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errSame) {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	if len(errs) == 0 {
		return "", kiln.Errorf(kiln.Integrity, "nobody is known who has it")
	}
	return "", kiln.Errorf(kiln.Integrity, "%w", errors.Join(errs...))
}

// errSame says that what is elsewhere is the damaged file itself.
var errSame = errors.New("it is the same file")

// A healSource may have the bytes of a file.
type healSource struct {
	name string // for people
	open func(ctx context.Context, o *op.Operation) (kiln.Stream, error)
}

// healSources gives who may have the bytes of a file, the nearest first.
func (d *Daemon) healSources(ctx context.Context, f kiln.File, images []kiln.Image) []healSource {
	list := []healSource{{"what is put away here", func(context.Context, *op.Operation) (kiln.Stream, error) {
		r, err := d.blobs.OpenLost(f.Hash)
		if err != nil {
			return nil, err
		}
		return &oneFile{f: f, File: r}, nil
	}}}
	known := map[string]bool{}
	from := func(r kiln.Remote, img kiln.Image, alias string) {
		key := r.Server + " " + r.Protocol + " " + img.Fingerprint.String() + " " + alias
		if !known[key] {
			known[key] = true
			list = append(list, healSource{r.Server, func(ctx context.Context, o *op.Operation) (kiln.Stream, error) {
				return d.openAgain(ctx, o, r, img, alias, f)
			}})
		}
	}
	for _, img := range images {
		list = append(list, healSource{"the tree of the image", func(context.Context, *op.Operation) (kiln.Stream, error) {
			return d.openTree(img, f)
		}})
	}
	for _, img := range images {
		if img.Origin != nil {
			from(img.Origin.Remote, img, img.Origin.Alias)
		}
	}
	mirrors, err := d.Mirrors(project.InDefault(ctx))
	if err != nil && ctx.Err() == nil {
		d.cfg.Log.Warn("look for mirrors that may have a damaged file", "err", err)
	}
	for _, m := range mirrors {
		if m.Damage != "" {
			continue
		}
		for _, img := range images {
			if img.Project == project.Default { // mirrors hear of no others
				from(m.Remote, img, "")
			}
		}
	}
	return list
}

// openTree gives the tree of an image that is mounted as it is, where that is a copy of a file
// and not the file itself.
func (d *Daemon) openTree(img kiln.Image, f kiln.File) (kiln.Stream, error) {
	if img.Files[len(img.Files)-1].Hash != f.Hash {
		return nil, os.ErrNotExist
	}
	r, err := d.pool.Squashfs(img.Fingerprint)
	if errors.Is(err, kiln.NotFound) {
		err = os.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	tree, err := r.Stat()
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if fi, err := os.Stat(d.blobs.Path(f.Hash)); err == nil && os.SameFile(tree, fi) {
		return nil, errors.Join(errSame, r.Close())
	}
	return &oneFile{f: f, File: r}, nil
}

// openAgain asks a remote for an image that is here: by its fingerprint, else by the alias it
// came by, if that means the same image still. What a key is pinned for is signed with it.
func (d *Daemon) openAgain(ctx context.Context, o *op.Operation, r kiln.Remote, img kiln.Image, alias string,
	f kiln.File) (kiln.Stream, error) {
	if err := d.mayFetch(ctx, r); err != nil {
		return nil, err
	}
	var told time.Time
	src, err := d.remotes.Open(r, remote.Access{Fresh: true, Warn: func(string) {},
		Progress: func(server string, done int64) {
			if time.Since(told) > 300*time.Millisecond {
				told = time.Now()
				if instance.IsRestricted(ctx) { // the server may be that of others
					server = elsewhere
				}
				o.Set("scrub_progress", fmt.Sprintf("repairing: %s of %s, from %s", kiln.FormatSize(done),
					kiln.FormatSize(f.Size), server))
			}
		}})
	if err != nil {
		return nil, err
	}
	names := []string{img.Fingerprint.String(), alias}
	if r.Protocol == kiln.ProtocolDirect {
		names = []string{alias}
	}
	wrong := kiln.Errorf(kiln.NotFound, "it hasn't the image")
	for _, name := range slices.DeleteFunc(names, func(n string) bool { return n == "" }) {
		there, err := src.Find(ctx, name)
		if err != nil && r.ImageKey != "" {
			err = d.refused(ctx, r, name, err)
		}
		if err != nil {
			if errors.Is(wrong, kiln.NotFound) && !errors.Is(err, kiln.NotFound) {
				wrong = err
			}
			continue
		}
		if wrong = sameImage(there, img, f); wrong == nil {
			return src.Open(ctx, there)
		}
	}
	return nil, wrong
}

// sameImage says whether a remote's image may have a file of one that is here. The error is Integrity.
func sameImage(there, img kiln.Image, f kiln.File) error {
	if there.Fingerprint == img.Fingerprint || there.Fingerprint.IsZero() && slices.ContainsFunc(there.Files,
		func(o kiln.File) bool { return o.Hash == f.Hash }) {
		return nil
	}
	return kiln.Errorf(kiln.Integrity, "it has image %s by now, in the place of %s", there.Fingerprint.Short(),
		img.Fingerprint.Short())
}

// healFrom takes the bytes from one source.
func (d *Daemon) healFrom(ctx context.Context, o *op.Operation, f kiln.File, s healSource) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	in, err := s.open(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(d.Images.Mend(ctx, f, in), in.Close())
}

// healed tells of each image that has a file that this is whole again, and was damaged.
func (d *Daemon) healed(f kiln.File, images []kiln.Image, from string) {
	d.cfg.Log.Warn("a file of images was damaged, and is repaired", "file", f.Hash, "from", from)
	for _, img := range images {
		about := aboutFile(f.Hash, []kiln.Image{img})
		d.outcome(imageRepaired, db.Subject{Image: db.Image{Project: img.Project, Fingerprint: img.Fingerprint}},
			fmt.Errorf("%s was damaged, and is repaired, from %s; the damaged one is kept for a while: kiln admin lost; if "+
				"that happens again, look at the disk", about, from))
	}
}

// oneFile is a stream of one file that is here.
type oneFile struct {
	*os.File
	f    kiln.File
	seen bool
}

// Next implements kiln.Stream.
func (o *oneFile) Next() (kiln.File, error) {
	if o.seen {
		return kiln.File{}, io.EOF
	}
	o.seen = true
	return o.f, nil
}
