package guestapi

import (
	"context"
	"sync"
	"time"
)

// How often a container may ask: burst times at once, and then every step. cloud-init
// asks some twenty times in a boot.
const (
	burst = 100
	step  = 50 * time.Millisecond
)

// A pace makes those wait who ask too often, so that a container can't keep the daemon
// busy.
type pace struct {
	mu   sync.Mutex
	next time.Time // when all that was asked would have been at its turn
}

// wait waits for the turn of one more request. It reports whether ctx lasted.
func (p *pace) wait(ctx context.Context) bool {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(step)
	late := p.next.Sub(now) - burst*step
	p.mu.Unlock()
	if late <= 0 {
		return true
	}
	turn := time.NewTimer(late)
	defer turn.Stop()
	select {
	case <-turn.C:
		return true
	case <-ctx.Done():
		return false
	}
}
