package cli

import (
	"cmp"
	"context"
	"strings"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/place"
)

// resources shows what the host of a server is made of.
func (a *app) resources(ctx context.Context, at place.Place, form string) error {
	var r api.Resources
	if _, err := at.Get(ctx, "/1.0/resources", nil, &r); err != nil {
		return err
	}
	if done, err := a.object(form, r); done {
		return err
	}
	p := a.print
	if s := r.System; s.Vendor+s.Product != "" {
		p("System: %s (%s)", strings.TrimSpace(s.Vendor+" "+s.Product), s.Type)
	}
	p("Architecture: %s\n\nProcessors: %d", r.CPU.Architecture, r.CPU.Total)
	for _, s := range r.CPU.Sockets {
		threads := 0
		for _, c := range s.Cores {
			threads += len(c.Threads)
		}
		p("  Socket %d: %s, %d cores, %d threads", s.Socket, cmp.Or(s.Name, s.Vendor, "unknown"), len(s.Cores), threads)
	}
	p("\nMemory: %s, %s used", size(int64(r.Memory.Total)), size(int64(r.Memory.Used)))
	if len(r.Memory.Nodes) > 1 {
		for _, n := range r.Memory.Nodes {
			p("  NUMA node %d: %s, %s used", n.NUMANode, size(int64(n.Total)), size(int64(n.Used)))
		}
	}
	p("\nDisks: %d", len(r.Storage.Disks))
	for _, d := range r.Storage.Disks {
		p("  %s: %s%s", d.ID, size(int64(d.Size)), comma(d.Model, d.Type))
		for _, part := range d.Partitions {
			p("    %s: %s", part.ID, size(int64(part.Size)))
		}
	}
	p("\nNetwork cards: %d", len(r.Network.Cards))
	for _, c := range r.Network.Cards {
		for _, port := range c.Ports {
			link := "down"
			if port.LinkDetected {
				link = "up"
			}
			p("  %s: %s%s", port.ID, link, comma(port.Address, c.Driver, c.PCIAddress))
		}
	}
	if len(r.GPU.Cards) > 0 {
		p("\nGraphics cards: %d", len(r.GPU.Cards))
	}
	for _, c := range r.GPU.Cards {
		p("  %s%s", c.DRM.CardName, comma(c.Driver, c.PCIAddress))
	}
	return nil
}

// comma puts the words that aren't empty behind something.
func comma(words ...string) string {
	var b strings.Builder
	for _, w := range words {
		if w != "" {
			b.WriteString(", " + w)
		}
	}
	return b.String()
}
