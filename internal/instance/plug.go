package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/project"
)

// plugs say which devices an instance that runs has, in a file beside its box. What is
// there is written before it is there, and what is gone after it is gone: when the daemon
// dies in between, the next one makes the instance as its row says.
type plugs struct {
	path    string
	written map[string]plugged // what the file says there is now

	Life  string             `json:"life"`  // of the box; "": it is being started
	Start map[string]plugged `json:"start"` // those it was started with, which a reboot brings back
	Now   map[string]plugged `json:"now"`
}

// plugged is a device that is there.
type plugged struct {
	Device map[string]string `json:"device"`
	Notes  map[string]string `json:"notes,omitempty"`
}

const plugsFile = "devices.json"

// plugTime is how long the devices of one instance may take to follow a change that
// isn't the instance's own.
const plugTime = 30 * time.Second

func (s *Set) plugsPath(i Instance) string {
	return filepath.Join(s.boxDir(db.Instance{Config: i.Options}), plugsFile)
}

// newPlugs begins the list of an instance that is being started.
func (s *Set) newPlugs(i Instance, start map[string]plugged) (*plugs, error) {
	p := &plugs{path: s.plugsPath(i), Start: start, Now: maps.Clone(start)}
	return p, errors.Join(os.MkdirAll(filepath.Dir(p.path), 0o700), p.save())
}

// plugs gives the devices that an instance has. One that rebooted has those of its start.
func (s *Set) plugs(i Instance, l *live) *plugs {
	p := &plugs{path: s.plugsPath(i)}
	b, err := disk.ReadFile(p.path)
	if err != nil || json.Unmarshal(b, p) != nil || p.Start == nil {
		// A kiln that didn't write it changed no devices.
		p.Start = map[string]plugged{}
		for name, d := range i.ExpandedDevices {
			if !isRoot(d) {
				p.Start[name] = plugged{Device: d}
			}
		}
		p.Life = ""
	}
	if life := l.box.Life(); p.Life != life || p.Now == nil {
		p.Life, p.Now = life, maps.Clone(p.Start)
	} else {
		p.written = maps.Clone(p.Now)
	}
	return p
}

// save writes down which devices there are.
func (p *plugs) save() error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := disk.Rewrite(p.path, 0o600, b); err != nil {
		return err
	}
	p.written = maps.Clone(p.Now)
	return nil
}

// plug gives an instance a device.
func (s *Set) plug(ctx context.Context, i Instance, l *live, p *plugs, name string, d map[string]string) (said []string,
	err error) {
	t, ok := deviceTypes()[d["type"]]
	if !ok {
		return nil, checkDevice(d)
	}
	p.Now[name] = plugged{Device: d}
	if !maps.Equal(p.written[name].Device, d) { // what was taken away may be there again without room on the disk
		if err := p.save(); err != nil {
			delete(p.Now, name)
			return nil, kiln.Errorf(kiln.KindOf(err), "device %q of instance %q: %w", name, i.Name, err)
		}
	}
	in := &guest{Instance: i, set: s, live: l, device: name, keys: d, others: p.Now}
	if err := t.add(ctx, in); err != nil {
		delete(p.Now, name)
		return nil, kiln.Errorf(kiln.KindOf(err), "device %q of instance %q: %w", name, i.Name, errors.Join(err, p.save()))
	}
	p.Now[name] = plugged{Device: d, Notes: in.notes}
	return in.said, p.save()
}

// unplug takes a device from an instance.
func (s *Set) unplug(ctx context.Context, i Instance, l *live, p *plugs, name string) (said []string, err error) {
	has := p.Now[name]
	if t, ok := deviceTypes()[has.Device["type"]]; ok {
		in := &guest{Instance: i, set: s, live: l, device: name, keys: has.Device, notes: has.Notes, others: p.Now}
		if err := t.remove(ctx, in); err != nil {
			return nil, kiln.Errorf(kiln.KindOf(err), "device %q of instance %q: %w", name, i.Name, err)
		}
		said = in.said
	}
	delete(p.Now, name)
	if err := s.db.WithReserve(p.save); err != nil {
		return said, kiln.Errorf(kiln.KindOf(err), "device %q of instance %q: %w", name, i.Name, err)
	}
	return said, nil
}

