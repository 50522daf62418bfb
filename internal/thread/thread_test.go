package thread

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := Run(func() error {
				if unix.Gettid() == unix.Getpid() {
					return errors.New("it runs on the first thread")
				}
				return unix.Unshare(unix.CLONE_NEWUTS)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, task := range []string{"self", "thread-self"} {
		if after, err := os.Readlink("/proc/" + task + "/ns/uts"); err != nil || after != before {
			t.Errorf("%s has the namespace %s, not %s (%v)", task, after, before, err)
		}
	}
}
