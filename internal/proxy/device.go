package proxy

import (
	"strconv"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/option"
)

// A Device is what the keys of a device of type "proxy" come to.
type Device struct {
	Listen, Connect Address
	Inside          bool // it listens in the container and connects on the host; else the other way
	NAT             bool // the kernel does it, and proxyd nothing
	Header          bool // who connects is told by the PROXY protocol, version 1
	// Of a socket at a path that is listened at, as its side sees them.
	UID, GID uint32
	Mode     uint32
	// Who connects, as the side sees it that is connected to.
	AsUID, AsGID uint32
}

// Keys are the configuration keys of the device.
func Keys() []option.Key {
	id, off := option.Number("number").Or("0"), option.Bool().Or("false")
	address := option.Text("protocol and address, such as tcp:127.0.0.1:80 or unix:/run/x.sock")
	return []option.Key{
		{Name: "bind", Type: option.OneOf("host", "instance").Or("host"), Help: "on which side it listens"},
		{Name: "connect", Type: address, Help: "where connections are made to; needed"},
		{Name: "gid", Type: id, Help: "group of the socket", When: "listen=unix:/path"},
		{Name: "listen", Type: address, Help: "where it listens, also at several ports: tcp:0.0.0.0:80,443; needed"},
		{Name: "mode", Type: option.Text("octal number").Or("0644"), Help: "permissions of the socket",
			When: "listen=unix:/path"},
		{Name: "nat", Type: off, Help: "rules of the firewall do it, and the instance sees who connects",
			When: "bind=host"},
		{Name: "proxy_protocol", Type: off, Help: "connections begin with a header that says who connects", When: "not udp"},
		{Name: "security.gid", Type: id, Help: "group that the proxy works as"},
		{Name: "security.uid", Type: id, Help: "user that the proxy works as"},
		{Name: "uid", Type: id, Help: "owner of the socket", When: "listen=unix:/path"},
	}
}

// Parse reads the keys of a device. Errors: Invalid, Unsupported.
func Parse(d map[string]string) (p Device, err error) {
	for _, key := range []string{"listen", "connect"} {
		if d[key] == "" {
			return p, kiln.Errorf(kiln.Invalid, "%s= is missing: such as tcp:127.0.0.1:80", key)
		}
	}
	if p.Listen, err = ParseAddress(d["listen"]); err != nil {
		return p, kiln.Errorf(kiln.Invalid, "listen: %w", err)
	}
	if p.Connect, err = ParseAddress(d["connect"]); err != nil {
		return p, kiln.Errorf(kiln.Invalid, "connect: %w", err)
	}
	switch d["bind"] {
	case "", "host":
	case "instance", "container", "guest":
		p.Inside = true
	default:
		return p, kiln.Errorf(kiln.Invalid, "bind %q is neither host nor instance", d["bind"])
	}
	for key, to := range map[string]*bool{"nat": &p.NAT, "proxy_protocol": &p.Header} {
		if v := d[key]; v != "" {
			if *to, err = kiln.ParseBool(v); err != nil {
				return p, kiln.Errorf(kiln.Invalid, "%s: %w", key, err)
			}
		}
	}
	if err := p.numbers(d); err != nil {
		return p, err
	}
	return p, p.check()
}

func (p *Device) numbers(d map[string]string) error {
	p.Mode = 0o644
	for key, to := range map[string]*uint32{"uid": &p.UID, "gid": &p.GID, "security.uid": &p.AsUID,
		"security.gid": &p.AsGID} {
		if v := d[key]; v != "" {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil || n == 1<<32-1 {
				return kiln.Errorf(kiln.Invalid, "%s %q is not the number of a user or group", key, v)
			}
			*to = uint32(n)
		}
	}
	if v := d["mode"]; v != "" {
		n, err := strconv.ParseUint(v, 8, 32)
		if err != nil || n > 0o777 {
			return kiln.Errorf(kiln.Invalid, "mode %q is not an octal number up to 0777", v)
		}
		p.Mode = uint32(n)
	}
	if p.Listen.Protocol != "unix" || p.Listen.Path[0] == '@' {
		for _, key := range []string{"uid", "gid", "mode"} {
			if d[key] != "" {
				return kiln.Errorf(kiln.Invalid, "%s is for listen=unix:/path; leave it out", key)
			}
		}
	}
	return nil
}

// check says whether the parts fit together.
func (p Device) check() error {
	from, to := p.Listen, p.Connect
	switch {
	case (from.Protocol == "udp") != (to.Protocol == "udp"):
		return kiln.Errorf(kiln.Unsupported, "packets can't be carried by a stream: listen and connect are both udp, or "+
			"neither is")
	case to.count() != 1 && to.count() != from.count():
		return kiln.Errorf(kiln.Invalid, "listen has %d ports and connect %d; there is one to connect to, or as many",
			from.count(), to.count())
	case p.Header && from.Protocol == "udp":
		return kiln.Errorf(kiln.Invalid, "proxy_protocol is for streams, not for udp")
	case !p.NAT && to.Protocol != "unix" && to.Host.IsUnspecified():
		return kiln.Errorf(kiln.Invalid, "connect: %s is no address to connect to; use 127.0.0.1 or [::1]", to.Host)
	case !p.NAT:
		return nil
	case p.Inside:
		return kiln.Errorf(kiln.Invalid, "nat is for bind=host")
	case p.Header:
		return kiln.Errorf(kiln.Invalid, "with nat, the instance sees who connects; leave proxy_protocol out")
	case from.Protocol == "unix" || to.Protocol != from.Protocol:
		return kiln.Errorf(kiln.Invalid, "nat is from tcp to tcp, or from udp to udp")
	case from.Host.IsLoopback():
		return kiln.Errorf(kiln.Invalid, "nat can't be had for %s; leave nat out, or listen at another address of the host",
			from.Host)
	case to.Host.IsLoopback():
		return kiln.Errorf(kiln.Invalid, "with nat, connect has the instance's own address, or 0.0.0.0 or [::] for that; "+
			"%s is not reached from outside", to.Host)
	case from.Host.Is4() != to.Host.Is4():
		return kiln.Errorf(kiln.Invalid, "nat is from IPv4 to IPv4, or from IPv6 to IPv6")
	}
	return nil
}
