// Package daemon holds the verbs: take this, do that, tell whoever listens. One
// file per verb, each a short walk down the ladder.
//
// It doesn't know how requests arrive nor how answers look on the wire.
package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/grant"
	"github.com/kiln-containers/kiln/internal/hardware"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/metrics"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/proxy"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/store"
	"github.com/kiln-containers/kiln/internal/volume"
)

// Config says where and how a daemon works.
type Config struct {
	Dir     string // everything kiln owns is under it
	Log     *slog.Logger
	Version string
	Stall   time.Duration // how long others may keep it waiting; 0: as long as usual
}

// A Daemon keeps the images and instances below one directory.
type Daemon struct {
	// Images, Ops and Events may be read and listened to by anybody; what
	// changes images goes through the daemon's verbs, so that it is told.
	Images *store.Store
	Ops    *op.Table
	Events *event.Hub
	// Counters count what was done since the daemon began; others add what they do.
	Counters *metrics.Counters

	cfg       Config
	id        string // of this run
	began     time.Time
	cert      tls.Certificate
	noTLS     error // why the daemon can't be reached over the network; nil: it can be
	lock      *os.File
	copying   sync.Mutex // a copy of the database is made
	blobs     *blob.Dir
	db        *db.DB
	pool      *volume.Pool
	instances *instance.Set
	networks  *networks
	backups   *backup.Dir // of instances
	proxies   *proxies

	audit       *audit.Log
	remotes     *remote.Opener
	flights     flights
	making      making
	deltas      deltas
	listeners   listeners
	clients     clients
	joinTokens  grant.Registry[invitation]
	imageGrants grant.Registry[imageGrant]
	shares      grant.Registry[*share]
	crowd       *archive.Crowd
	migrating   chan struct{} // full when as many instances are migrating as may
	theirs      chan struct{} // of them, those of restricted clients
	throttle    *throttle
	measured    measured
	asked       asked
	woken       chan struct{} // the settings changed
	stale       stale
	copies      copies
	scrubs      scrubs
	published   published

	settingEdits sync.Mutex // held while settings are read, compared and written
	profileEdits sync.Mutex // held from reading a profile until instances have its limits
	damageTold   sync.Mutex // held from looking what is wrong with an image until that is a warning, or none
	volumeNames  sync.Mutex // held while a storage volume gets or loses its name, and while a project does

	generation atomic.Uint64      // of the images
	lostNow    []kiln.Fingerprint // files of images that this start has put away
	withheld   atomic.Bool        // what is withheld was told

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	apart  sync.WaitGroup // who may wait for file systems of others, and isn't waited for without a bound
}

// Open starts a daemon on a directory, which it makes, with all that is in it,
// when it isn't there. Nobody else may use the directory meanwhile: that is a
// Conflict.
func Open(ctx context.Context, cfg Config) (*Daemon, error) {
	d := &Daemon{cfg: cfg, id: uuid.NewString(), began: time.Now().Truncate(time.Millisecond), Events: event.NewHub(),
		Counters: metrics.New(), woken: make(chan struct{}, 1), migrating: make(chan struct{}, migrations),
		theirs: make(chan struct{}, restrictedMigrations), throttle: newThrottle()}
	d.stale.woken = make(chan struct{}, 1)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.crowd = archive.NewCrowd(hardware.Memory(), d.crowded)
	d.Ops = op.NewTable(func(s op.Snapshot) {
		d.Events.Send("operation", s)
		d.operationEnded(s)
		if s.Status == op.Failure {
			d.cfg.Log.Info("operation failed", "operation", s.ID, "description", s.Description, "err", s.Err)
		}
	})
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.Audit(audit.Event{Action: serverStarted, Result: audit.OK, Context: map[string]any{"version": cfg.Version}})
	d.wg.Go(d.networks.follow)
	d.wg.Go(d.networks.watch)
	d.wg.Go(d.proxies.watch)
	d.wg.Go(d.networks.besideFirewalls)
	d.wg.Go(d.followHardware)
	d.wg.Go(func() {
		if err := d.instances.Profiles.Load(d.ctx); err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Warn("each start of an instance takes longer, since liblxc makes an AppArmor profile for it", "err", err)
		}
	})
	d.wg.Go(func() {
		d.proxies.settle()
		d.networks.start(d.ctx)
		if err := d.db.WithSome(func() error { return d.instances.MendDevices(d.ctx) }); err != nil {
			d.cfg.Log.Warn("give instances that run their devices", "err", err)
		}
		if err := d.instances.Autostart(d.ctx); err != nil {
			d.cfg.Log.Error("start instances with the daemon", "err", err)
		}
	})
	d.wg.Go(d.findDamagedImages)
	d.wg.Go(d.resumeScrub)
	d.wg.Go(d.housekeeping)
	d.wg.Go(d.everyMinute)
	d.wg.Go(d.keepRecords)
	d.apart.Go(d.keepCopies)
	d.apart.Go(d.keepBackups)
	return d, nil
}

