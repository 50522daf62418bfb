package disk

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Pace is called before some bytes are read, and may wait. Its error ends the reading.
type Pace func(ctx context.Context, bytes int) error

// ReadTo gives a file, from where it is to its end, to w, until ctx ends: as the memory has
// it, which is what everybody else sees.
func ReadTo(ctx context.Context, f *os.File, w io.Writer) error {
	size := int64(piece)
	if fi, err := f.Stat(); err == nil { // most are small, and many are read
		size = min(size, fi.Size()+aligns)
	}
	buf := make([]byte, size)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

const (
	piece  = 1 << 20 // is read at once
	aligns = 4 << 10 // what reads past the memory begin at and go to, with every disk
	// inFlight is how many pieces a disk is asked for at once: most are slower when they are
	// asked for the next one only after the one before came.
	inFlight = 4
)

// ReadThrough gives a file, from its beginning to its end, to w: as it is on the disk, past
// what the memory has of it, where the file system can do that. So damage of the disk is
// found though nobody would notice it before the host starts again, and what others have in
// memory stays there. Pieces are read ahead while w has those before. A pace of nil doesn't
// wait.
func ReadThrough(ctx context.Context, f *os.File, pace Pace, w io.Writer) error {
	r := &through{fd: int(f.Fd()), name: f.Name()}
	r.bypass(true) // where it can't, it reads as ever
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	at, err := r.ahead(ctx, fi.Size(), pace, w)
	if err != nil {
		return err
	}
	buf := aligned(aligns)
	for { // it may have become longer, or shorter
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.read(buf, at)
		if err != nil || n == 0 {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		at += int64(n)
	}
}

// through is a file that is read past the memory.
type through struct {
	fd   int
	name string

	mu     sync.Mutex
	direct bool
}

// A slot is a piece of a file under way.
type slot struct {
	buf  []byte
	want int
	n    int // bytes that came; less than wanted at the end of a file that became shorter
	err  error
	done chan struct{}
}

// ahead gives the first bytes of a file to w, with several reads under way at once, and tells how
// many those were.
func (r *through) ahead(ctx context.Context, size int64, pace Pace, w io.Writer) (at int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	free, order := make(chan *slot, inFlight), make(chan *slot, inFlight)
	for range min(inFlight, (size+piece-1)/piece) {
		free <- &slot{buf: aligned(int(min(piece, (size+aligns-1)/aligns*aligns)))}
	}
	go r.begin(ctx, size, pace, free, order)
	defer func() {
		cancel()
		for s := range order { // nobody reads any more when this returns
			<-s.done
		}
	}()
	for s := range order {
		<-s.done
		if s.err != nil {
			return at, s.err
		}
		if _, err := w.Write(s.buf[:s.n]); err != nil {
			return at, err
		}
		at += int64(s.n)
		if s.n < s.want {
			return at, nil
		}
		free <- s
	}
	return at, context.Cause(ctx)
}

// begin begins to read piece after piece, each when a slot is free and the pace allows it.
func (r *through) begin(ctx context.Context, size int64, pace Pace, free <-chan *slot, order chan<- *slot) {
	defer close(order)
	for at := int64(0); at < size; at += piece {
		var s *slot
		select {
		case s = <-free:
		case <-ctx.Done():
			return
		}
		s.want, s.done = int(min(piece, size-at)), make(chan struct{})
		s.n, s.err = 0, context.Cause(ctx)
		if s.err == nil && pace != nil {
			s.err = pace(ctx, s.want)
		}
		order <- s
		if s.err != nil {
			close(s.done)
			return
		}
		go func() {
			defer close(s.done)
			for s.n < s.want && s.err == nil {
				var n int
				n, s.err = r.read(s.buf[s.n:], at+int64(s.n))
				if s.n += n; n == 0 {
					break
				}
			}
			s.n = min(s.n, s.want) // what was added meanwhile is read after it
		}()
	}
}

// read reads what is at a place into a buffer, which is aligned; 0 bytes at the end.
func (r *through) read(buf []byte, at int64) (int, error) {
	for {
		if at%aligns != 0 { // after the last, where the end is looked for
			r.bypass(false)
		}
		n, err := unix.Pread(r.fd, buf, at)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL) && r.bypass(false):
			continue
		case err != nil:
			return 0, &os.PathError{Op: "read", Path: r.name, Err: err}
		}
		return n, nil
	}
}

// bypass has reads go past the memory, or not, and reports whether that changed anything.
func (r *through) bypass(on bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.direct == on {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(r.fd), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(uintptr(r.fd), unix.F_SETFL, flags)
	r.direct = on && err == nil
	return err == nil
}

// aligned gives a buffer that the disk can write into.
func aligned(size int) []byte {
	b := make([]byte, size+aligns)
	skip := (aligns - int(uintptr(unsafe.Pointer(&b[0]))%aligns)) % aligns
	return b[skip : skip+size : skip+size]
}
