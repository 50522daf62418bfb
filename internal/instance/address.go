package instance

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/project"
)

const addressSuffix = ".hwaddr"

// AddressKey is the option that keeps the hardware address of an interface, by the name of the
// device, as long as the instance has it. LXD's clients look for it there, and take it along when
// they move an instance.
func AddressKey(device string) string { return volatilePrefix + device + addressSuffix }

// IsAddressKey reports whether an option is AddressKey of some device.
func IsAddressKey(key string) bool {
	device, ok := strings.CutPrefix(key, volatilePrefix)
	device, address := strings.CutSuffix(device, addressSuffix)
	return ok && address && device != ""
}

// Addresses gives those of some options that keep hardware addresses.
func Addresses(options map[string]string) map[string]string {
	list := maps.Clone(options)
	maps.DeleteFunc(list, func(key, _ string) bool { return !IsAddressKey(key) })
	return list
}

// parseAddress reads the hardware address of one interface. The error is Invalid.
func parseAddress(v string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(v)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return nil, kiln.Errorf(kiln.Invalid, "hwaddr %q is not an address of one interface such as 00:16:3e:12:34:56", v)
	}
	return mac, nil
}

// Address gives the hardware address of an interface of an instance with some options: what its
// device says, or what is kept. Until something is, it follows from what names the instance
// through rebuilds.
func Address(options map[string]string, device string, d map[string]string) net.HardwareAddr {
	for _, v := range []string{d["hwaddr"], options[AddressKey(device)]} {
		if mac, err := parseAddress(v); err == nil {
			return mac
		}
	}
	return network.MAC(BackupsOf(options), device)
}

// keepsAddress reports whether a device is an interface whose address is to be kept.
func keepsAddress(d map[string]string) bool {
	return d["type"] == "nic" && NicKind(d) != box.Physical && d["hwaddr"] == ""
}

// addresses gives the options that keep the hardware addresses of an instance that is to be made of
// files: those that it had elsewhere, unless an instance here has them, as said tells then.
func (s *Set) addresses(ctx context.Context, n New, f *Files) (keep map[string]string, said []string, err error) {
	had := Addresses(n.Options)
	profiles, err := s.profiles(ctx)
	if err != nil {
		return nil, nil, err
	}
	used, err := pick(n.Profiles, profiles)
	if err != nil {
		return nil, nil, err
	}
	var taken map[string]db.Name
	if len(had) > 0 {
		rows, err := s.db.Instances(project.InAll(ctx))
		if err != nil {
			return nil, nil, err
		}
		taken = holders(rows)
	}
	keep = map[string]string{}
	_, devices := expand(n.Config, used)
	for _, device := range slices.Sorted(maps.Keys(devices)) {
		if !keepsAddress(devices[device]) {
			continue
		}
		key := AddressKey(device)
		mac := Address(map[string]string{UUIDKey: f.UUID, key: had[key]}, device, nil).String()
		if holder, is := taken[mac]; is {
			who := "another instance"
			if maySee(ctx, holder.Project) {
				who = fmt.Sprintf("instance %q", holder)
			}
			said = append(said, fmt.Sprintf("the interface %s of instance %q has another hardware address than it had: %s is "+
				"that of %s here", device, n.Name, mac, who))
			mac = network.MAC(f.UUID, device).String()
		}
		keep[key] = mac
	}
	return keep, said, nil
}

// holders names the instances that have hardware addresses.
func holders(rows []db.Instance) map[string]db.Name {
	by := map[string]db.Name{}
	add := func(v string, name db.Name) {
		if mac, err := parseAddress(v); err == nil {
			by[mac.String()] = name
		}
	}
	for _, r := range rows {
		name := db.Name{Project: r.Project, Name: r.Name}
		for _, v := range Addresses(r.Config) {
			add(v, name)
		}
		for _, d := range r.Devices {
			add(d["hwaddr"], name)
		}
	}
	return by
}

// connectNic gives an interface its bridge and its addresses, and has the instance keep the hardware
// address.
func (s *Set) connectNic(ctx context.Context, i Instance, device string, d map[string]string) (box.Nic, Resolver,
	error) {
	n, resolver, err := s.Networks.Connect(ctx, i, device, d)
	key := AddressKey(device)
	if err != nil || n.MAC == "" || !keepsAddress(d) || i.Options[key] == n.MAC {
		return n, resolver, err
	}
	if err := s.edit(ctx, i.Name, func(r *db.Instance) { r.Config[key] = n.MAC }); err != nil {
		// As on a full disk. It is the same the next time.
		s.warn(fmt.Sprintf("keep the hardware address of the interface %q of instance %q", device, i.Name), err)
	}
	return n, resolver, nil
}
