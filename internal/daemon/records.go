package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kiln-containers/kiln/internal/db"
)

// imagesDir is where the records of images are below a daemon's directory. Those of
// instances are beside their volumes.
const imagesDir = "images"

// recordsRetry is how long a record that could not be written waits for the next
// attempt, unless its instance or image changes before, or the daemon starts.
const recordsRetry = 10 * time.Minute

// stale are the instances and images whose records may not be as their rows any more.
type stale struct {
	woken chan struct{}

	mu        sync.Mutex
	all       bool
	projects  bool
	networks  bool
	pins      bool
	instances map[db.Name]bool
	images    map[db.Image]bool
}

// note takes down what a transaction has changed. Names of profiles are in instances,
// snapshots and images, and their contents in records.
func (s *stale) note(c db.Changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.networks, s.projects = s.all || c.Profiles, s.networks || c.Networks, s.projects || c.Projects
	s.pins = s.pins || c.Pins
	if s.instances == nil {
		s.instances, s.images = map[db.Name]bool{}, map[db.Image]bool{}
	}
	maps.Copy(s.instances, c.Instances)
	maps.Copy(s.images, c.Images)
	if s.all || s.networks || s.projects || s.pins || len(s.instances)+len(s.images) > 0 {
		select {
		case s.woken <- struct{}{}:
		default:
		}
	}
}

// take gives what is noted, and forgets it.
func (s *stale) take() (instances []db.Name, images []db.Image, c db.Changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	instances, images = slices.Collect(maps.Keys(s.instances)), slices.Collect(maps.Keys(s.images))
	c = db.Changes{Profiles: s.all, Networks: s.networks || s.all, Projects: s.projects || s.all,
		Pins: s.pins || s.all}
	s.projects, s.networks, s.pins, s.all = false, false, false, false
	clear(s.instances)
	clear(s.images)
	return instances, images, c
}

// keepRecords has the records of instances and images follow their rows, beside whoever
// changes these: first all of them, since the last daemon may have died before it had
// written some.
func (d *Daemon) keepRecords() {
	d.stale.note(db.Changes{Profiles: true})
	for {
		retry := (<-chan time.Time)(nil)
		if err := d.saveRecords(d.ctx); err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Warn("write what kiln admin recover needs; trying again", "err", err, "in", recordsRetry)
			retry = time.After(recordsRetry)
		}
		select {
		case <-d.ctx.Done():
			return
		case <-d.stale.woken:
		case <-retry:
			d.stale.note(db.Changes{Profiles: true})
		}
	}
}

// saveRecords writes the records that may be stale.
func (d *Daemon) saveRecords(ctx context.Context) error {
	instances, images, c := d.stale.take()
	var errs []error
	if c.Projects {
		errs = append(errs, d.saveProjects(ctx))
	}
	if c.Networks {
		errs = append(errs, d.saveNetworks(ctx))
	}
	if c.Pins {
		errs = append(errs, d.savePins(ctx))
	}
	if len(images) > 0 { // also those that were deleted
		errs = append(errs, d.Images.SaveRecords(ctx, images...))
	}
	if len(instances) > 0 && !c.Profiles {
		errs = append(errs, d.instances.SaveRecords(ctx, instances...))
	}
	if c.Profiles {
		errs = append(errs, d.saveProfiles(ctx), d.instances.SaveRecords(ctx), d.Images.SaveRecords(ctx))
	}
	err := errors.Join(errs...)
	if err != nil { // some may be written; all are compared the next time
		d.stale.mu.Lock()
		d.stale.all = true
		d.stale.mu.Unlock()
	}
	return err
}
