package volume_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/volume"
	"github.com/kiln-containers/kiln/internal/volume/volumetest"
)

// TestMountWhileLastOneGoes mounts a volume whose last mount somebody holds for a moment
// longer than who closed it: a process that is being forked, or the kernel.
func TestMountWhileLastOneGoes(t *testing.T) {
	p, err := volume.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	v, err := p.Clone(t.Context(), "v", volumetest.Image, volumetest.Content(new(atomic.Int32)))
	if err != nil {
		t.Fatal(err)
	}
	first, err := v.Mount(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { first.Close() })
	second, err := v.Mount(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}