// change makes a device what it is to be without taking it away, where that can be done.
func (s *Set) change(ctx context.Context, i Instance, l *live, p *plugs, name string, d map[string]string) (done bool,
	err error) {
	has, there := p.Now[name]
	t, ok := deviceTypes()[d["type"]].(changeable)
	if !there || !ok || has.Device["type"] != d["type"] || maps.Equal(has.Device, d) {
		return false, nil
	}
	in := &guest{Instance: i, set: s, live: l, device: name, keys: d, notes: has.Notes, others: p.Now}
	done, err = t.change(ctx, in, has.Device)
	if err != nil {
		return false, kiln.Errorf(kiln.KindOf(err), "device %q of instance %q: %w", name, i.Name, err)
	}
	if !done {
		return false, nil
	}
	p.Now[name] = plugged{Device: d, Notes: in.notes}
	return true, p.save()
}

// replug gives an instance that runs some of its devices, by name, as they are to be.
// When that fails it has again what it had. Nothing happens to a device that is as it
// should be. undo makes it as it was.
func (s *Set) replug(ctx context.Context, i Instance, l *live, want map[string]map[string]string, names []string) (
	said []string, undo func() error, err error) {
	p := s.plugs(i, l)
	had := maps.Clone(p.Now)
	undo = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), plugTime)
		defer cancel()
		var errs []error
		for _, name := range names { // those that came, before those that were in their place
			if now, ok := p.Now[name]; ok && !maps.Equal(now.Device, had[name].Device) {
				_, err := s.unplug(ctx, i, l, p, name)
				errs = append(errs, err)
			}
		}
		for _, name := range names {
			if _, ok := p.Now[name]; !ok && had[name].Device != nil {
				_, err := s.plug(ctx, i, l, p, name, had[name].Device)
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
	step := func(f func(string) ([]string, error), name string) bool {
		var more []string
		more, err = f(name)
		said = append(said, more...)
		return err == nil
	}
	for _, name := range names {
		if _, err := s.change(ctx, i, l, p, name, want[name]); err != nil {
			return nil, nil, errors.Join(err, undo())
		}
	}
	going := map[string]map[string]string{}
	for _, name := range names {
		if now, ok := p.Now[name]; ok && (!maps.Equal(now.Device, want[name]) || isRoot(want[name])) {
			going[name] = now.Device
		}
	}
	if err := p.checkNested(i.Name, going, want, names); err != nil {
		return nil, nil, errors.Join(err, undo())
	}
	for _, name := range slices.Backward(inStartOrder(going)) { // what is mounted inside goes first
		if !step(func(n string) ([]string, error) { return s.unplug(ctx, i, l, p, n) }, name) {
			return nil, nil, errors.Join(err, undo())
		}
	}
	for _, name := range inStartOrder(want) {
		if !slices.Contains(names, name) {
			continue
		}
		d, wanted := want[name]
		if _, ok := p.Now[name]; !ok && wanted && !isRoot(d) &&
			!step(func(n string) ([]string, error) { return s.plug(ctx, i, l, p, n, d) }, name) {
			return nil, nil, errors.Join(err, undo())
		}
	}
	return said, undo, nil
}

// checkNested refuses to take a disk away, or to put one, around another that stays: the
// kernel would take that along, or nobody would see it. The error is Conflict.
func (p *plugs) checkNested(instance string, going, want map[string]map[string]string, names []string) error {
	for name, has := range p.Now {
		if _, goes := going[name]; goes || has.Device["type"] != "disk" {
			continue
		}
		for _, other := range names {
			around, what := going[other], "taken away from around it"
			if around == nil {
				around, what = want[other], "put around it"
			}
			if _, there := p.Now[other]; there && going[other] == nil || other == name || around["type"] != "disk" ||
				isRoot(around) || !strings.HasPrefix(has.Device["path"], around["path"]+"/") {
				continue
			}
			return kiln.Errorf(kiln.Conflict, "device %q of instance %q: %s, of the device %q, is mounted inside %s, which "+
				"can't be %s while the instance runs; remove %q first, or stop the instance", other, instance,
				has.Device["path"], name, around["path"], what, name)
		}
	}
	return nil
}

// changedNames are those of the devices that aren't the same in both.
func changedNames(now, next map[string]map[string]string) []string {
	both := maps.Clone(now)
	maps.Copy(both, next)
	maps.DeleteFunc(both, func(name string, _ map[string]string) bool { return maps.Equal(now[name], next[name]) })
	return slices.Sorted(maps.Keys(both))
}

// mend gives an instance that runs all devices that it should have, one after the other:
// one that can't be had is told, and keeps no other.
func (s *Set) mend(ctx context.Context, name string, l *live) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, plugTime, kiln.Errorf(kiln.Timeout, "other work on it, or its devices, "+
		"took more than %v", plugTime))
	defer cancel()
	ctx, unlock, err := s.lock(ctx, name)
	if err != nil {
		return []error{err}
	}
	defer unlock()
	i, err := s.Get(ctx, name)
	if err != nil || s.runs(i.Options[UUIDKey]) != l {
		return nil // gone, or begun anew
	}
	if err := l.box.Begun(ctx); err != nil {
		return []error{err}
	}
	p := s.plugs(i, l)
	var errs []error
	for _, device := range slices.Sorted(maps.Keys(p.Now)) {
		want := i.ExpandedDevices[device]
		if maps.Equal(p.Now[device].Device, want) && !isRoot(want) {
			errs = append(errs, s.followHardware(ctx, i, l, p, device))
			continue
		}
		if done, err := s.change(ctx, i, l, p, device, want); done || err != nil {
			errs = append(errs, err)
			continue
		}
		_, err := s.unplug(ctx, i, l, p, device)
		errs = append(errs, err)
	}
	for _, device := range slices.Sorted(maps.Keys(i.ExpandedDevices)) {
		d := i.ExpandedDevices[device]
		if _, there := p.Now[device]; there || isRoot(d) {
			continue
		}
		_, err := s.plug(ctx, i, l, p, device, d)
		errs = append(errs, err)
	}
	return append(errs, p.save())
}

