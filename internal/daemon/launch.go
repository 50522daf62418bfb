package daemon

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Source says what an instance is made from.
type Source struct {
	Type        string            // "image", "copy" or "none"
	Alias       string            // of an image …
	Fingerprint string            // … or the beginning of its fingerprint …
	Properties  map[string]string // … or properties: the newest image that has them all
	Instance    string            // to copy, or a snapshot of one: "c1/snap0"
	Only        bool              // copy the instance without its snapshots
	Remote      kiln.Remote       // where the image or the instance is; without Server: here
	Secret      string            // of a private image there, or of an instance
	Project     string            // there
	Offline     bool              // make do with what is here
}

// CreateSpec says what instance to make.
type CreateSpec struct {
	Name         string // "": one is made up
	Type         string // "" or "container"
	Architecture string // "": the image's or this host's
	Source       Source
	Start        bool
	instance.Config
}

// CreateInstance makes an instance, and starts it if asked to. What can be
// checked is checked before it returns; the operation does the work. The name is
// in its resources.
// Errors: Invalid, NotFound, Conflict, Unsupported.
func (d *Daemon) CreateInstance(ctx context.Context, spec CreateSpec) (*op.Operation, error) {
	if spec.Type != "" && spec.Type != "container" {
		return nil, kiln.Errorf(kiln.Unsupported, "instances of type %q are not supported; kiln runs system containers",
			spec.Type)
	}
	if spec.Name == "" {
		spec.Name = inventName()
	}
	n := instance.New{Name: spec.Name, UUID: uuid.NewString(), Config: spec.Config}
	if spec.Source.Type == "image" && spec.Source.Remote.Server != "" {
		return d.createFromRemote(ctx, spec, n)
	}
	if spec.Source.Type == "copy" && spec.Source.Remote.Server != "" {
		return d.createFromServer(ctx, spec)
	}
	make, err := d.planCreate(ctx, spec, &n)
	if err != nil {
		return nil, err
	}
	if n.Profiles == nil {
		n.Profiles = []string{defaultProfile}
	}
	if err := d.instances.Check(ctx, n.Name, n.Config); err != nil {
		return nil, err
	}
	o := op.Options{Resources: instanceResources(n.Name), MayCancel: true}
	return d.Ops.Start("Creating instance", o, func(ctx context.Context, _ *op.Operation) error {
		return d.create(ctx, spec, &n, make)
	}), nil
}

// create makes the volume, then the instance, and starts it if asked to. make may
// complete n.
func (d *Daemon) create(ctx context.Context, spec CreateSpec, n *instance.New, make func(context.Context) error) error {
	if err := make(ctx); err != nil {
		return errors.Join(err, d.instances.Discard(context.WithoutCancel(ctx), *n))
	}
	if _, err := d.instances.Create(ctx, *n); err != nil {
		return errors.Join(err, d.instances.Discard(context.WithoutCancel(ctx), *n))
	}
	if spec.Start {
		return d.instances.Start(ctx, n.Name)
	}
	return nil
}

// createFromRemote makes an instance from an image that may have to be fetched
// first. Whatever doesn't depend on the image is checked before that.
func (d *Daemon) createFromRemote(ctx context.Context, spec CreateSpec, n instance.New) (*op.Operation, error) {
	if _, err := d.remotes.Open(spec.Source.Remote, remote.Access{}); err != nil {
		return nil, err
	}
	early := n.Config
	if early.Profiles == nil {
		early.Profiles = []string{defaultProfile}
	}
	if err := d.instances.Check(ctx, n.Name, early); err != nil {
		return nil, err
	}
	o := op.Options{Resources: instanceResources(n.Name), MayCancel: true}
	return d.Ops.Start("Creating instance", o, func(ctx context.Context, o *op.Operation) error {
		img, err := d.cachedImage(ctx, o, spec.Source)
		if err != nil {
			return err
		}
		make, err := d.planImage(img, &n)
		if err != nil {
			return err
		}
		if n.Profiles == nil {
			n.Profiles = []string{defaultProfile}
		}
		if err := d.instances.Check(ctx, n.Name, n.Config); err != nil {
			return err
		}
		return d.create(ctx, spec, &n, make)
	}), nil
}

// planCreate completes n by what the source says and gives the function that
// makes the volume.
func (d *Daemon) planCreate(ctx context.Context, spec CreateSpec, n *instance.New) (func(context.Context) error,
	error) {
	arch := HostArch()
	if spec.Architecture != "" {
		var err error
		if arch, err = kiln.ParseArch(spec.Architecture); err != nil {
			return nil, err
		}
	}
	switch spec.Source.Type {
	case "image":
		img, err := d.findImage(ctx, spec.Source, arch)
		if err != nil {
			return nil, err
		}
		return d.planImage(img, n)
	case "none":
		n.Architecture = arch
		return func(ctx context.Context) error {
			_, err := d.pool.Empty(ctx, n.UUID)
			return err
		}, nil
	case "copy":
		return d.planCopy(ctx, spec.Source, n)
	case "":
		return nil, kiln.Errorf(kiln.Invalid, "the source of the instance is missing; its type is one of image, copy, none")
	}
	return nil, kiln.Errorf(kiln.Invalid, "Unknown source type %s", spec.Source.Type)
}

