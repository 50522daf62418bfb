package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/migrate"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/rsync"
)

// A Migration is the copy of an instance between this server and another one by the protocol
// of LXD and Incus, which is about to begin. Either Run or Drop is called.
type Migration struct {
	Title     string
	Resources map[string][]string

	ctx  context.Context // what the names mean
	run  func(context.Context, *op.Operation, *migrate.Peer) error
	drop func()
	// turns are full when there are as many as may be.
	turns []chan struct{}
	// connect reaches the other server; nil: that one connects.
	connect func(context.Context) (*migrate.Peer, error)
}

// Context is the one to start the operation with.
func (m *Migration) Context() context.Context { return m.ctx }

// Waits reports whether the other server connects to this one.
func (m *Migration) Waits() bool { return m.connect == nil }

// Drop lets go of what isn't run.
func (m *Migration) Drop() { m.drop() }

// Run copies the instance, all of it or nothing, and lets the other server know. connected
// waits for that to connect; it isn't called unless Waits.
func (m *Migration) Run(ctx context.Context, o *op.Operation,
	connected func(context.Context) (*migrate.Peer, error)) error {
	defer m.drop()
	if m.connect != nil {
		connected = m.connect
	}
	p, err := connected(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, turn := range m.turns {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		default:
			return p.Fail(ctx, kiln.Errorf(kiln.Busy, "%d instances are being copied to and from other servers, as many as "+
				"may at once; try again later", cap(turn)))
		}
	}
	return m.run(ctx, o, p)
}

// migrations is how many there may be at once: each has processes, whose memory is counted as
// the client's, but only once they have it.
// Restricted clients leave some to who manages the server.
const (
	migrations           = 8
	restrictedMigrations = 6
)

// turns are what a migration takes one of each.
func (d *Daemon) turns(ctx context.Context) []chan struct{} {
	if instance.IsRestricted(ctx) {
		return []chan struct{}{d.theirs, d.migrating}
	}
	return []chan struct{}{d.migrating}
}

// copied are the features of rsync that this server has. It needs all but the last.
var copied = migrate.Features{Xattrs: true, Delete: true, Compress: true, Bidirectional: true, Links: true}

// agreed gives what both servers have. The error is Unsupported when that isn't enough.
func agreed(theirs *migrate.Features) (rsync.Options, error) {
	if theirs == nil || !theirs.Xattrs || !theirs.Delete || !theirs.Bidirectional {
		return rsync.Options{}, kiln.Errorf(kiln.Unsupported, "the other server doesn't copy files with rsync in the way "+
			"that is known here, as LXD 5.0 and newer do; publish the instance there, and copy the image")
	}
	return rsync.Options{Xattrs: true, Delete: true, Compress: theirs.Compress, Links: theirs.Links}, nil
}

// SendSpec says what of an instance to send.
type SendSpec struct {
	Live   bool              // with its processes
	Only   bool              // without its snapshots
	Target *remote.Migration // nil: it connects
}

// Send prepares to send an instance, or a snapshot "c1/snap0" as if it were one. One that
// runs stands still for a moment. Errors: NotFound, Unsupported, Invalid.
func (d *Daemon) Send(ctx context.Context, name string, spec SendSpec) (*Migration, error) {
	of, snap, _ := strings.Cut(name, "/")
	ctx, err := d.instances.Meaning(ctx, of, snap)
	if err != nil {
		return nil, err
	}
	if _, err := rsync.Find(); err != nil {
		return nil, err
	}
	if spec.Live {
		return nil, kiln.Errorf(kiln.Unsupported, "instance %q can't be copied with its processes; copy its files as they "+
			"are in one moment: --stateless; or stop it before", of)
	}
	m := &Migration{Title: "Migrating instance", Resources: instanceResources(of), ctx: ctx, turns: d.turns(ctx),
		drop: func() {},
		run: func(ctx context.Context, o *op.Operation, p *migrate.Peer) error {
			return d.send(ctx, o, name, spec.Only, p)
		}}
	if t := spec.Target; t != nil {
		if err := d.remotes.CheckMigration(*t); err != nil {
			return nil, err
		}
		m.connect = func(ctx context.Context) (*migrate.Peer, error) { return d.remotes.Migration(ctx, *t) }
	}
	return m, nil
}

