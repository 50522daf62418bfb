package daemon

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/grant"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// A share is an instance that somebody who isn't trusted may copy.
type share struct {
	*instance.Share
	in   project.Project
	by   archive.Client
	name string        // of the instance
	done chan struct{} // the copy is made
	gone chan struct{} // closed before the files may go
}

// shareIdle is how long a share stays after it was last used.
const shareIdle = time.Hour

// ShareInstance keeps an instance, or a snapshot "c1/snap0", as it is, and makes a
// secret by which another server can copy that. The metadata of the operation have
// the "secret" at its end, the "state" of an instance that doesn't run, for
// DeleteUnchanged, and the "token": an operation that lets go of it all when it is
// cancelled, when the copy is made, or when nobody asks any more. The error is
// NotFound; others are the operation's.
func (d *Daemon) ShareInstance(ctx context.Context, name string, only bool) (*op.Operation, error) {
	of, snap, _ := strings.Cut(name, "/")
	ctx, err := d.instances.Meaning(ctx, of, snap)
	if err != nil {
		return nil, err
	}
	options := op.Options{MayCancel: true, Resources: instanceResources(of)}
	return d.Ops.Start(ctx, "Sharing instance", options, func(ctx context.Context, o *op.Operation) error {
		kept, err := d.instances.Share(ctx, name, only)
		if err != nil {
			return err
		}
		if err := d.shareImages(ctx, kept); err != nil {
			return errors.Join(err, kept.Close())
		}
		in, err := project.Of(ctx)
		if err != nil {
			return errors.Join(err, kept.Close())
		}
		by := clientOf(ctx)
		g, err := d.shares.Add(by.Name, &share{kept, in, by, of, make(chan struct{}, 1), make(chan struct{})})
		if err != nil {
			return errors.Join(err, kept.Close())
		}
		options.Class = op.Token
		token := d.Ops.Start(ctx, "Instance copy token", options, func(ctx context.Context, _ *op.Operation) error {
			return keepShare(ctx, g)
		})
		if kept.State != "" {
			o.Set("state", kept.State)
		}
		o.Set("secret", g.Secret)
		o.Set("token", token.ID())
		return nil
	}), nil
}

// shareImages lets the secret open the images that the instance stands on. Their trees are
// parts as well, for who can't have the images: they were deleted, or aren't signed with the
// key that the target asks for.
func (d *Daemon) shareImages(ctx context.Context, kept *instance.Share) error {
	for _, fp := range bases(kept.Transfer) {
		has, err := d.Images.Has(ctx, fp)
		if err != nil {
			return err
		}
		if has {
			kept.Images = append(kept.Images, fp)
		}
		if has && !d.pool.HasImage(fp) {
			continue
		}
		parts, err := d.pool.ImageParts(fp)
		if err != nil {
			return err
		}
		kept.Parts = append(parts, kept.Parts...)
	}
	return nil
}

// bases gives the images that an instance and its snapshots stand on.
func bases(t kiln.Transfer) []kiln.Fingerprint {
	var list []kiln.Fingerprint
	for _, m := range append([]kiln.InstanceState{t.InstanceState}, t.Snapshots...) {
		if !m.Base.IsZero() && !slices.Contains(list, m.Base) {
			list = append(list, m.Base)
		}
	}
	return list
}

// keepShare waits until a share isn't needed any more, and lets go of it.
func keepShare(ctx context.Context, g *grant.Grant[*share]) error {
	x := g.Value
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-x.done:
			stop()
		case <-waiting.Done():
		}
	}()
	g.Touch()
	_, _ = g.Wait(waiting, 0, shareIdle)
	g.Drop()
	close(x.gone)
	return errors.Join(ctx.Err(), x.Close())
}

// shared finds what a secret lets somebody have of an instance. The error is Denied.
func (d *Daemon) shared(secret, name string) (*grant.Grant[*share], error) {
	g := d.shares.Use(secret, func(x *share) bool { return x.name == name })
	if g == nil {
		return nil, kiln.Errorf(kiln.Denied, "not authorized")
	}
	return g, nil
}

// Transfer tells what there is to copy of an instance that is shared. The error is
// Denied.
func (d *Daemon) Transfer(secret, name string) (kiln.Transfer, error) {
	g, err := d.shared(secret, name)
	if err != nil {
		return kiln.Transfer{}, err
	}
	return g.Value.Transfer, nil
}

// EndTransfer uses the secret up. The error is Denied.
func (d *Daemon) EndTransfer(secret, name string) error {
	g, err := d.shared(secret, name)
	if err == nil {
		select {
		case g.Value.done <- struct{}{}:
		default:
		}
	}
	return err
}

// TransferPart gives the function that writes a part, as .tar.zst. Errors: Denied,
// NotFound.
func (d *Daemon) TransferPart(secret, name, part string) (func(context.Context, io.Writer) error, error) {
	g, err := d.shared(secret, name)
	if err != nil {
		return nil, err
	}
	x := g.Value
	if !x.Has(part) {
		return nil, kiln.Errorf(kiln.NotFound, "there is no part %q", part)
	}
	return func(ctx context.Context, w io.Writer) error {
		visit, err := d.crowd.Share(x.by)
		if err != nil {
			return err
		}
		defer visit.Leave()
		// The same bytes each time: who was cut off goes on where that was.
		z, err := zstd.NewWriter(writing{w, g.Touch}, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		// The frame is ended only when all of it is written: what is cut short must
		// not read as whole.
		if err := x.Export(ctx, part, z, visit); err != nil {
			return err
		}
		select {
		case <-x.gone:
			return kiln.Errorf(kiln.Cancelled, "instance %q isn't shared any more", name)
		default:
			return z.Close()
		}
	}, nil
}

// writing tells of each write.
type writing struct {
	io.Writer
	tell func()
}

// Write implements io.Writer.
func (w writing) Write(b []byte) (int, error) {
	w.tell()
	return w.Writer.Write(b)
}
