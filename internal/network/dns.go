package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// dnsPort is where resolvers are asked.
const dnsPort = 53

// FreeDNSPort gives the port that netd can answer at on an address of this host: another
// one than 53 where somebody has that on every address.
func FreeDNSPort(at netip.Addr) (int, error) {
	free := func(port uint16) (int, error) {
		packets, err := net.ListenPacket("udp", netip.AddrPortFrom(at, port).String())
		if err != nil {
			return 0, err
		}
		defer packets.Close()
		local := packets.LocalAddr().(*net.UDPAddr).AddrPort()
		streams, err := net.Listen("tcp", local.String())
		if err != nil {
			return 0, err
		}
		return int(local.Port()), streams.Close()
	}
	port, err := free(dnsPort)
	for i := 0; err != nil && i < 20; i++ {
		port, err = free(0)
	}
	return port, err
}

const (
	dnsTTL      = 5 // seconds: instances come and go
	dnsTimeout  = 3 * time.Second
	dnsQuestion = 64 // that are forwarded at a time …
	dnsOfOne    = 16 // … and those of one address among them
	dnsStreams  = 64 // connections at a time …
	dnsOfOneTCP = 4  // … and those of one address among them
)

func serveDNS(s *served, at netip.Addr) (io.Closer, error) {
	address := netip.AddrPortFrom(at, uint16(s.now.Load().DNSPort)).String()
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	streams, err := net.Listen("tcp", address)
	if err != nil {
		return nil, errors.Join(err, packets.Close())
	}
	h := &resolver{s: s, busy: share{all: dnsQuestion, each: dnsOfOne}}
	udp := &dns.Server{PacketConn: packets, Handler: h}
	tcp := &dns.Server{Listener: &fairListener{Listener: streams, share: share{all: dnsStreams, each: dnsOfOneTCP}},
		Handler: h, ReadTimeout: dnsTimeout, IdleTimeout: func() time.Duration { return dnsTimeout }, MaxTCPQueries: 32}
	go func() { _ = udp.ActivateAndServe() }() // until Close
	go func() { _ = tcp.ActivateAndServe() }()
	return closers{packets, streams}, nil
}

type closers []io.Closer

func (list closers) Close() error {
	var errs []error
	for _, c := range list {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// A share bounds how much everybody, and each address, has of something at a time.
type share struct {
	all, each int

	mu    sync.Mutex
	total int
	of    map[string]int
}

// take reports whether an address may have one more.
func (s *share) take(address net.Addr) (give func(), ok bool) {
	key, _, _ := net.SplitHostPort(address.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]int{}
	}
	if s.total >= s.all || s.of[key] >= s.each {
		return nil, false
	}
	s.total++
	s.of[key]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.total--
		if s.of[key]--; s.of[key] == 0 {
			delete(s.of, key)
		}
	}), true
}

// A fairListener ends connections of addresses that have enough.
type fairListener struct {
	net.Listener
	share share
}

func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if give, ok := l.share.take(c.RemoteAddr()); ok {
			return &sharedConn{Conn: c, give: give}, nil
		}
		_ = c.Close()
	}
}

type sharedConn struct {
	net.Conn
	give func()
}

func (c *sharedConn) Close() error {
	c.give()
	return c.Conn.Close()
}

// A resolver answers the names of instances itself and asks the host's servers for
// all others.
type resolver struct {
	s    *served
	busy share
}

// ServeDNS answers a question of an instance.
func (h *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery || q.Response {
		a := new(dns.Msg)
		_ = w.WriteMsg(a.SetRcode(q, dns.RcodeNotImplemented)) // who gets no answer asks again
		return
	}
	if a := h.s.now.Load().answer(q); a != nil {
		_ = w.WriteMsg(a)
		return
	}
	give, ok := h.busy.take(w.RemoteAddr())
	if !ok {
		return // it has asked too much; it may again
	}
	defer give()
	_, packet := w.RemoteAddr().(*net.UDPAddr)
	_ = w.WriteMsg(forward(q, packet))
}

// answer gives what a network knows itself; nil: it is for others to know.
func (n *Network) answer(q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	a := new(dns.Msg)
	a.SetReply(q)
	a.Authoritative, a.RecursionAvailable = true, true
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: dnsTTL}
	if strings.HasSuffix(name, ".arpa") {
		return n.reverse(a, name, header)
	}
	short, ours := strings.CutSuffix(name, "."+n.Domain)
	if !ours && (strings.Contains(name, ".") || name == "") && name != n.Domain {
		return nil
	}
	found := name == n.Domain
	for _, h := range n.Hosts {
		if !strings.EqualFold(h.Name, short) {
			continue
		}
		found = true
		if question.Qtype == dns.TypeA && h.IPv4.IsValid() {
			a.Answer = append(a.Answer, &dns.A{Hdr: header, A: h.IPv4.AsSlice()})
		}
		if question.Qtype == dns.TypeAAAA && h.IPv6.IsValid() {
			a.Answer = append(a.Answer, &dns.AAAA{Hdr: header, AAAA: h.IPv6.AsSlice()})
		}
	}
	if !found {
		a.Rcode = dns.RcodeNameError
	}
	return a
}

// reverse answers which instance has an address.
func (n *Network) reverse(a *dns.Msg, name string, header dns.RR_Header) *dns.Msg {
	for _, h := range n.Hosts {
		for _, address := range []netip.Addr{h.IPv4, h.IPv6} {
			if !address.IsValid() {
				continue
			}
			if r, err := dns.ReverseAddr(address.String()); err == nil && strings.TrimSuffix(r, ".") == name {
				if header.Rrtype == dns.TypePTR {
					a.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: dns.Fqdn(h.Name + "." + n.Domain)}}
				}
				return a
			}
		}
	}
	return nil
}

// forward asks the host's servers one after the other.
func forward(q *dns.Msg, packet bool) *dns.Msg {
	ctx, cancel := context.WithTimeout(context.Background(), dnsTimeout)
	defer cancel()
	failed := new(dns.Msg)
	failed.SetRcode(q, dns.RcodeServerFailure)
	config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(config.Servers) == 0 {
		return failed
	}
	protocol := "tcp"
	if packet {
		protocol = "udp"
	}
	for _, server := range config.Servers {
		port, err := strconv.ParseUint(config.Port, 10, 16)
		if err != nil {
			port = 53
		}
		c := dns.Client{Net: protocol, Timeout: dnsTimeout / time.Duration(len(config.Servers))}
		a, _, err := c.ExchangeContext(ctx, q, net.JoinHostPort(server, strconv.Itoa(int(port))))
		if err == nil {
			return a
		}
	}
	return failed
}
