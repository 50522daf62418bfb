package nettest

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// FreeAddress gives an address of this host on which nobody listens, for who is going to do
// so more than once. Its port is none of those that connections get by themselves (see
// ip_local_port_range in ip-sysctl of the kernel's documentation): one of them would have
// it sooner or later while nobody listens there.
func FreeAddress() (string, error) {
	const first, last, tries = 10_000, 32_767, 100
	var err error
	for range tries {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first+1))); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", err
}
