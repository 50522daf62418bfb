package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
)

// RefreshImage gets the newest version of an image from where it came from, whatever
// was asked when; stale accepts what the owner of a pinned key signed though it has
// expired. "refreshed" in the metadata tells whether there was one.
// Errors: NotFound, Invalid for an image that was not copied from a server.
func (d *Daemon) RefreshImage(ctx context.Context, fp kiln.Fingerprint, stale bool) *op.Operation {
	o := op.Options{Resources: map[string][]string{"images": {imageURL(fp)}}, MayCancel: true}
	return d.Ops.Start(ctx, "Refreshing image", o, func(ctx context.Context, o *op.Operation) error {
		now, err := d.refresh(ctx, o, fp, looking{fresh: true, stale: stale})
		o.Set("refreshed", err == nil && now != fp)
		if err == nil {
			o.Set("fingerprint", now.String())
		}
		return err
	})
}

// looking is how a newer version is looked for.
type looking struct {
	fresh bool // the server is asked, whatever was asked when
	stale bool // what the owner of a pinned key signed may have expired
}

// refresh gives the fingerprint of the newest version of an image, which is in the
// store from then on, in the place of the old one.
func (d *Daemon) refresh(ctx context.Context, o *op.Operation, fp kiln.Fingerprint, how looking) (kiln.Fingerprint,
	error) {
	old, err := d.Images.Get(ctx, fp)
	if err != nil {
		return fp, err
	}
	if err := old.Whole(); err != nil {
		return fp, err
	}
	if old.Origin == nil {
		return fp, kiln.Errorf(kiln.Invalid, "Image source not found: image %s was not copied from a server; there is "+
			"nothing to refresh it from; copy one by an "+
			"alias from a public remote", fp.Short())
	}
	spec := PullSpec{Remote: old.Origin.Remote, Name: old.Origin.Alias, IsAlias: true}
	spec.Remote.Stale = how.stale
	if err := d.mayFetch(ctx, spec.Remote); err != nil {
		return fp, err
	}
	img, err := d.find(ctx, o, spec, how.fresh)
	if errors.Is(err, kiln.NotFound) && spec.Remote.Protocol != kiln.ProtocolDirect { // which says why
		err = kiln.Errorf(kiln.NotFound, "%s has no public image %q any more: its newest version may be private, or the "+
			"alias deleted; image %s stays as it is here; have the other one made public there (kiln image edit), or copy "+
			"one by another alias", spec.Remote.Server, spec.Name, fp.Short())
	}
	if err != nil {
		return fp, err
	}
	if img.Fingerprint == fp {
		return fp, d.repair(ctx, o, old)
	}
	if left, err := d.leftOut(ctx, o, old, spec, img); err != nil || left {
		return fp, err
	}
	now, err := d.bring(ctx, o, spec, img, bringOptions{replaces: fp, proof: true})
	if err != nil || now.Fingerprint == fp {
		return fp, err
	}
	d.tell(ctx, "image-refreshed", imageURL(now.Fingerprint), map[string]any{"old": fp.String()})
	return now.Fingerprint, d.dropVersions(ctx, now.Fingerprint)
}

// repair mends the files of an image of which it is known that something is wrong with them, as a
// scrub does. The error is Integrity when it can't be done.
func (d *Daemon) repair(ctx context.Context, o *op.Operation, img kiln.Image) error {
	if img.Missing == "" {
		return nil
	}
	may := ctx
	ctx = project.InAll(ctx) // others may have the file as well
	var from []string
	var errs []error
	for _, f := range img.Files {
		bad := d.Images.Scrub(ctx, f.Hash, nil)
		if bad == nil {
			continue
		}
		if !errors.Is(bad, kiln.Integrity) {
			return bad
		}
		images, err := d.Images.Having(ctx, f.Hash)
		if err != nil {
			return err
		}
		where, err := d.heal(ctx, o, f, images)
		if err != nil {
			errs = append(errs, d.withoutNames(may, f, fmt.Errorf("%w; not repaired: %w", bad, err)))
			continue
		}
		if instance.IsRestricted(may) && !fromOrigin(img, where) {
			where = elsewhere
		}
		from = append(from, where)
	}
	if err := errors.Join(errs...); err != nil {
		return kiln.Errorf(kiln.Integrity, "image %s is its newest version, but damaged: %w; import or copy it again, or "+
			"delete it: kiln image delete %s", img.Fingerprint.Short(), err, img.Fingerprint.Short())
	}
	o.Set("repaired", strings.Join(slices.Compact(from), ", "))
	return nil
}

// elsewhere is what a restricted client is told of a source that isn't its image's own.
const elsewhere = "another source that this server has"

