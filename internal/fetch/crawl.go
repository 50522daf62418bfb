package fetch

import (
	"time"

	"github.com/kiln-containers/kiln"
)

// A server that sends a byte now and then never stalls, and would be waited for as long as
// it likes: on average some bytes a second must come. A piece is one of several that come
// at once.
const (
	leastSpeed = 1000 // bytes a second
	leastPiece = leastSpeed / connections
	crawlTime  = 4 // times the stall that the average is of
)

// crawl is what came lately.
type crawl struct {
	got    int64         // bytes
	waited time.Duration // for them; what is done with them takes its own time
}

// crawls counts what came. The error is Timeout when it comes too slowly.
func (r *Reader) crawls(n int, waited time.Duration) error {
	if r.ahead != nil {
		return nil // each piece is counted by who reads it
	}
	least := float64(leastSpeed)
	if r.piece {
		least = leastPiece
	}
	window := crawlTime * r.c.stallTime()
	r.crawl.got += int64(n)
	if r.crawl.waited += waited; r.crawl.waited < window {
		return nil
	}
	speed := float64(r.crawl.got) / r.crawl.waited.Seconds()
	r.crawl = crawl{}
	if speed < least {
		return kiln.Errorf(kiln.Timeout, "fetch %s: it comes too slowly, %.0f bytes a second in the last %v; what is here "+
			"is kept for the next attempt", Shown(r.file.URLs[0]), speed, window)
	}
	return nil
}

func (c *Client) stallTime() time.Duration {
	if c.Stall > 0 {
		return c.Stall
	}
	return stall
}
