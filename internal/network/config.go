package network

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/option"
)

// The keys of a network's configuration that others than this package need to know.
const (
	IPv4Key = "ipv4.address"
	IPv6Key = "ipv6.address"
)

// Keys are what the configuration of a network may have.
func Keys() []option.Key {
	yes := option.Bool().Or("true")
	address := func(four bool) option.Type {
		return option.Type{Name: "address with the length of its subnet, auto or none", Default: "auto",
			Check: func(v string) error { return checkAddress(v, four) }}
	}
	return []option.Key{
		{Name: "bridge.mtu", Type: option.Type{Name: "bytes", Check: checkMTU}.Or("1500"), Help: "the largest packet"},
		{Name: "dns.domain", Type: option.Type{Name: "domain", Check: checkDomain}.Or("kiln"),
			Help: "domain of the names of instances"},
		{Name: "dns.mode", Type: option.Type{Name: "one of managed, none", Check: checkMode}.Or("managed"),
			Help: "managed: names of instances are answered"},
		{Name: IPv4Key, Type: address(true), Help: "address of the bridge, such as 10.8.0.1/24; auto: a free one is chosen"},
		{Name: "ipv4.dhcp", Type: yes, Help: "instances are given addresses by DHCP"},
		{Name: "ipv4.firewall", Type: yes, Help: "rules of the firewall let packets of the network pass"},
		{Name: "ipv4.nat", Type: yes, Help: "packets that leave the network have the address of the host"},
		{Name: IPv6Key, Type: address(false),
			Help: "address of the bridge, such as fd42:1:2:3::1/64; auto: a free one is chosen"},
		{Name: "ipv6.firewall", Type: yes, Help: "rules of the firewall let packets of the network pass"},
		{Name: "ipv6.nat", Type: yes, Help: "packets that leave the network have the address of the host"},
		{Name: "user.", Type: option.Text("text"), Help: "your own; kiln doesn't read it"},
	}
}

// others begin the keys that LXD and Incus have and kiln doesn't.
var others = []string{"bridge.", "bgp.", "dns.", "fan.", "ipv4.", "ipv6.", "maas.", "ovn.", "security.", "tunnel.",
	"volatile.", "limits.", "network", "parent", "vlan", "mtu", "gvrp"}

// Check says whether a configuration can be a network's. The errors are Invalid, and
// Unsupported for what the peers have and kiln hasn't.
func Check(config map[string]string) error {
	keys := Keys()
	for _, name := range slices.Sorted(maps.Keys(config)) {
		k, ok := option.Find(keys, name)
		hint := func() string { return kiln.DidYouMean(name, option.Names(keys)) }
		switch {
		case strings.HasPrefix(name, "user."):
		case name == "raw.dnsmasq" && config[name] != "":
			return kiln.Errorf(kiln.Invalid, "Invalid value for %q: kiln doesn't use dnsmasq", name)
		case name == "raw.dnsmasq":
		case !ok && slices.ContainsFunc(others, func(p string) bool { return strings.HasPrefix(name, p) }):
			return kiln.Errorf(kiln.Unsupported, "the network key %q is not supported by this version of kiln; leave it out%s",
				name, hint())
		case !ok:
			return kiln.Errorf(kiln.Invalid, "Unknown network key: %q%s", name, hint())
		default:
			if err := k.Check(config[name]); err != nil {
				return kiln.Errorf(kiln.Invalid, "Invalid value for %q: %w", name, err)
			}
		}
	}
	return nil
}

// checkAddress accepts "none", "auto", and an address for the bridge with the length
// of its subnet.
func checkAddress(v string, four bool) error {
	if v == "none" || v == "auto" {
		return nil
	}
	p, err := netip.ParsePrefix(v)
	example := map[bool]string{true: "10.8.0.1/24", false: "fd42:1:2:3::1/64"}[four]
	switch {
	case err != nil || p.Addr().Is4() != four || p.Addr().Is4In6():
		return fmt.Errorf("%q is neither none, auto nor an address with the length of its subnet such as %s", v, example)
	case p.Addr() == p.Masked().Addr():
		return fmt.Errorf("%q is the address of the subnet; the bridge needs one in it, such as %s", v, p.Addr().Next())
	case four && (p.Bits() > 29 || p.Bits() < 8 || p.Addr() == lastAddr(p)):
		return fmt.Errorf("%q: the subnet's length has to be from 8 to 29, and the address not its last", v)
	case !four && p.Bits() != 64:
		return fmt.Errorf("%q: the subnet's length has to be 64, since instances make their own addresses", v)
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Addr().Is4() &&
		p.Addr().As4()[0] >= 240:
		return fmt.Errorf("%q is not an address for a subnet of instances", v)
	}
	return nil
}

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func checkDomain(v string) error {
	for _, l := range strings.Split(v, ".") {
		if !label.MatchString(l) || len(v) > 200 {
			return fmt.Errorf("%q is not a domain in lower case such as kiln or dev.example", v)
		}
	}
	return nil
}

func checkMode(v string) error {
	if v != "managed" && v != "none" {
		return fmt.Errorf("%q is neither managed nor none", v)
	}
	return nil
}

func checkMTU(v string) error {
	if n, err := strconv.Atoi(v); err != nil || n < 1280 || n > 65535 {
		return fmt.Errorf("%q is not a number of bytes from 1280 to 65535", v)
	}
	return nil
}

var interfaceName = regexp.MustCompile(`^[a-zA-Z0-9][-_.a-zA-Z0-9]{1,14}$`)

// CheckName says whether a network can have a name: that of its interface. The error
// is Invalid.
func CheckName(name string) error {
	if !interfaceName.MatchString(name) || name == "lo" || name == "all" || name == "default" {
		return kiln.Errorf(kiln.Invalid, "Invalid network name %q: it has 2 to 15 letters, digits and - _ . and begins "+
			"with a letter or digit", name)
	}
	return nil
}

// Plan reads a configuration that Check let through. Addresses that are "auto" are not
// valid yet.
func Plan(name string, config map[string]string) Network {
	n := Network{Name: name, Domain: "kiln", DHCP: isOn(config["ipv4.dhcp"]), DNS: config["dns.mode"] != "none",
		NAT4: isOn(config["ipv4.nat"]), NAT6: isOn(config["ipv6.nat"]),
		Firewall4: isOn(config["ipv4.firewall"]), Firewall6: isOn(config["ipv6.firewall"]), DNSPort: dnsPort}
	if d := config["dns.domain"]; d != "" {
		n.Domain = d
	}
	n.MTU, _ = strconv.Atoi(config["bridge.mtu"])
	n.IPv4, _ = netip.ParsePrefix(config[IPv4Key])
	n.IPv6, _ = netip.ParsePrefix(config[IPv6Key])
	return n
}

// isOn reads a boolean that is true unless it is said to be false.
func isOn(v string) bool { return v == "" || kiln.IsTrue(v) }
