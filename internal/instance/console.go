package instance

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/event"
)

// An Attachment is somebody's use of an instance's console, which one at a time has.
type Attachment struct {
	*box.Console
	name  string
	by    *event.Requestor
	since time.Time
	to    *live
	ctx   context.Context
	end   context.CancelCauseFunc
}

// errStopped is why an attachment ends with its instance.
var errStopped = errors.New("the instance has stopped")

// Attach takes the console of a running instance, with force also from whoever has
// it. The caller closes it. Errors: NotFound, Conflict when it doesn't run, is paused
// or somebody else is attached, Unsupported.
func (s *Set) Attach(ctx context.Context, name string, force bool) (*Attachment, error) {
	if err := s.CheckExec(ctx, name); err != nil {
		return nil, err
	}
	l, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	var console *box.Console
	if err := l.steady(name, func() (err error) { console, err = l.box.Console(); return err }); err != nil {
		return nil, kiln.Errorf(kiln.KindOf(err), "console of instance %q: %w", name, err)
	}
	a := &Attachment{Console: console, name: name, by: event.RequestorOf(ctx), since: time.Now(), to: l}
	a.ctx, a.end = context.WithCancelCause(s.ctx)
	for {
		other := l.console.Load()
		if other != nil && !force {
			return nil, errors.Join(kiln.Errorf(kiln.Conflict, "%s is attached to the console of instance %q since %s; "+
				"detach there (ctrl-a q), or take it over with: kiln console --force %s", other.by, name,
				other.since.Format("15:04:05"), name), a.Close())
		}
		if !l.console.CompareAndSwap(other, a) {
			continue
		}
		if other != nil {
			other.end(kiln.Errorf(kiln.Conflict, "the console of instance %q was taken over by %s", name, a.by))
		}
		break
	}
	go func() {
		select {
		case <-l.gone:
			a.end(errStopped)
		case <-a.ctx.Done():
		}
	}()
	return a, nil
}

// Context ends with the attachment: when the instance stops, or somebody else takes the
// console over.
func (a *Attachment) Context() context.Context { return a.ctx }

// Err says why an attachment ended that its owner didn't end; nil when its instance
// stopped.
func (a *Attachment) Err() error {
	if err := context.Cause(a.ctx); errors.Is(err, kiln.Conflict) {
		return err
	}
	return nil
}

// Close detaches from the console.
func (a *Attachment) Close() error {
	a.to.console.CompareAndSwap(a, nil)
	a.end(nil)
	return a.Console.Close()
}

// OpenConsoleLog opens what an instance wrote on its console, as far as it is kept.
// The error is NotFound.
func (s *Set) OpenConsoleLog(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	var parts logParts
	for _, file := range []string{"console.log.1", "console.log"} { // the older one first
		f, err := disk.Open(filepath.Join(s.boxDir(r), file))
		if err == nil {
			parts = append(parts, f)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, parts.Close())
		}
	}
	return parts, nil
}

// logParts are files that are read one after another. One that grows is read as far as
// it was when its turn came: whoever writes into it faster decides nothing.
type logParts []*os.File

// maxLog is how much of each part is read: more than the monitor lets it become.
const maxLog = 2 << 20

// Read isn't used: io.Copy takes WriteTo.
func (p logParts) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// WriteTo implements io.WriterTo.
func (p logParts) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for _, f := range p {
		n, err := io.Copy(w, io.LimitReader(f, maxLog))
		if total += n; err != nil {
			return total, err
		}
	}
	return total, nil
}

// Close implements io.Closer.
func (p logParts) Close() error {
	var errs []error
	for _, f := range p {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// ClearConsoleLog forgets what an instance wrote on its console. The error is NotFound.
func (s *Set) ClearConsoleLog(ctx context.Context, name string) error {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return err
	}
	// The monitor of one that runs goes on with the same file.
	current := filepath.Join(s.boxDir(r), "console.log")
	for _, err := range []error{os.Remove(current + ".1"), os.Truncate(current, 0)} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
