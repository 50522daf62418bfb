package delta

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/kiln-containers/kiln"
	"github.com/klauspost/compress/zstd"
)

// patchWorkers bounds memory: each may hold a dictionary, a unit and its frames.
func patchWorkers() int { return min(runtime.GOMAXPROCS(0), 2) }

// copyBatch is how many bytes of the base are copied in one step.
const copyBatch = 1 << 20

// A step is a step of a patch while it is carried out.
type step struct {
	unit   *unit   // to be compressed again, or nil
	frames []Frame // of the result
	data   []byte  // compressed; nil while it has to be copied from the base
}

// ApplyPatch writes the file that a patch makes of its base, and gives its
// fingerprint. Memory is bounded for every patch, and so is the result, by the
// size in the patch. A patch for another base is Invalid, for an encoder that is
// not this one's Unsupported, and a result with another hash Integrity: then the
// caller throws away what was written and fetches the whole.
func ApplyPatch(ctx context.Context, base *io.SectionReader, patch io.Reader, w io.Writer) (kiln.Fingerprint, error) {
	fp, err := applyPatch(ctx, base, patchReader{bufio.NewReaderSize(patch, 64<<10)}, w)
	if err != nil {
		return kiln.Fingerprint{}, fmt.Errorf("apply a patch: %w", err)
	}
	return fp, nil
}

func applyPatch(ctx context.Context, base *io.SectionReader, in patchReader, w io.Writer) (kiln.Fingerprint, error) {
	h, err := in.header()
	if err != nil {
		return kiln.Fingerprint{}, err
	}
	toc, err := ReadTOC(base, base.Size())
	if err != nil {
		return kiln.Fingerprint{}, fmt.Errorf("the base: %w", err)
	}
	if toc.Hash() != h.base {
		return kiln.Fingerprint{}, kiln.Errorf(kiln.Invalid, "the patch is for another base")
	}
	whole := sha256.New()
	out := &bounded{w: io.MultiWriter(w, whole), left: h.size}
	var encs encoders
	defer encs.giveBack()
	l := line[*step]{workers: patchWorkers()}
	l.make = func(emit func(*step) error) error { return readSteps(in, &toc, h.toc.Encoder, emit) }
	l.worker = func() (func(context.Context, *step) error, error) {
		r, err := newFrameReader(base, toc)
		if err != nil {
			return nil, err
		}
		enc, err := encs.get()
		var dict []byte
		return func(_ context.Context, s *step) (err error) {
			if s.unit != nil {
				dict, err = r.segments(dict[:0], s.unit.dict)
			}
			if err == nil {
				err = s.run(base, dict, enc)
			}
			return err
		}, err
	}
	l.use = func(s *step) error {
		for _, f := range s.frames {
			if err := h.toc.add(f); err != nil {
				return err
			}
		}
		_, err := out.Write(s.data)
		return err
	}
	if err := l.run(ctx); err != nil {
		return kiln.Fingerprint{}, err
	}
	if _, err := out.Write(h.toc.encode()); err != nil {
		return kiln.Fingerprint{}, err
	}
	got := kiln.Fingerprint(whole.Sum(nil))
	if got != h.result || out.left != 0 {
		return got, kiln.Errorf(kiln.Integrity, "the result is %s and not %s", got.Short(), h.result.Short())
	}
	return got, nil
}

// readSteps reads the steps of a patch to its end.
func readSteps(in patchReader, base *TOC, encoder string, emit func(*step) error) error {
	// Dictionaries cost time to load. All together they have a use only in
	// proportion to what there is to look for.
	budget := dictBudget(base)
	for {
		kind, err := in.in.ReadByte()
		if err != nil {
			return cutShort(err)
		}
		switch kind {
		case stepEnd:
			return in.over()
		case stepCopy:
			err = readCopy(in, base, emit)
		case stepUnit:
			if encoder != EncoderID {
				return kiln.Errorf(kiln.Unsupported, "the patch needs the encoder %q", encoder)
			}
			var u unit
			if u, err = in.unit(base.RawSize()); err != nil {
				return err
			}
			if budget -= total(u.dict); budget < 0 {
				return kiln.Errorf(kiln.Invalid, "the patch has too large dictionaries")
			}
			err = emit(&step{unit: &u})
		case stepLiteral:
			s := &step{frames: make([]Frame, 1)}
			if s.frames[0], s.data, err = in.literal(); err == nil {
				err = emit(s)
			}
		default:
			return kiln.Errorf(kiln.Invalid, "the patch has an unknown step %d", kind)
		}
		if err != nil {
			return err
		}
	}
}

