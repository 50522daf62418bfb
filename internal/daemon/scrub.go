package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/store"
)

// A scrub reads all files and trees of images, one after another, and compares them with what
// they were. How far it is, and what it found, is in a file: the next daemon goes on there.

// What can be said of a scrub.
const (
	ScrubNever    = "never"    // there was none
	ScrubRunning  = "running"  // it is under way, or the next daemon goes on with it
	ScrubStopped  = "stopped"  // somebody stopped it; the next start goes on with it
	ScrubFinished = "finished" // it has seen all
)

// A Scrub is how the last scrub stands.
type Scrub struct {
	Status    string    `json:"status"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"` // or stopped; of none: since when one could have been
	Bytes     int64     `json:"bytes"`    // that were read
	Files     int       `json:"files"`    // that were seen
	Trees     int       `json:"trees"`
	After     string    `json:"after,omitempty"` // the key of what was seen last
	Found     []Damage  `json:"found,omitempty"`
	Unnamed   int       `json:"unnamed,omitempty"` // damages besides those of Found

	AllBytes  int64     `json:"-"` // that there are; 0: nobody has looked yet
	Operation string    `json:"-"` // that it is, if it is under way
	NextAt    time.Time `json:"-"` // when one begins by itself; zero: never
}

// mostFound is how many damages are kept of one scrub: more are counted.
const mostFound = 1000

// A Damage is something that isn't what it was.
type Damage struct {
	Kind     string    `json:"kind"` // "file", of images, or "tree", "image" for one whose row is damaged, or "record"
	Name     string    `json:"name"` // the hash of a file, the fingerprint of an image
	About    string    `json:"about"`
	Problem  string    `json:"problem"`
	Repaired string    `json:"repaired,omitempty"` // how; "": it is not
	Unread   bool      `json:"unread,omitempty"`   // it couldn't be read: nobody knows whether it is damaged
	FoundAt  time.Time `json:"found_at"`
}

// scrubs is what a daemon has of scrubs.
type scrubs struct {
	mu    sync.Mutex // held for moments
	under *op.Operation
	now   Scrub // of under
}

// scrubFile is where the last scrub is.
const scrubFile = "scrub.json"

// maxScrub is the most bytes that the file of a scrub has.
const maxScrub = 8 << 20

// Scrub tells how the last scrub stands.
func (d *Daemon) Scrub(ctx context.Context) (Scrub, error) {
	d.scrubs.mu.Lock()
	s := d.scrubs.now
	s.Found = slices.Clone(s.Found)
	under := d.scrubs.under
	d.scrubs.mu.Unlock()
	if under != nil {
		s.Operation = under.ID()
		return s, nil
	}
	s, err := d.lastScrub()
	if err != nil {
		return s, err
	}
	every, err := d.scrubEvery(ctx)
	if err == nil && every != "" {
		s.NextAt, err = kiln.ParseExpiry(every, s.EndedAt)
	}
	return s, err
}

// lastScrub reads what is kept of the last scrub. Of one that can't be read nothing is known.
func (d *Daemon) lastScrub() (Scrub, error) {
	s := Scrub{Status: ScrubNever, EndedAt: d.began}
	b, err := disk.ReadSealed(filepath.Join(d.cfg.Dir, scrubFile), maxScrub)
	if err != nil || json.Unmarshal(b, &s) != nil {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, kiln.Integrity) {
			return s, fmt.Errorf("read what the last scrub found: %w", err)
		}
		return Scrub{Status: ScrubNever, EndedAt: d.began}, nil
	}
	return s, nil
}

func (d *Daemon) saveScrub(s Scrub) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return d.db.WithSome(func() error { return disk.WriteSealed(filepath.Join(d.cfg.Dir, scrubFile), 0o600, b) })
}

