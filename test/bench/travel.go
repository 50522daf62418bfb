package main

import (
	"fmt"
	"sync"
	"time"
)

// travel moves images between daemons.
func (b *bench) travel() {
	file, fp, size := b.image("big", 250)
	kiln := pair{from: b.node("kiln", "kiln-a"), to: b.node("kiln", "kiln-b")}
	lxd := pair{from: b.node("lxd", "lxd-a"), to: b.node("lxd", "lxd-b")}
	for _, p := range []*pair{&kiln, &lxd} {
		p.from.add(file)
		p.proxy = b.proxy(p.from.address)
		p.to.knows("direct", p.from.address)
		p.to.knows("proxy", p.proxy.address())
	}
	fmt.Printf("\nCopy of an image of %d MB over https on one machine (s)\n", size/1e6)
	row("", "kiln", "lxd", "ratio")
	copied := func(p pair) string { return p.to.command("image copy direct:" + fp + " local: --mode pull") }
	m := b.timed([]string{kiln.to.drop(), lxd.to.drop()}, []string{copied(kiln), copied(lxd)})
	row("pull, whole", m[0], m[1], m[0]/m[1])
	b.cuts(fp, size, kiln, lxd)
	b.crowd(kiln)
}

// A pair is a daemon that has an image and one that fetches it, with a proxy between
// them where one is wanted.
type pair struct {
	from, to *node
	proxy    *proxy
}

// cuts copies over a line that breaks ten times. Who gives up is started again, as
// a user would do.
func (b *bench) cuts(fp string, size int64, pairs ...pair) {
	const times = 10
	fmt.Printf("\nThe same cut %d times at random\n", times)
	row("", "commands", "s", "wire/size")
	for _, p := range pairs {
		var commands, seconds, wire []float64
		for range b.n {
			b.must(p.to.drop())
			p.proxy.reset(size, times)
			start, tries := time.Now(), 1
			for {
				_, err := b.try(p.to.command("image copy proxy:" + fp + " local: --mode pull </dev/null"))
				if err == nil {
					break
				}
				if tries++; tries > 5*times {
					b.fail("the copy never arrives: %v", err)
				}
			}
			commands, seconds = append(commands, float64(tries)), append(seconds, time.Since(start).Seconds())
			wire = append(wire, float64(p.proxy.sent.Load())/float64(size))
		}
		row(p.to.kind, int(median(commands)), median(seconds), median(wire))
	}
}

// crowd makes many instances at once from an image that is elsewhere.
func (b *bench) crowd(p pair) {
	const count = 100
	file, fp, size := b.image("small", 50)
	p.from.add(file)
	fmt.Printf("\n%d times \"init\" at once from an image of %d MB on another server\n", count, size/1e6)
	row("", "s", "wire/size")
	var seconds, wire []float64
	for range b.n {
		b.must(p.to.command("list -f csv -c n") + " | xargs -r " + p.to.command("delete -f") + " && " + p.to.drop())
		p.proxy.reset(size, 0)
		start := time.Now()
		var wg sync.WaitGroup
		for i := range count {
			wg.Go(func() { p.to.do(fmt.Sprintf("init proxy:%s c%d", fp, i)) })
		}
		wg.Wait()
		seconds = append(seconds, time.Since(start).Seconds())
		wire = append(wire, float64(p.proxy.sent.Load())/float64(size))
	}
	row(p.to.kind, median(seconds), median(wire))
}