// send is the source of a migration.
func (d *Daemon) send(ctx context.Context, o *op.Operation, name string, only bool, p *migrate.Peer) error {
	h, err := d.instances.Share(ctx, name, only)
	if err != nil {
		return p.Fail(ctx, err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			d.cfg.Log.Warn("let go of an instance that was copied", "instance", name, "err", err)
		}
	}()
	if err := p.WriteHeader(ctx, headerOf(h.Transfer)); err != nil {
		return err
	}
	answer, err := p.ReadHeader(ctx)
	if err != nil {
		return err
	}
	ctx = p.Listen(ctx)
	visit, err := d.share(ctx)
	if err != nil {
		return p.Fail(ctx, fmt.Errorf("copy instance %q: %w", name, err))
	}
	defer visit.Leave()
	if err := sendTrees(ctx, h, answer, &carrier{Peer: p, o: o, sent: true}, visit); err != nil {
		return p.Fail(ctx, fmt.Errorf("copy instance %q: %w", name, err))
	}
	return p.Wait(ctx)
}

// headerOf is what the target is told.
func headerOf(t kiln.Transfer) migrate.Header {
	features := copied
	h := migrate.Header{FS: migrate.RSYNC, Features: &features}
	for _, s := range t.Snapshots {
		h.Names = append(h.Names, s.Name)
		h.Snapshots = append(h.Snapshots, migrate.Snapshot{Name: s.Name, Config: s.Config, Profiles: s.Profiles,
			Ephemeral: s.Ephemeral, Devices: s.Devices, Architecture: migrate.ArchNumber(s.Architecture),
			CreatedAt: s.CreatedAt, LastUsedAt: s.LastUsedAt, ExpiresAt: s.ExpiresAt})
	}
	return h
}

func sendTrees(ctx context.Context, h *instance.Share, answer migrate.Header, c *carrier,
	visit *archive.Visit) error {
	if answer.FS != migrate.RSYNC {
		return kiln.Errorf(kiln.Unsupported, "the other server wants files in another way than by rsync")
	}
	o, err := agreed(answer.Features)
	if err != nil {
		return err
	}
	names := []string{}
	for _, s := range h.Snapshots {
		// Of an instance that is there already, the target wants the snapshots that it hasn't got.
		if !answer.Refresh || slices.Contains(answer.Names, s.Name) {
			names = append(names, s.Name)
		}
	}
	for _, name := range append(names, "") {
		if err := c.tree(ctx, func(ctx context.Context, s rsync.Stream) error {
			return h.Send(ctx, name, s, o, visit)
		}); err != nil {
			return err
		}
	}
	return nil
}

// A carrier carries trees between a peer and rsync, and says how much it has carried.
type carrier struct {
	*migrate.Peer
	o    *op.Operation
	sent bool // the trees are sent, else they come

	n    int64 // bytes
	last time.Time
}

// tree carries one tree.
func (c *carrier) tree(ctx context.Context, f func(context.Context, rsync.Stream) error) error {
	s := c.Stream(ctx)
	defer s.Close()
	return f(s.Context(), carriedStream{s, c})
}

// count says how much there is, in the words in which LXD does.
func (c *carrier) count(n int) {
	c.n += int64(n)
	if now := time.Now(); now.Sub(c.last) > 300*time.Millisecond {
		c.last = now
		c.o.Set("fs_progress", "files: "+kiln.FormatSize(c.n))
	}
}

// A carriedStream is a stream of a carrier. Only one direction has the files, and is counted.
type carriedStream struct {
	*migrate.Stream
	of *carrier
}

// Read implements io.Reader.
func (s carriedStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if !s.of.sent {
		s.of.count(n)
	}
	return n, err
}

// Write implements io.Writer.
func (s carriedStream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	if s.of.sent {
		s.of.count(n)
	}
	return n, err
}

