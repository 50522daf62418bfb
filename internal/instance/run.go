package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/guestapi"
	"github.com/kiln-containers/kiln/internal/hardware"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Start runs an instance. It returns when init has been started.
// Errors: NotFound, Conflict when it runs, Unsupported when this host can't.
func (s *Set) Start(ctx context.Context, name string) error {
	if r, err := s.db.Instance(ctx, name); err == nil {
		s.forgetCrashes(r.Config[UUIDKey])
	}
	return s.startLocked(ctx, name)
}

func (s *Set) start(ctx context.Context, name string) (failed error) {
	i, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	if i.Status == Broken {
		return kiln.Errorf(kiln.Integrity, "instance %q: %s; mend that, or delete the instance", name, i.Problem)
	}
	if i.Status != Stopped {
		return kiln.Errorf(kiln.Conflict, "The instance %q is already running", name)
	}
	if i.Options[restoreKey] != "" {
		if err := s.finishPending(ctx, name, i.Options); err != nil {
			return err
		}
		return s.start(ctx, name)
	}
	if err := s.runnable(i); err != nil {
		return err
	}
	vol, err := s.pool.Get(i.Options[UUIDKey])
	if err == nil {
		err = vol.Ready(ctx)
	}
	if err != nil {
		return filesOfInstance(name, err)
	}
	if err := s.snapshotAtStart(ctx, i); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "snapshot of instance %q at its start: %w", name, err)
	}
	nics, resolver, err := s.connect(ctx, i)
	defer func() {
		if failed != nil {
			failed = errors.Join(failed, s.disconnect(i, nics))
		}
	}()
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "connect instance %q: %w", name, err)
	}
	if err := s.db.WithSome(func() error { return s.writeResolver(ctx, i, vol, resolver) }); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "resolver of instance %q: %w", name, err)
	}
	if err := s.db.WithSome(func() error { return s.applyTemplates(ctx, i, vol) }); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "templates of instance %q: %w", name, err)
	}
	with := i
	if err := s.db.WithSome(func() (err error) { with, err = s.assignIDs(ctx, i); return err }); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "ids of instance %q: %w", name, err)
	}
	i = with
	var g *guestapi.Server
	var b *box.Box
	if err := s.db.WithSome(func() (err error) { // what ran can be restarted on a full disk
		if g, err = s.openGuest(i); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "guest API of instance %q: %w", name, err)
		}
		if b, err = s.startBox(ctx, i, vol, nics); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "start instance %q: %w", name, errors.Join(err, closeGuest(g)))
		}
		return nil
	}); err != nil {
		return err
	}
	now := time.Now().UTC()
	err = s.db.WithSome(func() error {
		return s.edit(ctx, name, func(r *db.Instance) {
			r.Running, r.LastUsedAt = true, now
			delete(r.Config, TemplateKey)
			delete(r.Config, powerKey)
			delete(r.Config, restartKey)
			delete(r.Config, crashKey)
			delete(r.Config, readyKey)
		})
	})
	if err != nil {
		return errors.Join(err, b.End(ctx), closeGuest(g))
	}
	s.follow(ctx, name, i.Options[UUIDKey], b, g)
	s.notify(ctx, Change{Name: name, Action: "started"})
	return nil
}

// runnable says why this host can't run an instance, if it can't.
func (s *Set) runnable(i Instance) error {
	if !slices.Contains(kiln.RunsOn(s.host), i.Architecture) {
		return kiln.Errorf(kiln.Unsupported, "instance %q is for %s; this host runs %s", i.Name, i.Architecture,
			strings.Join(kiln.RunsOn(s.host), " and "))
	}
	privileged := kiln.IsTrue(i.ExpandedConfig["security.privileged"])
	nesting := kiln.IsTrue(i.ExpandedConfig["security.nesting"])
	if err := checkPolicy(i.ExpandedConfig); err != nil {
		return err
	}
	switch {
	case kiln.IsTrue(i.ExpandedConfig["security.protection.start"]):
		return kiln.Errorf(kiln.Conflict, "the instance %q is protected from being started; see: kiln config show %[1]s "+
			"--expanded; allow it with: kiln config set %[1]s security.protection.start=false", i.Name)
	case i.ExpandedConfig["image.requirements.cgroup"] == "v1":
		return kiln.Errorf(kiln.Unsupported, "the image of instance %q needs cgroup v1; kiln's instances see cgroup v2",
			i.Name)
	case i.ExpandedConfig["image.requirements.privileged"] == "false" && privileged:
		return kiln.Errorf(kiln.Invalid, "the image of instance %q must not run with security.privileged=true", i.Name)
	case i.ExpandedConfig["image.requirements.nesting"] == "true" && !nesting:
		return kiln.Errorf(kiln.Invalid, "the image of instance %q needs security.nesting=true", i.Name)
	}
	return nil
}

