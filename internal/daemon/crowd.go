package daemon

import (
	"context"

	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/op"
)

// crowded says of an operation that it waits for others.
func (d *Daemon) crowded(ctx context.Context) {
	d.cfg.Log.Debug("an image of many files waits for another one")
	if o := op.Of(ctx); o != nil {
		o.Set("progress", "waiting for another image of many files")
	}
}

type clientKey struct{}

// clientOf tells whose share of the memory is taken for what a context is about.
func clientOf(ctx context.Context) archive.Client {
	c, _ := askedBy(ctx)
	return c
}

// askedBy is clientOf, and tells whether somebody asked for what the context is about.
func askedBy(ctx context.Context) (c archive.Client, asked bool) {
	if c, ok := ctx.Value(clientKey{}).(archive.Client); ok {
		return c, true
	}
	name, asked := op.OwnerOf(ctx)
	if !asked {
		name = "this server"
	}
	return archive.Client{Name: name, Restricted: instance.IsRestricted(ctx)}, asked
}

// walk begins to count what is remembered of files of instances that are gone through. What the
// server does unasked, such as a snapshot by a schedule, is what the owner of an instance has
// it do: it has a bound, as restricted clients have.
func (d *Daemon) walk(ctx context.Context) *archive.Visit {
	c, asked := askedBy(ctx)
	return d.crowd.Walk(c, !asked)
}

// forClient has a context be about something of a client, whoever asks.
func forClient(ctx context.Context, c archive.Client) context.Context {
	return context.WithValue(ctx, clientKey{}, c)
}

// share begins with what takes a part of the share of the client that ctx is about. The visit
// has to be left. The error is Busy.
func (d *Daemon) share(ctx context.Context) (*archive.Visit, error) {
	return d.crowd.Share(clientOf(ctx))
}

// sharedLimits bounds an archive that comes at the pace of who sends it: limits, with a part
// of the client's share, that has to be left.
func (d *Daemon) sharedLimits(ctx context.Context) (archive.Limits, error) {
	lim, err := d.limits(ctx)
	if err != nil {
		return lim, err
	}
	lim.Visit, err = d.share(ctx)
	return lim, err
}
