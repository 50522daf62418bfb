package daemon

import (
	"context"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Lifecycle is the metadata of the events that tell what became of a thing.
type Lifecycle struct {
	Action    string // "image-created"
	Source    string // URL of the thing
	Project   string // that it is in; "": in none
	Context   map[string]any
	Requestor *event.Requestor // nil: the daemon did it unasked
}

// tell has an event of what became of a thing, in the course of the work of ctx.
func (d *Daemon) tell(ctx context.Context, action, source string, details map[string]any) {
	if strings.HasPrefix(action, "image-") {
		d.generation.Add(1)
	}
	d.Events.Send("lifecycle", Lifecycle{Action: action, Source: source, Project: project.Name(ctx), Context: details,
		Requestor: event.RequestorOf(ctx)})
}

// ImageGeneration is another number after each change of the images, and of which can be had.
func (d *Daemon) ImageGeneration() uint64 { return d.generation.Load() + d.Images.MissingVersion() }

// instanceChanged hears of every change of an instance.
func (d *Daemon) instanceChanged(ctx context.Context, c instance.Change) {
	url := instanceURL(c.Name)
	if c.Snapshot != "" {
		url = snapshotURL(c.Name, c.Snapshot)
	}
	d.networks.heard(c.Action)
	d.instanceWorks(ctx, c)
	d.tell(ctx, "instance-"+c.Action, url, nil)
}

func imageURL(fp kiln.Fingerprint) string { return "/1.0/images/" + fp.String() }
func aliasURL(name string) string         { return "/1.0/images/aliases/" + name }
func instanceURL(name string) string      { return "/1.0/instances/" + name }

// instanceResources names an instance as clients of every age look for it.
func instanceResources(names ...string) map[string][]string {
	r := map[string][]string{}
	for _, n := range names {
		r["instances"] = append(r["instances"], instanceURL(n))
		r["containers"] = append(r["containers"], "/1.0/containers/"+n)
	}
	return r
}