func (s *Set) startBox(ctx context.Context, i Instance, vol *volume.Volume, nics map[string]box.Nic) (*box.Box, error) {
	spec, err := s.spec(ctx, i)
	if err != nil {
		return nil, err
	}
	now, later, err := s.startDevices(ctx, i, nics, &spec)
	if err != nil {
		return nil, err
	}
	list, err := s.newPlugs(i, now)
	if err != nil {
		return nil, err
	}
	rootfs, err := vol.MountToChange(ctx, volumeIDs(spec.IDMap))
	if err != nil {
		return nil, err
	}
	defer rootfs.Close()
	spec.Rootfs = rootfs
	b, err := box.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := s.addLater(ctx, i, b, list, later); err != nil {
		return nil, errors.Join(err, b.End(ctx))
	}
	return b, nil
}

func volumeIDs(ids []box.IDMap) []volume.IDMap {
	var out []volume.IDMap
	for _, m := range ids {
		out = append(out, volume.IDMap(m))
	}
	return out
}

// spec turns an instance's configuration into what a box is given.
func (s *Set) spec(ctx context.Context, i Instance) (box.Spec, error) {
	c := i.ExpandedConfig
	spec := box.Spec{
		ID:       i.Options[UUIDKey],
		Hostname: i.Name,
		Dir:      s.boxDir(db.Instance{Config: i.Options}),
		Arch:     i.Architecture,
		IDMap:    s.idsOf(i),
		Nesting:  kiln.IsTrue(c["security.nesting"]),
		Env:      environment(c),
		Mounts:   s.guestMounts(i),
		Seccomp:  policy(c),
	}
	spec.Profile = s.Profiles.Name(ctx, spec.Nesting)
	spec.Config = kernelConfig(c)
	if raw := strings.TrimSpace(c["raw.lxc"]); raw != "" {
		spec.Config = append(spec.Config, strings.Split(raw, "\n")...)
	}
	for _, said := range raisedLimits(i.ExpandedDevices) {
		s.warn("limits of instance "+strconv.Quote(i.Name), errors.New(said))
	}
	var err error
	spec.Limits, err = s.limits(ctx, i)
	return spec, err
}

// limits are what an instance may take, by its configuration and its disks. With an error
// they are those that could be told.
func (s *Set) limits(ctx context.Context, i Instance) (box.Limits, error) {
	l, err := limitsKeepingDisks(ctx, i)
	disks, derr := s.diskLimits(ctx, i)
	l.Disks, l.KeepDisks = disks, false
	return l, errors.Join(err, derr)
}

// limitsKeepingDisks are limits that leave those of the disks as they are.
func limitsKeepingDisks(_ context.Context, i Instance) (box.Limits, error) {
	c := i.ExpandedConfig
	l := box.Limits{KeepDisks: true}
	var errs []error
	if v := c["limits.memory"]; v != "" {
		n, err := parseMemory(v)
		if n < 0 {
			n = hardware.Memory() / 100 * -n
		}
		l.MemoryBytes, errs = n, append(errs, err)
	}
	if v := c["limits.cpu"]; v != "" {
		n, err := parseCPUs(v)
		l.CPUs, errs = n, append(errs, err)
	}
	if v := c["limits.cpu.allowance"]; v != "" {
		quota, period, err := parseAllowance(v)
		l.CPUQuota, l.CPUPeriod, errs = quota, period, append(errs, err)
	}
	if v := c["limits.cpu.priority"]; v != "" {
		l.CPUShare = (number(v) + 1) * 100 / 11
	}
	l.MemorySoft = c["limits.memory.enforce"] == "soft"
	l.NoSwap = !isTrueOr(c["limits.memory.swap"], true)
	if v := c["limits.processes"]; v != "" {
		l.Processes = int64(number(v))
	}
	return l, errors.Join(errs...)
}

