package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/hardware"
)

// The keys of a disk that bound its traffic.
const (
	readLimit  = "limits.read"
	writeLimit = "limits.write"
	bothLimits = "limits.max" // instead of the others, as in LXD
)

// A rate is what a disk may do in a second; 0: as much as it can.
type rate struct{ bytes, operations int64 }

// The least that a disk may be bound to. A file system's journal waits for what a container
// reads in the middle of a change, and everybody on that file system for the journal: at a byte
// a second, for over an hour.
const (
	leastBytes      = 64 << 10
	leastOperations = 10
	// What restricted clients may bind their disks to, so that they don't hold up others.
	leastBytesRestricted      = 1 << 20
	leastOperationsRestricted = 100
)

// isBelow reports whether a rate is under a bound.
func (r rate) isBelow(bytes, operations int64) bool {
	return r.bytes > 0 && r.bytes < bytes || r.operations > 0 && r.operations < operations
}

// parseRate reads the value of a limit: an amount of bytes, or operations as in "500iops".
// The error is Invalid.
func parseRate(v string) (rate, error) {
	var r rate
	var err error
	count, operations := strings.CutSuffix(v, "iops")
	switch {
	case v == "":
		return r, nil
	case operations:
		r.operations, err = strconv.ParseInt(strings.TrimSpace(count), 10, 64)
	default:
		r.bytes, err = kiln.ParseSize(v)
	}
	if err != nil || r.bytes < 0 || r.operations < 0 || r == (rate{}) {
		return rate{}, kiln.Errorf(kiln.Invalid, "%q is neither bytes in a second, such as 10MiB, nor operations, such as "+
			"500iops", v)
	}
	return r, nil
}

// atLeast is the rate, or the least there is.
func (r rate) atLeast() rate {
	if r.bytes > 0 {
		r.bytes = max(r.bytes, leastBytes)
	}
	if r.operations > 0 {
		r.operations = max(r.operations, leastOperations)
	}
	return r
}

// tooSlow gives the limits of a disk that are below the least.
func tooSlow(d map[string]string) (list []string) {
	for _, key := range []string{readLimit, writeLimit, bothLimits} {
		if r, err := parseRate(d[key]); err == nil && r.isBelow(leastBytes, leastOperations) {
			list = append(list, key+"="+d[key])
		}
	}
	return list
}

// CheckAnew refuses limits below the least of devices that weren't like that before. What is kept
// already, by an earlier version or by another server, stays, and the least holds. The error is
// Invalid.
func CheckAnew(was, devices map[string]map[string]string) error {
	changed := changedDevices(was, devices)
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		if slow := tooSlow(changed[name]); len(slow) > 0 && isLimited(changed[name]) {
			return kiln.Errorf(kiln.Invalid, "Device %q: %s is so little that all who use the same file system would wait; "+
				"the least is %dKiB or %diops", name, slow[0], leastBytes>>10, leastOperations)
		}
	}
	return nil
}

// raisedLimits says which limits of disks are below the least, which holds instead.
func raisedLimits(devices map[string]map[string]string) (said []string) {
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if slow := tooSlow(devices[name]); len(slow) > 0 && isLimited(devices[name]) {
			said = append(said, fmt.Sprintf("device %q: %s is below the least, %dKiB or %diops, which holds instead; give it "+
				"another limit: kiln config device set", name, strings.Join(slow, " and "), leastBytes>>10, leastOperations))
		}
	}
	return said
}

// traffic gives what a disk may read and write: what it is given, or the least. The error is
// Invalid.
func traffic(d map[string]string) (read, write rate, err error) {
	for _, l := range []struct {
		key string
		to  []*rate
	}{{readLimit, []*rate{&read}}, {writeLimit, []*rate{&write}}, {bothLimits, []*rate{&read, &write}}} {
		r, err := parseRate(d[l.key])
		if err != nil {
			return rate{}, rate{}, kiln.Errorf(kiln.Invalid, "%s: %w", l.key, err)
		}
		for _, to := range l.to {
			if d[l.key] != "" {
				*to = r.atLeast()
			}
		}
	}
	return read, write, nil
}

func isLimited(d map[string]string) bool {
	return d["type"] == "disk" && (d[readLimit] != "" || d[writeLimit] != "" || d[bothLimits] != "")
}

// limitedDisks gives the disks of an instance that have bounds.
func limitedDisks(i Instance) map[string]map[string]string {
	disks := maps.Clone(i.ExpandedDevices)
	maps.DeleteFunc(disks, func(_ string, d map[string]string) bool { return !isLimited(d) })
	return disks
}

