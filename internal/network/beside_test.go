package network_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/network"
	"github.com/kiln-containers/kiln/internal/thread"
)

// apart gives a network namespace with an interface in it, which has an address and a way
// out: an instance, or a machine somewhere else.
func apart(t *testing.T, link, address, gateway string) *os.File {
	t.Helper()
	var own *os.File
	err := thread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		own, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	inner, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsFd(inner, int(own.Fd())); err != nil {
		t.Fatal(err)
	}
	inside(t, own, func() error {
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		for _, err := range []error{netlink.AddrAdd(inner, a), netlink.LinkSetUp(inner),
			netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	return own
}

// inside runs f in a network namespace.
func inside(t *testing.T, space *os.File, f func() error) {
	t.Helper()
	if err := tryInside(space, f); err != nil {
		t.Fatal(err)
	}
}

func tryInside(space *os.File, f func() error) error {
	return thread.Run(func() error {
		if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// away is a machine elsewhere, at 192.0.2.9; the host has 192.0.2.1.
func away(t *testing.T) *os.File {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "up1"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(pair) })
	a, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{netlink.AddrAdd(pair, a), netlink.LinkSetUp(pair)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return apart(t, "up1", "192.0.2.9/24", "192.0.2.1")
}

func run(t *testing.T, program, script string) string {
	t.Helper()
	cmd := exec.Command(program)
	if program == "sh" {
		cmd.Args = []string{"sh", "-euc", script}
	} else {
		cmd.Stdin = strings.NewReader(script)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", program, err, script, out)
	}
	return string(out)
}

// The rules of others, as their programs load them.
const (
	dockerLike = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
`
	ufwLike = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-before-forward - [0:0]
:ufw-user-input - [0:0]
:ufw-user-forward - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -j ufw-user-input
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
COMMIT
`
	plain = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`
	nothing = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
`
	nftLike = `table inet mine {
	chain in { type filter hook input priority 10; policy drop; ct state established,related accept; }
	chain through { type filter hook forward priority 10; policy drop; }
}
`
)

// TestBesideFirewalls: packets of instances pass where other firewalls drop what they don't
// know, the machines outside reach no instance that way, and nothing is left in the end.
func TestBesideFirewalls(t *testing.T) {
	n, _, _ := onNetwork(t, "tbr4")
	instance := apart(t, "tbr4i", "10.99.7.23/24", "10.99.7.1")
	other := away(t)
	for _, space := range []*os.File{instance, other} {
		inside(t, space, func() error {
			l, err := net.Listen("tcp", ":80")
			if err == nil {
				t.Cleanup(func() { l.Close() })
				go func() {
					for c, err := l.Accept(); err == nil; c, err = l.Accept() {
						c.Close()
					}
				}()
			}
			return err
		})
	}
	dial := func(space *os.File, to string, patience time.Duration) error {
		return tryInside(space, func() error {
			c, err := (&net.Dialer{Timeout: patience, FallbackDelay: -1}).Dial("tcp", to)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	const blocked = 300 * time.Millisecond // which passes more slowly is not seen
	for _, c := range []struct {
		name, program, rules, list, clear, chain string
		input                                    bool
	}{
		{"docker-nft", "iptables-nft-restore", dockerLike, "iptables-nft-save", nothing, "DOCKER-USER", false},
		{"docker-legacy", "iptables-legacy-restore", dockerLike, "iptables-legacy-save", nothing, "DOCKER-USER", false},
		{"ufw-nft", "iptables-nft-restore", ufwLike, "iptables-nft-save", nothing, "ufw-user-input", true},
		{"ufw-legacy", "iptables-legacy-restore", ufwLike, "iptables-legacy-save", nothing, "ufw-user-forward", true},
		{"plain-nft", "iptables-nft-restore", plain, "iptables-nft-save", nothing, "FORWARD", true},
		{"nft", "sh", "nft -f - <<'E'\n" + nftLike + "E", "nft list ruleset", "nft delete table inet mine", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, c.program, c.rules)
			defer func() { run(t, c.program, c.clear) }()
			if err := dial(instance, "192.0.2.9:80", blocked); err == nil {
				t.Fatal("the rules of the test let an instance through")
			}
			before := strings.ReplaceAll(run(t, "sh", c.list), "\t", " ")
			for range 2 { // also when they are there, and when they were loaded anew
				for range 2 {
					if err := n.PassFirewalls(); err != nil {
						t.Fatal(err)
					}
				}
				if err := dial(instance, "192.0.2.9:80", time.Minute); err != nil {
					t.Errorf("an instance to a machine outside: %v", err)
				}
				if err := dial(instance, "10.99.7.1:53", time.Minute); err != nil {
					t.Errorf("an instance to DNS: %v", err)
				}
				if c.input {
					if err := dial(other, "192.0.2.1:53", blocked); err == nil {
						t.Error("a machine outside reaches the host")
					}
				}
				if err := dial(other, "10.99.7.23:80", blocked); err == nil {
					t.Error("a machine outside reaches an instance")
				}
				list := run(t, "sh", c.list)
				if strings.Contains(list, "incompatible") || strings.Count(list, "kiln tbr4: from instances") != 1 ||
					c.chain != "" && !strings.Contains(list, "-A "+c.chain+" -i tbr4 ") {
					t.Errorf("%s says:\n%s", c.list, list)
				}
				if c.program != "sh" {
					run(t, c.program, c.rules)
				}
			}
			n.Firewall4, n.Firewall6 = false, false
			defer func() { n.Firewall4, n.Firewall6 = true, true }()
			if err := n.PassFirewalls(); err != nil {
				t.Fatal(err)
			}
			if list := run(t, "sh", c.list); strings.Contains(list, "kiln tbr4:") {
				t.Errorf("before:\n%s\nafter:\n%s", before, list)
			}
		})
	}
}

// TestWatchFirewalls tells of a firewall that is loaded.
func TestWatchFirewalls(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan bool, 1), make(chan error)
	go func() {
		ended <- network.WatchFirewalls(ctx, func() {
			select {
			case told <- true:
			default:
			}
		})
	}()
	defer run(t, "sh", "nft destroy table inet mine 2>/dev/null || nft delete table inet mine")
	for seen := false; !seen; {
		run(t, "sh", fmt.Sprintf("nft -f - <<'E'\n%sE", nftLike)) // it may not listen yet
		select {
		case seen = <-told:
		case <-time.After(time.Second):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// serve takes connections in a namespace, and says whose they are.
func serve(t *testing.T, space *os.File, at string) <-chan string {
	sees := make(chan string, 16)
	inside(t, space, func() error {
		l, err := net.Listen("tcp", at)
		if err == nil {
			t.Cleanup(func() { l.Close() })
			go func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
					sees <- host
					c.Close()
				}
			}()
		}
		return err
	})
	return sees
}

// dialFrom connects from a namespace; nil: the host.
func dialFrom(space *os.File, to string) error {
	dial := func() error {
		c, err := (&net.Dialer{Timeout: time.Minute, FallbackDelay: -1}).Dial("tcp", to)
		if err == nil {
			c.Close()
		}
		return err
	}
	if space == nil {
		return dial()
	}
	return tryInside(space, dial)
}
