package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/trust"
)

// DefaultPort is where a server listens whose address has no port.
const DefaultPort = "8443"

// metricsPort is that of core.metrics_address, as LXD has it.
const metricsPort = "9100"

// listeners is where the daemon can be reached besides its socket.
type listeners struct {
	mu     sync.Mutex
	listen func([]string) error // nil: there is nobody to listen
	extra  []string             // of the command line
	now    []string

	listenForMetrics func([]string) error // and for nothing else; nil: there is nobody to listen
}

// Certificate is what the daemon shows to clients; the zero value when it has none.
func (d *Daemon) Certificate() tls.Certificate { return d.cert }

// loadIdentity reads the certificate of the daemon, and those by which it knows its
// clients. Files that are damaged keep it from the network only: who comes by the socket
// can mend them. They are left as they are, since somebody may have put them there.
func (d *Daemon) loadIdentity(ctx context.Context) error {
	var err error
	if d.cert, err = trust.Ensure(d.cfg.Dir, "server", trust.Server); err != nil {
		d.cert = tls.Certificate{}
		err = fmt.Errorf("%w; put a copy of the two files in their places, or move both away and a new pair is made, "+
			"which clients have to be told to trust", err)
	}
	if lerr := d.loadClients(ctx); lerr != nil {
		var file *fs.PathError
		if !errors.Is(lerr, kiln.Invalid) && !errors.As(lerr, &file) {
			return lerr
		}
		err = errors.Join(err, fmt.Errorf("%w; put a copy in its place", lerr))
	}
	if err != nil {
		d.noTLS = kiln.Errorf(kiln.Invalid, "the daemon can't be reached over the network: %w; then restart the daemon", err)
		d.cfg.Log.Error("start without the network", "err", d.noTLS)
	}
	return nil
}

// Problems says what is wrong with the daemon, and what to do about it.
func (d *Daemon) Problems() []string {
	if d.noTLS == nil {
		return nil
	}
	return []string{d.noTLS.Error()}
}

// Listen hands the daemon what makes it listen on addresses, in the place of those
// it listens on, or else fails and changes nothing. extra are addresses to listen
// on whatever the settings say.
func (d *Daemon) Listen(ctx context.Context, extra string, listen func([]string) error) error {
	more, err := parseAddresses(extra, DefaultPort)
	if err != nil {
		return err
	}
	d.listeners.mu.Lock()
	d.listeners.listen, d.listeners.extra = listen, more
	d.listeners.mu.Unlock()
	if d.noTLS != nil {
		return nil // the log has it
	}
	set, err := d.setting(ctx, httpsAddress)
	if errors.Is(err, kiln.Integrity) { // it runs without
		d.cfg.Log.Error("listen on the network", "err", err)
	} else if err != nil {
		return err
	}
	if err := d.listenOn(set); err != nil {
		// A daemon that can't be reached from elsewhere still runs instances.
		d.cfg.Log.Error("listen on the network; fix core.https_address to try again", "err", err)
		if extra != "" {
			return err
		}
	}
	return nil
}

// ListenForMetrics is Listen for addresses where only metrics are to be had.
func (d *Daemon) ListenForMetrics(ctx context.Context, listen func([]string) error) error {
	d.listeners.mu.Lock()
	d.listeners.listenForMetrics = listen
	d.listeners.mu.Unlock()
	if d.noTLS != nil {
		return nil // the log has it
	}
	set, err := d.setting(ctx, metricsAddress)
	if err == nil {
		err = d.scrapedOn(set)
	} else if !errors.Is(err, kiln.Integrity) {
		return err
	}
	if err != nil {
		d.cfg.Log.Error("listen for metrics; fix core.metrics_address to try again", "err", err)
	}
	return nil
}

// scrapedOn has the daemon listen for metrics on some addresses and no others.
func (d *Daemon) scrapedOn(addresses string) error {
	list, err := parseAddresses(addresses, metricsPort)
	if err != nil {
		return err
	}
	if d.noTLS != nil && len(list) > 0 {
		return d.noTLS
	}
	d.listeners.mu.Lock()
	defer d.listeners.mu.Unlock()
	if d.listeners.listenForMetrics == nil || d.noTLS != nil {
		return nil
	}
	return d.listeners.listenForMetrics(withoutCovered(list))
}

