package delta

import "math/bits"

// gear finds places to cut that depend only on the bytes just before them, so
// that equal stretches of two files are cut alike wherever they are. It is the
// rolling hash of "FastCDC" (Xia et al., USENIX ATC 2016) with its two masks:
// cutting is harder before the average length, easier after it.
type gear struct {
	table      [256]uint64
	min, avg   int
	max        int
	hard, easy uint64
}

func newGear(average int) *gear {
	g := &gear{min: average / 4, avg: average, max: average * 4}
	// The table is any 256 numbers without a pattern, the same for ever. These
	// are the first of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
	state := uint64(0)
	for i := range g.table {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		g.table[i] = z ^ z>>31
	}
	// The upper bits depend on the most bytes: all of the last 64.
	n := bits.Len(uint(average)) - 1
	g.hard, g.easy = ^uint64(0)<<(64-n-1), ^uint64(0)<<(64-n+1)
	return g
}

// cut gives the length of the first chunk of data, which holds g.max bytes or
// all that is left.
func (g *gear) cut(data []byte) int {
	if len(data) <= g.min {
		return len(data)
	}
	data = data[:min(len(data), g.max)]
	var h uint64
	i, mask := g.min, g.hard
	for _, end := range []int{min(g.avg, len(data)), len(data)} {
		for ; i < end; i++ {
			if h = h<<1 + g.table[data[i]]; h&mask == 0 {
				return i + 1
			}
		}
		mask = g.easy
	}
	return len(data)
}
