package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/sibling"
)

// What one device may have at a time, so that whoever floods it takes nothing from
// others.
const (
	mostStreams = 512
	mostFlows   = 512             // addresses that send packets
	flowTime    = 3 * time.Minute // after which a silent one is forgotten
	mostPacket  = 64 << 10
)

// Main is proxyd: it carries connections for the proxies of its directory until it gets
// SIGTERM, or the directory is gone.
func Main() error {
	syscall.Umask(0o177) // sockets at paths are nobody's until they have their owner and mode
	d := proxyd{running: map[string]*running{}, said: map[string]string{}}
	defer d.update(nil, nil)
	return sibling.Serve(func(root *os.Root) { d.update(root, readProxies(root)) })
}

// proxyd is what is carried at a time, by the names of files.
type proxyd struct {
	running map[string]*running
	said    map[string]string
}

func (d *proxyd) update(root *os.Root, want map[string]Proxy) {
	for name, r := range d.running {
		if p, ok := want[name]; !ok || p.Serial != r.Serial || r.moved() {
			r.close()
			delete(d.running, name)
		}
	}
	for name, p := range want {
		if p.NAT || d.running[name] != nil {
			continue
		}
		r, err := open(p)
		st := status{Serial: p.Serial}
		if err == nil {
			d.running[name] = r
		} else {
			st.Error = err.Error()
		}
		d.answer(root, name, st)
	}
	for name := range d.said {
		if _, ok := want[name]; !ok {
			delete(d.said, name)
		}
	}
}

// answer tells the daemon once how a proxy is.
func (d *proxyd) answer(root *os.Root, name string, st status) {
	b, err := json.Marshal(st)
	if err != nil || d.said[name] == string(b) {
		return
	}
	d.said[name] = string(b)
	if st.Error != "" {
		log.Printf("%s: %s", name, st.Error)
	}
	temp := name + statusEx + ".new"
	f, err := disk.OpenFileIn(root, temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(b)
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = root.Rename(temp, name+statusEx)
	}
	if err != nil {
		log.Printf("%s: %v", name, err)
	}
}

// running is a proxy with its sockets.
type running struct {
	Proxy
	from, to side
	init     string // of the container, when it was opened
	streams  chan struct{}
	wg       sync.WaitGroup

	mu     sync.Mutex
	open   map[io.Closer]bool
	closed bool
}

func open(p Proxy) (*running, error) {
	r := &running{Proxy: p, to: side{p.Box}, streams: make(chan struct{}, mostStreams), open: map[io.Closer]bool{}}
	if p.Inside {
		r.from, r.to = r.to, r.from
	}
	if r.init = initOf(p.Box); r.init == "" {
		return nil, kiln.Errorf(kiln.Conflict, "the instance doesn't run")
	}
	for i := range p.Listen.count() {
		l, packets, err := r.from.listen(p.Device, i)
		if err != nil {
			r.close()
			return nil, err
		}
		if packets != nil {
			r.keep(packets)
			r.wg.Go(func() { r.carryPackets(packets, i) })
			continue
		}
		r.keep(l)
		r.wg.Go(func() { r.accept(l, i) })
	}
	return r, nil
}

// initOf names the init of a container; "": there is none.
func initOf(dir string) string {
	init, pid, err := box.Peek(dir)
	if err != nil {
		return ""
	}
	defer init.Close()
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st); err != nil {
		return ""
	}
	return fmt.Sprint(pid, st.Ino)
}

// moved reports whether a proxy's sockets are in a container that is gone: it has
// rebooted, or ended.
func (r *running) moved() bool { return r.init != initOf(r.Box) }

// keep notes what is to be closed with the proxy, and reports whether it still is there.
func (r *running) keep(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.open[c] = true
	return true
}

func (r *running) drop(c io.Closer) {
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
	_ = c.Close()
}

func (r *running) close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// accept takes connections, as many as there may be; others wait in the kernel's queue.
func (r *running) accept(l net.Listener, port int) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many files: somebody ends one
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if !r.keep(c) {
			_ = c.Close()
			return
		}
		r.wg.Go(func() {
			defer r.drop(c)
			select {
			case r.streams <- struct{}{}:
				defer func() { <-r.streams }()
			default:
				return // it has enough
			}
			r.carry(c, port)
		})
	}
}

// carry connects one connection.
func (r *running) carry(c net.Conn, port int) {
	to, err := r.to.dial(r.Device, port)
	if err != nil || !r.keep(to) {
		if to != nil {
			_ = to.Close()
		} else if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // whoever connects sees that nobody is there
		}
		return
	}
	defer r.drop(to)
	if r.Header {
		_ = to.SetWriteDeadline(time.Now().Add(dialTime))
		if _, err := io.WriteString(to, header(c.RemoteAddr(), c.LocalAddr())); err != nil {
			return
		}
		_ = to.SetWriteDeadline(time.Time{})
	}
	var back sync.WaitGroup
	back.Go(func() { pour(c, to) })
	pour(to, c)
	back.Wait()
}

// pour carries one direction to its end. What was sent before that arrives.
func pour(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = from.Close() // nobody reads it any more
		_ = to.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// header is a line of the PROXY protocol, version 1 (haproxy's doc/proxy-protocol.txt).
func header(from, to net.Addr) string {
	f, ok := from.(*net.TCPAddr)
	t, tok := to.(*net.TCPAddr)
	if !ok || !tok {
		return "PROXY UNKNOWN\r\n"
	}
	a, b := f.AddrPort(), t.AddrPort()
	family, x, y := "TCP4", a.Addr().Unmap(), b.Addr().Unmap()
	if x.Is6() || y.Is6() {
		family = "TCP6"
	}
	return fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, x.WithZone(""), y.WithZone(""), a.Port(), b.Port())
}

// carryPackets carries packets: whoever sends some is one connection to the other side
// until it is silent.
func (r *running) carryPackets(p net.PacketConn, port int) {
	var mu sync.Mutex
	flows := map[string]net.Conn{}
	buf := make([]byte, mostPacket)
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		mu.Lock()
		to, many := flows[from.String()], len(flows) >= mostFlows
		mu.Unlock()
		if to == nil {
			if many {
				continue // packets may be lost
			}
			if to, err = r.to.dial(r.Device, port); err != nil {
				continue
			}
			if !r.keep(to) {
				_ = to.Close()
				return
			}
			mu.Lock()
			flows[from.String()] = to
			mu.Unlock()
			r.wg.Go(func() {
				defer r.drop(to)
				answers(p, to, from)
				mu.Lock()
				delete(flows, from.String())
				mu.Unlock()
			})
		}
		_ = to.SetReadDeadline(time.Now().Add(flowTime))
		_, _ = to.Write(buf[:n])
	}
}

// answers carries packets back until there are none for a while.
func answers(p net.PacketConn, from net.Conn, to net.Addr) {
	buf := make([]byte, mostPacket)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // nobody listens, yet
		}
		if err != nil {
			return
		}
		_ = from.SetReadDeadline(time.Now().Add(flowTime))
		_, _ = p.WriteTo(buf[:n], to)
	}
}