func checkTraffic(d map[string]string) error {
	if isLimited(d) && d["source"] == memorySource {
		return kiln.Errorf(kiln.Invalid, "a disk with source=%s is in memory, and has no traffic to bound; leave out "+
			"limits.*", memorySource)
	}
	_, _, err := traffic(d)
	return err
}

// checkSlowDisks refuses bounds of disks that a restricted client may not set. The error is
// Denied; what isn't valid is refused elsewhere.
func checkSlowDisks(devices map[string]map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		read, write, err := traffic(devices[name])
		if err == nil && isLimited(devices[name]) && (read.isBelow(leastBytesRestricted, leastOperationsRestricted) ||
			write.isBelow(leastBytesRestricted, leastOperationsRestricted)) {
			return kiln.Errorf(kiln.Denied, "not authorized: device %q: others wait for what a slow disk does; a restricted "+
				"client gives limits.* of at least %dMiB or %diops", name, leastBytesRestricted>>20, leastOperationsRestricted)
		}
	}
	return nil
}

// unboundWrites says of which disks this host doesn't bound all that is written.
func unboundWrites(devices map[string]map[string]string) []string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		if d["type"] == "disk" && d[writeLimit]+d[bothLimits] != "" && !box.WritesAreBounded() {
			said = append(said, "device "+strconv.Quote(name)+": this host has cgroup v1, which bounds only writes that go "+
				"around the page cache (O_DIRECT)")
		}
	}
	return said
}

// diskLimits gives the bounds of an instance's disks. They are the block devices': where
// several disks are on one, the lowest bound of each kind holds for all of them. Errors:
// NotFound and Unsupported for files that are gone or on no block device, Timeout; the bounds
// are then those of the other disks.
func (s *Set) diskLimits(ctx context.Context, i Instance) ([]box.DiskLimit, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sourceTime, errLate) // for all of them
	defer cancel()
	bounds := map[string]box.DiskLimit{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(i.ExpandedDevices)) {
		d := i.ExpandedDevices[name]
		if !isLimited(d) {
			continue
		}
		read, write, err := traffic(d)
		var disks []string
		if err == nil {
			disks, err = s.disksUnder(ctx, d)
		}
		if err != nil {
			errs = append(errs, kiln.Errorf(kiln.KindOf(err), "device %q: limits.*: %w", name, err))
		}
		for _, disk := range disks {
			l := bounds[disk]
			l.Device = disk
			for _, b := range []struct {
				has *int64
				may int64
			}{{&l.ReadBytes, read.bytes}, {&l.WriteBytes, write.bytes}, {&l.ReadOperations, read.operations},
				{&l.WriteOperations, write.operations}} {
				if b.may > 0 && (*b.has == 0 || b.may < *b.has) {
					*b.has = b.may
				}
			}
			bounds[disk] = l
		}
	}
	var list []box.DiskLimit
	for _, disk := range slices.Sorted(maps.Keys(bounds)) {
		list = append(list, bounds[disk])
	}
	return list, errors.Join(errs...)
}

// disksUnder gives the block devices that a disk is on; none for one that may be missing,
// and is.
func (s *Set) disksUnder(ctx context.Context, d map[string]string) ([]string, error) {
	dir := s.pool.TempDir() // what is in the pool is on one file system
	if fromHost(d) {
		dir = d["source"]
	}
	at, err := lookAt(ctx, dir, func(path string) (hardware.File, error) {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
		return hardware.File{Major: st.Dev_major, Minor: st.Dev_minor, Mount: st.Mnt_id}, err
	})
	if errors.Is(err, fs.ErrNotExist) && mayBeMissing(d) {
		return nil, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kiln.Errorf(kiln.NotFound, "%s isn't there any more; make it again, or remove the device", dir)
	}
	if err != nil {
		return nil, kiln.Errorf(kiln.KindOf(err), "%s: %w", dir, err)
	}
	disks, err := hardware.Host.DisksOf(at)
	if err != nil {
		return nil, kiln.Errorf(kiln.KindOf(err), "the files of %s can't be bounded: %w; leave the limits out", dir, err)
	}
	return disks, nil
}

// change makes a disk that is there as it is to be now, if only its limits are others: those
// are the container's, not the mount's.
func (diskDevice) change(_ context.Context, in *guest, was map[string]string) (done bool, err error) {
	same := func(d map[string]string) map[string]string {
		d = maps.Clone(d)
		maps.DeleteFunc(d, func(key, _ string) bool { return key == readLimit || key == writeLimit || key == bothLimits })
		return d
	}
	return maps.Equal(same(in.keys), same(was)), nil
}