func environment(config map[string]string) map[string]string {
	env := map[string]string{}
	for k, v := range config {
		if name, ok := strings.CutPrefix(k, "environment."); ok {
			env[name] = v
		}
	}
	return env
}

// follow remembers that an instance runs and waits for its end.
func (s *Set) follow(ctx context.Context, name, uuid string, b *box.Box, g *guestapi.Server) *live {
	l := &live{box: b, gone: make(chan struct{}), holdTime: s.HoldTime}
	l.guest.server = g
	s.mu.Lock()
	s.live[uuid] = l
	s.mu.Unlock()
	life := meaningFiles(project.Like(s.ctx, ctx), name, uuid)
	s.wg.Go(func() { s.watch(life, name, uuid, l) })
	return l
}

// watchPause is how long an instance isn't watched when that fails.
const watchPause = time.Second

// watch waits for the end of an instance; life is of the daemon, and about its project.
func (s *Set) watch(life context.Context, name, uuid string, l *live) {
	for begun := time.Now(); ; {
		e, err := l.box.Next(life)
		if life.Err() != nil {
			return // the daemon ends; the instance goes on
		}
		if err != nil {
			s.warn("watch instance "+strconv.Quote(name), err)
			select {
			case <-life.Done():
			case <-time.After(watchPause):
			}
			continue
		}
		if e.Kind == box.Rebooted && l.killing.Load() > 0 { // who killed it has killed the init before
			if err := l.box.Abort(life); err != nil && life.Err() == nil {
				s.warn("end instance "+strconv.Quote(name)+", which rebooted", err)
			}
			continue
		}
		if e.Kind == box.Rebooted {
			if e.Unsaved != nil {
				s.warn("write down that instance "+strconv.Quote(name)+" rebooted", e.Unsaved)
			}
			l.begin("its reboot")
			s.endFiles(uuid, name, "rebooted")
			if s.mayGoOn(uuid, time.Since(begun)) {
				s.rebooted(life, name, l)
			} else {
				s.giveUp(life, name, l.box.Abort(life))
			}
			begun = time.Now()
			l.begin("")
			continue
		}
		l.begin("its devices and its files on this host to be let go of")
		ctx, asked := event.WithRequestor(life, l.stop.Load()), l.stopping.Load() > 0
		var reboot error
		if e.Failed != "" && !asked { // it isn't what the instance wanted, nor the end of an ephemeral one
			reboot = kiln.Errorf(kiln.Internal, "its reboot failed: %s", e.Failed)
			err := s.planRestart(life, name, false)
			s.warn("instance "+strconv.Quote(name)+" is started again", errors.Join(reboot, err))
		}
		s.endDevices(ctx, name, l)
		s.endFiles(uuid, name, "stopped") // which would keep them mounted
		_ = l.guest.close()
		l.begin("its end to be written down")
		// Written down before anybody can see it as stopped. A failure is
		// mended by the next daemon, which finds no box.
		if err := s.ended(ctx, name, "stopped"); err != nil && life.Err() == nil {
			s.warn("write down the end of instance "+strconv.Quote(name), err)
		}
		_ = l.box.Close()
		s.mu.Lock()
		delete(s.live, uuid)
		s.mu.Unlock()
		s.endFiles(uuid, name, "stopped") // of somebody who came last
		close(l.gone)
		if !asked {
			s.beginAgain(life, name, uuid, time.Since(begun), reboot)
		}
		return
	}
}

// ended writes down that an instance doesn't run any more. An ephemeral one
// goes with it.
func (s *Set) ended(ctx context.Context, name, action string) error {
	if err := s.edit(db.Freeing(ctx), name, func(r *db.Instance) {
		r.Running = false
		delete(r.Config, readyKey)
	}); err != nil {
		return err
	}
	s.notify(ctx, Change{Name: name, Action: action})
	r, err := s.db.Instance(ctx, name)
	if err != nil || !r.Ephemeral || r.Config[powerKey] != "" || r.Config[restartKey] != "" {
		return err
	}
	return s.remove(ctx, r)
}