// fromOrigin reports whether a source is the server that an image says it is from.
func fromOrigin(img kiln.Image, where string) bool {
	return img.Origin != nil && img.Origin.Server == where
}

// withoutNames is what may be said of a file that isn't repaired to who asked for it: a restricted
// client isn't told which servers others have their images from, nor where files are on this host.
// The daemon's log has it.
func (d *Daemon) withoutNames(ctx context.Context, f kiln.File, err error) error {
	if !instance.IsRestricted(ctx) {
		return err
	}
	d.cfg.Log.Warn("repair a file of an image", "file", f.Hash, "err", err)
	return kiln.Errorf(kiln.Integrity, "the file %s is damaged or lost; nobody who was asked has it", f.Hash.Short())
}

// leftOut reports whether a version is not to take the place of an image, since an
// alias was rolled back from it to that one; the operation's watchers are told.
func (d *Daemon) leftOut(ctx context.Context, o *op.Operation, old kiln.Image, spec PullSpec, img kiln.Image) (bool,
	error) {
	fp := img.Fingerprint
	if fp.IsZero() {
		here, _, err := d.here(ctx, spec, img)
		if err != nil {
			return false, err
		}
		fp = here.Fingerprint
	}
	from, err := d.Images.RolledBackFrom(ctx, old.Fingerprint)
	left := slices.Contains(from, fp)
	if left && o != nil {
		o.Set("warning", fmt.Sprintf("%s still has %s, which was rolled back from here; updates go on with the version "+
			"after it", spec.Remote.Server, fp.Short()))
	}
	return left, err
}

// dropVersions deletes the versions of an image that are older than the settings
// want them kept. One that has a name again stays.
func (d *Daemon) dropVersions(ctx context.Context, current kiln.Fingerprint) error {
	v, err := d.setting(ctx, keepVersions)
	if err != nil {
		return err
	}
	keep, err := strconv.Atoi(v)
	if err != nil {
		return err
	}
	return d.dropVersionsBut(ctx, current, keep)
}

// dropVersionsBut keeps some older versions.
func (d *Daemon) dropVersionsBut(ctx context.Context, current kiln.Fingerprint, keep int) error {
	var errs []error
	level := []kiln.Fingerprint{current}
	for depth := 1; len(level) > 0 && depth < 1000; depth++ {
		var older []kiln.Fingerprint
		for _, fp := range level {
			list, err := d.Images.Replaced(ctx, fp)
			errs = append(errs, err)
			for _, img := range list {
				older = append(older, img.Fingerprint)
				if depth > keep {
					_, err := d.clear(ctx, img.Fingerprint, func(now kiln.Image) bool {
						return now.ReplacedBy == fp && len(now.Aliases) == 0
					})
					errs = append(errs, err)
				}
			}
		}
		level = older
	}
	return errors.Join(errs...)
}

// housekeeping updates the images that are marked for it, and deletes those whose
// time is over, until the daemon ends.
func (d *Daemon) housekeeping() {
	last, expired := time.Time{}, time.Time{}
	for {
		interval, err := d.hours(updateInterval)
		if err != nil {
			d.cfg.Log.Error("read a setting", "key", updateInterval, "err", err)
		}
		if interval > 0 && time.Since(last) >= interval {
			last = time.Now()
			d.updateImages()
		}
		if time.Since(expired) >= 24*time.Hour {
			expired = time.Now()
			d.expire()
		}
		next := time.Hour
		if interval > 0 {
			next = min(next, time.Until(last.Add(interval)))
		}
		select {
		case <-d.ctx.Done():
			return
		case <-d.woken:
		case <-time.After(next):
		}
	}
}

// hours reads a setting that is a number of hours; 0 is never.
func (d *Daemon) hours(key string) (time.Duration, error) {
	v, err := d.setting(d.ctx, key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(v)
	return time.Duration(min(n, maxHours)) * time.Hour, err
}

// updateImages refreshes what is marked for it. Each is an operation of its own, so
// that people see and can stop it; one that fails is for the next time.
func (d *Daemon) updateImages() {
	list, err := d.Images.List(project.InAll(d.ctx), store.Query{})
	if err != nil {
		d.cfg.Log.Error("look for images to update", "err", err)
		return
	}
	updates := func(img kiln.Image) bool { return img.AutoUpdate && img.Origin != nil && img.Damage == "" }
	for _, img := range list {
		if !updates(img) || d.ctx.Err() != nil {
			continue
		}
		ctx, err := d.In(d.ctx, img.Project)
		if err != nil {
			continue // deleted meanwhile
		}
		if now, err := d.Images.Get(ctx, img.Fingerprint); err != nil || !updates(now) {
			continue // the others before it took their time
		}
		s := d.RefreshImage(ctx, img.Fingerprint, false).Wait(ctx)
		d.outcome(updateFailed, db.Subject{Image: db.Image{Project: img.Project, Fingerprint: img.Fingerprint}}, s.Err)
		if s.Err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Warn("update an image", "image", img.Fingerprint, "alias", img.Origin.Alias, "server", img.Origin.Server,
				"err", s.Err)
		}
	}
	d.runMirrors()
}