func (d *Daemon) planImage(img kiln.Image, n *instance.New) (func(context.Context) error, error) {
	if !slices.Contains(kiln.RunsOn(HostArch()), img.Architecture) {
		return nil, kiln.Errorf(kiln.Unsupported, "image %s is for %s; this host runs %s",
			img.Fingerprint.Short(), img.Architecture, strings.Join(kiln.RunsOn(HostArch()), " and "))
	}
	n.Architecture, n.Base, n.Trigger = img.Architecture, img.Fingerprint, "create"
	if n.Profiles == nil {
		n.Profiles = img.Profiles
	}
	options := map[string]string{}
	for k, v := range img.Properties {
		options["image."+k] = v
	}
	for k, v := range n.Options {
		options[k] = v
	}
	n.Options = options
	return func(ctx context.Context) error {
		if err := d.Images.Touch(ctx, img.Fingerprint, time.Now()); err != nil {
			return err
		}
		_, err := d.pool.Clone(ctx, n.UUID, img.Fingerprint, func(ctx context.Context) (volume.Content, error) {
			return d.content(ctx, img)
		})
		return err
	}, nil
}

// findImage finds the image to make an instance from. An alias wins over a
// fingerprint. Errors: Invalid, NotFound, Ambiguous.
func (d *Daemon) findImage(ctx context.Context, s Source, arch string) (kiln.Image, error) {
	switch {
	case s.Alias != "":
		a, err := d.Images.Alias(ctx, s.Alias)
		if err == nil {
			return d.Images.Get(ctx, a.Target)
		}
		if !errors.Is(err, kiln.NotFound) {
			return kiln.Image{}, err
		}
		return d.Images.Find(ctx, s.Alias)
	case s.Fingerprint != "":
		return d.Images.Find(ctx, s.Fingerprint)
	case len(s.Properties) > 0:
		list, err := d.Images.List(ctx, store.Query{Properties: s.Properties})
		if err != nil {
			return kiln.Image{}, err
		}
		list = slices.DeleteFunc(list, func(img kiln.Image) bool { return img.Architecture != arch })
		if len(list) == 0 {
			return kiln.Image{}, kiln.Errorf(kiln.NotFound, "No matching image could be found")
		}
		return slices.MaxFunc(list, func(a, b kiln.Image) int { return a.CreatedAt.Compare(b.CreatedAt) }), nil
	}
	return kiln.Image{}, kiln.Errorf(kiln.Invalid, "say which image to use: the source needs an alias, a fingerprint "+
		"or properties")
}

// content tells the pool how to make the tree of an image it hasn't seen. The
// bytes are compared with their hashes while they are read: what a disk has
// damaged since the import does not get into an instance.
func (d *Daemon) content(ctx context.Context, img kiln.Image) (volume.Content, error) {
	lim, err := d.limits(ctx)
	if err != nil {
		return volume.Content{}, err
	}
	c := volume.Content{Unpack: func(ctx context.Context, rootfs, meta archive.TreeWriter) error {
		s, err := d.Images.Open(ctx, img)
		if err != nil {
			return err
		}
		return errors.Join(format.Unpack(ctx, s, lim, rootfs, meta), s.Close())
	}}
	mount, err := d.setting(ctx, mountSquashfs)
	if err != nil {
		return c, err
	}
	last := img.Files[len(img.Files)-1]
	if last.Ext != ".squashfs" {
		return c, nil
	}
	// A squashfs is read by other programs than ours, or by the kernel.
	if err := d.Images.Verify(ctx, img.Fingerprint); err != nil {
		return c, err
	}
	// "auto" mounts what this server made or what is signed by somebody
	// trusted: no image is, yet.
	if mount == "always" {
		c.Squashfs = d.blobs.Path(last.Hash)
		if last.Role == kiln.Unified {
			c.Subdir = "rootfs"
		}
	}
	return c, nil
}

// The words that names are made of, for who doesn't give one.
var (
	adjectives = strings.Fields("able bold brave bright calm civil clear deft fair fast fine firm fond glad grand keen " +
		"kind light lucky merry neat noble prime proud quick quiet rapid ready sharp smart solid sound spry stable steady " +
		"strong sunny swift tidy true vital warm wise")
	animals = strings.Fields("ant ape badger bat bear bee bison boar buck bull cat civet cod colt crab crane crow " +
		"deer dingo dove drake duck eagle eel elk falcon ferret finch fox frog gecko goat goose grouse hare hawk heron " +
		"horse ibex jay koala lark lemur lion lynx mole moose moth mouse newt okapi orca osprey otter owl panda perch " +
		"pika puma quail rabbit ram raven robin salmon seal shark shrew skunk sloth snail stork swan tapir tern tiger " +
		"toad trout viper vole walrus wasp weasel whale wolf wombat wren yak zebra")
)

func inventName() string {
	return adjectives[rand.IntN(len(adjectives))] + "-" + animals[rand.IntN(len(animals))]
}