func (d *Daemon) listenOn(addresses string) error {
	list, err := parseAddresses(addresses, DefaultPort)
	if err != nil {
		return err
	}
	if d.noTLS != nil { // nor are the addresses of the command line listened on
		if len(list) > 0 {
			return d.noTLS
		}
		return nil
	}
	d.listeners.mu.Lock()
	defer d.listeners.mu.Unlock()
	for _, a := range d.listeners.extra {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	list = withoutCovered(list)
	if d.listeners.listen != nil {
		if err := d.listeners.listen(list); err != nil {
			return err
		}
	}
	d.listeners.now = list
	return nil
}

// withoutCovered leaves out addresses that another one of the list includes, as :8443
// does 127.0.0.1:8443: nobody can listen on both.
func withoutCovered(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(a string) bool {
		return slices.ContainsFunc(list, func(b string) bool { return covers(b, a) })
	})
}

// covers reports whether who listens on an address listens on another one, too.
func covers(wide, narrow string) bool {
	any, port, err := net.SplitHostPort(wide)
	host, ofPort, herr := net.SplitHostPort(narrow)
	if err != nil || herr != nil || port != ofPort || wide == narrow {
		return false
	}
	ip := net.ParseIP(host)
	switch any {
	case "":
		return true
	case "::":
		return host != ""
	case "0.0.0.0":
		return ip.To4() != nil
	}
	return false
}

// parseAddresses reads addresses, separated by commas, whose ports may be left out: those
// are the default one.
func parseAddresses(s, defaultPort string) ([]string, error) {
	var list []string
	for a := range strings.SplitSeq(s, ",") {
		if a = strings.TrimSpace(a); a == "" {
			continue
		}
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			host, port = a, ""
			if strings.HasPrefix(a, "[") && strings.HasSuffix(a, "]") {
				host = a[1 : len(a)-1]
			}
		}
		if !isHost(host) {
			return nil, kiln.Errorf(kiln.Invalid, "%q is not an address; write host:port, [::]:8443 or :8443", a)
		}
		if port == "" {
			port = defaultPort
		}
		n, err := net.LookupPort("tcp", port)
		if err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "%q is not an address: %w", a, err)
		}
		list = append(list, net.JoinHostPort(host, strconv.Itoa(n)))
	}
	return list, nil
}

// isHost reports whether a word is an address of the Internet protocol or may be the
// name of a host; "" stands for every address of this one.
func isHost(word string) bool {
	if ip, err := netip.ParseAddr(word); err == nil && ip.Zone() == "" {
		return true
	} else if err == nil {
		word = ip.Zone() // which may be anything else
	}
	return !strings.ContainsFunc(word, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._", r)
	})
}

// Addresses are where others can reach the daemon: where it listens, with the
// addresses of this host in the place of "any".
func (d *Daemon) Addresses() []string {
	d.listeners.mu.Lock()
	defer d.listeners.mu.Unlock()
	list := []string{}
	for _, a := range d.listeners.now {
		host, port, err := net.SplitHostPort(a)
		ip := net.ParseIP(host)
		switch {
		case err != nil:
		case host != "" && (ip == nil || !ip.IsUnspecified()):
			list = append(list, a)
		default:
			list = append(list, hostAddresses(port, ip != nil && ip.To4() != nil)...)
		}
	}
	return list
}

func hostAddresses(port string, only4 bool) []string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list, loop []string
	for _, a := range addresses {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLinkLocalUnicast() || only4 && n.IP.To4() == nil {
			continue
		}
		if n.IP.IsLoopback() {
			loop = append(loop, net.JoinHostPort(n.IP.String(), port))
		} else {
			list = append(list, net.JoinHostPort(n.IP.String(), port))
		}
	}
	if len(list) == 0 {
		return loop // a host without a network still talks to itself
	}
	return list
}

// wake has the background work look at the settings again.
func (d *Daemon) wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}