func (d *Daemon) open(ctx context.Context) error {
	if err := disk.MkdirAll(d.cfg.Dir, 0o711); err != nil {
		return err
	}
	var err error
	if d.lock, err = lockDir(ctx, d.cfg.Dir); err != nil {
		return err
	}
	if err := checkDatabase(d.cfg.Dir); err != nil {
		return err
	}
	if d.db, err = db.Open(ctx, filepath.Join(d.cfg.Dir, databaseFile)); err != nil {
		return err
	}
	d.audit = d.openAudit()
	d.db.OnChange(d.stale.note)
	d.db.OnAccess(d.accessChanged)
	d.db.OnRow(instance.Forbids)
	if err := d.firstStart(ctx); err != nil {
		return err
	}
	if err := d.loadIdentity(ctx); err != nil {
		return err
	}
	if d.blobs, err = blob.Open(filepath.Join(d.cfg.Dir, "blobs")); err != nil {
		return err
	}
	if d.Images, err = store.Open(ctx, d.blobs, d.db, store.Options{Limits: d.sharedLimits,
		Lost: d.lostBlobs, Missing: d.damagedImages, Records: filepath.Join(d.cfg.Dir, imagesDir)}); err != nil {
		return err
	}
	d.remotes = d.opener()
	d.loadPublished()
	d.deltas.dir = filepath.Join(d.cfg.Dir, "deltas")
	if d.pool, err = volume.OpenFor(filepath.Join(d.cfg.Dir, "volumes"), d.owned, d.db.WithReserve); err != nil {
		return err
	}
	d.pool.Refill, d.pool.Walk = d.refill, d.walk
	d.networks = newNetworks(d, filepath.Join(d.cfg.Dir, "networks"))
	d.proxies = &proxies{d: d, carried: proxy.Directory{Path: filepath.Join(d.cfg.Dir, "proxies"), Version: d.cfg.Version}}
	d.instances, err = instance.Open(ctx, d.db, d.pool, filepath.Join(d.cfg.Dir, "boxes"), HostArch(), d.instanceChanged,
		func(what string, err error) { d.cfg.Log.Warn(what, "err", err) })
	if err != nil {
		return err
	}
	if d.backups, err = backup.OpenDir(filepath.Join(d.cfg.Dir, exportsDir)); err != nil {
		return err
	}
	d.instances.Removed = d.backups.DeleteAll
	d.instances.Networks, d.instances.Proxies = d.networks, d.proxies
	d.instances.Failed = d.instanceFailed
	d.instances.Profiles = box.NewProfiles(filepath.Join(d.cfg.Dir, "cache", "apparmor"))
	d.instances.Work = func(ctx context.Context) string {
		o := op.Of(ctx)
		if o == nil {
			return ""
		}
		s := o.Snapshot()
		return fmt.Sprintf("the operation %q (%s)", s.Description, s.ID)
	}
	if err := d.dropTrees(ctx); err != nil {
		d.cfg.Log.Warn("remove trees of images that nobody needs", "err", err)
	}
	d.tellWithheld()
	d.tellLost()
	d.keepForgotten(ctx)
	d.tellKept()
	d.tellUnknown()
	d.instances.FollowUnknown(d.tellUnknown)
	return nil
}

// lockPatience is how long the lock of a daemon that was killed may last: the kernel lets
// go of it when the process has ended, with all that it has mapped and opened.
const lockPatience = 5 * time.Second

