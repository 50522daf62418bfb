package archive

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/kiln-containers/kiln"
)

// These bound what is remembered at once of archives that are read at the pace of this host,
// in bytes as a Visit counts them. What is made of the entries takes some times as much.
const (
	fewBytes    = 12 << 20 // what anybody may have who has a turn …
	turns       = 8        // … of which there are so many; one more has as much as there is
	mostCrowded = 8        // wait for that one, with the little that they have
)

// These are what a Visit counts of an archive, in bytes.
const (
	entrySize  = 96       // of an entry, beside its text, and of a directory that is none
	streamSize = 10 << 20 // of what is between a client, the decoder and the disk
	batchSize  = 64 << 10 // what is asked for at a time
	walkFree   = 1 << 20  // what a walk through few files has and nobody counts
)

// These bound what comes and goes at the pace of clients, in bytes as a Visit counts them: all
// of restricted clients together, and that of any other client.
const (
	memoryPart  = 8         // so large a part of the memory of the host …
	leastShared = 512 << 20 // … but this at least, …
	mostShared  = 2 << 30   // … and this at most
	clientPart  = 4         // one restricted client has so large a part of that …
	alwaysFree  = 32 << 20  // … and this, however much the others have
)

// A Crowd is all that remembers something of each entry of archives. What is read at the pace
// of this host takes turns. What comes at the pace of a client, or takes as long as there are
// bytes, would hold up everybody: each client has a share, and is refused what is more.
type Crowd struct {
	turns, large *semaphore.Weighted
	waiting      atomic.Int64
	waits        func(context.Context)

	most int64 // that all restricted clients have together

	mu     sync.Mutex
	shares map[Client]*share
	theirs int64 // of restricted clients
}

// A Client is somebody for whom archives come and go.
type Client struct {
	Name       string // means something to who asks only
	Restricted bool   // it may not hold up those who aren't
}

// A share is what a client has of a crowd.
type share struct {
	bytes  int64
	visits int
}

// NewCrowd makes one with nobody in it, on a host with so many bytes of memory. waits is told
// of whoever has to wait because of the many entries that it has itself.
func NewCrowd(memory int64, waits func(context.Context)) *Crowd {
	return &Crowd{turns: semaphore.NewWeighted(turns), large: semaphore.NewWeighted(1), waits: waits,
		most: min(max(memory/memoryPart, leastShared), mostShared), shares: map[Client]*share{}}
}

// A Visit is one of a crowd: it remembers the entries of one archive, or of several.
type Visit struct {
	crowd *Crowd
	ctx   context.Context // of what takes turns
	of    Client          // of what has a part of a share

	mu      sync.Mutex
	bytes   int64
	shares  bool
	bounded bool  // even the only one may have no more than a share
	joined  bool  // the share knows of it
	asked   int64 // bytes that the share knows of
	turn    bool
	large   bool
}

// Enter waits for a turn to read what is here. Leave must be called. The error is that of ctx,
// which also ends what the visit waits for later.
func (c *Crowd) Enter(ctx context.Context) (*Visit, error) {
	if err := c.turns.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return &Visit{crowd: c, ctx: ctx, turn: true}, nil
}

// Share begins with what takes a part of a client's share. Leave must be called. The error is
// Busy when the client has all of it.
func (c *Crowd) Share(of Client) (*Visit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := &Visit{crowd: c, of: of, shares: true, bytes: streamSize}
	if err := c.take(v, streamSize); err != nil {
		c.leave(v)
		return nil, err
	}
	return v, nil
}

// Walk begins to go through files that are here for a client, which takes a part of its share
// once more of them is remembered than a little. Leave must be called. With bounded it has no
// more than a share even if it is the only one: nobody has asked for it.
func (c *Crowd) Walk(of Client, bounded bool) *Visit {
	return &Visit{crowd: c, of: of, shares: true, bytes: -walkFree, bounded: bounded}
}

