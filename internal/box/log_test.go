package box

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBoundLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lxc.log")
	boundLog(path) // there is none
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("one\n")
	boundLog(path)
	if fileSize(path) != 4 {
		t.Error("a small log was moved")
	}
	for range 5 {
		f.Write(bytes.Repeat([]byte("line\n"), maxLog/5))
		boundLog(path)
	}
	f.WriteString("last\n") // as the monitor goes on
	now, err := os.ReadFile(path)
	if err != nil || string(now) != "last\n" {
		t.Errorf("%d bytes, %v", len(now), err)
	}
	old, err := os.ReadFile(path + ".1")
	if err != nil || len(old) < maxLog || len(old) > 2*maxLog || !strings.HasSuffix(string(old), "line\n") {
		t.Errorf("%d bytes of the older part, %v", len(old), err)
	}
}

// A container that reboots and runs commands for ever doesn't fill up the host.
func TestLogOfReboots(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	log := filepath.Join(b.dir, logFile)
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, again := range []func(){
		func() { run(t, b, sh("true")) },
		func() {
			run(t, b, sh("reboot -f & sleep 10"))
			if e, err := b.Next(t.Context()); err != nil || e.Kind != Rebooted {
				t.Errorf("after reboot: %v, %v", e, err)
			}
		},
	} {
		if _, err := f.Write(make([]byte, maxLog)); err != nil {
			t.Fatal(err)
		}
		if again(); fileSize(log) > maxLog/2 {
			t.Errorf("the log has %d bytes", fileSize(log))
		}
	}
}
