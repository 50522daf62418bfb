package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Source says what an instance is made from.
type Source struct {
	Type        string            // "image", "copy", "none", or "migration" for AwaitInstance
	Alias       string            // of an image …
	Fingerprint string            // … or the beginning of its fingerprint …
	Properties  map[string]string // … or properties: the newest image that has them all
	Instance    string            // to copy, or a snapshot of one: "c1/snap0"
	Only        bool              // copy the instance without its snapshots
	Remote      kiln.Remote       // where the image or the instance is; without Server: here
	Secret      string            // of a private image there, or of an instance
	Project     string            // there
	Offline     bool              // use what is here, whatever the remote has
	// HostAccess has an instance of another server keep the settings that let it reach
	// this host, see instance.HostAccess; else they are refused.
	HostAccess bool
	// Refresh brings an instance that is there up to date, of AwaitInstance.
	Refresh bool
}

// elsewhere reports whether another server has what the instance is made from.
func (s Source) elsewhere() bool { return s.Remote.Server != "" }

// CreateSpec says what instance to make.
type CreateSpec struct {
	Name         string // "": one is made up
	Type         string // "" or "container"
	Architecture string // canonical, or a name of it; "": the image's or this host's
	Source       Source
	Start        bool
	instance.Config

	refreshedFrom string // as of instance.New
}

// create makes an instance of files. The operation's watchers are told what isn't as it was to be.
func (d *Daemon) create(ctx context.Context, n instance.New, f *instance.Files) error {
	said, err := d.instances.Create(ctx, n, f)
	if len(said) > 0 {
		d.warn(op.Of(ctx), strings.Join(said, "; "))
	}
	return err
}

// check says what is wrong with a spec whatever there is here, and names the
// architecture as kiln does. Errors: Invalid, Unsupported.
func (spec *CreateSpec) check() (err error) {
	if spec.Type != "" && spec.Type != "container" {
		return kiln.Errorf(kiln.Unsupported, "instances of type %q are not supported; kiln runs system containers",
			spec.Type)
	}
	switch t := spec.Source.Type; t {
	case "image", "copy", "none", "migration":
	case "":
		return kiln.Errorf(kiln.Invalid, "the source of the instance is missing; its type is one of image, copy, none, "+
			"migration")
	default:
		return kiln.Errorf(kiln.Invalid, "Unknown source type %s; it is one of image, copy, none, migration", t)
	}
	if spec.Source.Refresh && spec.Source.Type != "migration" {
		return kiln.Errorf(kiln.Unsupported, "a copy is brought up to date (--refresh) only from another server, by lxc or "+
			"incus; delete it and copy it again, which moves only what differs from the image")
	}
	if spec.Architecture == "" {
		spec.Architecture = HostArch()
		return nil
	}
	spec.Architecture, err = kiln.ParseArch(spec.Architecture)
	return err
}

// CreateInstance makes an instance, and starts it if asked to. What needs no other
// server to be checked is checked before it returns; the operation does the work. The
// name is in its resources. Errors: Denied, Invalid, NotFound, Conflict, Unsupported.
func (d *Daemon) CreateInstance(ctx context.Context, spec CreateSpec) (*op.Operation, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := d.instances.CheckAccess(ctx, spec.Config); err != nil {
		return nil, err
	}
	name, release, err := d.instances.Claim(ctx, spec.Name)
	if err != nil {
		return nil, err
	}
	spec.Name = name
	create, check := d.launch, d.checkLaunch
	switch {
	case spec.Source.Type == "copy" && spec.Source.elsewhere():
		create, check = d.fetchInstance, d.checkFetch
	case spec.Source.Type == "copy":
		create, check = d.copyInstance, d.checkCopy
		ctx, err = d.meaningSource(ctx, spec.Source)
	}
	if err == nil {
		err = check(ctx, spec)
	}
	if err != nil {
		release()
		return nil, err
	}
	o := op.Options{Resources: instanceResources(name), MayCancel: true}
	return d.Ops.Start(ctx, "Creating instance", o, func(ctx context.Context, o *op.Operation) error {
		defer release()
		began := time.Now()
		err := create(ctx, o, spec)
		d.Counters.Created(began, err)
		return err
	}), nil
}

// launch makes an instance of an image, or of nothing.
func (d *Daemon) launch(ctx context.Context, o *op.Operation, spec CreateSpec) (err error) {
	release, err := d.instances.Use(ctx, spec.Devices) // while the image comes, too
	if err != nil {
		return err
	}
	defer release()
	img, err := d.imageFor(ctx, o, spec.Source, spec.Architecture)
	if err != nil {
		return err
	}
	defer d.making.hold(img.Fingerprint)()
	n, err := plan(spec, img)
	if err != nil {
		return err
	}
	if err := d.instances.Check(ctx, n.Config); err != nil {
		return err
	}
	files := d.instances.NewFiles()
	defer func() { err = errors.Join(err, files.Close()) }()
	if err := d.makeFiles(ctx, files, img); err != nil {
		return err
	}
	d.warnDamaged(o, img)
	if err := d.create(ctx, n, files); err != nil {
		return err
	}
	ctx = instance.MeaningNew(ctx, n.Name, files)
	d.warnUnread(ctx, o, n.Name)
	return d.startNew(ctx, n, spec.Start)
}

