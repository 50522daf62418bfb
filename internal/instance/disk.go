package instance

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// diskDevice is the root disk, a file or directory of this host, or memory.
type diskDevice struct{}

// memorySource is the source of a disk that is in memory.
const memorySource = "tmpfs:"

// fromHost reports whether a device shows files of this host.
func fromHost(d map[string]string) bool {
	return d["type"] == "disk" && d["source"] != "" && d["source"] != memorySource && d["pool"] == ""
}

// VolumeOf gives the storage volume that a device shows; "" for none.
func VolumeOf(d map[string]string) string {
	if d["type"] != "disk" || d["pool"] == "" || isRoot(d) {
		return ""
	}
	return d["source"]
}

// mayBeMissing reports whether an instance starts without a device of which this host
// has nothing.
func mayBeMissing(d map[string]string) bool {
	return kiln.IsTrue(d["optional"]) || d["required"] != "" && !kiln.IsTrue(d["required"])
}

func (diskDevice) check(d map[string]string) error {
	if err := checkKeys("disk", d, option.Names(diskKeys()), map[string]string{
		"size.state": "", "boot.priority": "",
		"io.cache": "", "io.bus": "", "io.threads": "", "ceph.cluster_name": "", "ceph.user_name": "", "wwn": "",
		"propagation": "what is mounted on either side is never seen on the other",
		"initial.uid": "", "initial.gid": "", "initial.mode": "",
	}); err != nil {
		return err
	}
	if d["path"] == "" {
		return kiln.Errorf(kiln.Invalid, "path= is missing: where the disk is in the instance; \"/\" is the root disk")
	}
	if !path.IsAbs(d["path"]) || path.Clean(d["path"]) != d["path"] {
		return kiln.Errorf(kiln.Invalid, "path %q is not a clean absolute path", d["path"])
	}
	for _, key := range []string{"readonly", "optional", "required", "recursive", "shift"} {
		if err := checkBool(d[key]); err != nil {
			return kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
		}
	}
	if d["optional"] != "" && d["required"] != "" && kiln.IsTrue(d["optional"]) == kiln.IsTrue(d["required"]) {
		return kiln.Errorf(kiln.Invalid, "optional=%s contradicts required=%s; leave out optional", d["optional"],
			d["required"])
	}
	if _, err := mountFlags(d["raw.mount.options"]); err != nil {
		return err
	}
	if err := checkTraffic(d); err != nil {
		return err
	}
	if isRoot(d) {
		return checkRoot(d)
	}
	return checkSource(d)
}

func checkRoot(d map[string]string) error {
	if d["pool"] != "" && d["pool"] != "default" {
		return kiln.Errorf(kiln.NotFound, "no storage pool %q; kiln has the one called \"default\"", d["pool"])
	}
	for _, key := range []string{"source", "shift", "recursive", "raw.mount.options", "optional", "required"} {
		if d[key] != "" {
			return kiln.Errorf(kiln.Invalid, "the root disk takes no %s", key)
		}
	}
	if d["size"] != "" {
		return kiln.Errorf(kiln.Unsupported, "\"size\" is not supported: kiln doesn't bound what a root disk takes; "+
			"leave it out")
	}
	return nil
}

func checkSource(d map[string]string) error {
	source := d["source"]
	switch {
	case d["pool"] != "":
		return checkVolume(d)
	case source == memorySource && d["size"] != "":
		if n, err := kiln.ParseSize(d["size"]); err != nil || n <= 0 {
			return kiln.Errorf(kiln.Invalid, "size %q is not a size of more than nothing, such as 64MiB", d["size"])
		}
		return nil
	case source == memorySource:
		return nil
	case d["size"] != "":
		return kiln.Errorf(kiln.Unsupported, "\"size\" is not supported: the files are this host's, and kiln doesn't bound "+
			"what they take; it is for source=%s", memorySource)
	case !path.IsAbs(source):
		return kiln.Errorf(kiln.Invalid, "source %q is neither an absolute path of this host nor %s", source, memorySource)
	}
	// Elsewhere a look could wait for a server; a start says it then.
	if strings.HasPrefix(path.Clean(source), "/dev/") {
		if fi, err := os.Stat(source); err == nil && fi.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice {
			return kiln.Errorf(kiln.Unsupported, "source %q is a block device; mount it on this host and use the directory as "+
				"the source", source)
		}
	}
	return nil
}

// checkVolume checks a disk that is a storage volume.
func checkVolume(d map[string]string) error {
	if d["pool"] != "default" {
		return kiln.Errorf(kiln.NotFound, "no storage pool %q; kiln has the one called \"default\"", d["pool"])
	}
	if d["size"] != "" {
		return kiln.Errorf(kiln.Unsupported, "\"size\" is not supported: kiln doesn't bound what a storage volume takes; "+
			"leave it out")
	}
	if d["shift"] != "" && !kiln.IsTrue(d["shift"]) {
		return kiln.Errorf(kiln.Unsupported, "shift=%s is not supported: the owners of the files of a storage volume are "+
			"always the instance's; leave it out", d["shift"])
	}
	if d["source"] == "" {
		return kiln.Errorf(kiln.Invalid, "source= is missing: the storage volume to show at %s; see: kiln storage volume "+
			"list default", d["path"])
	}
	return kiln.CheckVolumeName(d["source"])
}

