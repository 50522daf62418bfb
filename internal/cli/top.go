package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/place"
)

// A Load is what an instance took between two looks at it.
type Load struct {
	Name      string  `json:"name" yaml:"name"`
	CPU       float64 `json:"cpu_percent" yaml:"cpu_percent"` // of one processor
	Memory    int64   `json:"memory" yaml:"memory"`           // bytes, now
	Processes int64   `json:"processes" yaml:"processes"`
	Received  int64   `json:"received_per_second" yaml:"received_per_second"` // bytes
	Sent      int64   `json:"sent_per_second" yaml:"sent_per_second"`
}

func (a *app) topCmd() *cobra.Command {
	c := &cobra.Command{Use: "top [<remote>:]", Short: "Show the resource usage of running instances",
		Args: cobra.MaximumNArgs(1),
		Long: "Show the resource usage of running instances, the busiest first: on a terminal until ctrl-c, else once. " +
			"Processor time is in percent of one processor."}
	interval := c.Flags().Int("interval", 2, "seconds between updates")
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *interval < 1 || *interval > 3600 {
			return usageError{fmt.Errorf("--interval %d: it is from 1 to 3600 seconds", *interval)}
		}
		at, err := a.server(args)
		if err != nil {
			return err
		}
		before, err := glanceAt(c.Context(), at)
		for err == nil {
			select {
			case <-c.Context().Done():
				return nil
			case <-time.After(time.Duration(*interval) * time.Second):
			}
			var now glance
			if now, err = glanceAt(c.Context(), at); err != nil {
				break
			}
			kind, _, _ := strings.Cut(*form, ",")
			live := terminal(a.Out) && (kind == "table" || kind == "compact")
			if live {
				a.print("\x1b[H\x1b[2J%s  %d running instances", now.at.Format(time.TimeOnly), len(now.states))
			}
			if err := a.showLoads(*form, loads(before, now)); err != nil || !live {
				return err
			}
			before = now
		}
		if c.Context().Err() != nil {
			return nil // it was ended in the middle of a look
		}
		return err
	}
	return c
}

// A glance is how the running instances are at a moment.
type glance struct {
	at     time.Time
	states map[string]api.InstanceState
}

func glanceAt(ctx context.Context, at place.Place) (glance, error) {
	var all []api.InstanceFull
	_, err := at.Get(ctx, "/1.0/instances", url.Values{"recursion": {"2"}}, &all)
	g := glance{time.Now(), map[string]api.InstanceState{}}
	for _, i := range all {
		if i.State != nil && i.State.PID > 0 {
			g.states[i.Name] = *i.State
		}
	}
	return g, err
}

// loads compares two glances. What began in between, or again, counts from then on.
func loads(before, now glance) []Load {
	seconds := now.at.Sub(before.at).Seconds()
	list := []Load{}
	for name, st := range now.states {
		was, same := before.states[name]
		if !same || was.PID != st.PID {
			was = api.InstanceState{}
		}
		received, sent := traffic(st)
		receivedBefore, sentBefore := traffic(was)
		rate := func(n int64) int64 { return int64(float64(max(0, n)) / seconds) }
		list = append(list, Load{Name: name, Memory: st.Memory.Usage, Processes: st.Processes,
			CPU:      float64(max(0, st.CPU.Usage-was.CPU.Usage)) / 1e9 / seconds * 100,
			Received: rate(received - receivedBefore), Sent: rate(sent - sentBefore)})
	}
	slices.SortFunc(list, func(a, b Load) int {
		return cmp.Or(cmp.Compare(b.CPU, a.CPU), cmp.Compare(b.Memory, a.Memory), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// traffic is what went through the interfaces of an instance, in bytes.
func traffic(st api.InstanceState) (received, sent int64) {
	for name, n := range st.Network {
		if name != "lo" {
			received += n.Counters.BytesReceived
			sent += n.Counters.BytesSent
		}
	}
	return received, sent
}

func (a *app) showLoads(form string, list []Load) error {
	return showInOrder(a, form, []column[Load]{
		col('n', "NAME", func(l Load) string { return l.Name }),
		col('c', "CPU(%)", func(l Load) string { return fmt.Sprintf("%.1f", l.CPU) }),
		colBytes('m', "MEMORY", func(l Load) int64 { return l.Memory }),
		col('p', "PROCESSES", func(l Load) string { return fmt.Sprint(l.Processes) }),
		colBytes('r', "RECEIVED/S", func(l Load) int64 { return l.Received }),
		colBytes('s', "SENT/S", func(l Load) int64 { return l.Sent }),
	}, list)
}
