package server

import (
	"bufio"
	"io"
	"net/http"

	"github.com/kiln-containers/kiln/api"
)

// long is what a handler returns whose answer may be too long for the memory: it writes the
// metadata of the answer, as JSON, piece by piece.
type long func(w *bufio.Writer) error

// array writes a list of JSON.
type array struct {
	w   *bufio.Writer
	any bool
}

// next begins an element.
func (a *array) next() error {
	sep := byte(',')
	if !a.any {
		a.any, sep = true, '['
	}
	return a.w.WriteByte(sep)
}

func (a *array) add(v any) error {
	if err := a.next(); err != nil {
		return err
	}
	_, err := a.w.Write(encode(v))
	return err
}

func (a *array) end() error {
	if !a.any {
		return a.raw("[]")
	}
	return a.raw("]")
}

func (a *array) raw(s string) error {
	_, err := a.w.WriteString(s)
	return err
}

// begun tells whether anything was written.
type begun struct {
	io.Writer
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.Writer.Write(p)
}

// answerLong answers by and by. An error after the first bytes breaks the answer off.
func (s *Server) answerLong(w http.ResponseWriter, r *http.Request, write long) {
	const ahead = 64 << 10 // bytes
	out := &begun{Writer: w}
	buf := bufio.NewWriterSize(out, ahead)
	w.Header().Set("Content-Type", "application/json")
	around := pieces(success(nil))
	_, err := buf.Write(around[0])
	if err == nil {
		err = write(buf)
	}
	if err == nil {
		_, _ = buf.Write(around[len(around)-1])
		if err := buf.Flush(); err != nil {
			s.logOf(r).Debug("answer a request", "err", err)
		}
		return
	}
	if !out.yes {
		s.answerError(w, r, err)
		return
	}
	if r.Context().Err() == nil {
		s.logOf(r).Error("answer a request", "path", r.URL.Path, "err", err)
	}
	panic(http.ErrAbortHandler)
}

// writeFull writes an instance with its snapshots, which each calls a function with.
func writeFull(w *bufio.Writer, i api.InstanceFull, each func(func(api.InstanceSnapshot) error) error) error {
	head := encode(struct {
		api.InstanceFull
		Snapshots *struct{} `json:"snapshots,omitempty"` // hides the other's, so that they can come last
	}{InstanceFull: i})
	if _, err := w.Write(head[:len(head)-1]); err != nil {
		return err
	}
	if _, err := w.WriteString(`,"snapshots":`); err != nil {
		return err
	}
	list := array{w: w}
	if err := each(func(s api.InstanceSnapshot) error { return list.add(s) }); err != nil {
		return err
	}
	if err := list.end(); err != nil {
		return err
	}
	return w.WriteByte('}')
}