// AwaitInstance prepares to make an instance that another server sends. from is where that
// is; nil: it connects. Errors: Denied, Invalid, NotFound, Conflict, Unsupported.
func (d *Daemon) AwaitInstance(ctx context.Context, spec CreateSpec, from *remote.Migration) (*Migration, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if _, err := rsync.Find(); err != nil {
		return nil, err
	}
	if err := d.instances.CheckAccess(ctx, spec.Config); err != nil {
		return nil, err
	}
	m := &Migration{Title: "Creating instance", ctx: ctx, turns: d.turns(ctx)}
	if from != nil {
		if err := d.remotes.CheckMigration(*from); err != nil {
			return nil, err
		}
		m.connect = func(ctx context.Context) (*migrate.Peer, error) { return d.remotes.Migration(ctx, *from) }
	}
	there, err := d.refreshes(ctx, &spec)
	if err != nil {
		return nil, err
	}
	if m.drop = func() {}; spec.Source.Refresh {
		m.ctx = there
	} else if spec.Name, m.drop, err = d.instances.Claim(ctx, spec.Name); err != nil {
		return nil, err
	}
	m.Resources = instanceResources(spec.Name)
	m.run = func(ctx context.Context, o *op.Operation, p *migrate.Peer) error { return d.await(ctx, o, spec, p) }
	return m, nil
}

// refreshes says of a spec whether an instance is there that can be brought up to date: else
// one is made. The context means it by its name. The error is Conflict while it runs.
func (d *Daemon) refreshes(ctx context.Context, spec *CreateSpec) (context.Context, error) {
	if !spec.Source.Refresh {
		return ctx, nil
	}
	err := d.instances.CheckRefresh(ctx, spec.Name)
	if errors.Is(err, kiln.NotFound) {
		spec.Source.Refresh = false
		spec.refreshedFrom, spec.Options = spec.Options[instance.UUIDKey], maps.Clone(spec.Options)
		maps.DeleteFunc(spec.Options, func(k, _ string) bool { return instance.IsAddressKey(k) }) // the source stays
		return ctx, nil
	}
	if err != nil {
		return ctx, err
	}
	return d.instances.Meaning(ctx, spec.Name, "")
}

// await is the target of a migration. The other server is told that it succeeded when the
// instance is there: a move deletes it on the source then.
func (d *Daemon) await(ctx context.Context, o *op.Operation, spec CreateSpec, p *migrate.Peer) error {
	h, err := p.ReadHeader(ctx)
	if err != nil {
		return err
	}
	n, ctx, err := d.receive(ctx, o, spec, h, p)
	if err != nil {
		return p.Fail(ctx, fmt.Errorf("copy instance %q: %w", spec.Name, err))
	}
	// The instance is there, whatever becomes of the other server.
	if err := p.Finish(context.WithoutCancel(ctx), nil); err != nil {
		d.warn(o, fmt.Sprintf("instance %q is here, and the source couldn't be told: %v", spec.Name, err))
	}
	return d.startNew(ctx, n, spec.Start)
}

