package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kiln-containers/kiln"
	"github.com/klauspost/compress/zstd"
)

const (
	// unitSize is how much of the new tar goes into one unit, at least a frame.
	// Longer ones gain nothing: the match finder remembers only some positions of
	// the dictionary, and would forget what stands at its beginning.
	unitSize = 2 << 20
	// copySize bounds a copy in the same way, since its frames are sent as they
	// are if they turn out to be others.
	copySize = 16 << 20
	// makeWindow reaches all of a unit and its dictionary.
	makeWindow = 8 << 20
)

// A run is a series of frames of the new file that are treated alike.
type run struct {
	first, n int
	base     int       // the first of the same frames in the base, or -1
	dict     []segment // otherwise

	steps []byte // as in the patch
}

// MakePatch writes what ApplyPatch needs to make target of base. Both are framed
// files. Frames that this version's encoder does not reproduce are sent as they
// are, so there is a patch to every framed file. Both files are read in pieces
// and not changed.
func MakePatch(ctx context.Context, base, target *io.SectionReader, w io.Writer) error {
	m, err := newMaker(ctx, base, target)
	if err == nil {
		err = m.write(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("make a patch: %w", err)
	}
	return nil
}

type maker struct {
	base, target       *io.SectionReader
	baseTOC, targetTOC TOC
	matcher            *matcher
	head               []byte
}

func newMaker(ctx context.Context, base, target *io.SectionReader) (*maker, error) {
	m := &maker{base: base, target: target}
	for _, f := range []struct {
		file *io.SectionReader
		toc  *TOC
		what string
	}{{base, &m.baseTOC, "base"}, {target, &m.targetTOC, "target"}} {
		var err error
		if *f.toc, err = ReadTOC(f.file, f.file.Size()); err != nil {
			return nil, fmt.Errorf("the %s: %w", f.what, err)
		}
	}
	result, err := fileHash(ctx, target)
	if err != nil {
		return nil, err
	}
	h := patchHeader{base: m.baseTOC.Hash(), result: result, size: target.Size(), toc: m.targetTOC}
	m.head = h.encode()
	var lists [2][]member
	for i, f := range []struct {
		file *io.SectionReader
		toc  TOC
	}{{base, m.baseTOC}, {target, m.targetTOC}} {
		r, err := newFrameReader(f.file, f.toc)
		if err != nil {
			return nil, err
		}
		if lists[i], err = members(ctx, r); err != nil {
			return nil, err
		}
	}
	m.matcher = newMatcher(lists[0], lists[1], m.baseTOC.RawSize())
	return m, nil
}

// write writes the patch: runs become steps side by side.
func (m *maker) write(ctx context.Context, w io.Writer) error {
	if _, err := w.Write(m.head); err != nil {
		return err
	}
	var encs encoders
	defer encs.giveBack()
	l := line[*run]{workers: patchWorkers()}
	l.make = m.runs
	l.worker = func() (func(context.Context, *run) error, error) {
		p, err := m.newPatcher(&encs)
		return func(_ context.Context, r *run) error { return p.patch(r) }, err
	}
	l.use = func(r *run) error {
		_, err := w.Write(r.steps)
		return err
	}
	if err := l.run(ctx); err != nil {
		return err
	}
	_, err := w.Write([]byte{stepEnd})
	return err
}

// A frameKey is the same for frames that likely have the same bytes. Of another
// encoder they have not, though they decode to the same.
type frameKey struct {
	hash kiln.Fingerprint
	size int
}

func (f Frame) key() frameKey { return frameKey{f.Hash, f.Size} }

// runs divides the new file into runs: copies as long as they go on in the base,
// and the rest in units.
func (m *maker) runs(emit func(*run) error) error {
	have := make(map[frameKey]int, len(m.baseTOC.Frames))
	for i, f := range m.baseTOC.Frames {
		have[f.key()] = i
	}
	budget := dictBudget(&m.baseTOC)
	anchor := int64(0) // where in the base's tar the last copy ends
	for i := 0; i < len(m.targetTOC.Frames); {
		r := m.next(i, have)
		i += r.n
		if r.base >= 0 {
			last := m.baseTOC.Frames[r.base+r.n-1]
			anchor = last.RawOffset + int64(last.RawSize)
		} else if m.targetTOC.Encoder == EncoderID {
			first, last := m.targetTOC.Frames[r.first], m.targetTOC.Frames[i-1]
			r.dict = m.matcher.segments(first.RawOffset, last.RawOffset+int64(last.RawSize), anchor)
			if n := total(r.dict); n > budget {
				r.dict = nil
			} else {
				budget -= n
			}
		}
		if err := emit(r); err != nil {
			return err
		}
	}
	return nil
}

// next gives the run that starts with frame i.
func (m *maker) next(i int, have map[frameKey]int) *run {
	r := &run{first: i, base: -1}
	size, limit := 0, unitSize
	for _, f := range m.targetTOC.Frames[i:] {
		at, ok := have[f.key()]
		if r.n == 0 && ok {
			r.base, limit = at, copySize
		}
		if size += f.RawSize; r.n > 0 && size > limit {
			break
		}
		goesOn := !ok
		if r.base >= 0 {
			next := r.base + r.n // of several equal frames, have names one
			goesOn = next < len(m.baseTOC.Frames) && m.baseTOC.Frames[next].key() == f.key()
		}
		if !goesOn {
			break
		}
		r.n++
	}
	return r
}

// A patcher makes steps of runs. It is for one goroutine.
type patcher struct {
	*maker
	from, to *frameReader
	enc      *zstd.Encoder // the receiver's
	blobs    *zstd.Encoder

	raw, want, dict, packed []byte // buffers
}

func (m *maker) newPatcher(encs *encoders) (*patcher, error) {
	from, err1 := newFrameReader(m.base, m.baseTOC)
	to, err2 := newFrameReader(m.target, m.targetTOC)
	enc, err3 := encs.get()
	// A level more makes patches 2 % smaller and takes three times as long.
	blobs, err4 := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(makeWindow), zstd.WithLowerEncoderMem(true))
	return &patcher{maker: m, from: from, to: to, enc: enc, blobs: blobs}, errors.Join(err1, err2, err3, err4)
}

