package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A firewall of somebody else, such as Docker's or ufw's, may drop what it doesn't know,
// and what kiln's own table accepts is dropped all the same: a packet passes when every
// chain lets it pass. So the bridge's packets are accepted where such a firewall drops,
// in the chain that it keeps for its users.

// The hooks of the kernel at which a chain can drop the packets of instances.
const (
	hookInput   = "input"
	hookForward = "forward"
)

// usersChains are those that firewalls leave to their users, in the order in which they
// are passed. In all others a firewall may put its own rules in front.
func usersChains(hook string) []string {
	if hook == hookForward {
		return []string{"DOCKER-USER", "ufw-user-forward", "ufw6-user-forward"}
	}
	return []string{"ufw-user-input", "ufw6-user-input"}
}

func isUsersChain(name string) bool {
	return slices.Contains(usersChains(hookForward), name) || slices.Contains(usersChains(hookInput), name)
}

// A ruleSet is the rules of one table, whoever wrote them.
type ruleSet interface {
	// chains gives them with what is in them.
	chains() map[string]*chain
	// replace takes rules of ours out of chains, and puts others at their head, at once.
	replace(remove []mark, add []opening) error
}

// A chain is somebody's rules.
type chain struct {
	hook  string   // where the kernel begins with it; "": it doesn't
	drops bool     // what no rule of it decides on
	jumps []string // to other chains
	ours  []string // the comments of rules that have one of kiln's
}

// A mark finds a rule of ours.
type mark struct{ chain, comment string }

// An opening is a rule that accepts packets of a bridge.
type opening struct {
	chain, comment string
	in, out        string // the interfaces that a packet comes and leaves by; "": any
	protocol       uint8  // 0: any
	port           uint16 // that it is sent to; 0: any
	only           ctOnly
}

// ctOnly says which connections are accepted.
type ctOnly int

const (
	ctAny       ctOnly = iota
	ctAnswers          // those that were let through before
	ctForwarded        // those whose destination was changed: somebody asked for that
)

// commentPrefix begins the comments of a bridge's rules in other firewalls.
func (n Network) commentPrefix() string { return "kiln " + n.Bridge + ": " }

// openings are the rules that a network needs at a hook, for one version of IP. A host
// with a firewall has what instances need of it, and no more, within their reach.
func (n Network) openings(hook string, six bool) []opening {
	p, nat, wanted := n.IPv4, n.NAT4, n.Firewall4
	if six {
		p, nat, wanted = n.IPv6, n.NAT6, n.Firewall6
	}
	if !p.IsValid() || !wanted {
		return nil
	}
	list := []opening{}
	add := func(what string, o opening) {
		o.comment = n.commentPrefix() + what
		list = append(list, o)
	}
	if hook == hookForward {
		add("from instances", opening{in: n.Bridge})
		if nat {
			add("answers to instances", opening{out: n.Bridge, only: ctAnswers})
			add("forwarded to instances", opening{out: n.Bridge, only: ctForwarded})
		} else {
			add("to instances", opening{out: n.Bridge})
		}
		return list
	}
	icmp := uint8(unix.IPPROTO_ICMP)
	if six {
		icmp = unix.IPPROTO_ICMPV6 // neighbours and routers are found by it
	}
	add("ICMP", opening{in: n.Bridge, protocol: icmp})
	if !six && n.DHCP {
		add("DHCP", opening{in: n.Bridge, protocol: unix.IPPROTO_UDP, port: 67})
	}
	if n.DNS && n.DNSPort > 0 {
		for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			add(fmt.Sprintf("DNS %d/%d", n.DNSPort, protocol), opening{in: n.Bridge, protocol: protocol,
				port: uint16(n.DNSPort)})
		}
	}
	return list
}

// where gives the chain for rules that have to hold against a chain of the kernel: one
// for users if it is on the way, else that chain itself.
func where(all map[string]*chain, base, hook string) string {
	seen := map[string]bool{base: true}
	for queue := []string{base}; len(queue) > 0; queue = queue[1:] {
		if c := all[queue[0]]; c != nil {
			for _, next := range c.jumps {
				if !seen[next] {
					seen[next] = true
					queue = append(queue, next)
				}
			}
		}
	}
	for _, name := range usersChains(hook) {
		if seen[name] && all[name] != nil {
			return name
		}
	}
	return base
}