// MendDevices gives the instances that run the devices that they should have: the last
// daemon may have died while it changed some, or they rebooted when there was none.
func (s *Set) MendDevices(ctx context.Context) error {
	list, err := s.List(project.InAll(ctx))
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range list {
		if l := s.runs(i.Options[UUIDKey]); l != nil {
			in, err := s.in(ctx, i.Project)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, s.mend(in, i.Name, l)...)
		}
	}
	return errors.Join(errs...)
}

// followProfile gives an instance that runs the devices that a profile has other than
// before. What couldn't be is told.
func (s *Set) followProfile(ctx context.Context, name string, names []string) []string {
	ctx, cancel := context.WithTimeoutCause(ctx, plugTime, kiln.Errorf(kiln.Timeout, "other work on it took more than %v",
		plugTime))
	defer cancel()
	var said []string
	var i Instance
	ctx, unlock, err := s.lock(ctx, name)
	if err == nil {
		defer unlock()
		i, err = s.Get(ctx, name)
	}
	if l := s.runs(i.Options[UUIDKey]); err == nil && l != nil {
		said, _, err = s.replug(ctx, i, l, i.ExpandedDevices, names)
	}
	if err != nil {
		said = append(said, fmt.Sprintf("its devices change at its next start: %v", err))
	}
	return said
}

// addLater gives an instance that was just started the devices that can't be there before
// it runs.
func (s *Set) addLater(ctx context.Context, i Instance, b *box.Box, p *plugs, later map[string]plugged) error {
	p.Life = b.Life()
	for _, name := range slices.Sorted(maps.Keys(later)) {
		said, err := s.plug(ctx, i, &live{box: b}, p, name, later[name].Device)
		if err != nil {
			return err
		}
		for _, what := range said {
			s.warn("start instance "+strconv.Quote(i.Name), errors.New(what))
		}
	}
	return p.save()
}

// endDevices ends what devices of an instance that has ended have on this host.
func (s *Set) endDevices(ctx context.Context, name string, l *live) {
	i, err := s.Get(ctx, name)
	if err != nil {
		return
	}
	s.endDevicesOf(ctx, i, l)
}

func (s *Set) endDevicesOf(ctx context.Context, i Instance, l *live) {
	for device, has := range s.plugs(i, l).Now {
		t, ok := deviceTypes()[has.Device["type"]].(outliving)
		if !ok {
			continue
		}
		in := &guest{Instance: i, set: s, live: l, device: device, keys: has.Device, notes: has.Notes}
		if err := t.ended(ctx, in); err != nil {
			s.warn("end the device "+strconv.Quote(device)+" of instance "+strconv.Quote(i.Name), err)
		}
	}
}