// partialLife is how long what is left of a download waits to be gone on with.
const partialLife = 7 * 24 * time.Hour

// expire deletes cached images that nobody used for long, and what is left of
// downloads.
func (d *Daemon) expire() {
	list, err := d.Images.List(project.InAll(d.ctx), store.Query{})
	if err != nil {
		d.cfg.Log.Error("look for images that expired", "err", err)
		return
	}
	for _, img := range list {
		end, err := d.expiry(d.ctx, img)
		if err == nil && !end.IsZero() && time.Now().After(end) {
			var gone bool
			gone, err = d.clear(project.In(d.ctx, project.Alone(img.Project)), img.Fingerprint, func(now kiln.Image) bool {
				return now.Cached && len(now.Aliases) == 0 && now.LastUsedAt.Equal(img.LastUsedAt)
			})
			if gone {
				d.cfg.Log.Info("a cached image expired", "image", img.Fingerprint, "last used", img.LastUsedAt)
			}
		}
		if err != nil {
			d.cfg.Log.Error("delete an image that expired", "image", img.Fingerprint, "err", err)
		}
	}
	if err := d.blobs.SweepPartial(partialLife); err != nil {
		d.cfg.Log.Error("remove what is left of downloads", "err", err)
	}
	if err := errors.Join(d.blobs.SweepLost(), d.pool.SweepLost(), sweepRecords(d.cfg.Dir)); err != nil {
		d.cfg.Log.Error("remove what was put away long ago", "err", err)
	}
	d.tellWithheld()
	d.settleForgotten()
	if err := d.db.DropWarnings(d.ctx, time.Now().Add(-resolvedLife)); err != nil && d.ctx.Err() == nil {
		d.cfg.Log.Error("remove warnings that were resolved", "err", err)
	}
	if err := d.deltas.sweep(func(fp kiln.Fingerprint) bool {
		_, err := d.blobs.Stat(fp)
		return err == nil
	}); err != nil {
		d.cfg.Log.Error("remove indexes and patches of images that are gone", "err", err)
	}
}

// expiry is when a cached image goes if nobody uses it before; zero: never.
func (d *Daemon) expiry(ctx context.Context, img kiln.Image) (time.Time, error) {
	if !img.Cached || len(img.Aliases) > 0 || img.Damage != "" {
		return time.Time{}, nil
	}
	v, err := d.setting(ctx, cacheExpiry)
	if err != nil {
		return time.Time{}, err
	}
	days, err := strconv.Atoi(v)
	if err != nil || days == 0 {
		return time.Time{}, err
	}
	used := img.LastUsedAt
	if used.IsZero() {
		used = img.UploadedAt
	}
	return used.AddDate(0, 0, days), nil
}

// Kept says in a sentence why an image is here, when it goes, and what updates it.
func (d *Daemon) Kept(ctx context.Context, img kiln.Image) (string, error) {
	const day = "2006/01/02 15:04 MST"
	end, err := d.expiry(ctx, img)
	if err != nil {
		return "", err
	}
	newer, err := d.Images.Has(ctx, img.ReplacedBy)
	if err != nil {
		return "", err
	}
	var why string
	switch {
	case !img.ReplacedBy.IsZero() && !newer:
		why = fmt.Sprintf("as the version before %s, which isn't here any more; kiln image prune deletes it",
			img.ReplacedBy.Short())
	case !img.ReplacedBy.IsZero():
		why = fmt.Sprintf("as the version before %s; it goes when newer versions push it out (images.keep_versions)",
			img.ReplacedBy.Short())
		if !end.IsZero() {
			why += " or on " + end.UTC().Format(day)
		}
	case img.Cached && end.IsZero():
		why = "in the cache, for ever (images.remote_cache_expiry is 0)"
	case img.Cached:
		why = "in the cache, until " + end.UTC().Format(day) + " if nobody uses it before (images.remote_cache_expiry)"
	default:
		why = "until somebody deletes it"
	}
	hours, err := d.hours(updateInterval)
	if err != nil || !img.AutoUpdate || img.Origin == nil || hours == 0 {
		return why, err
	}
	why += fmt.Sprintf("; updated from %s every %s", img.Origin.Server, hours)
	from, err := d.Images.RolledBackFrom(ctx, img.Fingerprint)
	if len(from) > 0 {
		why += fmt.Sprintf(", as soon as it has something newer than %s, which was rolled back", from[0].Short())
	}
	return why, err
}
