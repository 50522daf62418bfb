package proxy

import (
	"context"
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
	d := proxyd{devices: map[string]*device{}, leaving: map[*device]bool{}, said: map[string]string{}}
	defer d.end()
	return sibling.Serve(func(root *os.Root) { d.update(root, readProxies(root)) })
}

// proxyd is what is carried at a time. Devices come and go beside each other: none waits for
// another.
type proxyd struct {
	mu      sync.Mutex
	devices map[string]*device // that are wanted, by the names of files
	leaving map[*device]bool   // that aren't, and may listen still
	said    map[string]string
}

// A device is a proxy that is about to listen, or does.
type device struct {
	Proxy
	init string // of the container, when it began
	stop context.CancelFunc
	done chan struct{} // closed when it listens no more
}

func (d *device) ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// update has those that are wanted come, and others go. It waits for none.
func (d *proxyd) update(root *os.Root, want map[string]Proxy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, dev := range d.devices {
		// Its sockets may be in a container that is gone: it has rebooted, or ended.
		if p, ok := want[name]; !ok || p.Serial != dev.Serial || dev.init != initOf(dev.Box) {
			dev.stop()
			d.leaving[dev] = true
			delete(d.devices, name)
		}
	}
	for name, p := range want {
		if dev := d.devices[name]; p.NAT || dev != nil && !dev.ended() {
			continue
		}
		ctx, stop := context.WithCancel(context.Background())
		dev := &device{Proxy: p, init: initOf(p.Box), stop: stop, done: make(chan struct{})}
		d.devices[name] = dev
		go d.run(ctx, root, name, dev)
	}
	for name := range d.said {
		if _, ok := want[name]; !ok {
			delete(d.said, name)
		}
	}
}

// leaveTime is how long a device may take to go: how long one that comes to its address waits
// for that, and how long the process of one has before it is killed.
const leaveTime = 3 * time.Second

// run carries a device's connections until ctx ends, or it can't listen.
func (d *proxyd) run(ctx context.Context, root *os.Root, name string, dev *device) {
	defer close(dev.done)
	defer dev.stop()
	listens := func() { d.answer(root, name, dev, nil) }
	for begun := time.Now(); ; {
		mayGo := d.someLeave() // one that goes meanwhile has had the address, perhaps
		gone, err := dev.carry(ctx, listens)
		if errors.Is(err, kiln.Busy) && mayGo && ctx.Err() == nil && time.Since(begun) < leaveTime {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err != nil {
			d.answer(root, name, dev, err)
		}
		<-gone // it isn't tried again before
		return
	}
}

// carry returns when the device listens no more. gone is closed when nothing of it is left.
// The error says why it didn't listen: Busy when the address is in use.
func (d *device) carry(ctx context.Context, listens func()) (gone <-chan struct{}, err error) {
	switch {
	case d.init == "":
		err = kiln.Errorf(kiln.Conflict, "the instance doesn't run")
	case d.looksInside():
		return carryApart(ctx, d.Proxy, listens)
	default:
		err = carryHere(ctx, d.Proxy, listens)
	}
	none := make(chan struct{})
	close(none)
	return none, err
}

// someLeave reports whether a device that isn't wanted any more may still listen.
func (d *proxyd) someLeave() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dev := range d.leaving {
		if dev.ended() {
			delete(d.leaving, dev)
		}
	}
	return len(d.leaving) > 0
}

// end has all devices go, and waits for that as long as they may take.
func (d *proxyd) end() {
	d.update(nil, nil)
	for end := time.Now().Add(leaveTime); d.someLeave() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// answer tells the daemon once how a device is, while it is wanted.
func (d *proxyd) answer(root *os.Root, name string, dev *device, err error) {
	st := status{Serial: dev.Serial}
	if err != nil {
		st.Error = err.Error()
	}
	b, err := json.Marshal(st)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil || d.devices[name] != dev || d.said[name] == string(b) {
		return
	}
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
		return
	}
	d.said[name] = string(b)
}

// running is a proxy with its sockets.
type running struct {
	Proxy
	from, to side
	streams  chan struct{}
	wg       sync.WaitGroup

	mu     sync.Mutex
	open   map[io.Closer]bool
	closed bool
}

// carryHere carries a device's connections in this process until ctx ends. The error says why
// it doesn't listen.
func carryHere(ctx context.Context, p Proxy, listens func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &running{Proxy: p, to: side{p.Box}, streams: make(chan struct{}, mostStreams), open: map[io.Closer]bool{}}
	if p.Inside {
		r.from, r.to = r.to, r.from
	}
	defer r.close()
	for i := range p.Listen.count() {
		l, packets, err := r.from.listen(p.Device, i)
		if err != nil {
			return err
		}
		if packets != nil {
			r.keep(packets)
			r.wg.Go(func() { r.carryPackets(ctx, packets, i) })
			continue
		}
		r.keep(l)
		r.wg.Go(func() { r.accept(ctx, l, i) })
	}
	listens()
	<-ctx.Done()
	return nil
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

// close returns when nothing listens, and nothing is carried, any more. What dials then gives
// up by itself.
func (r *running) close() {
	r.mu.Lock()
	r.closed = true
	open := r.open
	r.open = map[io.Closer]bool{}
	r.mu.Unlock()
	var all sync.WaitGroup
	for c := range open {
		all.Go(func() { _ = c.Close() }) // a socket at a path takes a look-up there
	}
	all.Wait()
}

// accept takes connections, as many as there may be; others are closed at once.
func (r *running) accept(ctx context.Context, l net.Listener, port int) {
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
			r.carry(ctx, c, port)
		})
	}
}

// carry connects one connection.
func (r *running) carry(ctx context.Context, c net.Conn, port int) {
	to, err := r.to.dial(ctx, r.Device, port)
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
func (r *running) carryPackets(ctx context.Context, p net.PacketConn, port int) {
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
			if to, err = r.to.dial(ctx, r.Device, port); err != nil {
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
