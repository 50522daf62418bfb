package volume

import (
	"context"
	"os"

	"github.com/kiln-containers/kiln"
)

// Depth is how many layers a volume stands on.
func (p *Pool) Depth(volume string) int {
	r, err := p.volumeRecord(volume)
	if err != nil {
		return -1
	}
	return len(r.Layers)
}

// WithMerged gives a snapshot with some of its layers made one.
func (p *Pool) WithMerged(ctx context.Context, s *Snapshot, from, to int) (*Snapshot, error) {
	if err := p.merge(ctx, s.Layers[from:to], 99); err != nil {
		return nil, err
	}
	return &Snapshot{p, s.name, record{s.Base(), p.compact(s.Layers)}}, nil
}

// Layers is how many layers a snapshot has.
func (s *Snapshot) Depth() int { return len(s.Layers) }

// Quiet waits for what is done beside the callers.
func (p *Pool) Quiet() { p.wg.Wait() }

// Share is what the pool does by itself with a new tree.
func (p *Pool) Share(ctx context.Context, fp kiln.Fingerprint) error { return p.share(ctx, fp) }

// SweepLayers removes the layers that nobody needs, as whoever deletes a volume does.
func (p *Pool) SweepLayers() error { return p.sweepLayers() }

// Unmount has the next mount of a volume mount the tree of its image.
func (p *Pool) Unmount(fp kiln.Fingerprint) error {
	return p.ns.forget(fp.String(), func() error { return nil })
}

// LeaveNamespace has setns(2) fail with EINVAL until the function is called that it gives.
func (p *Pool) LeaveNamespace() (back func(), err error) {
	none, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	was := p.ns.fd
	p.ns.fd = none
	return func() {
		p.ns.fd = was
		none.Close()
	}, nil
}
