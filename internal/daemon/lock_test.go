package daemon

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestLockOfWhoDies has a lock that goes a moment later, as that of a daemon that was just
// killed; one that stays is refused.
func TestLockOfWhoDies(t *testing.T) {
	dir := t.TempDir()
	old, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(old.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { old.Close() })
	lock, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := lockDir(t.Context(), dir); !errors.Is(err, kiln.Conflict) {
		t.Errorf("two have the lock: %v", err)
	}
}
