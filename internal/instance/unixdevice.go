package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/option"
)

// unixDevice is a device node: one of this host, or what numbers say.
type unixDevice struct{ block bool }

func (t unixDevice) String() string {
	if t.block {
		return "unix-block"
	}
	return "unix-char"
}

func (t unixDevice) check(d map[string]string) error {
	if err := checkKeys(t.String(), d, option.Names(unixKeys()), nil); err != nil {
		return err
	}
	if d["source"] == "" && d["path"] == "" {
		return kiln.Errorf(kiln.Invalid, "source= is missing: the device node of this host, or path= where it is in the "+
			"instance")
	}
	for _, key := range []string{"source", "path"} {
		if v := d[key]; v != "" && (!path.IsAbs(v) || path.Clean(v) != v || v == "/") {
			return kiln.Errorf(kiln.Invalid, "%s %q is not a clean absolute path", key, v)
		}
	}
	if (d["major"] == "") != (d["minor"] == "") {
		return kiln.Errorf(kiln.Invalid, "major and minor go together; without both they are those of the source")
	}
	return checkNodeKeys(d)
}

// checkNodeKeys checks the keys that all devices with nodes have. The error is Invalid.
func checkNodeKeys(d map[string]string) error {
	for key, bits := range map[string]int{"major": 12, "minor": 20, "uid": 32, "gid": 32} {
		if v := d[key]; v != "" {
			if _, err := strconv.ParseUint(v, 10, bits); err != nil {
				return kiln.Errorf(kiln.Invalid, "%s %q is not a number below 2^%d", key, v, bits)
			}
		}
	}
	if v := d["mode"]; v != "" {
		if _, err := strconv.ParseUint(v, 8, 9); err != nil {
			return kiln.Errorf(kiln.Invalid, "mode %q is not one of three octal digits, such as 0660", v)
		}
	}
	if err := checkBool(d["required"]); err != nil {
		return kiln.Errorf(kiln.Invalid, "required: %w", err)
	}
	return nil
}

// numbers gives those of the device: as they are given, or of the node on this host.
// Errors: NotFound, Invalid, Timeout.
func (t unixDevice) numbers(d map[string]string) (box.Device, error) {
	n := box.Device{Block: t.block}
	if d["major"] != "" {
		n.Major, n.Minor = uint32(number(d["major"])), uint32(number(d["minor"]))
		return n, nil
	}
	source := cmp.Or(d["source"], d["path"])
	ctx, cancel := context.WithTimeoutCause(context.Background(), sourceTime, errLate)
	defer cancel()
	fi, err := lookAt(ctx, source, os.Stat)
	if errors.Is(err, errLate) {
		return n, kiln.Errorf(kiln.Timeout, "source %s: %w", source, err)
	}
	if at := new(fs.PathError); errors.As(err, &at) {
		err = at.Err // the path is said already
	}
	if err != nil {
		return n, kiln.Errorf(kiln.NotFound, "source %s: %w; name another, give major and minor, or say that it may be "+
			"missing: required=false", source, err)
	}
	want := uint32(unix.S_IFCHR)
	if t.block {
		want = unix.S_IFBLK
	}
	st := fi.Sys().(*syscall.Stat_t)
	if st.Mode&unix.S_IFMT != want {
		return n, kiln.Errorf(kiln.Invalid, "source %s is not a device node of type %s", source, t)
	}
	n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	return n, nil
}

// mount makes the node that the instance sees, and gives how.
func (t unixDevice) mount(in *guest) (box.Mount, box.Device, error) {
	n, err := t.numbers(in.keys)
	if err != nil {
		return box.Mount{}, n, err
	}
	m, err := in.makeNode(in.mountName(), in.nodePath(), cmp.Or(in.keys["path"], in.keys["source"]), n)
	return m, n, err
}

