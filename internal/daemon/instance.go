package daemon

import (
	"cmp"
	"context"
	"io"
	"os"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// Instances gives every instance, by name.
func (d *Daemon) Instances(ctx context.Context) ([]instance.Instance, error) {
	return d.instances.List(ctx)
}

// Instance gives one instance. The error is NotFound.
func (d *Daemon) Instance(ctx context.Context, name string) (instance.Instance, error) {
	return d.instances.Get(ctx, name)
}

// SendImagesToInstances says what instances are answered that may have images of this
// server.
func (d *Daemon) SendImagesToInstances(f instance.SendImage) { d.instances.SetSendImage(f) }

// InstanceState looks into an instance. The error is NotFound.
func (d *Daemon) InstanceState(ctx context.Context, name string) (instance.State, error) {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return instance.State{}, err
	}
	return d.StateOf(ctx, i), nil
}

// StateOf looks into an instance that was read before, as lists are.
func (d *Daemon) StateOf(ctx context.Context, i instance.Instance) instance.State {
	return d.instances.State(ctx, i)
}

// UpdateInstance replaces an instance's configuration by what change makes of it.
// The warnings say what takes effect later. Errors: NotFound, Invalid, Conflict, and change's.
func (d *Daemon) UpdateInstance(ctx context.Context, name string,
	change func(instance.Instance) (instance.Config, error)) (warnings []string, err error) {
	return d.instances.Update(ctx, name, func(i instance.Instance) (instance.Config, error) {
		next, err := change(i)
		if err == nil {
			noteChange(ctx, settled{i.Options, i.Devices, i.Profiles}, settled{next.Options, next.Devices, next.Profiles})
		}
		return next, err
	})
}

// RenameInstance gives a stopped instance another name.
// Errors: NotFound, Invalid; others are the operation's.
func (d *Daemon) RenameInstance(ctx context.Context, from, to string) (*op.Operation, error) {
	if err := kiln.CheckInstanceName(to); err != nil {
		return nil, err
	}
	return d.instanceOp(ctx, "Renaming instance", from, func(ctx context.Context) error {
		return d.instances.Rename(ctx, from, to)
	})
}

// MoveInstance gives a stopped instance to another project, under the same name there for
// "". It has that project's profiles of the names given, of the names it had for nil.
// Errors: NotFound, Invalid; others are the operation's.
func (d *Daemon) MoveInstance(ctx context.Context, from, toProject, to string,
	profiles []string) (*op.Operation, error) {
	to = cmp.Or(to, from)
	if _, err := d.In(ctx, toProject); err != nil {
		return nil, err
	}
	ctx, err := d.instances.Meaning(ctx, from, "")
	if err != nil {
		return nil, err
	}
	if toProject == project.Name(ctx) {
		return nil, kiln.Errorf(kiln.Invalid, "instance %q is in project %q; to give it another name: kiln rename", from,
			toProject)
	}
	if err := kiln.CheckInstanceName(to); err != nil {
		return nil, err
	}
	return d.instanceOp(ctx, "Moving instance to another project", from, func(ctx context.Context) error {
		into, err := d.In(ctx, toProject)
		if err != nil {
			return err
		}
		return d.instances.Move(ctx, into, from, to, profiles)
	})
}

// DeleteInstance removes a stopped instance and its files.
func (d *Daemon) DeleteInstance(ctx context.Context, name string) (*op.Operation, error) {
	return d.DeleteUnchanged(ctx, name, "")
}

// DeleteUnchanged removes a stopped instance and its files if it is still what it was when
// it was shared: state is among the metadata of that operation, "" is any. Else it is a
// Conflict of the operation.
func (d *Daemon) DeleteUnchanged(ctx context.Context, name, state string) (*op.Operation, error) {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	ctx = instance.Meaning(ctx, i)
	if i.Status.Runs() {
		return nil, kiln.Errorf(kiln.Conflict, "Instance is running: stop %q first, or delete it with --force", name)
	}
	if err := d.instances.Deletable(ctx, name); err != nil {
		return nil, err
	}
	return d.instanceOp(ctx, "Deleting instance", name, func(ctx context.Context) error {
		return d.leavingTrees(ctx, name, func() error { return d.instances.Delete(ctx, name, state) })
	})
}

