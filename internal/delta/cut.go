package delta

import (
	"bufio"
	"errors"
	"io"
	"math"
)

// A cutter divides a tar into frames. Members are gathered until the name of one
// says that a frame ends after it; contents longer than the threshold get frames
// of their own, cut by what is in them. Neither depends on what came long before,
// so a change moves no cut but those next to it. Bytes that are no tar are cut
// too: nothing is refused, it only gets worse.
type cutter struct {
	in        *bufio.Reader
	gear      *gear
	threshold int64
	large     int64 // bytes left of a long content
}

func newCutter(r io.Reader, o Options) *cutter {
	g := newGear(o.Average)
	return &cutter{in: bufio.NewReaderSize(r, g.max), gear: g, threshold: int64(o.Threshold)}
}

// next puts the next frame into buf, which is empty. It is io.EOF when there is
// none.
func (c *cutter) next(buf []byte) ([]byte, error) {
	if c.large > 0 {
		return c.content(buf)
	}
	for {
		start := len(buf)
		var err error
		if buf, err = c.read(buf, block); err != nil {
			return ended(buf, err)
		}
		h, _ := parseHeader(buf[start:])
		if h.size > c.threshold && !h.extends {
			c.large = h.size
			return buf, nil
		}
		if buf, err = c.read(buf, int(h.size)); err != nil {
			return ended(buf, err)
		}
		if c.ends(len(buf), len(buf)-start, h) {
			return buf, nil
		}
	}
}

// ends decides by the member's name whether a frame ends after it. The chance
// grows with the member, so that the average holds for small and large ones.
func (c *cutter) ends(frame, member int, h header) bool {
	if frame >= c.gear.max {
		return true
	}
	if frame < c.gear.min || h.extends {
		return false
	}
	chance := float64(member) / float64(c.gear.avg)
	if frame > c.gear.avg {
		chance *= 4
	}
	return float64(h.key) < chance*math.MaxUint64
}

// content puts the next frame of a long content into buf.
func (c *cutter) content(buf []byte) ([]byte, error) {
	data, err := c.in.Peek(int(min(c.large, int64(c.gear.max))))
	if err != nil && (len(data) == 0 || !errors.Is(err, io.EOF)) {
		return buf, err
	}
	n := c.gear.cut(data)
	c.large -= int64(n)
	buf = append(buf, data[:n]...)
	_, err = c.in.Discard(n)
	return buf, err
}

// read appends n bytes, or what is left and an error.
func (c *cutter) read(buf []byte, n int) ([]byte, error) {
	start := len(buf)
	buf = append(buf, make([]byte, n)...)
	got, err := io.ReadFull(c.in, buf[start:])
	return buf[:start+got], err
}

// ended makes the end of the file the end of the last frame.
func ended(buf []byte, err error) ([]byte, error) {
	switch {
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return buf, err
	case len(buf) == 0:
		return buf, io.EOF
	}
	return buf, nil
}
