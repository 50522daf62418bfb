package box

import (
	"os/exec"
	"sync"
	"testing"
)

// TestKillAndClose kills what somebody else lets go of at the same moment, as who
// watches a container does when it has ended.
func TestKillAndClose(t *testing.T) {
	for range 300 {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		init, err := openProcess(identify(cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		b := &Box{init: init}
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = cmd.Wait()
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := b.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := b.Kill(t.Context()); err != nil { // after Close
			t.Error(err)
		}
	}
}