// SetInstanceState starts, stops, restarts, freezes or unfreezes an instance. A
// timeout of zero is the default; a negative one waits without a bound.
// Errors: NotFound, Invalid; others are the operation's.
func (d *Daemon) SetInstanceState(ctx context.Context, name, action string, timeout time.Duration,
	force bool) (*op.Operation, error) {
	switch action {
	case "start":
		return d.instanceOp(ctx, "Starting instance", name, func(ctx context.Context) error {
			return d.instances.Start(ctx, name)
		})
	case "stop":
		return d.instanceOp(ctx, "Stopping instance", name, func(ctx context.Context) error {
			return d.stopInstance(ctx, name, timeout, force)
		})
	case "restart":
		return d.instanceOp(ctx, "Restarting instance", name, func(ctx context.Context) error {
			return d.instances.Restart(ctx, name, timeout, force)
		})
	case "freeze":
		return d.instanceOp(ctx, "Freezing instance", name, func(ctx context.Context) error {
			return d.instances.Freeze(ctx, name)
		})
	case "unfreeze":
		return d.instanceOp(ctx, "Unfreezing instance", name, func(ctx context.Context) error {
			return d.instances.Thaw(ctx, name)
		})
	}
	return nil, kiln.Errorf(kiln.Invalid, "unknown action %q; it is one of start, stop, restart, freeze, unfreeze", action)
}

// stopInstance stops an instance; an ephemeral one takes its image's tree along
// when nobody else needs it.
func (d *Daemon) stopInstance(ctx context.Context, name string, timeout time.Duration, force bool) error {
	i, err := d.instances.Get(ctx, name)
	if err != nil {
		return err
	}
	stop := func() error { return d.instances.Stop(ctx, name, timeout, force) }
	if !i.Ephemeral {
		return stop()
	}
	return d.leavingTrees(ctx, name, stop)
}

// instanceOp runs f as an operation on an instance that is there, whatever gets its name
// until f comes to it.
func (d *Daemon) instanceOp(ctx context.Context, title, name string, f func(context.Context) error) (*op.Operation,
	error) {
	ctx, err := d.instances.Meaning(ctx, name, "")
	if err != nil {
		return nil, err
	}
	return d.Ops.Start(ctx, title, op.Options{Resources: instanceResources(name), MayCancel: true},
		func(ctx context.Context, _ *op.Operation) error { return f(ctx) }), nil
}

// MeaningInstance has work mean by a name the instance that has it now, however long the work
// takes: when another one has the name by then, it is a Conflict. The error is NotFound.
func (d *Daemon) MeaningInstance(ctx context.Context, name string) (context.Context, error) {
	return d.instances.Meaning(ctx, name, "")
}

// Exec starts a command in an instance.
// Errors: NotFound, Conflict when it doesn't run or is paused.
func (d *Daemon) Exec(ctx context.Context, name string, spec box.ExecSpec) (*box.Process, error) {
	p, err := d.instances.Exec(ctx, name, spec)
	if err == nil {
		d.tell(ctx, "instance-exec", instanceURL(name), map[string]any{"command": spec.Command})
	}
	return p, err
}

// CheckExec says why a command can't be run in an instance, if it can't.
// Errors: NotFound, Conflict.
func (d *Daemon) CheckExec(ctx context.Context, name string) error {
	return d.instances.CheckExec(ctx, name)
}

// AttachConsole takes the console of an instance, with force also from whoever has it.
// Errors: NotFound, Conflict when it doesn't run, is paused or somebody is attached.
func (d *Daemon) AttachConsole(ctx context.Context, name string, force bool) (*instance.Attachment, error) {
	a, err := d.instances.Attach(ctx, name, force)
	if err == nil {
		d.tell(ctx, "instance-console", instanceURL(name), nil)
	}
	return a, err
}

