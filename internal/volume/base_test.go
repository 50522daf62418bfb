package volume

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// TestSlowMount has the mount of one image hang, as when its disk doesn't answer: those who want
// it wait for one mount, and not for ever; nobody else waits; and when it is there, it is.
func TestSlowMount(t *testing.T) {
	n, err := newNamespace(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	goOn, begun := make(chan struct{}), make(chan struct{}, 1)
	var mounts atomic.Int64
	n.mountFile = func(_, file string) (int, error) {
		mounts.Add(1)
		switch file {
		case "slow":
			begun <- struct{}{}
			<-goOn
		case "bad":
			return -1, errDamaged
		}
		return fsMount("tmpfs", nil, unix.MOUNT_ATTR_RDONLY, false)
	}
	base := func(ctx context.Context, name string) error { return n.base(ctx, name, kindErofs, name) }
	waits := make(chan error, 3)
	go func() { waits <- base(t.Context(), "slow") }()
	<-begun
	for range 2 {
		go func() { waits <- base(t.Context(), "slow") }()
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if err := base(ctx, "slow"); !errors.Is(err, gone) {
		t.Error("who doesn't wait any more:", err)
	}
	if err := base(t.Context(), "quick"); err != nil {
		t.Error("another image:", err)
	}
	if err := n.forget("quick", func() error { return nil }); err != nil {
		t.Error("forget another one:", err)
	}
	close(goOn)
	for range cap(waits) {
		if err := <-waits; err != nil {
			t.Error(err)
		}
	}
	if err := base(t.Context(), "slow"); err != nil || mounts.Load() != 2 {
		t.Errorf("when it is mounted: %v, after %d mounts", err, mounts.Load())
	}
	if err := base(t.Context(), "bad"); !errors.Is(err, errDamaged) {
		t.Error("a damaged one:", err)
	}
	if err := base(t.Context(), "bad"); !errors.Is(err, errDamaged) || mounts.Load() != 4 {
		t.Errorf("a damaged one again: %v, after %d mounts", err, mounts.Load())
	}
}

// TestMountHasABound waits for one image no longer than that, whatever becomes of its mount.
func TestMountHasABound(t *testing.T) {
	n, err := newNamespace(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.bound = time.Millisecond
	goOn := make(chan struct{})
	defer close(goOn)
	n.mountFile = func(string, string) (int, error) {
		<-goOn
		return -1, errDamaged
	}
	err = n.base(t.Context(), "slow", kindErofs, "slow")
	if !errors.Is(err, kiln.Timeout) || !strings.Contains(err.Error(), "try again") {
		t.Error(err)
	}
}