// StartScrub begins a scrub, or goes on with the one that was stopped, unless anew is asked
// for. While one is under way it gives that, and joined. The operation fails with Integrity
// when something is damaged that couldn't be repaired, else with Internal when something couldn't
// be read.
func (d *Daemon) StartScrub(ctx context.Context, anew bool) (o *op.Operation, joined bool, err error) {
	d.scrubs.mu.Lock()
	defer d.scrubs.mu.Unlock()
	if d.scrubs.under != nil {
		return d.scrubs.under, true, nil
	}
	s, err := d.lastScrub()
	if err != nil {
		return nil, false, err
	}
	if anew || s.Status == ScrubNever || s.Status == ScrubFinished {
		s = Scrub{StartedAt: time.Now().UTC()}
	}
	s.Status, s.EndedAt = ScrubRunning, time.Time{}
	if err := d.saveScrub(s); err != nil {
		return nil, false, err
	}
	d.scrubs.now = s
	o = d.Ops.Start(project.InDefault(ctx), "Scrubbing images", op.Options{MayCancel: true}, d.runScrub)
	d.scrubs.under = o
	return o, false, nil
}

// StopScrub ends the scrub that is under way: the next start goes on with it.
// Errors: Conflict when none is; Timeout.
func (d *Daemon) StopScrub(ctx context.Context) error {
	d.scrubs.mu.Lock()
	under := d.scrubs.under
	d.scrubs.mu.Unlock()
	if under == nil {
		return kiln.Errorf(kiln.Conflict, "no scrub is under way; see: kiln scrub status")
	}
	if err := under.Cancel(); err != nil && !under.Snapshot().Status.Final() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if s := under.Wait(ctx); !s.Status.Final() {
		return kiln.Errorf(kiln.Timeout, "the scrub is told to stop, but the disk doesn't answer it yet; look again: kiln "+
			"scrub status")
	}
	return nil
}

// resumeScrub goes on with the scrub that was under way when the last daemon ended.
func (d *Daemon) resumeScrub() {
	s, err := d.lastScrub()
	if err == nil && s.Status == ScrubNever {
		err = d.saveScrub(s) // from now on the interval counts
	}
	if err == nil && s.Status == ScrubRunning {
		_, _, err = d.StartScrub(d.ctx, false)
	}
	if err != nil && d.ctx.Err() == nil {
		d.cfg.Log.Error("go on with a scrub", "err", err)
	}
}

// scrubIfDue begins a scrub when the settings say so.
func (d *Daemon) scrubIfDue(now time.Time) {
	s, err := d.Scrub(d.ctx)
	if err == nil && s.Operation == "" && !s.NextAt.IsZero() && disk.ClockSet(now) {
		switch {
		case !disk.ClockSet(s.EndedAt): // how long ago that was isn't known
			s.EndedAt = now
			err = d.saveScrub(s)
		case now.After(s.NextAt):
			_, _, err = d.StartScrub(d.ctx, false)
		}
	}
	if err != nil && d.ctx.Err() == nil {
		d.cfg.Log.Error("begin a scrub", "err", err)
	}
}

// A scrubbed is something that a scrub looks at.
type scrubbed struct {
	key  string // in whose order it does
	file kiln.File
	tree kiln.Fingerprint // zero: it is a file
	size int64
}

// toScrub gives all that there is, by key.
func (d *Daemon) toScrub(ctx context.Context) ([]scrubbed, error) {
	files, err := d.Images.Files(ctx)
	var list []scrubbed
	for _, f := range files {
		list = append(list, scrubbed{key: "file " + f.Hash.String(), file: f, size: f.Size})
	}
	trees, terr := d.pool.Images()
	for _, t := range trees {
		list = append(list, scrubbed{key: "tree " + t.Fingerprint.String(), tree: t.Fingerprint, size: t.Bytes})
	}
	slices.SortFunc(list, func(a, b scrubbed) int { return cmp.Compare(a.key, b.key) })
	return list, errors.Join(err, terr)
}

