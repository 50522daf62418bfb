package sibling

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const program = "kiln-siblingtest"

// TestMain is also the sibling.
func TestMain(m *testing.M) {
	if os.Args[0] == program {
		if err := Serve(func(*os.Root) {}); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestWrongNumber has the number of another process, or nonsense, where that of the sibling
// should be: the sibling is found all the same, and the other is left alone.
func TestWrongNumber(t *testing.T) {
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()
	defer other.Process.Kill()
	for _, says := range []string{fmt.Sprintf("%d 1", other.Process.Pid), fmt.Sprintf("%d 0", other.Process.Pid), "x", "",
		"2147483647 1", fmt.Sprintf("%d 1", os.Getpid())} {
		s := Sibling{Program: program, Short: "test", Path: t.TempDir(), Version: "1"}
		if err := os.Chmod(filepath.Dir(s.Path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := s.Write("file", nil); err != nil {
			t.Fatal(err)
		}
		p := s.running()
		if p == nil {
			t.Fatal("it doesn't run")
		}
		if err := os.WriteFile(s.lockFile(), []byte(says), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Write("file", []byte("1")); err != nil {
			t.Errorf("%q: %v", says, err)
		}
		if !s.Running() {
			t.Errorf("%q: none runs", says)
		}
		if err := s.Stop(); err != nil {
			t.Errorf("%q: %v", says, err)
		}
		if s.Running() {
			t.Errorf("%q: one runs", says)
		}
		for begun := time.Now(); p.Signal(syscall.Signal(0)) == nil; time.Sleep(time.Millisecond) { // until it is reaped
			if time.Since(begun) > 10*time.Second {
				t.Fatalf("%q: it runs still, and has no lock: %v", says, p.Kill())
			}
		}
	}
	select {
	case err := <-ended:
		t.Errorf("another process was ended: %v", err)
	default:
	}
}