// makeNode makes the node of a device at a path of this host, with the owner and the mode that
// the device has, and gives how it is mounted at target in the instance. Errors: Invalid,
// Unsupported.
func (g *guest) makeNode(name, source, target string, n box.Device) (box.Mount, error) {
	m := box.Mount{Name: name, Source: source, Target: target, Device: true,
		Flags: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
	owner := [2]uint32{}
	for i, key := range []string{"uid", "gid"} {
		id, err := g.hostID(uint32(number(g.keys[key])))
		if err != nil {
			return m, kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
		}
		owner[i] = id
	}
	mode, err := strconv.ParseUint(cmp.Or(g.keys["mode"], "0660"), 8, 9)
	if err != nil {
		return m, err
	}
	kind := uint32(unix.S_IFCHR)
	if n.Block {
		kind = unix.S_IFBLK
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(source), 0o700), removeIfThere(source)); err != nil {
		return m, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(source), &st); err == nil && st.Flags&unix.ST_NODEV != 0 {
		return m, kiln.Errorf(kiln.Unsupported, "%s is on a file system that is mounted with nodev, so that no device "+
			"can be made for an instance", filepath.Dir(source))
	}
	err = unix.Mknod(source, kind|0o600, int(unix.Mkdev(n.Major, n.Minor)))
	if err == nil {
		err = errors.Join(os.Lchown(source, int(owner[0]), int(owner[1])), os.Chmod(source, fs.FileMode(mode)))
	}
	if err != nil {
		return m, fmt.Errorf("make the device node: %w", err)
	}
	return m, nil
}

// nodePath is where the node of a device is, on this host.
func (g *guest) nodePath() string {
	return filepath.Join(g.set.boxDir(db.Instance{Config: g.Options}), "devices", "unix."+url.PathEscape(g.device))
}

// hostID gives the id on this host that stands for one of the instance's. The error is
// Invalid when there is none.
func (g *guest) hostID(id uint32) (uint32, error) {
	ids := g.ids()
	for _, m := range ids {
		if id >= m.Container && id-m.Container < m.Size {
			return m.Host + id - m.Container, nil
		}
	}
	if ids == nil {
		return id, nil
	}
	return 0, kiln.Errorf(kiln.Invalid, "the instance has no id %d", id)
}

// deviceNote says which device a node is.
const deviceNote = "device"

func (t unixDevice) start(_ context.Context, in *guest, spec *box.Spec) (later bool, err error) {
	m, n, err := t.mount(in)
	if errors.Is(err, kiln.NotFound) && mayBeMissing(in.keys) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	in.note(deviceNote, n.String())
	spec.Mounts, spec.Devices = append(spec.Mounts, m), append(spec.Devices, n)
	return false, nil
}

func (t unixDevice) add(ctx context.Context, in *guest) error {
	m, n, err := t.mount(in)
	if errors.Is(err, kiln.NotFound) && mayBeMissing(in.keys) {
		in.say("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	in.note(deviceNote, n.String())
	if err := in.live.box.AllowDevice(ctx, n); err != nil {
		return err
	}
	if err := in.attach(ctx, m); err != nil {
		return errors.Join(err, in.deny(ctx, in.notes[deviceNote]), removeIfThere(m.Source))
	}
	return nil
}

func (t unixDevice) remove(ctx context.Context, in *guest) error {
	if err := in.detach(ctx, true); err != nil {
		return err
	}
	return errors.Join(in.deny(ctx, in.notes[deviceNote]), removeIfThere(in.nodePath()))
}

// deny takes the right to use a device, as notes have it, from an instance, unless another
// device gives it.
func (g *guest) deny(ctx context.Context, device string) error {
	n, err := box.ParseDevice(device)
	if err != nil {
		return nil // it was missing
	}
	given := func(notes map[string]string) bool {
		return slices.Contains(slices.Collect(maps.Values(notes)), device)
	}
	for name, other := range g.others {
		if name != g.device && given(other.Notes) {
			return nil
		}
	}
	return g.live.box.DenyDevice(ctx, n)
}