// mountFlags reads raw.mount.options: those of mount(8) that are of a mount, and not of
// the file system that is mounted.
func mountFlags(options string) (flags int, err error) {
	known := map[string]int{
		"rw": 0, "ro": unix.MOUNT_ATTR_RDONLY, "suid": 0, "nosuid": unix.MOUNT_ATTR_NOSUID, "dev": 0,
		"nodev": unix.MOUNT_ATTR_NODEV, "exec": 0, "noexec": unix.MOUNT_ATTR_NOEXEC, "relatime": 0, "atime": 0,
		"noatime": unix.MOUNT_ATTR_NOATIME, "nodiratime": unix.MOUNT_ATTR_NODIRATIME,
		"strictatime": unix.MOUNT_ATTR_STRICTATIME, "nosymfollow": unix.MOUNT_ATTR_NOSYMFOLLOW,
	}
	if options == "" {
		return 0, nil
	}
	for o := range strings.SplitSeq(options, ",") {
		flag, ok := known[o]
		if !ok {
			return 0, kiln.Errorf(kiln.Invalid, "raw.mount.options: %q isn't an option that a directory of this host can be "+
				"seen with; those are %s", o, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		flags |= flag
	}
	if flags&unix.MOUNT_ATTR_NOATIME != 0 && flags&unix.MOUNT_ATTR_STRICTATIME != 0 {
		return 0, kiln.Errorf(kiln.Invalid, "raw.mount.options: noatime contradicts strictatime")
	}
	return flags, nil
}

// mount is what a box is given for a disk.
func (diskDevice) mount(ctx context.Context, in *guest) (box.Mount, error) {
	d := in.keys
	m := box.Mount{Name: in.mountName(), Source: d["source"], Target: d["path"],
		ReadOnly: kiln.IsTrue(d["readonly"]), Optional: mayBeMissing(d), Recursive: kiln.IsTrue(d["recursive"])}
	var err error
	if m.Flags, err = mountFlags(d["raw.mount.options"]); err != nil {
		return m, err
	}
	ids := in.ids()
	if d["source"] == memorySource {
		m.Memory = &box.Memory{}
		if len(ids) > 0 {
			m.Memory.Owner = ids[0].Host
		}
		if d["size"] != "" {
			m.Memory.Bytes, err = kiln.ParseSize(d["size"])
		}
		return m, err
	}
	shift := kiln.IsTrue(d["shift"])
	if VolumeOf(d) != "" {
		if m.Source, err = in.volumeFiles(ctx); err != nil {
			return m, err
		}
		m.Flags |= unix.MOUNT_ATTR_NODEV // whoever made device nodes in it
		shift = true
	}
	if shift && ids != nil {
		m.IDs, err = in.set.pool.UserNS(ctx, volumeIDs(ids))
	}
	return m, err
}

// volumeFiles is the directory of the storage volume that a disk shows; "" where it may be
// missing and is. Errors: NotFound, Integrity.
func (g *guest) volumeFiles(ctx context.Context) (string, error) {
	ctx, err := g.set.in(ctx, g.Project)
	if err != nil {
		return "", err
	}
	n, err := volumeName(ctx, g.keys)
	if err != nil {
		return "", err
	}
	dir, err := g.set.pool.MountCustom(n)
	if mayBeMissing(g.keys) && errors.Is(err, kiln.NotFound) {
		return "", nil
	}
	return dir, err
}

// useVolumes keeps the storage volumes that devices show until the function is called that
// it gives: they are neither deleted nor restored before a row names them. The error is
// Conflict.
func (s *Set) useVolumes(ctx context.Context, devices map[string]map[string]string) (release func(), err error) {
	return keepEach(devices, func(d map[string]string) (func(), error) {
		if VolumeOf(d) == "" {
			return nil, nil
		}
		n, err := volumeName(ctx, d)
		if err != nil {
			return nil, err
		}
		return s.pool.UseCustom(n)
	})
}

// volumeName names the storage volume that a disk of an instance of ctx's project shows.
func volumeName(ctx context.Context, d map[string]string) (volume.CustomName, error) {
	in, err := project.One(ctx, project.Volumes)
	return volume.CustomName{In: in, Name: VolumeOf(d)}, err
}

// ids are those of the instance, as it was started; nil: the host's.
func (g *guest) ids() []box.IDMap {
	if g.live != nil {
		return g.set.idsOfRunning(g.Instance, g.live.box)
	}
	return g.set.idsOf(g.Instance)
}

func (t diskDevice) start(ctx context.Context, in *guest, spec *box.Spec) (later bool, err error) {
	m, err := t.mount(ctx, in)
	if m.Source == "" { // a storage volume that may be missing
		return false, err
	}
	spec.Mounts = append(spec.Mounts, m)
	return false, err
}

// mountNote is the id of a mount.
const mountNote = "mount"

func (t diskDevice) add(ctx context.Context, in *guest) error {
	m, err := t.mount(ctx, in)
	if err == nil && m.Source == "" {
		in.say("there is no storage volume %q now; it is looked for again when the instance starts", in.keys["source"])
		return nil
	}
	if err != nil {
		return err
	}
	return in.attach(ctx, m)
}

// attach mounts something in the instance. What may be missing is said to be.
func (g *guest) attach(ctx context.Context, m box.Mount) error {
	m.Name = "" // errors name the device
	id, err := g.live.box.Attach(ctx, m)
	if m.Optional && errors.Is(err, kiln.NotFound) {
		g.say("there is no %s on this host now; it is looked for again when the instance starts", m.Source)
		return nil
	}
	if err != nil {
		return err
	}
	g.note(mountNote, strconv.FormatUint(id, 10))
	return nil
}

func (diskDevice) remove(ctx context.Context, in *guest) error { return in.detach(ctx, false) }

// detach unmounts what attach mounted, or the start of the instance.
func (g *guest) detach(ctx context.Context, tidy bool) error {
	id, _ := strconv.ParseUint(g.notes[mountNote], 10, 64)
	busy, err := g.live.box.Detach(ctx, g.mountName(), id, tidy)
	if busy {
		g.say("processes of the instance still have %s open, or files of it, or mounted something inside; they keep "+
			"them until they close them", cmp.Or(g.keys["path"], g.keys["source"]))
	}
	if errors.Is(err, kiln.Conflict) {
		for name, has := range g.others {
			if name != g.device && has.Device["type"] == "disk" && has.Device["path"] == g.keys["path"] {
				err = kiln.Errorf(kiln.Conflict, "%w; the device %q is at the same path: remove that first", err, name)
			}
		}
	}
	return err
}

// checkPaths refuses two disks at one path of an instance, of which only one would be
// seen, unless they were there before. The error is Invalid.
func checkPaths(before, devices map[string]map[string]string) error {
	at := map[string]string{}
	was := func(name, path string) bool { return before[name]["type"] == "disk" && before[name]["path"] == path }
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		if d["type"] != "disk" {
			continue
		}
		other, taken := at[d["path"]]
		if !taken {
			at[d["path"]] = name
			continue
		}
		if !was(name, d["path"]) || !was(other, d["path"]) {
			return kiln.Errorf(kiln.Invalid, "the devices %q and %q are both disks at %s, and only one would be seen; give one "+
				"of them another path, or leave it out", other, name, d["path"])
		}
	}
	return nil
}

// CheckProfilePaths is checkPaths for the devices that a profile has by itself. The error
// is Invalid.
func CheckProfilePaths(before, next Profile) error { return checkPaths(before.Devices, next.Devices) }

// checkSources makes sure that what disks show is there: storage volumes, and what is of
// this host. Errors: NotFound, Invalid, Timeout when a file system doesn't answer.
func (s *Set) checkSources(ctx context.Context, devices map[string]map[string]string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, sourceTime, errLate) // for all of them
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		if VolumeOf(d) != "" && !mayBeMissing(d) {
			n, err := volumeName(ctx, d)
			if err == nil {
				_, err = s.pool.CustomFiles(n)
			}
			if errors.Is(err, kiln.NotFound) {
				err = kiln.Errorf(kiln.NotFound, "%w; or create it: kiln storage volume create default %s", err, n.Name)
			}
			if err != nil {
				return kiln.Errorf(kiln.KindOf(err), "Device %q: %w", name, err)
			}
		}
		if !fromHost(d) || mayBeMissing(d) {
			continue
		}
		_, err := lookAt(ctx, d["source"], os.Lstat)
		if ctx.Err() != nil && err == context.Cause(ctx) {
			return kiln.Errorf(kiln.KindOf(err), "Device %q: source %s: %w", name, d["source"], err)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return kiln.Errorf(kiln.Invalid, "Device %q: there is no %s on this host; make it, or say that the disk may be "+
				"missing: optional=true", name, d["source"])
		}
	}
	return nil
}

// sourceTime is how long is waited for the file systems on which the sources of disks are.
const sourceTime = 10 * time.Second

var errLate = kiln.Errorf(kiln.Timeout, "it didn't answer within %v; is it on a server that can't be reached?",
	sourceTime)

// lookAt has look see what is at a path of this host. When ctx ends first its cause is the
// error: a look can't be interrupted, and who looks holds locks.
func lookAt[T any](ctx context.Context, path string, look func(string) (T, error)) (seen T, err error) {
	type result struct {
		seen T
		err  error
	}
	done := make(chan result, 1)
	go func() {
		seen, err := look(path)
		done <- result{seen, err}
	}()
	select {
	case r := <-done:
		return r.seen, r.err
	case <-ctx.Done():
		return seen, context.Cause(ctx)
	}
}
