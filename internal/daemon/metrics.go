package daemon

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/hardware"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// Measures are what can be counted of the daemon and its instances at a moment, besides what
// Counters has counted. Other than there, nothing of it is kept.
type Measures struct {
	Version   string
	Uptime    time.Duration
	Instances []instance.Counted // that run, of all projects
	Stopped   map[string]int     // by project
	Counts    db.Counts
	Warnings  map[string]int64 // by severity, those that are not resolved
	Space     Space            // of what is under the daemon's directory
	Scrub     Scrub
	Working   int    // operations under way
	Queries   uint64 // of the database, since the daemon began
	Runtime   runtime.MemStats
	Routines  int
}

// Space is what a file system has, in bytes.
type Space struct {
	Device, Type          string
	Size, Free, Available int64 // available without what is reserved for root
}

// measured keeps the last measures.
type measured struct {
	mu   sync.Mutex
	at   time.Time
	last Measures
}

// Measure looks at everything, unless that was done no longer ago than old: whoever may ask as
// often as they like has the daemon look that often. It takes two queries.
func (d *Daemon) Measure(ctx context.Context, old time.Duration) (Measures, error) {
	d.measured.mu.Lock()
	defer d.measured.mu.Unlock()
	if !d.measured.at.IsZero() && time.Since(d.measured.at) < old {
		return d.measured.last, nil
	}
	m, err := d.measure(context.WithoutCancel(ctx)) // others wait for it
	if err == nil {
		d.measured.last, d.measured.at = m, time.Now()
	}
	return m, err
}

func (d *Daemon) measure(ctx context.Context) (Measures, error) {
	m := Measures{Version: d.cfg.Version, Uptime: time.Since(d.began), Routines: runtime.NumGoroutine(),
		Working: d.Ops.Load().Working}
	var err error
	if m.Instances, m.Stopped, err = d.instances.Counters(ctx, hardware.Memory()); err != nil {
		return m, err
	}
	if m.Counts, err = d.db.Counts(ctx); err != nil {
		return m, err
	}
	m.Warnings = map[string]int64{"low": 0, "moderate": 0, "high": 0}
	for kind, n := range m.Counts.Warnings {
		m.Warnings[severities[kind]] += n
	}
	delete(m.Warnings, "") // of a damaged row
	m.Space = d.space()
	m.Scrub = d.scrubNow()
	m.Queries = d.db.Queries()
	runtime.ReadMemStats(&m.Runtime)
	for _, i := range m.Instances {
		for n := range i.Disks {
			i.Disks[n].Device = hardware.Host.DeviceName(i.Disks[n].Device)
		}
	}
	return m, nil
}

// space asks the file system; what it doesn't tell is zero.
func (d *Daemon) space() Space {
	var s Space
	if st, err := d.PoolUsage(); err == nil {
		s.Size, s.Free, s.Available = int64(st.Blocks)*st.Bsize, int64(st.Bfree)*st.Bsize, int64(st.Bavail)*st.Bsize
	}
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, d.cfg.Dir, 0, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st) == nil {
		s.Type, s.Device = hardware.Host.FileSystem(hardware.File{Major: st.Dev_major, Minor: st.Dev_minor,
			Mount: st.Mnt_id})
	}
	return s
}

// scrubNow is Scrub without when the next one begins.
func (d *Daemon) scrubNow() Scrub {
	d.scrubs.mu.Lock()
	s, under := d.scrubs.now, d.scrubs.under
	d.scrubs.mu.Unlock()
	if under == nil {
		s, _ = d.lastScrub() // of one that can't be read nothing is told
	}
	return s
}

// operationEnded counts an operation.
func (d *Daemon) operationEnded(s op.Snapshot) {
	switch s.Status {
	case op.Success:
		d.Counters.Operation("success")
	case op.Failure:
		d.Counters.Operation("failure")
	case op.Cancelled:
		d.Counters.Operation("cancelled")
	}
}

// MayScrape says whether somebody who shows no certificate may read metrics, and by which
// peer's names they go, "lxd" or "incus". It takes one query.
func (d *Daemon) MayScrape(ctx context.Context) (everybody bool, names string, err error) {
	set, err := d.db.Config(ctx)
	if err != nil {
		return false, "", err
	}
	authentication, err := settingOf(set, metricsAuthentication)
	if err != nil {
		return false, "", err
	}
	names, err = settingOf(set, metricsNames)
	return !kiln.IsTrue(authentication), names, err
}
