// Package thread runs functions that change what belongs to a thread alone: its
// namespaces, its working directory. It knows nothing of what they do.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread that ends with it. It is never the process's first
// thread: that one can't end, and /proc/self shows its namespaces.
func Run(f func() error) error {
	c := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			c <- Run(f) // elsewhere, while this thread is taken
			return
		}
		c <- f() // and never unlocked
	}()
	return <-c
}
