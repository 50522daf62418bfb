package instance

import (
	"cmp"
	"context"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/project"
)

// A RunningNic is an interface of a container that runs, with what it was given.
type RunningNic struct {
	box.Nic
	Project, Instance string // as the row says, or the record of what has no row; "": neither does
	UUID, Device      string
	Config            map[string]string // of the device; nil: it isn't known
}

// RunningNics gives the interfaces of the instances that run.
func (s *Set) RunningNics(ctx context.Context) ([]RunningNic, error) {
	list, err := s.List(project.InAll(ctx))
	if err != nil {
		return nil, err
	}
	var nics []RunningNic
	for _, i := range list {
		if l := s.runs(i.Options[UUIDKey]); l != nil {
			nics = append(nics, s.nicsOf(i, l)...)
		}
	}
	return nics, nil
}

// UnknownNics gives the interfaces of what runs and has no row.
func (s *Set) UnknownNics() []RunningNic {
	s.strays.mu.Lock()
	defer s.strays.mu.Unlock()
	var nics []RunningNic
	for _, one := range s.strays.list {
		nics = append(nics, one.nics...)
	}
	slices.SortFunc(nics, func(a, b RunningNic) int { return cmp.Compare(a.UUID+a.MAC, b.UUID+b.MAC) })
	return nics
}

// nicsOf gives the interfaces of a container: those that liblxc was told of, which a reboot
// brings back, and those that came since.
func (s *Set) nicsOf(i Instance, l *live) []RunningNic {
	uuid := i.Options[UUIDKey]
	var nics []RunningNic
	started, err := l.box.StartNics()
	if err != nil {
		s.warn("look at the interfaces of what runs, "+uuid, err)
	}
	for _, n := range started {
		nics = append(nics, RunningNic{Nic: n, Project: i.Project, Instance: i.Name, UUID: uuid})
	}
	p := s.plugs(i, l)
	for device, has := range p.Now {
		if has.Device["type"] != "nic" {
			continue
		}
		n := RunningNic{Project: i.Project, Instance: i.Name, UUID: uuid, Device: device, Config: has.Device, Nic: box.Nic{
			Kind: NicKind(has.Device), Name: has.Notes[nicNameNote], Parent: has.Device["parent"],
			HostName: has.Notes[nicHostNote], MAC: has.Notes[nicMACNote]}}
		at := slices.IndexFunc(nics, func(o RunningNic) bool { return o.MAC == n.MAC && o.HostName == n.HostName })
		if at < 0 {
			nics = append(nics, n)
		} else {
			nics[at].Device, nics[at].Config = n.Device, n.Config
		}
	}
	return nics
}

// strayIDs gives the ranges of the host's ids that isolated containers without a row have.
func (s *Set) strayIDs() []box.IDMap {
	s.strays.mu.Lock()
	defer s.strays.mu.Unlock()
	var taken []box.IDMap
	for _, one := range s.strays.list {
		for _, m := range one.ids {
			if m.Host != s.ids[0].Host { // which all have that aren't isolated
				taken = append(taken, m)
			}
		}
	}
	return taken
}

// checkStrayHostName refuses the name of a host's interface that a container without a row
// has, also while it reboots and the interface isn't there. The error is Conflict.
func (s *Set) checkStrayHostName(d map[string]string) error {
	for _, n := range s.UnknownNics() {
		if d["host_name"] != "" && n.HostName == d["host_name"] {
			return kiln.Errorf(kiln.Conflict, "host_name: the interface %q is that of %s, which runs and the database doesn't "+
				"know; take another host_name", n.HostName, cmp.Or(n.Instance, "container "+n.UUID))
		}
	}
	return nil
}
