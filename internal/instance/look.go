package instance

import (
	"context"
	"maps"
	"os"
	"time"

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
