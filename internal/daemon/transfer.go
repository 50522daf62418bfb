package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/volume"
)

// An arrival is an instance on its way here.
type arrival struct {
	kiln.Transfer
	spec CreateSpec
	// open gives a part, a .tar.zst. Parts are asked for in their order, each once.
	open func(ctx context.Context, id string) (io.ReadCloser, error)
	// fromPeer says that whoever asks for it may be a client that can't give host access.
	fromPeer bool
	expect   func(size int64) // is called with the bytes of the parts that come; nil: nobody wants to know
	// found are the images that it stands on, as the other server has them, which may be had.
	found map[kiln.Fingerprint]kiln.Image
}

// fetchInstance makes a copy of an instance of another server, which this one asks for
// it.
func (d *Daemon) fetchInstance(ctx context.Context, o *op.Operation, spec CreateSpec) error {
	var size int64
	report := func(string, int64) {}
	of, _, _ := strings.Cut(spec.Source.Instance, "/")
	there, err := d.remotes.Instance(spec.Source.Remote, of, remote.Access{
		Secret: spec.Source.Secret, Progress: func(server string, done int64) { report(server, min(done, size)) },
	})
	if err != nil {
		return err
	}
	t, err := there.Transfer(ctx)
	if err != nil {
		return kiln.Errorf(kiln.KindOf(err), "copy instance %q from %s: %w", spec.Source.Instance, spec.Source.Remote.Server,
			err)
	}
	spec.Source.Remote.Server = there.Server()
	expect := func(n int64) { size, report = n, progress(o, n) }
	if err := d.arrive(ctx, o, &arrival{Transfer: t, spec: spec, open: there.Part, expect: expect}); err != nil {
		return kiln.Errorf(kiln.KindOf(err), "copy instance %q from %s: %w", spec.Source.Instance, there.Server(), err)
	}
	if err := there.Close(ctx); err != nil {
		d.cfg.Log.Debug("tell the source of a copy that it is made", "err", err)
	}
	return nil
}

// checkFetch says what fetchInstance would, without asking the other server.
func (d *Daemon) checkFetch(_ context.Context, spec CreateSpec) error {
	_, err := d.remotes.Instance(spec.Source.Remote, "", remote.Access{})
	return err
}

// ReceiveInstance makes a copy of an instance of another server, whose parts somebody
// brings: they must be there when it returns. The operation it gives is over.
func (d *Daemon) ReceiveInstance(ctx context.Context, spec CreateSpec, t kiln.Transfer,
	open func(context.Context, string) (io.ReadCloser, error)) *op.Operation {
	name, release, err := d.instances.Claim(ctx, spec.Name)
	if err == nil {
		defer release()
		spec.Name, spec.Source.Remote = name, kiln.Remote{}
		err = d.arrive(ctx, nil, &arrival{Transfer: t, spec: spec, open: open})
	}
	return d.Ops.Start(ctx, "Creating instance", op.Options{Resources: instanceResources(spec.Name)},
		func(context.Context, *op.Operation) error { return err })
}

// arrive brings an instance here: all of it, or nothing.
func (d *Daemon) arrive(ctx context.Context, o *op.Operation, a *arrival) (err error) {
	n := a.plan()
	defer d.making.hold(bases(a.Transfer)...)()
	if err := d.checkArrival(ctx, a, n); err != nil {
		return err
	}
	release, err := d.instances.Use(ctx, n.Devices)
	if err != nil {
		return err
	}
	defer release()
	files := d.instances.NewFiles()
	defer func() { err = errors.Join(err, files.Close()) }()
	if err := d.receiveFiles(ctx, o, a, files); err != nil {
		return err
	}
	if err := d.create(ctx, n, files); err != nil {
		return err
	}
	return d.startNew(instance.MeaningNew(ctx, n.Name, files), n, a.spec.Start)
}

