package daemon

import (
	"context"
	"errors"
	"strings"

	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// copyInstance makes an instance of another one that is here, or of a snapshot.
func (d *Daemon) copyInstance(ctx context.Context, _ *op.Operation, spec CreateSpec) (err error) {
	source, err := d.copiedFrom(ctx, spec.Source)
	if err != nil {
		return err
	}
	from, err := d.copied(source, spec.Source.Instance)
	if err != nil {
		return err
	}
	n := planCopy(spec, from)
	if err := d.instances.Check(ctx, n.Config); err != nil {
		return err
	}
	release, err := d.instances.Use(ctx, n.Devices)
	if err != nil {
		return err
	}
	defer release()
	files := d.instances.NewFiles()
	defer func() { err = errors.Join(err, files.Close()) }()
	if err := d.instances.CopyFiles(source, spec.Source.Instance, files, !spec.Source.Only); err != nil {
		return err
	}
	if err := d.create(ctx, n, files); err != nil {
		return err
	}
	return d.startNew(instance.MeaningNew(ctx, n.Name, files), n, spec.Start)
}

// checkCopy says what copyInstance would, before any work.
func (d *Daemon) checkCopy(ctx context.Context, spec CreateSpec) error {
	source, err := d.copiedFrom(ctx, spec.Source)
	if err != nil {
		return err
	}
	from, err := d.copied(source, spec.Source.Instance)
	if err != nil {
		return err
	}
	return d.instances.Check(ctx, planCopy(spec, from).Config)
}

// meaningSource has ctx mean by its name what is to be copied: the one that has it now. The
// error is NotFound.
func (d *Daemon) meaningSource(ctx context.Context, s Source) (context.Context, error) {
	source, err := d.copiedFrom(ctx, s)
	if err != nil {
		return ctx, err
	}
	of, snap, _ := strings.Cut(s.Instance, "/")
	source, err = d.instances.Meaning(source, of, snap)
	return project.Like(source, ctx), err
}

// copiedFrom gives a context that is about the project that has what is copied. The error is
// NotFound.
func (d *Daemon) copiedFrom(ctx context.Context, s Source) (context.Context, error) {
	if s.Project == "" {
		return ctx, nil
	}
	return d.In(ctx, s.Project)
}

// copied gives what is copied: an instance as it is, or as it was at a snapshot. The
// error is NotFound.
func (d *Daemon) copied(ctx context.Context, from string) (instance.Instance, error) {
	name, snap, ofSnapshot := strings.Cut(from, "/")
	i, err := d.instances.Get(ctx, name)
	if err != nil || !ofSnapshot {
		return i, err
	}
	s, err := d.instances.Snapshot(ctx, name, snap)
	i.Architecture, i.Base, i.Config = s.Architecture, s.Base, s.Config
	return i, err
}

// planCopy completes what a spec says of an instance by what another one is.
func planCopy(spec CreateSpec, from instance.Instance) instance.New {
	n := instance.New{Name: spec.Name, Architecture: from.Architecture, Base: from.Base, Trigger: "copy",
		Config: spec.Config}
	n.Options = map[string]string{}
	for k, v := range from.Options {
		if !strings.HasPrefix(k, "volatile.") {
			n.Options[k] = v
		}
	}
	for k, v := range spec.Options {
		n.Options[k] = v
	}
	if n.Profiles == nil {
		n.Profiles = from.Profiles
	}
	if n.Devices == nil {
		n.Devices = from.Devices
	}
	return n
}