// receive makes the instance. The context that it gives means it by its name.
func (d *Daemon) receive(ctx context.Context, o *op.Operation, spec CreateSpec, h migrate.Header, p *migrate.Peer) (
	n instance.New, meaning context.Context, err error) {
	a, owners, err := arrivalOf(spec, h)
	if err != nil {
		return n, ctx, err
	}
	options, err := agreed(h.Features)
	if err != nil {
		return n, ctx, err
	}
	var drop []db.SnapshotAge
	if spec.Source.Refresh { // it keeps its configuration, and the snapshots that both have
		a.Config, a.Devices = nil, nil
		if drop, err = d.missingSnapshots(ctx, a); err != nil {
			return n, ctx, err
		}
	}
	// Before the files come; it is asked again with the rows.
	if err := d.instances.CheckArriving(ctx, len(a.Snapshots), "--instance-only"); err != nil {
		return n, ctx, err
	}
	n = a.plan()
	n.Trigger, n.RefreshedFrom = a.Trigger, spec.refreshedFrom
	a.spec.Profiles = spec.Profiles // whoever names profiles that are here wants them
	if err := d.checkArrival(ctx, a, n); err != nil {
		return n, ctx, err
	}
	release, err := d.instances.Use(ctx, n.Devices)
	if err != nil {
		return n, ctx, err
	}
	defer release()
	if err := p.WriteHeader(ctx, answerTo(h, a, options)); err != nil {
		return n, ctx, err
	}
	listening := p.Listen(ctx)
	files := d.instances.NewFiles()
	defer func() { err = errors.Join(err, files.Close()) }()
	left, err := d.receiveTrees(listening, a, files, &carrier{Peer: p, o: o}, received{owners, options,
		h.Processes == migrate.JustFiles})
	if err != nil {
		return n, ctx, err
	}
	if spec.Source.Refresh {
		return n, ctx, d.instances.Refresh(listening, n.Name, spec.Options[instance.UUIDKey], files, drop)
	}
	if err := d.create(listening, n, files); err != nil {
		return n, ctx, err
	}
	if left > 0 {
		d.warn(o, fmt.Sprintf("%d device nodes 0:0 of instance %q were left out: overlayfs would take them for deletions",
			left, n.Name))
	}
	return n, instance.MeaningNew(ctx, n.Name, files), nil
}

// arrivalOf judges what the other server says of an instance, beside what the client does.
// owners is whom the files belong to, by snapshot, "" for the instance. Errors: Invalid,
// Unsupported.
func arrivalOf(spec CreateSpec, h migrate.Header) (a *arrival, owners map[string]string, err error) {
	if h.Processes != 0 && h.Processes != migrate.JustFiles {
		return nil, nil, kiln.Errorf(kiln.Unsupported, "an instance can't be copied with its processes; copy its files: "+
			"--stateless; or stop it before")
	}
	if h.FS != migrate.RSYNC && h.Features == nil {
		return nil, nil, kiln.Errorf(kiln.Unsupported, "the other server doesn't offer to copy files by rsync")
	}
	owners = map[string]string{"": migrate.JSON(h.IDs)}
	// The client has asked the other server what the instance is: it vouches for that no more
	// than for what comes with the files.
	if spec.Profiles == nil {
		spec.Profiles = []string{defaultProfile}
	}
	a = &arrival{spec: spec, fromPeer: true, Transfer: kiln.Transfer{InstanceState: kiln.InstanceState{
		Name: spec.Name, Architecture: spec.Architecture, Config: spec.Options, Devices: spec.Devices,
		Profiles: spec.Profiles, Trigger: "copy"}}}
	a.Base, _ = kiln.ParseFingerprint(spec.Options[instance.BaseKey]) //nolint:errcheck // it is for people only
	if spec.Options[instance.TemplateKey] == "create" {
		a.Trigger = "create" // it never ran
	}
	a.spec.Options, a.spec.Devices, a.spec.Profiles = nil, nil, nil
	if len(h.Names) != len(h.Snapshots) {
		return nil, nil, kiln.Errorf(kiln.Invalid, "the other server names %d snapshots, and tells of %d", len(h.Names),
			len(h.Snapshots))
	}
	for i, s := range h.Snapshots {
		switch {
		case s.Name != h.Names[i]:
			return nil, nil, kiln.Errorf(kiln.Invalid, "the other server tells of snapshot %q in the place of %q", s.Name,
				h.Names[i])
		case s.Stateful:
			return nil, nil, kiln.Errorf(kiln.Unsupported, "snapshot %q has processes, which can't be kept here; delete it "+
				"there, or copy the instance without snapshots: --instance-only", s.Name)
		}
		owners[s.Name] = owners[""]
		if ids, ok := s.Config[backup.OwnersKey]; ok {
			owners[s.Name] = ids
		}
		m := kiln.InstanceState{Name: s.Name, Architecture: migrate.Arch(s.Architecture), Ephemeral: s.Ephemeral,
			Profiles: s.Profiles, Config: instance.Lasting(s.Config), Devices: s.Devices, CreatedAt: s.CreatedAt,
			ExpiresAt: s.ExpiresAt, LastUsedAt: s.LastUsedAt, Trigger: "copy"}
		if m.Architecture == "" {
			m.Architecture = spec.Architecture
		}
		if m.CreatedAt.IsZero() {
			m.CreatedAt = time.Now().UTC()
		}
		if s.Config[instance.TemplateKey] == "create" {
			m.Trigger = "create"
		}
		m.Base, _ = kiln.ParseFingerprint(s.Config[instance.BaseKey]) //nolint:errcheck // as above
		a.Snapshots = append(a.Snapshots, m)
	}
	return a, owners, nil
}

