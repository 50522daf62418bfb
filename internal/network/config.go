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
)

// The keys of a network's configuration that others than this package need to know.
const (
	IPv4Key = "ipv4.address"
	IPv6Key = "ipv6.address"
)

// keys are what the configuration of a network may have, besides user.*.
func keys() map[string]func(string) error {
	boolean := func(v string) error { _, err := kiln.ParseBool(v); return err }
	return map[string]func(string) error{
		IPv4Key:         func(v string) error { return checkAddress(v, true) },
		IPv6Key:         func(v string) error { return checkAddress(v, false) },
		"ipv4.nat":      boolean,
		"ipv6.nat":      boolean,
		"ipv4.firewall": boolean,
		"ipv6.firewall": boolean,
		"ipv4.dhcp":     boolean,
		"dns.domain":    checkDomain,
		"dns.mode":      checkMode,
		"bridge.mtu":    checkMTU,
		"raw.dnsmasq":   func(string) error { return fmt.Errorf("kiln doesn't use dnsmasq") },
	}
}

// others begin the keys that LXD and Incus have and kiln doesn't.
var others = []string{"bridge.", "bgp.", "dns.", "fan.", "ipv4.", "ipv6.", "maas.", "ovn.", "security.", "tunnel.",
	"volatile.", "limits.", "network", "parent", "vlan", "mtu", "gvrp"}

// Check says whether a configuration can be a network's. The errors are Invalid, and
// Unsupported for what the peers have and kiln hasn't.
func Check(config map[string]string) error {
	known := keys()
	for _, key := range slices.Sorted(maps.Keys(config)) {
		v := config[key]
		check, ok := known[key]
		switch {
		case strings.HasPrefix(key, "user."), ok && v == "":
		case !ok && slices.ContainsFunc(others, func(p string) bool { return strings.HasPrefix(key, p) }):
			return kiln.Errorf(kiln.Unsupported, "the network key %q is not supported by this version of kiln; leave it out%s",
				key, kiln.DidYouMean(key, slices.Collect(maps.Keys(known))))
		case !ok:
			return kiln.Errorf(kiln.Invalid, "Unknown network key: %q%s", key,
				kiln.DidYouMean(key, slices.Collect(maps.Keys(known))))
		default:
			if err := check(v); err != nil {
				return kiln.Errorf(kiln.Invalid, "Invalid value for %q: %w", key, err)
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