// OpenConsoleLog opens what an instance wrote on its console. The error is NotFound.
func (d *Daemon) OpenConsoleLog(ctx context.Context, name string) (io.ReadCloser, error) {
	return d.instances.OpenConsoleLog(ctx, name)
}

// ClearConsoleLog forgets what an instance wrote on its console. The error is NotFound.
func (d *Daemon) ClearConsoleLog(ctx context.Context, name string) error {
	err := d.instances.ClearConsoleLog(ctx, name)
	if err == nil {
		d.tell(ctx, "instance-console-reset", instanceURL(name), nil)
	}
	return err
}

// InstanceLogs gives the names of an instance's log files. The error is NotFound.
func (d *Daemon) InstanceLogs(ctx context.Context, name string) ([]string, error) {
	return d.instances.Logs(ctx, name)
}

// OpenInstanceLog opens one of the files that InstanceLogs names.
func (d *Daemon) OpenInstanceLog(ctx context.Context, name, file string) (*os.File, error) {
	return d.instances.OpenLog(ctx, name, file)
}

// DeleteInstanceLog removes a file with the output of a command. Errors: NotFound, Invalid.
func (d *Daemon) DeleteInstanceLog(ctx context.Context, name, file string) error {
	err := d.instances.DeleteLog(ctx, name, file)
	if err == nil {
		d.tell(ctx, "instance-log-deleted", instanceURL(name)+"/logs/"+file, nil)
	}
	return err
}

// CreateInstanceLog makes a log file for the output of a command.
func (d *Daemon) CreateInstanceLog(ctx context.Context, name, file string) (*os.File, error) {
	return d.instances.CreateLog(ctx, name, file)
}

// InstanceMetadata reads an instance's own metadata. Errors: NotFound, Invalid.
func (d *Daemon) InstanceMetadata(ctx context.Context, name string) (*format.Metadata, error) {
	return d.instances.Metadata(ctx, name)
}

// EditInstanceMetadata changes an instance's own metadata in one step; its image stays as
// it is. Errors: NotFound, Invalid, and those of change.
func (d *Daemon) EditInstanceMetadata(ctx context.Context, name string,
	change func(*format.Metadata) (*format.Metadata, error)) error {
	if err := d.instances.EditMetadata(ctx, name, change); err != nil {
		return err
	}
	d.tell(ctx, "instance-metadata-updated", instanceURL(name), nil)
	return nil
}

// Templates gives the names of an instance's template files.
func (d *Daemon) Templates(ctx context.Context, name string) ([]string, error) {
	return d.instances.Templates(ctx, name)
}

// Template reads one template file. Errors: NotFound, Invalid.
func (d *Daemon) Template(ctx context.Context, name, file string) ([]byte, error) {
	return d.instances.Template(ctx, name, file)
}

// SetTemplate writes one template file, if check has nothing against what was in it: nil for
// none. Errors: NotFound, Invalid, TooLarge, and those of check.
func (d *Daemon) SetTemplate(ctx context.Context, name, file string, content []byte,
	check func(old []byte) error) error {
	return d.instances.SetTemplate(ctx, name, file, content, check)
}

// DeleteTemplate removes one template file, as SetTemplate writes one. Errors: NotFound,
// Invalid, and those of check.
func (d *Daemon) DeleteTemplate(ctx context.Context, name, file string, check func(old []byte) error) error {
	return d.instances.DeleteTemplate(ctx, name, file, check)
}

// DoneWith gives an operation that is over, on things of a kind.
func (d *Daemon) DoneWith(ctx context.Context, title, kind string, urls ...string) *op.Operation {
	return d.Ops.Start(ctx, title, op.Options{Resources: map[string][]string{kind: urls}},
		func(context.Context, *op.Operation) error { return nil })
}

// Done gives an operation that is over, for work on an instance that was done at
// once where clients expect to wait.
func (d *Daemon) Done(ctx context.Context, title, name string, metadata map[string]any) *op.Operation {
	return d.Ops.Start(ctx, title, op.Options{Resources: instanceResources(name), Metadata: metadata},
		func(context.Context, *op.Operation) error { return nil })
}
