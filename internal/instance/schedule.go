package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/adhocore/gronx"
	"golang.org/x/sync/errgroup"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/template"
)

// A schedule is a parsed snapshots.schedule.
type schedule struct {
	crons   []string
	atStart bool // when the instance starts
}

// cronAliases are the names of common schedules.
var cronAliases = map[string]string{
	"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
	"@monthly": "0 0 1 * *", "@annually": "0 0 1 1 *", "@yearly": "0 0 1 1 *",
}

// parseSchedule reads an expression of cron with five fields, or a list of aliases.
func parseSchedule(v string) (schedule, error) {
	var s schedule
	v = strings.TrimSpace(v)
	if v == "" {
		return s, nil
	}
	if !strings.HasPrefix(v, "@") {
		if len(strings.Fields(v)) != 5 || !gronx.IsValid(v) {
			return s, fmt.Errorf("%q is not an expression of cron with five fields, such as \"0 3 * * *\", nor a list of "+
				"@hourly, @daily, @midnight, @weekly, @monthly, @yearly, @startup", v)
		}
		s.crons = []string{v}
		return s, nil
	}
	for word := range strings.SplitSeq(v, ",") {
		word = strings.TrimSpace(word)
		switch cron, ok := cronAliases[word]; {
		case ok:
			s.crons = append(s.crons, cron)
		case word == "@startup":
			s.atStart = true
		case word == "@never":
		default:
			return s, fmt.Errorf("%q is none of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @startup and @never",
				word)
		}
	}
	return s, nil
}

// checkSchedule also looks whether the times of a schedule ever come.
func checkSchedule(v string) error {
	s, err := parseSchedule(v)
	if err != nil {
		return err
	}
	_, err = s.due(time.Now(), time.Now())
	if err != nil {
		return fmt.Errorf("%q: such a day never comes", v)
	}
	return nil
}

// due reports whether one of the times of a schedule lies after from and not after
// to. They are times of this host's zone.
func (s schedule) due(from, to time.Time) (bool, error) {
	for _, c := range s.crons {
		next, err := gronx.NextTickAfter(c, from, false)
		if err != nil {
			return false, err
		}
		if !next.After(to) {
			return true, nil
		}
	}
	return false, nil
}

// defaultPattern names snapshots that nobody names.
const defaultPattern = "snap%d"

func checkPattern(v string) error {
	if strings.Count(v, "%d") > 1 {
		return fmt.Errorf("%q has %%d more than once", v)
	}
	if strings.Contains(v, "{{") || strings.Contains(v, "{%") {
		var err error // what it makes at another time is checked then
		if v, err = template.Name(context.Background(), v, time.Now()); err != nil {
			return err
		}
	}
	return kiln.CheckSnapshotName(strings.ReplaceAll(v, "%d", "0"))
}

// NextSnapshotName is the name of a snapshot that nobody names, beside others.
func NextSnapshotName(others []string) string { return nextName(defaultPattern, others) }