// answerTo says what of an instance is to come, and how: no more than the other server can.
func answerTo(h migrate.Header, a *arrival, o rsync.Options) migrate.Header {
	features := copied
	features.Compress, features.Links = o.Compress, o.Links
	answer := migrate.Header{FS: migrate.RSYNC, Processes: h.Processes, Features: &features,
		Refresh: a.spec.Source.Refresh}
	for _, s := range h.Snapshots {
		if a.wants(s.Name) {
			answer.Names, answer.Snapshots = append(answer.Names, s.Name), append(answer.Snapshots, s)
		}
	}
	return answer
}

// wants reports whether a snapshot is among those that come.
func (a *arrival) wants(name string) bool {
	return slices.ContainsFunc(a.Snapshots, func(s kiln.InstanceState) bool { return s.Name == name })
}

// missingSnapshots leaves of the snapshots that the source has those that aren't here yet, and
// gives those to drop: the source hasn't got them, or has another one of the name. If only the
// instance was asked for, none comes, whatever the source offers, and none goes.
func (d *Daemon) missingSnapshots(ctx context.Context, a *arrival) (drop []db.SnapshotAge, err error) {
	if a.spec.Source.Only {
		a.Snapshots = nil
		return nil, nil
	}
	have, err := d.instances.Snapshots(ctx, a.spec.Name)
	if err != nil {
		return nil, err
	}
	for _, here := range have {
		at := slices.IndexFunc(a.Snapshots, func(s kiln.InstanceState) bool { return s.Name == here.Name })
		switch {
		case at >= 0 && a.Snapshots[at].CreatedAt.Unix() == here.CreatedAt.Unix():
			a.Snapshots = slices.Delete(a.Snapshots, at, at+1)
		default:
			drop = append(drop, db.SnapshotAge{Name: here.Name, CreatedAt: here.CreatedAt})
		}
	}
	return drop, nil
}

// received says how trees come.
type received struct {
	owners map[string]string
	rsync.Options
	twice bool // that of the instance, since it runs
}

// receiveTrees makes the files of an instance. left is as of backup.Read.
func (d *Daemon) receiveTrees(ctx context.Context, a *arrival, files *instance.Files, c *carrier, r received) (
	left int, err error) {
	receiver, err := d.pool.Receive(nil)
	if err != nil {
		return 0, err
	}
	defer receiver.Close()
	trees, err := d.instances.NewTrees(receiver)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, trees.Close()) }()
	fetch := func(lim archive.Limits) error {
		return c.tree(ctx, func(ctx context.Context, s rsync.Stream) error {
			return trees.Fetch(ctx, s, r.Options, lim)
		})
	}
	names := []string{}
	for _, s := range a.Snapshots {
		names = append(names, s.Name)
	}
	keep := func(name string) error {
		lim, err := d.sharedLimits(ctx)
		if err != nil {
			return err
		}
		defer lim.Visit.Leave()
		if err := fetch(lim); err != nil {
			return err
		}
		if name == "" && r.twice {
			if err := fetch(lim); err != nil {
				return err
			}
		}
		n, err := trees.Keep(ctx, name, r.owners[name], lim)
		left += n
		return err
	}
	for _, name := range append(names, "") {
		if err := keep(name); err != nil {
			return left, err
		}
	}
	trees.Stacks(&a.Transfer)
	return left, d.instances.Receive(ctx, files, a.Transfer, receiver, instance.WithoutBase)
}