// runScrub is the operation of a scrub.
func (d *Daemon) runScrub(ctx context.Context, o *op.Operation) error {
	ctx = project.InAll(ctx)
	r := &scrubRun{d: d, o: o}
	err := r.all(ctx)
	switch {
	case d.ctx.Err() != nil: // the next daemon goes on
	case ctx.Err() != nil || err != nil:
		r.change(func(s *Scrub) { s.Status, s.EndedAt = ScrubStopped, time.Now().UTC() })
	default:
		r.change(func(s *Scrub) { s.Status, s.EndedAt, s.After = ScrubFinished, time.Now().UTC(), "" })
		err = r.verdict()
	}
	err = errors.Join(err, d.saveScrub(r.change(func(*Scrub) {})))
	d.scrubs.mu.Lock()
	defer d.scrubs.mu.Unlock()
	d.scrubs.under = nil
	return err
}

// A scrubRun is a scrub under way.
type scrubRun struct {
	d     *Daemon
	o     *op.Operation
	saved time.Time // when how it stands was

	told  time.Time // when those were who watch the operation
	speed pace

	rate   int64 // bytes a second; 0: as fast as it goes
	rateAt time.Time
}

// change changes how the scrub stands.
func (r *scrubRun) change(f func(*Scrub)) Scrub {
	r.d.scrubs.mu.Lock()
	defer r.d.scrubs.mu.Unlock()
	f(&r.d.scrubs.now)
	return r.d.scrubs.now
}

// saveInterval is how much of its work a scrub does again after a crash.
const saveInterval = 2 * time.Second

