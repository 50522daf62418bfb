package faults

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/test/machine"
)

// TestFull has a disk with less room than an image needs: what comes next finds
// room again.
func TestFull(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := unix.Mount("kiln", dir, "tmpfs", 0, "size=12m,mode=711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	from, to := newHost(t), hostIn(t, dir)
	net := newProxy(t, from.Address)
	to.knows("a", from, net.address)
	img := unified(t, "full", 6<<20)
	fp := from.holds(img, "--public", "--alias", "x")
	copies := []string{"image", "copy", "a:x", "local:", "--mode", "pull"}

	// There is no room from the start: that is known before a byte has come.
	ballast := filepath.Join(dir, "ballast")
	writeFile(t, ballast, noise("ballast", 7<<20))
	wire := net.count(func() { to.fails(8, []string{"need 6", "free in " + dir}, copies...) })
	if wire > small {
		t.Errorf("%d bytes came for nothing", wire)
	}
	if left := to.sound(none()...); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}

	// Somebody else takes the room while the image comes.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	net.every(fault{rate: 4 << 20})
	done := make(chan machine.Said)
	go func() { done <- to.kiln(copies...) }()
	to.waitPartial(fp, 1<<20)
	_ = os.WriteFile(ballast, []byte(noise("ballast", 11<<20)), 0o600) // as much as there is
	if s := <-done; s.Code != 8 {
		t.Errorf("exit %d: %s", s.Code, s.Err)
	}
	if left := to.sound(none()...); left != 0 {
		t.Errorf("%d bytes are left over", left)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	net.set(nil)
	to.ok(copies...)
	to.sound(fp)
}