// startNew starts an instance that was just made, if it is to be. An ephemeral one that
// can't be started goes, as it does when it stops.
func (d *Daemon) startNew(ctx context.Context, n instance.New, start bool) error {
	if !start {
		return nil
	}
	err := d.instances.Start(ctx, n.Name)
	if err == nil || !n.Ephemeral {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	derr := d.leavingTrees(ctx, n.Name, func() error { return d.instances.Delete(ctx, n.Name, "") })
	if derr != nil && !errors.Is(derr, kiln.NotFound) { // it ran, and went by itself
		return errors.Join(err, derr)
	}
	return kiln.Errorf(kiln.KindOf(err), "%w; it is ephemeral, so it was deleted", err)
}

// warnUnread tells who makes an instance that its image will not read what it is told
// for cloud-init.
func (d *Daemon) warnUnread(ctx context.Context, o *op.Operation, name string) {
	keys, err := d.instances.Unread(ctx, name)
	if err != nil {
		d.cfg.Log.Warn("look for templates of cloud-init", "instance", name, "err", err)
	}
	if len(keys) > 0 {
		d.warn(o, fmt.Sprintf("nothing in the image of %q reads %s: it has neither templates for cloud-init nor cloud-init; "+
			"use an image of the variant cloud", name, strings.Join(keys, ", ")))
	}
}

// checkLaunch says what launch would, as far as that is known without another server.
func (d *Daemon) checkLaunch(ctx context.Context, spec CreateSpec) error {
	if err := instance.CheckAnew(nil, spec.Devices); err != nil {
		return err
	}
	var img kiln.Image
	var err error
	if spec.Source.elsewhere() {
		_, err = d.remotes.Open(spec.Source.Remote, remote.Access{})
	} else {
		img, err = d.imageFor(ctx, nil, spec.Source, spec.Architecture)
	}
	if err != nil {
		return err
	}
	n, err := plan(spec, img)
	if err != nil {
		return err
	}
	return d.instances.Check(ctx, n.Config)
}

// imageFor gives the image that a source names, here or elsewhere; the zero one for
// none. It is in the store then. Errors: Invalid, NotFound, Ambiguous, and those of a
// pull.
func (d *Daemon) imageFor(ctx context.Context, o *op.Operation, s Source, arch string) (kiln.Image, error) {
	switch {
	case s.Type == "none":
		return kiln.Image{}, nil
	case s.elsewhere():
		return d.cachedImage(ctx, o, s)
	case s.Alias != "": // wins over a fingerprint
		return d.Images.Find(ctx, s.Alias)
	case s.Fingerprint != "":
		return d.Images.Find(ctx, s.Fingerprint)
	case len(s.Properties) > 0:
		return d.newestWith(ctx, s.Properties, arch)
	}
	return kiln.Image{}, kiln.Errorf(kiln.Invalid, "say which image to use: the source needs an alias, a fingerprint "+
		"or properties")
}

// newestWith gives the newest image of an architecture that has properties, but for
// versions that an alias was rolled back from.
func (d *Daemon) newestWith(ctx context.Context, properties map[string]string, arch string) (kiln.Image, error) {
	list, err := d.Images.List(ctx, store.Query{Properties: properties, Standing: true, Files: true})
	if err != nil {
		return kiln.Image{}, err
	}
	list = slices.DeleteFunc(list, func(img kiln.Image) bool {
		return img.Damage != "" || img.Missing != "" || img.Architecture != arch
	})
	if len(list) == 0 {
		return kiln.Image{}, kiln.Errorf(kiln.NotFound, "No matching image could be found")
	}
	return slices.MaxFunc(list, func(a, b kiln.Image) int { return a.CreatedAt.Compare(b.CreatedAt) }), nil
}

// plan completes what a spec says of an instance by what its image says.
// The error is Unsupported for an image of another architecture.
func plan(spec CreateSpec, img kiln.Image) (instance.New, error) {
	n := instance.New{Name: spec.Name, Architecture: spec.Architecture, Config: spec.Config}
	if !img.Fingerprint.IsZero() {
		if err := runsHere(img); err != nil {
			return n, err
		}
		n.Architecture, n.Base, n.Trigger = img.Architecture, img.Fingerprint, "create"
		n.Options = map[string]string{}
		for k, v := range img.Properties {
			n.Options["image."+k] = v
		}
		for k, v := range spec.Options {
			n.Options[k] = v
		}
		if n.Profiles == nil {
			n.Profiles = img.Profiles
		}
	}
	if n.Profiles == nil {
		n.Profiles = []string{defaultProfile}
	}
	return n, nil
}

// runsHere reports whether instances of an image can run on this host. The error is
// Unsupported.
func runsHere(img kiln.Image) error {
	if slices.Contains(kiln.RunsOn(HostArch()), img.Architecture) {
		return nil
	}
	return kiln.Errorf(kiln.Unsupported, "image %s is for %s; this host runs %s", img.Fingerprint.Short(),
		img.Architecture, strings.Join(kiln.RunsOn(HostArch()), " and "))
}

// makeFiles makes the volume of an instance: a clone of the image's tree, which is
// unpacked if the pool hasn't seen it, or nothing.
func (d *Daemon) makeFiles(ctx context.Context, files *instance.Files, img kiln.Image) error {
	if img.Fingerprint.IsZero() {
		_, err := d.pool.Empty(ctx, files.UUID)
		return err
	}
	if err := d.used(ctx, img); err != nil {
		return err
	}
	_, err := d.pool.Clone(ctx, files.UUID, img.Fingerprint, func(ctx context.Context) (volume.Content, error) {
		return d.content(ctx, img)
	})
	return err
}

// used remembers that an image is used. Its time is for people and for the cache's
// expiry after days: a hundred launches at once write it once.
func (d *Daemon) used(ctx context.Context, img kiln.Image) error {
	if now := time.Now(); now.Sub(img.LastUsedAt) > 10*time.Second {
		return d.Images.Touch(ctx, img.Fingerprint, now)
	}
	return nil
}