// fit brings the rules of ours in a rule set to what they have to be; wanted gives them
// for a hook.
func fit(set ruleSet, prefix string, wanted func(hook string) []opening) error {
	all := set.chains()
	want := map[string][]opening{}
	for name, c := range all {
		if c.drops && (c.hook == hookForward || c.hook == hookInput) {
			to := where(all, name, c.hook)
			want[to] = append(want[to], wanted(c.hook)...)
		}
	}
	var remove []mark
	var add []opening
	for name, c := range all {
		var has, comments []string
		for _, comment := range c.ours {
			if strings.HasPrefix(comment, prefix) {
				has = append(has, comment)
			}
		}
		for _, o := range want[name] {
			comments = append(comments, o.comment)
		}
		slices.Sort(has)
		slices.Sort(comments)
		if slices.Equal(has, comments) {
			continue
		}
		for _, comment := range has {
			remove = append(remove, mark{name, comment})
		}
		for _, o := range want[name] {
			o.chain = name
			add = append(add, o)
		}
	}
	if len(remove)+len(add) == 0 {
		return nil
	}
	return set.replace(remove, add)
}

// PassFirewalls has the firewalls of other programs that drop what they don't know accept
// the network's packets, as its configuration says. It changes nothing where that is so.
func (n Network) PassFirewalls() error { return n.passFirewalls(n.openings) }

// leaveFirewalls takes out what PassFirewalls put in.
func (n Network) leaveFirewalls() error {
	return n.passFirewalls(func(string, bool) []opening { return nil })
}

func (n Network) passFirewalls(openings func(hook string, six bool) []opening) error {
	sets, err := n.foreignSets()
	for _, s := range sets {
		if ferr := n.fitSet(s, openings); ferr != nil {
			err = errors.Join(err, fmt.Errorf("network %q: let its packets pass the firewall %s of this host: %w", n.Name,
				s.name, ferr))
		}
	}
	return err
}

// fitSet brings the rules of the network in one rule set to what they have to be.
func (n Network) fitSet(s foreignSet, openings func(hook string, six bool) []opening) error {
	return fit(s, n.commentPrefix(), func(hook string) (list []opening) {
		if s.four {
			list = append(list, openings(hook, false)...)
		}
		if s.six {
			list = append(list, openings(hook, true)...)
		}
		slices.SortFunc(list, func(a, b opening) int { return strings.Compare(a.comment, b.comment) })
		// One for both versions of IP is one rule.
		return slices.CompactFunc(list, func(a, b opening) bool { return a.comment == b.comment })
	})
}

// A foreignSet is a rule set of another program.
type foreignSet struct {
	ruleSet
	name      string // for errors
	four, six bool   // the versions of IP that it has to do with
}

// foreignSets reads the rules of this host's firewalls. What can't be read is left out,
// with an error.
func (n Network) foreignSets() (sets []foreignSet, err error) {
	sets, err = nftSets()
	legacy, lerr := legacySets()
	return append(sets, legacy...), errors.Join(err, lerr)
}

// How long changes of firewalls are waited for to end, and how often those that the
// kernel tells nothing of (iptables-legacy) are looked at.
const (
	settleFirewalls = 200 * time.Millisecond
	lookAtFirewalls = 10 * time.Second
)

// WatchFirewalls calls changed whenever rules of this host's firewalls may have changed,
// until ctx ends. The error is that of a kernel that doesn't tell.
func WatchFirewalls(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("watch the firewalls of this host: %w", err)
	}
	events := os.NewFile(uintptr(fd), "netlink")
	defer events.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK,
		Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return fmt.Errorf("watch the firewalls of this host: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		_ = events.SetReadDeadline(time.Now().Add(lookAtFirewalls))
		_, err := events.Read(buf)
		told := err == nil || errors.Is(err, unix.ENOBUFS)
		for end := time.Now().Add(5 * time.Second); told && err == nil && time.Now().Before(end) && ctx.Err() == nil; {
			_ = events.SetReadDeadline(time.Now().Add(settleFirewalls))
			_, err = events.Read(buf)
		}
		if ctx.Err() == nil && (told || len(legacyNames(false))+len(legacyNames(true)) > 0) {
			changed()
		}
	}
	return nil
}