// take gives a visit more. A client's only one may have what there is: nothing that is larger
// than a share could ever come else. The error is Busy. It is called with the lock.
func (c *Crowd) take(v *Visit, bytes int64) error {
	s := c.shares[v.of]
	if s == nil {
		s = &share{}
		c.shares[v.of] = s
	}
	if !v.joined {
		s.visits++
		v.joined = true
	}
	has, most := s.bytes+bytes, c.most
	if v.of.Restricted {
		most /= clientPart
	}
	switch {
	case v.bounded && has > most:
		return kiln.Errorf(kiln.Busy, "there are so many files that more than %s of memory are needed, which nothing has "+
			"that the server does unasked; have it done by a command, or delete files", kiln.FormatSize(most))
	case s.visits > 1 && has > most:
		return kiln.Errorf(kiln.Busy, "this client has %d images, backups, copies and snapshots under way, for which it may "+
			"have %s of memory together; wait until some are done, then try again", s.visits, kiln.FormatSize(most))
	case v.of.Restricted && has > alwaysFree && c.theirs+bytes > c.most:
		return kiln.Errorf(kiln.Busy, "the images, backups, copies and snapshots of restricted clients that are under way "+
			"may have %s of memory together; try again later, or ask who manages the server to do it",
			kiln.FormatSize(c.most))
	}
	s.bytes = has
	v.asked += bytes
	if v.of.Restricted {
		c.theirs += bytes
	}
	return nil
}

// leave gives back what a visit has. It is called with the lock.
func (c *Crowd) leave(v *Visit) {
	if !v.joined {
		return
	}
	v.joined = false
	s := c.shares[v.of]
	s.bytes -= v.asked
	if v.of.Restricted {
		c.theirs -= v.asked
	}
	if s.visits--; s.visits == 0 {
		delete(c.shares, v.of)
	}
}

// entry counts entries with so much text.
func (v *Visit) entry(entries int, text int64) error { return v.Add(int64(entries)*entrySize + text) }

// Decoder counts the memory of a decoder, in bytes. What takes turns has few of those. The error
// is Busy.
func (v *Visit) Decoder(bytes int64) error {
	if v == nil || !v.shares {
		return nil
	}
	return v.Add(bytes)
}

// Add counts what is remembered, in bytes; less than nothing is forgotten. What takes turns
// waits when it has much, and somebody else has its turn meanwhile, so that small archives don't
// wait for large ones. Errors: Busy, and that of the context.
func (v *Visit) Add(bytes int64) error {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bytes += bytes
	if v.shares {
		more := v.bytes - v.asked
		if more <= 0 {
			return nil
		}
		v.crowd.mu.Lock()
		defer v.crowd.mu.Unlock()
		return v.crowd.take(v, more+batchSize)
	}
	if v.bytes <= fewBytes || v.large {
		return nil
	}
	if v.turn {
		v.crowd.turns.Release(1)
		v.turn = false
	}
	if !v.crowd.large.TryAcquire(1) {
		defer v.crowd.waiting.Add(-1)
		if v.crowd.waiting.Add(1) > mostCrowded {
			return kiln.Errorf(kiln.Busy, "%d images of very many files wait to be read, as many as may; try again later",
				mostCrowded)
		}
		v.crowd.waits(v.ctx)
		if err := v.crowd.large.Acquire(v.ctx, 1); err != nil {
			return err
		}
	}
	v.large = true
	return nil
}

// Leave says that the entries are forgotten. That of none does nothing.
func (v *Visit) Leave() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shares {
		v.crowd.mu.Lock()
		defer v.crowd.mu.Unlock()
		v.crowd.leave(v)
		v.shares = false
		return
	}
	if v.turn {
		v.crowd.turns.Release(1)
	}
	if v.large {
		debug.FreeOSMemory() // before the next one takes as much
		v.crowd.large.Release(1)
	}
	v.turn, v.large = false, false
}
