package box

import (
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCapabilities looks at what an unprivileged container's root may get: all
// that its user namespace confines, and no loading of modules.
func TestCapabilities(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	_, out := run(t, b, ExecSpec{Command: []string{"sed", "-n", `s/^CapBnd:\t//p`, "/proc/1/status"}})
	bounding, err := strconv.ParseUint(strings.TrimSpace(out), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	expected := map[int]bool{unix.CAP_SYS_MODULE: false, unix.CAP_SYS_ADMIN: true, unix.CAP_CHOWN: true}
	for capability, want := range expected {
		if got := bounding&(1<<capability) != 0; got != want {
			t.Errorf("capability %d: %v, want %v", capability, got, want)
		}
	}
}
