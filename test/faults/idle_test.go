package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/client"
)

// idle is how many connections TestIdleConnections keeps open, or tries to.
func idle(t *testing.T) (n int, strict bool) {
	t.Helper()
	word := os.Getenv("KILN_IDLE")
	if word == "" {
		return 6000, false // more than a daemon takes
	}
	n, err := strconv.Atoi(word)
	if err != nil {
		t.Fatalf("KILN_IDLE: %v", err)
	}
	return n, true
}

// crowdKey names, in the environment of a process that is a crowd, the address.
const crowdKey = "KILN_TEST_CROWD"

// crowdSize is how many connections one process keeps: it may open no more files.
const crowdSize = 7000

// A crowd keeps connections to an address that say nothing. One that the server closes is
// opened again.
type crowd struct {
	address string
	open    atomic.Int64
	wg      sync.WaitGroup
}

// crowdMain is a process that is a crowd until its input ends. Then it prints how many
// connections were open at once.
func crowdMain(address, size string) int {
	n, err := strconv.Atoi(size)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{address: address}
	c.join(ctx, n-n/20, false)
	c.join(ctx, n/20, true)
	most := int64(0)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	for again := true; again; {
		select {
		case <-ended:
			again = false
		case <-time.After(10 * time.Millisecond):
			most = max(most, c.open.Load())
		}
	}
	cancel()
	c.wg.Wait()
	fmt.Println(most)
	return 0
}

// join adds n connections from each of some addresses of the loopback.
func (c *crowd) join(ctx context.Context, n int, handshake bool) {
	for i := range n {
		c.wg.Go(func() {
			from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%16))}
			for ctx.Err() == nil {
				c.visit(ctx, from, handshake)
				select {
				case <-ctx.Done():
				case <-time.After(3*time.Second + rand.N(4*time.Second)):
				}
			}
		})
	}
}

// visit opens one connection and waits for its end.
func (c *crowd) visit(ctx context.Context, from net.Addr, handshake bool) {
	d := net.Dialer{LocalAddr: from, Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return
	}
	defer conn.Close()
	c.open.Add(1)
	defer c.open.Add(-1)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := io.Reader(conn)
	if handshake {
		r = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	_, _ = r.Read(make([]byte, 1)) // nothing comes; it ends
}

// gather starts crowds of n connections together. leave ends them, and tells how many
// connections were open at once, as each crowd saw it.
func gather(t *testing.T, address string, n int) (leave func() int) {
	t.Helper()
	var leaves []func() int
	for ; n > 0; n -= crowdSize {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crowdKey+"="+address, crowdKey+"_SIZE="+strconv.Itoa(min(n, crowdSize)))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, func() int {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(out.String()))
			if err != nil {
				t.Error(err)
			}
			return n
		})
	}
	return func() (sum int) {
		for _, l := range leaves {
			sum += l()
		}
		return sum
	}
}

// TestIdleConnections has many more clients on the network than a daemon takes, most of
// them silent and some with a handshake, who come back some seconds after they are sent away. The
// socket answers meanwhile. KILN_IDLE=21000 has as many, and wants answers in 100 ms.
func TestIdleConnections(t *testing.T) {
	n, strict := idle(t)
	h := newHost(t)
	leave := gather(t, h.Address, n)
	var took []time.Duration
	for end := time.Now().Add(10 * time.Second); len(took) < 50 || time.Now().Before(end); {
		began := time.Now()
		if _, err := client.Unix(h.Dir+"/unix.socket").Get(t.Context(), "/1.0", nil, nil); err != nil {
			t.Errorf("the socket: %v", err)
			break
		}
		took = append(took, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	most := leave()
	slices.Sort(took)
	at := func(share float64) time.Duration { return took[int(float64(len(took)-1)*share)] }
	text := fmt.Sprintf("%d clients, at most %d connections at once: %d requests to the socket took %v (median), %v (99 %%), "+
		"%v (most)", n, most, len(took), at(0.5), at(0.99), at(1))
	t.Log(text)
	if strict && at(0.99) > 100*time.Millisecond {
		t.Error(text)
	}
}