// lockDir makes sure that one daemon at a time uses a directory.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.Open(dir) // which nobody removes under a daemon, as they might a file
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockPatience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		case time.Now().After(end):
			return nil, errors.Join(kiln.Errorf(kiln.Conflict, "another kiln daemon uses %s; stop that one first "+
				"(kiln shutdown, or systemctl stop kiln), or use another directory: KILN_DIR", dir), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lockThere takes the directory of a daemon that was there before, for what is done to it
// while none runs. Errors: NotFound, Conflict.
func lockThere(ctx context.Context, dir string) (*os.File, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	return lockDir(ctx, dir)
}

// checkDir says whether a directory has something of a daemon. The error is NotFound.
func checkDir(dir string) error {
	for _, part := range []string{databaseFile, backupsDir + "/kiln-*.db", "volumes/volumes", "volumes/lost",
		"blobs/sha256"} {
		if list, err := disk.Glob(dir, part); err != nil || len(list) > 0 {
			return err
		}
	}
	return kiln.Errorf(kiln.NotFound, "no kiln directory: there are no files of a kiln daemon in %s; say where they "+
		"are: --dir", dir)
}

// firstStart makes what every daemon has, so that nobody has to be asked.
func (d *Daemon) firstStart(ctx context.Context) error {
	ctx = project.InDefault(ctx)
	err := d.db.CreateProfile(ctx, firstProfile("Default kiln profile"))
	if errors.Is(err, kiln.Conflict) {
		return nil // a daemon of before there were networks stays as it is
	}
	if err != nil {
		return err
	}
	err = d.db.CreateNetwork(ctx, db.Network{Name: defaultNetwork, Config: newNetwork(nil)})
	if errors.Is(err, kiln.Conflict) {
		return nil
	}
	return err
}

// WithReserve runs what a daemon can't do without, such as making its socket, on a full
// disk with what is reserved there.
func (d *Daemon) WithReserve(f func() error) error { return d.db.WithReserve(f) }

// In has ctx be about a project. The error is NotFound.
func (d *Daemon) In(ctx context.Context, name string) (context.Context, error) {
	p, err := d.db.Scope(ctx, name)
	return project.In(ctx, p), err
}

// firstProfile is the profile that every project begins with: with it, an instance has a
// root filesystem and a network.
func firstProfile(description string) db.Profile {
	return db.Profile{
		Name:        defaultProfile,
		Description: description,
		Config:      map[string]string{},
		Devices: map[string]map[string]string{
			"root": {"type": "disk", "path": "/", "pool": "default"},
			"eth0": {"type": "nic", "name": "eth0", "network": defaultNetwork},
		},
	}
}

// apartTime is how long the end of a daemon waits for what may wait for file systems of
// others.
const apartTime = 10 * time.Second

// Close ends the daemon. Instances keep running.
func (d *Daemon) Close() error {
	d.cancel()
	d.Ops.Close()
	d.wg.Wait()
	d.flights.wg.Wait()
	apart := make(chan struct{})
	go func() {
		d.apart.Wait()
		close(apart)
	}()
	select {
	case <-apart:
	case <-time.After(cmp.Or(d.cfg.Stall, apartTime)):
		d.cfg.Log.Warn("a directory of copies didn't answer; is it on a server that can't be reached?",
			"backups", filepath.Join(d.cfg.Dir, backupsDir), "exports", filepath.Join(d.cfg.Dir, exportsDir))
	}
	var errs []error
	if d.instances != nil {
		errs = append(errs, d.saveRecords(context.Background())) // of what was finished last
		errs = append(errs, d.instances.Close())
		if d.networks.resting {
			errs = append(errs, d.networks.rest(context.Background()))
			d.proxies.settle()
		}
	}
	if d.pool != nil {
		errs = append(errs, d.pool.Close())
	}
	if d.audit != nil {
		d.Audit(audit.Event{Action: serverStopped, Result: audit.OK})
		errs = append(errs, d.audit.Close())
	}
	if d.db != nil {
		errs = append(errs, d.db.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// Shutdown stops the instances, because the host goes down. The next daemon
// starts the ones that ran. Bridges that none is connected to any more go with the
// daemon, and so do netd and proxyd if they have nothing to do.
func (d *Daemon) Shutdown(ctx context.Context) error {
	if err := d.instances.Suspend(ctx); err != nil {
		return err
	}
	d.networks.mu.Lock()
	d.networks.resting = true
	d.networks.mu.Unlock()
	return nil
}

// limits bounds what an archive may unpack to: the settings, and what is free.
func (d *Daemon) limits(ctx context.Context) (archive.Limits, error) {
	v, err := d.setting(ctx, unpackedBytes)
	if err != nil {
		return archive.Limits{}, err
	}
	most, err := kiln.ParseSize(v)
	if err != nil {
		return archive.Limits{}, err
	}
	if v, err = d.setting(ctx, unpackedFiles); err != nil {
		return archive.Limits{}, err
	}
	files, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return archive.Limits{}, err
	}
	// What doesn't fit on the disk can't be launched.
	free, err := d.pool.Free()
	return archive.Limits{Bytes: most, Room: max(free, 1), Entries: files}, err
}
