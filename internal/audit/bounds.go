package audit

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"
)

// How many events of whom are written in a minute: so many of what was refused or failed, and as
// many of what was done, so that nobody hides what it does behind what it may not do. Who manages
// the server has no bound; what is left out of the others is counted, and the count is written.
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
	written   map[key]int
	untrusted map[bool]int   // of all of them, by done
	left      map[key]*Event // what was left out: the first of each key, which counts
	counts    map[key]int
}

// A key is what a bound is about.
type key struct {
	who  string // "": others
	done bool   // what it did, and not what it was refused or failed to do
}

// keyOf gives what an event counts for, and the bound; "": it has none.
func keyOf(e Event) (k key, most int) {
	k.done = e.Result == OK || e.Result == Begun
	switch w := e.Who; {
	case w == nil || w.Trusted && !w.Restricted || e.Kept && e.Result == OK:
		return k, 0
	case w.Trusted:
		k.who = "client " + w.Certificate
		return k, mostOfRestricted
	}
	k.who = "address " + Network(e.Who.Address)
	return k, mostOfAddress
}

// Network is what one host can have of addresses: an address, of IPv6 all of its network. The
// port is left out, if there is one.
func Network(address string) string {
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
	k, most := keyOf(e)
	if k.who == "" {
		return true
	}
	if b.began.IsZero() {
		*b = bounds{began: e.Time, written: map[key]int{}, untrusted: map[bool]int{}, left: map[key]*Event{},
			counts: map[key]int{}}
	}
	if _, known := b.written[k]; !known && len(b.written) >= mostKnown {
		k.who = ""
	}
	if b.written[k] < most && (e.Who.Trusted || b.untrusted[k.done] < mostOfUntrusted) {
		b.written[k]++
		if !e.Who.Trusted {
			b.untrusted[k.done]++
		}
		return true
	}
	b.written[k] += 0
	if b.counts[k]++; b.left[k] == nil {
		b.left[k] = &e
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
	others := map[bool]int{}
	keys := make([]key, 0, len(b.counts))
	for k := range b.counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y key) int { // the worst first
		return cmp.Or(cmp.Compare(b.counts[y], b.counts[x]), cmp.Compare(x.who, y.who))
	})
	for i, k := range keys {
		if i >= mostCounts || k.who == "" {
			others[k.done] += b.counts[k]
			continue
		}
		first := b.left[k]
		list = append(list, Event{Time: now, Action: leftOut, Result: first.Result, Who: first.Who,
			Context: map[string]any{"count": b.counts[k], "since": b.began, "first": first.Action}})
	}
	for _, result := range []Result{Refused, OK} {
		if n := others[result == OK]; n > 0 {
			list = append(list, Event{Time: now, Action: leftOut, Result: result,
				Context: map[string]any{"count": n, "since": b.began}})
		}
	}
	*b = bounds{}
	return list
}
