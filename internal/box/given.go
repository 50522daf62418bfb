package box

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-containers/kiln/internal/disk"
)

// StartNics gives the interfaces that the container was started with, by what liblxc was
// told, and gets them by at a reboot.
func (b *Box) StartNics() ([]Nic, error) {
	text, err := disk.ReadFile(filepath.Join(b.dir, configFile))
	if err != nil {
		return nil, err
	}
	var list []Nic
	at := map[string]int{} // by number
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		rest, isNet := strings.CutPrefix(key, "lxc.net.")
		number, key, _ := strings.Cut(rest, ".")
		if !ok || !isNet || number == "0" {
			continue
		}
		if _, known := at[number]; !known {
			at[number] = len(list)
			list = append(list, Nic{})
		}
		list[at[number]].take(key, value)
	}
	return list, nil
}

// take is what config.nics does, the other way round.
func (n *Nic) take(key, value string) {
	prefix := func() netip.Prefix {
		word, _, _ := strings.Cut(value, " ")
		p, _ := netip.ParsePrefix(word)
		return p
	}
	switch key {
	case "type":
		switch value {
		case "macvlan":
			n.Kind = MACVLAN
		case "phys":
			n.Kind = Physical
		}
	case "veth.pair":
		n.HostName = value
	case "link":
		n.Parent = value
	case "name":
		n.Name = value
	case "hwaddr":
		n.MAC = value
	case "mtu":
		_, _ = fmt.Sscan(value, &n.MTU)
	case "ipv4.address":
		n.IPv4 = prefix()
	case "ipv4.gateway":
		n.Gateway, _ = netip.ParseAddr(value)
	case "ipv6.address":
		n.IPv6 = prefix()
	}
}

// IDs gives the host's ids that the container has; none when it is privileged.
func (b *Box) IDs() ([]IDMap, error) {
	if b.Privileged() {
		return nil, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", b.InitPID()))
	if err != nil {
		return nil, err
	}
	var list []IDMap
	for line := range strings.Lines(string(text)) {
		var m IDMap
		if _, err := fmt.Sscan(line, &m.Container, &m.Host, &m.Size); err != nil {
			return nil, fmt.Errorf("ids of process %d: %w", b.InitPID(), err)
		}
		list = append(list, m)
	}
	return list, nil
}
