package server

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/op"
)

// maxRecorded is how much of each output of a command is recorded, in bytes.
const maxRecorded = 16 << 20

// execAlone runs a command that nobody is connected to.
func (s *Server) execAlone(ctx context.Context, o *op.Operation, name string, spec box.ExecSpec, record bool) error {
	rec := &recording{}
	defer rec.Close()
	if record {
		output := map[string]string{}
		for fd, f := range map[string]**os.File{"1": &spec.Stdout, "2": &spec.Stderr} {
			file := "exec_" + o.ID() + "." + map[string]string{"1": "stdout", "2": "stderr"}[fd]
			log, err := s.d.CreateInstanceLog(ctx, name, file)
			if err != nil {
				return err
			}
			if *f, err = rec.add(log); err != nil {
				return err
			}
			output[fd] = "/1.0/instances/" + name + "/logs/" + file
		}
		defer o.Set("output", output)
	}
	p, err := s.d.Exec(ctx, name, spec)
	rec.begun()
	if err != nil {
		return err
	}
	defer p.Close()
	defer context.AfterFunc(ctx, func() { p.Signal(9) })()
	code, err := p.Wait()
	o.Set("return", code)
	return errors.Join(err, rec.finish())
}

// A recording copies the outputs of a command to files, up to a bound: who is in the
// container decides how much there is.
type recording struct {
	files, theirs []*os.File
	outputs       []*output
}

// add gives what a command writes to for its output to come into a file, which the
// recording closes.
func (rec *recording) add(log *os.File) (*os.File, error) {
	rec.files = append(rec.files, log)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	rec.files, rec.theirs = append(rec.files, r), append(rec.theirs, w)
	rec.outputs = append(rec.outputs, copyOutput(&capped{log, maxRecorded}, r))
	return w, nil
}

// begun lets go of what the command has by now.
func (rec *recording) begun() {
	for _, w := range rec.theirs {
		w.Close()
	}
	rec.theirs = nil
}

// finish returns when all is in the files that the command wrote.
func (rec *recording) finish() error {
	var errs []error
	for _, out := range rec.outputs {
		errs = append(errs, out.finish())
	}
	return errors.Join(errs...)
}

// Close implements io.Closer.
func (rec *recording) Close() error {
	rec.begun()
	var errs []error
	for _, f := range rec.files {
		errs = append(errs, f.Close())
	}
	for _, out := range rec.outputs {
		<-out.done
	}
	return errors.Join(errs...)
}

// capped passes on some bytes and drops the rest.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(b []byte) (int, error) {
	n := min(len(b), c.left)
	c.left -= n
	if _, err := c.w.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}