// all looks at what wasn't looked at yet. Something bad doesn't end it.
func (r *scrubRun) all(ctx context.Context) error {
	list, err := r.d.toScrub(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(r.damagedRows(ctx), r.damagedRecords()); err != nil {
		return err
	}
	s := r.change(func(*Scrub) {})
	list = slices.DeleteFunc(list, func(i scrubbed) bool { return i.key <= s.After })
	all := s.Bytes
	for _, i := range list {
		all += i.size
	}
	r.change(func(s *Scrub) { s.AllBytes = all })
	for _, i := range list {
		before := r.change(func(*Scrub) {}).Bytes
		err := r.one(ctx, i)
		if ctx.Err() != nil {
			r.change(func(s *Scrub) { s.Bytes = before }) // it is read again
			return context.Cause(ctx)
		}
		s := r.change(func(s *Scrub) {
			s.Bytes, s.After = before+i.size, i.key
			if i.tree.IsZero() {
				s.Files++
			} else {
				s.Trees++
			}
		})
		if err != nil {
			unread := i.damage(err.Error())
			unread.Unread = true
			r.found(unread)
		}
		if err != nil || time.Since(r.saved) > saveInterval {
			r.saved = time.Now()
			if err := r.d.saveScrub(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// one looks at one thing. The error is why nothing can be told of it now: what is found is kept.
func (r *scrubRun) one(ctx context.Context, i scrubbed) error {
	if !i.tree.IsZero() {
		damage, err := r.d.pool.ScrubTree(ctx, i.tree, r.pace)
		if damage == nil {
			if err == nil {
				r.d.treeSound(ctx, i.tree)
			}
			return err
		}
		found := i.damage(damage.Error())
		if err == nil {
			found.Repaired = "made again from the image"
		}
		r.found(found)
		_ = r.d.treeFound(ctx, i.tree, damage, err) // it is told there
		return nil
	}
	err := r.d.Images.Scrub(ctx, i.file.Hash, r.pace)
	if !errors.Is(err, kiln.Integrity) {
		return err
	}
	found := i.damage(err.Error())
	from := ""
	images, err := r.d.Images.Having(ctx, i.file.Hash)
	if err == nil {
		found.About = aboutFile(i.file.Hash, images)
		from, err = r.d.heal(ctx, r.o, i.file, images)
	}
	switch {
	case err == nil:
		found.Repaired = "with the bytes from " + from
	case ctx.Err() == nil:
		found.Problem += fmt.Sprintf("; not repaired: %v", err)
	}
	r.found(found)
	return nil
}

// damagedRows finds the images whose rows can't be read, which have no files that one knew of.
func (r *scrubRun) damagedRows(ctx context.Context) error {
	list, err := r.d.Images.List(ctx, store.Query{})
	for _, img := range list {
		if img.Damage != "" {
			r.found(Damage{Kind: "image", Name: img.Fingerprint.String(), About: inProject("the row of image "+
				img.Fingerprint.Short(), img.Project), Problem: img.Damage})
		}
	}
	return err
}

// damagedRecords tells what is wrong with the records of volumes, snapshots and storage volumes:
// of these there is nothing else that could be compared.
func (r *scrubRun) damagedRecords() error {
	pool := r.d.pool
	err := pool.CheckStacks()
	if errors.Is(err, kiln.Integrity) {
		r.found(Damage{Kind: "record", Name: "stacks", About: "what instances and snapshots stand on", Problem: err.Error()})
		err = nil
	}
	merged, merr := pool.CheckMerged()
	err = errors.Join(err, merr)
	for _, m := range merged {
		r.found(Damage{Kind: "record", Name: "layer " + m.Layer, About: "the record of merged layer " + m.Layer,
			Problem: m.Problem.Error(), Repaired: m.Repaired})
	}
	r.d.tellWithheld()
	ins, ierr := pool.CustomIns()
	err = errors.Join(err, ierr)
	for _, in := range ins {
		list, lerr := pool.Customs(in)
		err = errors.Join(err, lerr)
		for _, c := range list {
			if c.Damage != "" {
				r.found(Damage{Kind: "record", Name: "storage volume " + in + "/" + c.Name,
					About: inProject("the record of storage volume "+c.Name, in), Problem: c.Damage})
			}
		}
	}
	return err
}

// damage says what is wrong with something.
func (i scrubbed) damage(problem string) Damage {
	if i.tree.IsZero() {
		return Damage{Kind: "file", Name: i.file.Hash.String(), About: "a file of images", Problem: problem}
	}
	return Damage{Kind: "tree", Name: i.tree.String(), About: "the tree of image " + i.tree.Short(), Problem: problem}
}

// found keeps what was found. What was found already, before the scrub was gone on with, is
// there once.
func (r *scrubRun) found(damage Damage) {
	damage.FoundAt = time.Now().UTC()
	if damage.Unread {
		r.d.cfg.Log.Warn("a scrub couldn't read something", "kind", damage.Kind, "name", damage.Name, "problem",
			damage.Problem)
	} else {
		r.d.cfg.Log.Error("a scrub found damage", "kind", damage.Kind, "name", damage.Name, "problem", damage.Problem,
			"repaired", damage.Repaired)
	}
	r.change(func(s *Scrub) {
		at := slices.IndexFunc(s.Found, func(d Damage) bool { return d.Kind == damage.Kind && d.Name == damage.Name })
		switch {
		case at >= 0:
			s.Found[at] = damage
		case len(s.Found) >= mostFound:
			s.Unnamed++
		default:
			s.Found = append(slices.Clip(s.Found), damage)
		}
	})
}

// aboutFile says what a file is to images.
func aboutFile(hash kiln.Fingerprint, images []kiln.Image) string {
	var names []string
	for _, img := range images {
		for _, f := range img.Files {
			if f.Hash == hash {
				names = append(names, inProject(fmt.Sprintf("the %s file of image %s", f.Role, img.Fingerprint.Short()),
					img.Project))
			}
		}
	}
	return strings.Join(names, ", ")
}

func inProject(what, name string) string {
	if name == "" || name == project.Default {
		return what
	}
	return what + " in project " + name
}

// verdict is what comes of a scrub. The error is Integrity, or Internal when something couldn't be
// read.
func (r *scrubRun) verdict() error {
	s := r.change(func(*Scrub) {})
	var bad, repaired, unread []string
	trees := 0
	for _, f := range s.Found {
		if f.Repaired != "" {
			repaired = append(repaired, f.About)
			continue
		}
		if f.Kind == "tree" {
			trees++
		}
		if f.Unread {
			unread = append(unread, f.About)
		} else {
			bad = append(bad, f.About)
		}
	}
	if trees == 0 {
		r.d.outcome(treeDamaged, db.Subject{}, nil)
	}
	r.resolve(s)
	if len(repaired) > 0 {
		r.o.Set("warning", fmt.Sprintf("damaged, and repaired: %s; see: kiln scrub status", some(repaired)))
	}
	var unknown error
	if len(unread) > 0 {
		unknown = kiln.Errorf(kiln.Internal, "nobody knows whether these are damaged, as they couldn't be read: %s; see "+
			"kiln scrub status, and try again: kiln scrub start", some(unread))
	}
	if len(bad) == 0 && s.Unnamed == 0 {
		return unknown
	}
	advice := "see kiln scrub status, and import or copy these images again"
	if !slices.ContainsFunc(s.Found, func(f Damage) bool { return f.Repaired == "" && !f.Unread && f.Kind != "record" }) {
		advice = "see kiln scrub status"
	}
	return errors.Join(kiln.Errorf(kiln.Integrity, "damaged: %s; %s", some(bad), advice), unknown)
}

// resolve ends the warnings of files that were repaired before this scrub, which found them
// whole.
func (r *scrubRun) resolve(s Scrub) {
	list, err := r.d.db.Warnings(r.d.ctx)
	if err != nil && r.d.ctx.Err() == nil {
		r.d.cfg.Log.Error("look for warnings that are over", "err", err)
	}
	for _, w := range list {
		if w.Type == imageRepaired && w.Status != db.WarningResolved && w.LastSeen.Before(s.StartedAt) {
			r.d.outcome(imageRepaired, w.About, nil)
		}
	}
}

// pace tells how far the scrub is, and waits as long as storage.scrub_rate says before some
// bytes are read.
func (r *scrubRun) pace(ctx context.Context, bytes int) error {
	now := time.Now()
	s := r.change(func(s *Scrub) { s.Bytes += int64(bytes) })
	speed := r.speed.rate(now, s.Bytes)
	if now.Sub(r.told) > 300*time.Millisecond {
		r.told = now
		r.o.Set("scrub_progress", scrubText(s, speed))
	}
	for owed := float64(bytes); owed > 0; {
		rate, err := r.limit(ctx)
		if err != nil || rate == 0 {
			return errors.Join(err, ctx.Err())
		}
		// Not longer, so that another rate counts soon.
		wait := min(time.Second, time.Duration(owed/float64(rate)*float64(time.Second)))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		owed -= max(1, wait.Seconds()*float64(rate))
	}
	return ctx.Err()
}

// limit is how many bytes a second may be read now; 0: as many as can be. A setting that can't be
// read is as if it weren't set: what is wrong with it isn't wrong with what is read. The error is
// that of ctx.
func (r *scrubRun) limit(ctx context.Context) (int64, error) {
	if time.Since(r.rateAt) < time.Second {
		return r.rate, nil
	}
	v, err := r.d.setting(ctx, scrubRate)
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		k, _ := serverKey(scrubRate)
		v = k.Type.Default
	}
	r.rate, r.rateAt = 0, time.Now()
	if v != off {
		r.rate, _ = kiln.ParseSize(v) // it was checked
	}
	return r.rate, nil
}

// scrubText is one line: how much, how fast, how long yet.
func scrubText(s Scrub, speed float64) string {
	text := fmt.Sprintf("%s read (%s/s)", kiln.FormatSize(s.Bytes), kiln.FormatSize(int64(speed)))
	if s.AllBytes > 0 {
		text = fmt.Sprintf("%d%%: %s", 100*min(s.Bytes, s.AllBytes)/s.AllBytes, text)
	}
	if s.AllBytes > s.Bytes && speed > 0 {
		text += fmt.Sprintf(", %s left", (time.Duration(float64(s.AllBytes-s.Bytes)/speed) * time.Second).Round(time.Second))
	}
	return text
}

// scrubEvery says how often a scrub begins by itself; "": never.
func (d *Daemon) scrubEvery(ctx context.Context) (string, error) {
	v, err := d.setting(ctx, scrubInterval)
	if v == off {
		v = ""
	}
	return v, err
}
