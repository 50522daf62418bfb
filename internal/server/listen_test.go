package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// freeAddress is an address of the loopback whose port nobody listens on, at any address.
// It isn't one of those that the kernel gives to whoever asks for no certain one, by
// default: another process could have it before the test has, or beside it.
func freeAddress(t *testing.T) (address, port string) {
	t.Helper()
	for range 1000 {
		port = strconv.Itoa(20_000 + rand.IntN(12_000))
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return "127.0.0.1:" + port, port
		}
	}
	t.Fatal("no port is free")
	return "", ""
}

// listeners of a server that end with the test.
func (p *peer) listeners(t *testing.T) *Listeners {
	ctx, cancel := context.WithCancel(context.Background())
	n := p.s.Listeners(ctx)
	t.Cleanup(func() { cancel(); n.Wait() })
	return n
}

// TestListenOnAName listens on the address that a name of this host has, and says what is
// wanted where a name has none.
func TestListenOnAName(t *testing.T) {
	n := start(t).listeners(t)
	_, port := freeAddress(t)
	if err := n.Listen([]string{"localhost:" + port}); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", "127.0.0.1:"+port); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	err := n.Listen([]string{"nowhere.invalid:" + port})
	if !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), "nowhere.invalid is not an address") {
		t.Error(err)
	}
}

// TestListenMovesOnItsPort moves between addresses that share a port. Whoever connects
// meanwhile is never refused.
func TestListenMovesOnItsPort(t *testing.T) {
	n := start(t).listeners(t)
	one, port := freeAddress(t)
	if err := n.Listen([]string{one}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if c, err := net.Dial("tcp", one); errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("refused: %v", err)
				} else if err == nil {
					c.Close()
				}
			}
		})
	}
	for _, to := range []string{":" + port, one, "0.0.0.0:" + port, "localhost:" + port, "[::]:" + port, one, ":" + port} {
		if err := n.Listen([]string{to}); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
	}
	close(done)
	callers.Wait()
}

// shares reports whether what listens on an address shares its port.
func (n *Listeners) shares(t *testing.T, address string) bool {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	raw, err := n.open[address].SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	value := 0
	cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT) })
	if err := errors.Join(cerr, err); err != nil {
		t.Fatal(err)
	}
	return value != 0
}

// TestPortIsSharedForAMoment: after a move, done or not, no socket of somebody else may
// share the port.
func TestPortIsSharedForAMoment(t *testing.T) {
	n := start(t).listeners(t)
	one, port := freeAddress(t)
	if err := n.Listen([]string{one}); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Listen([]string{"0.0.0.0:" + port}); !errors.Is(err, unix.EADDRINUSE) || n.shares(t, one) {
		t.Errorf("after %v the old one shares its port: %v", err, n.shares(t, one))
	}
	other.Close()
	for _, to := range []string{"0.0.0.0:" + port, one} {
		if err := n.Listen([]string{to}); err != nil || n.shares(t, to) {
			t.Errorf("%s: %v, shares its port: %v", to, err, n.shares(t, to))
		}
	}
}

// TestListenKeepsTheOld: an address that somebody else has changes nothing, even if they
// would share it.
func TestListenKeepsTheOld(t *testing.T) {
	n := start(t).listeners(t)
	one, port := freeAddress(t)
	if err := n.Listen([]string{one}); err != nil {
		t.Fatal(err)
	}
	for _, shares := range []bool{false, true} {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			if !shares {
				return nil
			}
			return setSharePort(c, true)
		}}
		other, err := config.Listen(t.Context(), "tcp", "127.0.0.2:"+port)
		if err != nil {
			t.Fatal(err)
		}
		_, free := freeAddress(t)
		err = n.Listen([]string{"127.0.0.1:" + free, "127.0.0.2:" + port})
		if !errors.Is(err, kiln.Invalid) || !errors.Is(err, unix.EADDRINUSE) ||
			!strings.Contains(err.Error(), "127.0.0.2:"+port) {
			t.Errorf("what somebody has (shared: %v): %v", shares, err)
		}
		if c, err := net.Dial("tcp", one); err != nil {
			t.Errorf("the old one (shared: %v): %v", shares, err)
		} else {
			c.Close()
		}
		if c, err := net.Dial("tcp", "127.0.0.1:"+free); err == nil {
			c.Close()
			t.Error("half of the new ones are listened on")
		}
		other.Close()
	}
	// Nobody of this user gets in between, later.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return setSharePort(c, true) }}
	if l, err := config.Listen(t.Context(), "tcp", one); err == nil {
		l.Close()
		t.Error("another socket listens on the same address")
	}
}

// TestMoveByConfiguration changes core.https_address of a daemon that listens.
func TestMoveByConfiguration(t *testing.T) {
	p := start(t)
	n := p.listeners(t)
	one, port := freeAddress(t)
	if err := p.d.Listen(t.Context(), one, n.Listen); err != nil {
		t.Fatal(err)
	}
	set := func(to string, status int) {
		t.Helper()
		if resp, b := p.do("PATCH", "/1.0", `{"config":{"core.https_address":"`+to+`"}}`); resp.StatusCode != status {
			t.Errorf("%s: %d %s", to, resp.StatusCode, b)
		}
		if c, err := net.Dial("tcp", one); err != nil {
			t.Errorf("after %s: %v", to, err)
		} else {
			c.Close()
		}
	}
	set(":"+port, 200)
	set("[::]:"+port+","+one, 200) // one of them has the other
	set("", 200)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	set(":"+port, 200)
	set(taken.Addr().String(), 400)
	_, b := p.do("GET", "/1.0", "")
	if !strings.Contains(string(b), `"core.https_address":":`+port+`"`) {
		t.Errorf("%s", b)
	}
}