// SnapshotName gives the name that the next snapshot of an instance gets: by
// snapshots.pattern, where %d is the next number. Errors: NotFound, Invalid.
func (s *Set) SnapshotName(ctx context.Context, instance string) (string, error) {
	i, err := s.Get(ctx, instance)
	if err != nil {
		return "", err
	}
	pattern := i.ExpandedConfig["snapshots.pattern"]
	if pattern == "" {
		pattern = defaultPattern
	}
	if strings.Contains(pattern, "{{") || strings.Contains(pattern, "{%") {
		// %d is for the name, and begins nothing in a template.
		if pattern, err = template.Name(ctx, pattern, time.Now()); err != nil {
			return "", kiln.Errorf(kiln.KindOf(err), "snapshots.pattern of instance %q: %w", instance, err)
		}
	}
	rows, err := s.db.SnapshotFiles(ctx, instance)
	if err != nil {
		return "", err
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	name := nextName(pattern, names)
	if err := kiln.CheckSnapshotName(name); err != nil {
		return "", kiln.Errorf(kiln.Invalid, "snapshots.pattern of instance %q gives no good name: %w", instance, err)
	}
	return name, nil
}

// nextName puts the number after the highest that is taken in the place of %d. A
// pattern without it gets one only if its name is taken.
func nextName(pattern string, taken []string) string {
	if !strings.Contains(pattern, "%d") {
		if !slices.Contains(taken, pattern) {
			return pattern
		}
		pattern += "-%d"
	}
	before, after, _ := strings.Cut(pattern, "%d")
	form := regexp.MustCompile("^" + regexp.QuoteMeta(before) + "([0-9]{1,9})" + regexp.QuoteMeta(after) + "$")
	next := 0
	for _, name := range taken {
		if m := form.FindStringSubmatch(name); m != nil {
			n, _ := strconv.Atoi(m[1]) // nine digits at most
			next = max(next, n+1)
		}
	}
	return before + strconv.Itoa(next) + after
}

// SnapshotDue makes the snapshots whose times lie after from and not after to, and those that
// were to be made before when other work went on. One that fails, or is held by other work,
// doesn't keep the others.
func (s *Set) SnapshotDue(ctx context.Context, from, to time.Time) error {
	list, err := s.List(project.InAll(ctx))
	if err != nil {
		return err
	}
	s.mu.Lock()
	late := s.late
	s.late = map[string]bool{}
	s.mu.Unlock()
	waiting, cancel := s.unasked(ctx)
	defer cancel()
	return beside(list, func(i Instance) error {
		id := BackupsOf(i.Options)
		is := func(i Instance) (bool, error) { return scheduled(i, from, to, late[id]) }
		due, err := is(i)
		if due {
			if err = s.autoSnapshot(waiting, ctx, i, is); err != nil {
				s.failed(ScheduledSnapshot, i, err)
			}
		}
		if errors.Is(err, kiln.Busy) {
			s.mu.Lock()
			s.late[id] = true
			s.mu.Unlock()
		}
		if err != nil {
			err = fmt.Errorf("scheduled snapshot of instance %q: %w", i.Name, err)
		}
		return err
	})
}

// scheduled reports whether an instance is to have a snapshot whose time lies after from and
// not after to, or, of one that is late, before.
func scheduled(i Instance, from, to time.Time, late bool) (bool, error) {
	sched, err := parseSchedule(i.ExpandedConfig["snapshots.schedule"])
	if err != nil || i.Status == Stopped && !kiln.IsTrue(i.ExpandedConfig["snapshots.schedule.stopped"]) {
		return false, err
	}
	if late && len(sched.crons) > 0 {
		return true, nil
	}
	return sched.due(from, to)
}

// autoSnapshot makes a snapshot of an instance if that still is to have one when it is its turn.
func (s *Set) autoSnapshot(waiting, ctx context.Context, i Instance, due func(Instance) (bool, error)) error {
	ctx, now, unlock, err := s.lockUnasked(waiting, ctx, i)
	if err != nil {
		return err
	}
	defer unlock()
	if is, err := due(now); err != nil || !is {
		return err
	}
	return s.snapshotNext(ctx, now)
}

func (s *Set) snapshotNext(ctx context.Context, i Instance) error {
	name, err := s.SnapshotName(ctx, i.Name)
	if err != nil {
		return err
	}
	return s.snapshot(ctx, i, NewSnapshot{Name: name})
}

// snapshotAtStart makes the snapshot that an instance wants before it starts.
func (s *Set) snapshotAtStart(ctx context.Context, i Instance) error {
	sched, err := parseSchedule(i.ExpandedConfig["snapshots.schedule"])
	if err != nil || !sched.atStart {
		return err
	}
	return s.snapshotNext(ctx, i)
}

// ExpireSnapshots deletes the snapshots whose time is over, and gives the images
// that they were of. Those of an instance that other work goes on with are for the next time.
func (s *Set) ExpireSnapshots(ctx context.Context, now time.Time) ([]kiln.Fingerprint, error) {
	rows, err := s.db.ExpiredSnapshots(project.InAll(ctx), now)
	if err != nil {
		return nil, err
	}
	of := map[db.Name][]db.Snapshot{}
	for _, r := range rows {
		n := db.Name{Project: r.Project, Name: r.Instance}
		of[n] = append(of[n], r)
	}
	waiting, cancel := s.unasked(ctx)
	defer cancel()
	var mu sync.Mutex
	var images []kiln.Fingerprint
	err = beside(slices.Collect(maps.Values(of)), func(rows []db.Snapshot) error {
		var errs []error
		for _, r := range rows {
			in, err := s.in(ctx, r.Project)
			if err == nil {
				err = s.deleteSnapshot(waiting, db.MeaningSnapshot(in, r), r.Instance, r.Name, func(is db.Snapshot) bool {
					return is.Expired(now)
				})
			}
			if errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Conflict) || errors.Is(err, kiln.Busy) {
				continue // somebody was faster, it has another name or time now, or other work goes on
			}
			mu.Lock()
			images = append(images, r.Base)
			mu.Unlock()
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return images, err
}

// unaskedWait is how long what is done unasked waits for other work on instances, all of them
// together: one that is held longer is for the next time.
const unaskedWait = 5 * time.Second

// unasked bounds how long work that nobody asked for waits for other work. The error of whoever
// waited is Busy.
func (s *Set) unasked(ctx context.Context) (waiting context.Context, cancel context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.unaskedWait, kiln.Errorf(kiln.Busy, "it goes on; this is tried again later, "+
		"see: kiln operation list"))
}

// lockUnasked waits for the turn to work on an instance of whatever project, no longer than
// waiting lasts, and gives the instance as it is then.
func (s *Set) lockUnasked(waiting, ctx context.Context, i Instance) (meaning context.Context, now Instance,
	unlock func(), err error) {
	if ctx, err = s.in(ctx, i.Project); err != nil {
		return ctx, now, nil, err
	}
	if ctx, unlock, err = s.lockWhile(waiting, Meaning(ctx, i), i.Name); err != nil {
		return ctx, now, nil, err
	}
	if now, err = s.Get(ctx, i.Name); err != nil {
		unlock()
	}
	return ctx, now, unlock, err
}

// mostBeside is how many instances are worked on at once of what is done unasked.
const mostBeside = 4

// beside does something with each thing of a list, some at a time.
func beside[T any](list []T, f func(T) error) error {
	var g errgroup.Group
	g.SetLimit(mostBeside)
	errs := make([]error, len(list))
	for k, v := range list {
		g.Go(func() error {
			errs[k] = f(v)
			return nil
		})
	}
	return errors.Join(g.Wait(), errors.Join(errs...))
}