// StopTimeout is how long a clean stop may take when nobody says otherwise.
const StopTimeout = 30 * time.Second

// MostStop is how long a clean stop may take, since nobody else works on the instance meanwhile.
const MostStop = mostHold

// stopTime bounds a clean stop.
func stopTime(ctx context.Context, name string, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		timeout = StopTimeout
	}
	timeout = min(timeout, MostStop)
	return context.WithTimeoutCause(ctx, timeout, kiln.Errorf(kiln.Timeout,
		"instance %q did not stop within %v; use --force to kill it", name, timeout))
}

// Stop ends an instance: its init is asked to and has the given time (none: StopTimeout, at
// most MostStop), also to wait for other work, or it is killed when force is set.
// Errors: NotFound, Conflict when it doesn't run, Timeout.
func (s *Set) Stop(ctx context.Context, name string, timeout time.Duration, force bool) error {
	if force {
		// It doesn't wait its turn behind a clean stop that takes its time.
		if l, err := s.get(ctx, name); err == nil {
			defer l.stopFor(ctx)()
			return l.kill(ctx, name)
		}
	}
	bound, cancel := stopTime(ctx, name, timeout)
	defer cancel()
	if !force { // which has other bounds once it is its turn
		ctx = bound
	}
	ctx, unlock, err := s.lockWhile(bound, ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	err = s.stop(ctx, name, timeout, force)
	if errors.Is(err, kiln.Conflict) {
		if awaited, gerr := s.giveUpStart(ctx, name); awaited || gerr != nil {
			return gerr
		}
	}
	return err
}

func (s *Set) stop(ctx context.Context, name string, timeout time.Duration, force bool) error {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return err
	}
	l := s.running(r)
	if l == nil {
		return kiln.Errorf(kiln.Conflict, "The instance %q is already stopped", name)
	}
	defer l.stopFor(ctx)()
	if force {
		return l.kill(ctx, name)
	}
	if l.box.Frozen() {
		if err := l.thaw(ctx, name); err != nil {
			return err
		}
	}
	ctx, cancel := stopTime(ctx, name, timeout)
	defer cancel()
	if err := l.box.Shutdown(ctx); err != nil {
		return err
	}
	return l.wait(ctx)
}

// stopFor says on whose behalf the instance is stopped. Once it isn't tried any more, its
// end is nobody's doing.
func (l *live) stopFor(ctx context.Context) (over func()) {
	asked := event.RequestorOf(ctx)
	l.stop.Store(asked)
	l.stopping.Add(1)
	return func() {
		l.stopping.Add(-1)
		l.stop.CompareAndSwap(asked, nil)
	}
}

// wait returns when the end of the instance is written down.
func (l *live) wait(ctx context.Context) error {
	select {
	case <-l.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endTime is how long what follows the end of an instance may take, each part of it.
const endTime = time.Minute

// begin notes what whoever waits for the end of the instance waits for.
func (l *live) begin(what string) { l.doing.Store(&what) }

// kill ends an instance, and returns when that is written down. The error is Timeout when
// it takes too long: it says what does.
func (l *live) kill(ctx context.Context, name string) error {
	l.killing.Add(1) // before: it may be about to reboot
	defer l.killing.Add(-1)
	if err := l.box.Kill(ctx); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "stop instance %q: %w", name, err)
	}
	for {
		doing := l.doing.Load()
		waiting, cancel := context.WithTimeout(ctx, endTime)
		err := l.wait(waiting)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if doing != l.doing.Load() {
			continue // it goes on
		}
		what := "its monitor to end"
		if doing != nil && *doing != "" {
			what = *doing
		}
		return kiln.Errorf(kiln.Timeout, "stop instance %q: its processes were killed, but this waited %v for %s; see the "+
			"log of the daemon, and try again", name, endTime, what)
	}
}

