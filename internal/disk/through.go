package disk

import (
	"context"
	"errors"
	"io"
	"os"
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
)

// ReadThrough gives a file, from its beginning to its end, to w: as it is on the disk, past
// what the memory has of it, where the file system can do that. So damage of the disk is
// found though nobody would notice it before the host starts again, and what others have in
// memory stays there. One piece is read while w has the one before. A pace of nil doesn't wait.
func ReadThrough(ctx context.Context, f *os.File, pace Pace, w io.Writer) error {
	r := &through{fd: int(f.Fd()), name: f.Name()}
	r.bypass(true) // where it can't, it reads as ever
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	bufs := [2][]byte{aligned(piece), aligned(piece)}
	type read struct {
		b   []byte
		err error
	}
	reads := make(chan read, 1)
	next := func(n int) {
		if err := ctx.Err(); err != nil {
			reads <- read{nil, err}
			return
		}
		if size := min(piece, fi.Size()-r.at); pace != nil && size > 0 {
			if err := pace(ctx, int(size)); err != nil {
				reads <- read{nil, err}
				return
			}
		}
		b, err := r.next(bufs[n%2])
		reads <- read{b, err}
	}
	go next(0)
	for n := 1; ; n++ {
		got := <-reads
		if got.err != nil || len(got.b) == 0 {
			return got.err
		}
		go next(n)
		if _, err := w.Write(got.b); err != nil {
			<-reads
			return err
		}
	}
}

// through is a file that is read past the memory.
type through struct {
	fd     int
	name   string
	at     int64
	direct bool
}

// next reads what follows into a buffer, which is aligned; nothing at the end.
func (r *through) next(buf []byte) ([]byte, error) {
	for {
		if r.direct && r.at%aligns != 0 { // after the last, where the end is looked for
			r.bypass(false)
		}
		n, err := unix.Pread(r.fd, buf, r.at)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL) && r.direct:
			r.bypass(false)
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: r.name, Err: err}
		}
		r.at += int64(n)
		return buf[:n], nil
	}
}

// bypass has reads go past the memory, or not.
func (r *through) bypass(on bool) {
	flags, err := unix.FcntlInt(uintptr(r.fd), unix.F_GETFL, 0)
	if err != nil {
		return
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(uintptr(r.fd), unix.F_SETFL, flags)
	r.direct = on && err == nil
}

// aligned gives a buffer that the disk can write into.
func aligned(size int) []byte {
	b := make([]byte, size+aligns)
	skip := (aligns - int(uintptr(unsafe.Pointer(&b[0]))%aligns)) % aligns
	return b[skip : skip+size : skip+size]
}