// plan says what the copy is to be: as the other, but for what was asked for.
func (a *arrival) plan() instance.New {
	c := a.spec.Config
	if c.Profiles == nil {
		c.Profiles = a.Profiles
	} else {
		for i := range a.Snapshots {
			a.Snapshots[i].Profiles = c.Profiles
		}
	}
	if c.Profiles == nil {
		c.Profiles = []string{}
	}
	options := map[string]string{}
	for k, v := range a.Transfer.Config {
		if !strings.HasPrefix(k, "volatile.") {
			options[k] = v
		}
	}
	maps.Copy(options, c.Options)
	c.Options = options
	if c.Devices == nil {
		c.Devices = a.Devices
	}
	if c.Description == "" {
		c.Description = a.Description
	}
	c.Ephemeral = c.Ephemeral || a.Ephemeral
	return instance.New{Name: a.spec.Name, Architecture: a.Architecture, Base: a.Base, Trigger: "copy", Config: c}
}

// checkArrival says what would stand in the way, before anything moves.
func (d *Daemon) checkArrival(ctx context.Context, a *arrival, n instance.New) error {
	if !slices.Contains(kiln.RunsOn(HostArch()), a.Architecture) {
		return kiln.Errorf(kiln.Unsupported, "the instance is for %s; this host runs %s", a.Architecture,
			strings.Join(kiln.RunsOn(HostArch()), " and "))
	}
	if err := d.instances.CheckAccess(ctx, n.Config); err != nil {
		return err
	}
	t := a.Transfer
	t.Profiles = n.Profiles
	if err := d.instances.CheckTransfer(ctx, t); err != nil {
		return err
	}
	if err := d.checkHostAccess(ctx, a); err != nil {
		return err
	}
	return d.instances.Check(ctx, n.Config)
}