// steady does something with an instance that runs. What fails because the instance stopped or
// rebooted meanwhile is a Conflict that says so.
func (l *live) steady(name string, f func() error) error {
	life := l.box.Life()
	err := f()
	if err == nil || kiln.KindOf(err) == kiln.Cancelled || kiln.KindOf(err) == kiln.Timeout || !l.box.EndedSince(life) {
		return err
	}
	return kiln.Errorf(kiln.Conflict, "instance %q stopped or rebooted meanwhile; try again", name)
}

// get gives what runs under a name. Errors: NotFound, Conflict when it doesn't.
func (s *Set) get(ctx context.Context, name string) (*live, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	l := s.running(r)
	if l == nil {
		return nil, kiln.Errorf(kiln.Conflict, "The instance %q is not running; start it with: kiln start %s", name, name)
	}
	return l, nil
}

// Freeze pauses every process of an instance. Errors: NotFound, Conflict.
func (s *Set) Freeze(ctx context.Context, name string) error {
	return s.setPaused(ctx, name, true)
}

// Thaw lets a paused instance go on. Errors: NotFound, Conflict.
func (s *Set) Thaw(ctx context.Context, name string) error {
	return s.setPaused(ctx, name, false)
}

func (s *Set) setPaused(ctx context.Context, name string, freeze bool) error {
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := s.get(ctx, name)
	if err != nil {
		return err
	}
	switch frozen := l.box.Frozen(); {
	case frozen && freeze:
		return kiln.Errorf(kiln.Conflict, "The instance %q is already paused", name)
	case !frozen && !freeze:
		return kiln.Errorf(kiln.Conflict, "The instance %q is not paused", name)
	case freeze:
		if err := l.steady(name, func() error { return l.freeze(ctx, name) }); err != nil {
			return err
		}
		s.notify(ctx, Change{Name: name, Action: "paused"})
	default:
		if err := l.steady(name, func() error { return l.thaw(ctx, name) }); err != nil {
			return err
		}
		s.notify(ctx, Change{Name: name, Action: "resumed"})
	}
	return nil
}

// freeze has all processes of a container stand still, or none: one that waits in the kernel
// for a file system which the container serves itself doesn't. The error is Timeout then.
func (l *live) freeze(ctx context.Context, name string) error {
	bound, cancel := l.standStill(ctx, name)
	defer cancel()
	err := l.box.Freeze(bound)
	if err == nil || errors.Is(err, kiln.Unsupported) { // then nothing was tried
		return err
	}
	return errors.Join(err, l.thaw(context.WithoutCancel(ctx), name))
}

// thaw has a bound of its own.
func (l *live) thaw(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.bound(), kiln.Errorf(kiln.Timeout,
		"the processes of instance %q did not go on within %v; stop it with --force", name, l.bound()))
	defer cancel()
	return l.box.Thaw(ctx)
}

// Suspend stops every instance because the host goes down, and remembers which ran.
// Higher priorities go first, the ones of a priority all at once. One that doesn't
// stop in its time is killed, whatever other work goes on with it. When that fails, instances
// start by themselves again, but for those that were stopped.
func (s *Set) Suspend(ctx context.Context) (err error) {
	s.suspended.Store(true)
	var stopped atomic.Int32
	defer func() {
		if err != nil {
			s.suspended.Store(false)
			err = kiln.Errorf(kiln.KindOf(err), "%w; so the daemon goes on, and %d that were stopped stay so until they are "+
				"started, or the daemon is; try again: kiln shutdown", err, stopped.Load())
		}
	}()
	list, err := s.List(project.InAll(ctx))
	if err != nil {
		return err
	}
	groups := map[int][]func() error{}
	add := func(i Instance, end func() error) {
		priority := number(i.ExpandedConfig["boot.stop.priority"])
		groups[priority] = append(groups[priority], func() error {
			err := end()
			if err == nil {
				stopped.Add(1)
			}
			return err
		})
	}
	for _, i := range list {
		if s.runs(i.Options[UUIDKey]) != nil {
			add(i, func() error { return s.suspend(ctx, i) })
		}
	}
	for _, one := range s.strays.all() {
		i := one.instance()
		add(i, func() error { return one.suspend(ctx, i) })
	}
	var errs []error
	for _, priority := range slices.Backward(slices.Sorted(maps.Keys(groups))) {
		errs = append(errs, together(groups[priority]))
	}
	return errors.Join(errs...)
}