func dictBudget(base *TOC) int64 { return 4*base.RawSize() + 4*maxDict }

// readCopy reads one step and emits as many as it takes.
func readCopy(in patchReader, base *TOC, emit func(*step) error) error {
	first, err := in.number(int64(len(base.Frames) - 1))
	if err != nil {
		return err
	}
	n, err := in.number(int64(len(base.Frames)) - first)
	if err != nil {
		return err
	}
	for frames := base.Frames[first : first+n]; len(frames) > 0; {
		s := &step{}
		size := 0
		for len(frames) > 0 && (size == 0 || size+frames[0].Size <= copyBatch) {
			size += frames[0].Size
			s.frames = append(s.frames, frames[0])
			frames = frames[1:]
		}
		if err := emit(s); err != nil {
			return err
		}
	}
	return nil
}

// run makes the bytes of the result that the step stands for.
func (s *step) run(base io.ReaderAt, dict []byte, enc *zstd.Encoder) (err error) {
	switch {
	case s.unit != nil:
		s.frames, s.data, err = s.unit.rebuild(dict, enc)
		s.unit = nil
	case s.data == nil: // a copy; the hash of the whole checks it
		first, last := s.frames[0], s.frames[len(s.frames)-1]
		n := int(last.Offset-first.Offset) + last.Size
		s.data, err = readAt(base, nil, first.Offset, n)
	}
	return err
}

// rebuild decodes a unit and compresses its frames.
func (u *unit) rebuild(dict []byte, enc *zstd.Encoder) ([]Frame, []byte, error) {
	var o []zstd.DOption
	if len(dict) > 0 {
		o = append(o, zstd.WithDecoderDictRaw(dictID, dict))
	}
	dec, err := newDecoder(o...)
	if err != nil {
		return nil, nil, err
	}
	defer dec.Close()
	size := 0
	for _, n := range u.frames {
		size += n
	}
	raw, err := dec.DecodeAll(u.blob, make([]byte, 0, size))
	if err != nil || len(raw) != size {
		return nil, nil, kiln.Errorf(kiln.Invalid, "a unit of the patch does not decode")
	}
	frames := make([]Frame, 0, len(u.frames))
	data := make([]byte, 0, size/2)
	for _, n := range u.frames {
		start := len(data)
		data = enc.EncodeAll(raw[:n], data)
		frames = append(frames, Frame{RawSize: n, Size: len(data) - start, Hash: sha256.Sum256(raw[:n])})
		raw = raw[n:]
	}
	return frames, data, nil
}

// segments appends stretches of the tar to dict.
func (r *frameReader) segments(dict []byte, list []segment) ([]byte, error) {
	dict = slices.Grow(dict, int(total(list)))
	var frame []byte
	loaded := -1
	for _, s := range list {
		for s.off < s.end {
			i := r.toc.at(s.off)
			if i != loaded {
				var err error
				if frame, err = r.raw(frame[:0], i); err != nil {
					return nil, err
				}
				loaded = i
			}
			part := frame[s.off-r.toc.Frames[i].RawOffset:]
			part = part[:min(int64(len(part)), s.end-s.off)]
			dict = append(dict, part...)
			s.off += int64(len(part))
		}
	}
	return dict, nil
}

func total(list []segment) (n int64) {
	for _, s := range list {
		n += s.end - s.off
	}
	return n
}

// bounded refuses what goes beyond the promised size.
type bounded struct {
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, kiln.Errorf(kiln.Integrity, "the patch gives more than it promises")
	}
	return b.w.Write(p)
}