// checkHostAccess refuses what the other server says of the instance that lets it reach
// this host, unless the user wants it. What the user says of the copy is the user's own;
// its snapshots are kept as they come, and a restored one has all that is in it. The
// error is Denied.
func (d *Daemon) checkHostAccess(ctx context.Context, a *arrival) error {
	if a.spec.Source.HostAccess {
		return nil
	}
	profiles, err := d.db.Profiles(ctx)
	if err != nil {
		return err
	}
	var list []string
	copied := a.InstanceState
	copied.Config = maps.Clone(copied.Config)
	for k := range a.spec.Options {
		delete(copied.Config, k)
	}
	if a.spec.Devices != nil {
		copied.Devices = nil
	}
	for n, s := range append([]kiln.InstanceState{copied}, a.Snapshots...) {
		for _, what := range instance.HostAccess(s.Config, s.Devices) {
			if n > 0 {
				what = "snapshot " + s.Name + ": " + what
			}
			list = append(list, what)
		}
		for _, p := range profiles {
			if a.spec.Profiles != nil || !slices.Contains(s.Profiles, p.Name) || p.Name == defaultProfile {
				continue
			}
			for _, what := range instance.HostAccess(p.Config, p.Devices) {
				list = append(list, fmt.Sprintf("profile %q: %s", p.Name, what))
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	slices.Sort(list)
	cure := "to give it that, say so: --host-access"
	if a.fromPeer {
		cure = "copy it without that (lxc copy -c KEY=VALUE), and give it that here; or between kiln servers: kiln copy " +
			"--host-access"
	}
	return kiln.Errorf(kiln.Denied, "the instance would get access to this host: %s; %s",
		strings.Join(slices.Compact(list), ", "), cure)
}

// receiveFiles makes the files of an instance that arrives.
func (d *Daemon) receiveFiles(ctx context.Context, o *op.Operation, a *arrival, files *instance.Files) error {
	needed, asParts, err := d.neededParts(ctx, o, a)
	if err != nil {
		return err
	}
	if a.expect != nil {
		var size int64
		for _, p := range needed {
			size += p.Size
		}
		a.expect(size)
	}
	visit, err := d.share(ctx)
	if err != nil {
		return err
	}
	defer visit.Leave()
	if err := errors.Join(visit.Decoder(maxWindow), visit.Add(a.Transfer.Memory())); err != nil {
		return err
	}
	receiver, err := d.pool.Receive(needed)
	if err != nil {
		return err
	}
	defer receiver.Close()
	images := slices.DeleteFunc(bases(a.Transfer), func(fp kiln.Fingerprint) bool { return slices.Contains(asParts, fp) })
	defer d.pool.Pin(images...)()
	for _, fp := range images {
		if err := d.bringImage(ctx, o, a, fp); err != nil {
			return err
		}
	}
	for n, p := range needed {
		if err := receivePart(ctx, receiver, a, p.ID); err != nil {
			return fmt.Errorf("part %d of %d: %w", n+1, len(needed), err)
		}
	}
	for _, fp := range images { // nobody needed one meanwhile
		if err := d.fillImage(ctx, fp); err != nil {
			return err
		}
	}
	for i := range a.Snapshots {
		// In its files are still the name and such of the other.
		if s := &a.Snapshots[i]; s.Trigger != "create" {
			s.Trigger = "copy"
		}
	}
	return d.instances.Receive(ctx, files, a.Transfer, receiver, func(s kiln.Stack) kiln.Stack {
		if slices.Contains(asParts, s.Base) {
			return volume.WithoutImage(s)
		}
		return s
	})
}

// neededParts gives the parts to ask for, and the images that are among them.
func (d *Daemon) neededParts(ctx context.Context, o *op.Operation, a *arrival) (needed []kiln.Part,
	asParts []kiln.Fingerprint, err error) {
	skip := map[string]bool{}
	for _, fp := range bases(a.Transfer) {
		has, err := d.mayStandOn(ctx, fp)
		if err == nil && !has {
			has, err = d.findBase(ctx, o, a, fp)
		}
		if err != nil {
			return nil, nil, err
		}
		switch {
		case has:
			for _, id := range volume.ImagePartIDs(fp) {
				skip[id] = true
			}
		case a.has(volume.ImagePartIDs(fp)):
			asParts = append(asParts, fp)
		default:
			return nil, nil, kiln.Errorf(kiln.NotFound, "the image %s that the instance stands on isn't here, and doesn't "+
				"come along; copy it first: kiln image copy", fp.Short())
		}
	}
	for _, p := range a.Parts {
		if !skip[p.ID] {
			needed = append(needed, p)
		}
	}
	return needed, asParts, nil
}

// has reports whether parts are among those that can be had.
func (a *arrival) has(ids []string) bool {
	return !slices.ContainsFunc(ids, func(id string) bool {
		return !slices.ContainsFunc(a.Parts, func(p kiln.Part) bool { return p.ID == id })
	})
}

// mayStandOn reports whether a project has what an instance on an image needs: the image, or
// another instance on its tree. That the pool has the tree isn't enough: it may be of
// another project's image, which naming it doesn't give to anybody.
func (d *Daemon) mayStandOn(ctx context.Context, fp kiln.Fingerprint) (bool, error) {
	if has, err := d.Images.Has(ctx, fp); has || err != nil || !d.pool.HasImage(fp) {
		return has, err
	}
	rows, err := d.db.Instances(ctx)
	if err != nil {
		return false, err
	}
	snapshots, err := d.db.AllSnapshotFiles(ctx)
	// What rows say of it came with the instance, from whomever: what the files stand on counts.
	return slices.ContainsFunc(rows, func(i db.Instance) bool {
		v, err := d.pool.Get(i.Config[instance.UUIDKey])
		return err == nil && v.Base() == fp
	}) || slices.ContainsFunc(snapshots, func(s db.SnapshotFiles) bool {
		tree, err := d.pool.GetSnapshot(s.Files)
		return err == nil && tree.Base() == fp
	}), err
}

// findBase reports whether an image that an instance stands on can be had from where the
// instance is, and may be. It has to be signed as any image of that server, since others can be
// made from it. The instance is the user's own, whatever it stands on: it comes with the files
// of an image that isn't, which is no image here then. The error is Integrity where it can't.
func (d *Daemon) findBase(ctx context.Context, o *op.Operation, a *arrival, fp kiln.Fingerprint) (bool, error) {
	if a.spec.Source.Remote.Server == "" || !slices.Contains(a.Images, fp) {
		return false, nil
	}
	spec := a.pullBase(fp)
	err := d.mayFetch(ctx, spec.Remote)
	var img kiln.Image
	if err == nil {
		img, err = d.find(ctx, o, spec, false) // which checks its signature
	}
	switch {
	case err == nil:
		if a.found == nil {
			a.found = map[kiln.Fingerprint]kiln.Image{}
		}
		a.found[fp] = img
		return true, nil
	case !errors.Is(err, kiln.Integrity):
		return false, err
	case !a.has(volume.ImagePartIDs(fp)):
		return false, kiln.Errorf(kiln.Integrity, "the image that the instance stands on is refused, and its files don't "+
			"come along: %w; have it signed there (kiln image sign %s), or update the server there", err, fp.Short())
	}
	d.warn(o, fmt.Sprintf("image %s isn't kept here (%v); the instance has a copy of its files, of which nobody can make "+
		"another one", fp.Short(), err))
	return false, nil
}

// pullBase says how to have an image that the instance stands on.
func (a *arrival) pullBase(fp kiln.Fingerprint) PullSpec {
	from := a.spec.Source
	return PullSpec{Remote: from.Remote, Name: fp.String(), Secret: from.Secret, ImportSpec: ImportSpec{Cached: true}}
}

// bringImage makes sure that an image's tree is here: the image is fetched from where
// the instance is, if need be, and kept as one that nobody asked for.
func (d *Daemon) bringImage(ctx context.Context, o *op.Operation, a *arrival, fp kiln.Fingerprint) error {
	has, err := d.mayStandOn(ctx, fp)
	if err != nil || has && d.pool.HasImage(fp) {
		return err
	}
	if !has {
		img, ok := a.found[fp]
		if !ok { // it was here a moment ago
			return kiln.Errorf(kiln.Conflict, "image %s was deleted meanwhile; copy the instance once more", fp.Short())
		}
		if _, err := d.bring(ctx, o, a.pullBase(fp), img, bringOptions{}); err != nil {
			return err
		}
	}
	return d.fillImage(ctx, fp)
}

// maxWindow bounds the memory that unpacking takes, in bytes.
const maxWindow = 32 << 20

// receivePart takes one part.
func receivePart(ctx context.Context, receiver *volume.Receiver, a *arrival, id string) error {
	in, err := a.open(ctx, id)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := newUnpacked(in)
	if err != nil {
		return err
	}
	defer z.Close()
	return receiver.Add(ctx, id, z)
}

// unpacked reads what is in zstd. The errors of the decoder, most of which have no
// name, are of kind Integrity; those of the reader below stay what they are.
type unpacked struct {
	z    *zstd.Decoder // not embedded: its WriteTo would pass Read by
	from *noted
}

func newUnpacked(in io.Reader) (unpacked, error) {
	from := &noted{Reader: in}
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	return unpacked{z, from}, err
}

// Read implements io.Reader.
func (u unpacked) Read(b []byte) (int, error) {
	n, err := u.z.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && u.from.err == nil {
		err = kiln.Errorf(kiln.Integrity, "what came is damaged: %w", err)
	}
	return n, err
}

// Close frees the decoder.
func (u unpacked) Close() { u.z.Close() }

// noted keeps the error that ended a reader.
type noted struct {
	io.Reader
	err error
}

// Read implements io.Reader.
func (r *noted) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
