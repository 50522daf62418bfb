package audit

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"
)

// How many events of whom are written in a minute. Who manages the server has no bound; what
// is left out of the others is counted, and the count is written.
const (
	mostOfAddress    = 10  // of who isn't trusted, by the address
	mostOfUntrusted  = 100 // of all of them
	mostOfRestricted = 600 // of one restricted client
	mostCounts       = 20  // lines that say how many were left out
	mostKnown        = 4096
)

// window is how long these are counted for.
const window = time.Minute

// bounds counts the events of a minute. It is guarded by whoever has it.
type bounds struct {
	began     time.Time
	written   map[string]int // by key
	untrusted int
	left      map[string]*Event // what was left out: the first of each key, which counts
	counts    map[string]int
}

// key names whom a bound is about, and gives the bound; "": who has none.
func key(w *Who) (who string, most int) {
	switch {
	case w == nil || w.Trusted && !w.Restricted:
		return "", 0
	case w.Trusted:
		return "client " + w.Certificate, mostOfRestricted
	}
	return "address " + network(w.Address), mostOfAddress
}

// network is what one host can have of addresses: an address, of IPv6 all of its network.
func network(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Unmap().Is4() {
		return host
	}
	p, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return p.String()
}

// allow reports whether an event is to be written; else it is counted. The window has been
// closed by take if it was over.
func (b *bounds) allow(e Event) bool {
	who, most := key(e.Who)
	if who == "" {
		return true
	}
	if b.began.IsZero() {
		*b = bounds{began: e.Time, written: map[string]int{}, left: map[string]*Event{}, counts: map[string]int{}}
	}
	if _, known := b.written[who]; !known && len(b.written) >= mostKnown {
		who = "" // others
	}
	if b.written[who] < most && (e.Who.Trusted || b.untrusted < mostOfUntrusted) {
		b.written[who]++
		if !e.Who.Trusted {
			b.untrusted++
		}
		return true
	}
	b.written[who] += 0
	if b.counts[who]++; b.left[who] == nil {
		b.left[who] = &e
	}
	return false
}

// over reports whether the minute is.
func (b *bounds) over(now time.Time) bool {
	return !b.began.IsZero() && (now.Sub(b.began) >= window || now.Before(b.began))
}

// leftOut is the action of an event that says how many others weren't written.
const leftOut = "events-left-out"

// take ends the minute, and gives the events that say what was left out in it.
func (b *bounds) take(now time.Time) (list []Event) {
	var others int
	whos := make([]string, 0, len(b.counts))
	for who := range b.counts {
		whos = append(whos, who)
	}
	slices.SortFunc(whos, func(x, y string) int { // the worst first
		return cmp.Or(cmp.Compare(b.counts[y], b.counts[x]), cmp.Compare(x, y))
	})
	for i, who := range whos {
		if i >= mostCounts || who == "" {
			others += b.counts[who]
			continue
		}
		first := b.left[who]
		list = append(list, Event{Time: now, Action: leftOut, Result: first.Result, Who: first.Who,
			Context: map[string]any{"count": b.counts[who], "since": b.began, "first": first.Action}})
	}
	if others > 0 {
		list = append(list, Event{Time: now, Action: leftOut, Result: Refused,
			Context: map[string]any{"count": others, "since": b.began}})
	}
	*b = bounds{}
	return list
}