// patch fills in the steps of a run. Frames that can't be had from the base, or
// be compressed again to the same bytes, are sent as they are.
func (p *patcher) patch(r *run) error {
	frames := p.targetTOC.Frames[r.first : r.first+r.n]
	if r.base < 0 && p.targetTOC.Encoder == EncoderID {
		done, err := p.unit(r, frames)
		if err != nil || done {
			return err
		}
	}
	same := 0 // how many of the last frames the base has
	for i, f := range frames {
		packed, err := readAt(p.target, p.want[:0], f.Offset, f.Size)
		if err != nil {
			return err
		}
		p.want = packed
		has, err := p.inBase(r, i, packed)
		if err != nil {
			return err
		}
		if has {
			same++
			continue
		}
		r.copies(i-same, same)
		same = 0
		r.steps = appendLiteral(r.steps, f, packed)
	}
	r.copies(r.n-same, same)
	return nil
}

// copies appends a step for n frames from the i-th on that the base has.
func (r *run) copies(i, n int) {
	if n > 0 {
		r.steps = appendCopy(r.steps, r.base+i, n)
	}
}

// inBase reports whether frame i of a run has these bytes in the base as well.
// That it decodes to the same does not say so.
func (p *patcher) inBase(r *run, i int, packed []byte) (bool, error) {
	if r.base < 0 {
		return false, nil
	}
	f := p.baseTOC.Frames[r.base+i]
	b, err := readAt(p.base, p.packed[:0], f.Offset, f.Size)
	p.packed = b
	return bytes.Equal(b, packed), err
}

// unit makes a run one unit, and then does what the receiver will do. It reports
// whether that gives the same bytes.
func (p *patcher) unit(r *run, frames []Frame) (bool, error) {
	var u unit
	var err error
	p.raw, p.want = p.raw[:0], p.want[:0]
	for i, f := range frames {
		if p.raw, err = p.to.raw(p.raw, r.first+i); err != nil {
			return false, err
		}
		p.want = append(p.want, p.to.packed...)
		u.frames = append(u.frames, f.RawSize)
	}
	if p.dict, err = p.from.segments(p.dict[:0], r.dict); err != nil {
		return false, err
	}
	with := zstd.WithEncoderDictDelete()
	if len(p.dict) > 0 {
		with = zstd.WithEncoderDictRaw(dictID, p.dict)
		u.dict = r.dict
	}
	if err := p.blobs.ResetWithOptions(nil, with); err != nil {
		return false, err
	}
	u.blob = p.blobs.EncodeAll(p.raw, nil)
	_, got, err := u.rebuild(p.dict, p.enc)
	if err != nil || !bytes.Equal(got, p.want) {
		return false, err
	}
	r.steps = u.appendTo(r.steps)
	return true, nil
}