// together calls some functions at once, and waits for all.
func together(list []func() error) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for k, f := range list {
		wg.Go(func() { errs[k] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Set) suspend(ctx context.Context, i Instance) error {
	ctx, err := s.in(ctx, i.Project)
	if err != nil {
		return err
	}
	ctx = Meaning(ctx, i)
	var unwritten error // it is stopped all the same, since the host goes down
	if !i.Ephemeral {
		unwritten = s.edit(db.Freeing(ctx), i.Name, func(r *db.Instance) { r.Config[powerKey] = "RUNNING" })
	}
	timeout, force := hostShutdown(i)
	err = s.Stop(ctx, i.Name, timeout, force)
	if kiln.KindOf(err) == kiln.Timeout {
		err = s.Stop(ctx, i.Name, 0, true)
	}
	if errors.Is(err, kiln.Conflict) {
		err = nil // it stopped by itself meanwhile
	}
	return errors.Join(unwritten, err)
}

// hostShutdown says how an instance is stopped because the host goes down.
func hostShutdown(i Instance) (timeout time.Duration, force bool) {
	timeout = StopTimeout
	if v := i.ExpandedConfig["boot.host_shutdown_timeout"]; v != "" {
		timeout = hold(v)
		force = timeout == 0
	}
	return timeout, force || i.ExpandedConfig["boot.host_shutdown_action"] == "force-stop"
}

// Autostart starts the instances that go up with the daemon: the ones that want
// it, and the ones that ran when the host went down. A restart that the last daemon had
// begun is finished. Higher priorities go first,
// each is followed by its delay, and one that fails doesn't keep the others. One that other
// work goes on with comes after all of them, as soon as it can.
func (s *Set) Autostart(ctx context.Context) error {
	list, err := s.List(project.InAll(ctx))
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(i Instance) bool { return !startsWithDaemon(i) })
	slices.SortStableFunc(list, func(a, b Instance) int {
		return number(b.ExpandedConfig["boot.autostart.priority"]) - number(a.ExpandedConfig["boot.autostart.priority"])
	})
	var errs []error
	for first := true; len(list) > 0; first = false {
		waiting, cancel := s.unasked(ctx)
		var held []Instance
		for _, i := range list {
			err := s.autostart(waiting, ctx, i)
			busy := errors.Is(err, kiln.Busy) && ctx.Err() == nil
			if busy {
				held = append(held, i)
			}
			if err != nil && (first || !busy) {
				s.failed(StartWithDaemon, i, err)
				errs = append(errs, fmt.Errorf("start instance %q: %w", i.Name, err))
			}
			if busy {
				continue
			}
			select {
			case <-time.After(hold(i.ExpandedConfig["boot.autostart.delay"])):
			case <-ctx.Done():
				cancel()
				return errors.Join(append(errs, ctx.Err())...)
			}
		}
		cancel()
		list = held
	}
	return errors.Join(errs...)
}

// startsWithDaemon reports whether an instance goes up with the daemon.
func startsWithDaemon(i Instance) bool {
	auto := i.ExpandedConfig["boot.autostart"]
	return i.Options[restartKey] != "" ||
		i.Status == Stopped && (kiln.IsTrue(auto) || auto == "" && i.Options[powerKey] == "RUNNING")
}

// autostart starts an instance with the daemon, if it still is to be when it is its turn.
func (s *Set) autostart(waiting, ctx context.Context, i Instance) error {
	ctx, now, unlock, err := s.lockUnasked(waiting, ctx, i)
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case s.suspended.Load() || !startsWithDaemon(now):
		s.failed(StartWithDaemon, i, nil) // nothing is wrong any more
		return nil
	case now.Options[restartKey] != "":
		return s.finishRestart(ctx, now)
	}
	s.forgetCrashes(now.Options[UUIDKey])
	return s.start(ctx, now.Name)
}

// number reads an option that checkNumber let through; unset is 0.
func number(v string) int {
	n, _ := strconv.Atoi(v)
	return n
}
