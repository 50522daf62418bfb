// Package proxy carries connections between a host and a container: whoever connects to
// an address of one is connected to an address of the other. That is done by a process of
// its own, proxyd, which outlives the daemon.
//
// It doesn't know what an instance is, nor where devices are kept: it is given a Proxy,
// and the directory of a box.
package proxy

import (
	"net/netip"
	"path"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// mostPorts is how many one device may listen on: each is an open socket.
const mostPorts = 1024

// An Address is where a proxy listens, or what it connects to.
type Address struct {
	Protocol string // "tcp", "udp" or "unix"
	Host     netip.Addr
	Ports    []uint16
	Path     string // of a socket; "@name": an abstract one, see unix(7)
}

// ParseAddress reads an address as LXD's manual has it: tcp:0.0.0.0:80,8000-8010,
// udp:[::1]:53, unix:/run/web.sock, unix:@name. The error is Invalid.
func ParseAddress(s string) (Address, error) {
	wrong := func(what string) (Address, error) {
		return Address{}, kiln.Errorf(kiln.Invalid, "the address %q %s; there are tcp:0.0.0.0:80, udp:[::]:53-60,123, "+
			"unix:/path and unix:@name", s, what)
	}
	protocol, rest, _ := strings.Cut(s, ":")
	a := Address{Protocol: protocol}
	switch protocol {
	case "unix":
		a.Path = rest
		name, abstract := strings.CutPrefix(rest, "@")
		switch {
		case strings.ContainsRune(rest, 0) || len(rest) > 107:
			return wrong("has a name of more than 107 bytes, or with a zero")
		case abstract && name == "":
			return wrong("has no name")
		case !abstract && (!path.IsAbs(rest) || path.Clean(rest) != rest || rest == "/"):
			return wrong("is not a clean absolute path")
		}
		return a, nil
	case "tcp", "udp":
	default:
		return wrong("has no protocol that is known")
	}
	at := strings.LastIndexByte(rest, ':')
	if at < 0 {
		return wrong("has no port")
	}
	host, ports := rest[:at], rest[at+1:]
	if h, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(h, "]") {
		host = strings.TrimSuffix(h, "]")
	} else if strings.Contains(host, ":") {
		return wrong("has an IPv6 address without brackets")
	}
	var err error
	if a.Host, err = netip.ParseAddr(host); err != nil || a.Host.Zone() != "" {
		return wrong("has no address of IPv4 or IPv6; names are not looked up")
	}
	a.Host = a.Host.Unmap()
	if a.Ports, err = ParsePorts(ports); err != nil {
		return wrong(err.Error())
	}
	return a, nil
}

// ParsePorts reads a list of ports and of ranges of them: "80,8000-8010". The error says
// what a port is.
func ParsePorts(s string) ([]uint16, error) {
	var list []uint16
	seen := map[uint16]bool{}
	for _, part := range strings.Split(s, ",") {
		low, high, ranged := strings.Cut(part, "-")
		first, err := strconv.ParseUint(low, 10, 16)
		last := first
		if err == nil && ranged {
			last, err = strconv.ParseUint(high, 10, 16)
		}
		if err != nil || first == 0 || last < first {
			return nil, kiln.Errorf(kiln.Invalid, "has %q where a port from 1 to 65535, or a range such as 80-90, is wanted",
				part)
		}
		for p := first; p <= last; p++ {
			if seen[uint16(p)] {
				return nil, kiln.Errorf(kiln.Invalid, "has port %d twice", p)
			}
			if len(list) == mostPorts {
				return nil, kiln.Errorf(kiln.Invalid, "has more than %d ports", mostPorts)
			}
			seen[uint16(p)] = true
			list = append(list, uint16(p))
		}
	}
	return list, nil
}

// one gives the address that the i-th port has, for messages and system calls.
func (a Address) one(i int) string {
	if a.Protocol == "unix" {
		return a.Path
	}
	return netip.AddrPortFrom(a.Host, a.Ports[i]).String()
}

// count is how many sockets an address comes to.
func (a Address) count() int {
	if a.Protocol == "unix" {
		return 1
	}
	return len(a.Ports)
}

// Shown is an address as an error names it.
func (a Address) Shown(i int) string { return a.Protocol + ":" + a.one(i) }
