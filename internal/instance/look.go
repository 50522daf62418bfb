package instance

import (
	"context"
	"maps"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
)

// A State is how an instance is at the moment.
type State struct {
	Status    Status
	PID       int // of init, on the host; 0 when it doesn't run
	Usage     box.Usage
	Network   []box.Interface
	DiskUsage int64 // bytes of what the instance changed
}

// usageTime is how long may be spent on what an instance has on the disk; then the
// part that was counted is told.
const usageTime = 2 * time.Second

// State looks into an instance that was read before. It may end while it is looked at: what can't
// be read then is zero.
func (s *Set) State(ctx context.Context, i Instance) State {
	st := State{Status: i.Status}
	// Whoever is inside decides how much there is to count, and what else is true of
	// the instance doesn't wait for that.
	if vol, err := s.pool.Get(i.Options[UUIDKey]); err == nil {
		counting, cancel := context.WithTimeout(ctx, usageTime)
		st.DiskUsage, _ = vol.Usage(counting)
		cancel()
	}
	if l := s.runs(i.Options[UUIDKey]); l != nil {
		st.PID = l.box.InitPID()
		st.Usage, _ = l.box.Usage()
		st.Network, _ = l.box.Network(ctx)
	}
	return st
}

// Exec starts a command in a running instance. The environment is what a login
// would give, what the instance's configuration adds, and what spec says, in
// this order. Errors: NotFound, Conflict when it doesn't run or is paused.
func (s *Set) Exec(ctx context.Context, name string, spec box.ExecSpec) (*box.Process, error) {
	if err := s.CheckExec(ctx, name); err != nil {
		return nil, err
	}
	i, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	l, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG": "C.UTF-8",
	}
	if spec.UID == 0 {
		env["HOME"], env["USER"] = "/root", "root"
	}
	maps.Copy(env, environment(i.ExpandedConfig))
	maps.Copy(env, spec.Env)
	spec.Env = env
	var p *box.Process
	err = l.steady(name, func() (err error) { p, err = l.box.Exec(ctx, spec); return err })
	return p, err
}

// CheckExec says why a command can't be run in an instance, if it can't.
// Errors: NotFound, Conflict.
func (s *Set) CheckExec(ctx context.Context, name string) error {
	l, err := s.get(ctx, name)
	if err != nil {
		return err
	}
	if l.paused() {
		return kiln.Errorf(kiln.Conflict, "The instance %q is paused; resume it with: kiln resume %s", name, name)
	}
	return nil
}

// Init gives a pidfd of the first process of an instance. Errors: NotFound, Conflict when it
// doesn't run.
func (s *Set) Init(ctx context.Context, name string) (*os.File, error) {
	l, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	init, _, err := l.box.InitProcess()
	return init, err
}

// Counted is what the kernel counts of an instance that runs.
type Counted struct {
	Project, Name string
	box.Counters
}

// readAtOnce is how many instances are looked at beside each other.
const readAtOnce = 4

// Counters gives what is counted of the instances that run, of all projects, and how many
// stand still in each project. One that can't be read, as it is about to end or its row is
// damaged, is left out. host is how much memory there is, in bytes.
func (s *Set) Counters(ctx context.Context, host int64) (running []Counted, stopped map[string]int, err error) {
	names, err := s.db.InstanceNames(ctx)
	if err != nil {
		return nil, nil, err
	}
	all := make([]*Counted, len(names))
	stopped = map[string]int{}
	var group errgroup.Group
	group.SetLimit(readAtOnce)
	for n, i := range names {
		l := s.runs(i.Config[UUIDKey])
		if l == nil {
			stopped[i.Project]++
			continue
		}
		group.Go(func() error {
			if c, err := l.box.Counters(host); err == nil {
				all[n] = &Counted{i.Project, i.Name, c}
			}
			return nil
		})
	}
	_ = group.Wait() // what can't be read is left out
	for _, c := range all {
		if c != nil {
			running = append(running, *c)
		}
	}
	return running, stopped, nil
}
