package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func (a *app) monitorCmd() *cobra.Command {
	c := &cobra.Command{Use: "monitor [<remote>:]", Short: "Show events as they happen", Args: cobra.MaximumNArgs(1),
		Long: "Show events as they happen. Those of the type security tell who did what matters for the server's security, " +
			"from where, and how it went, also of what was refused. They come only when they are asked for, and only to " +
			"clients that aren't restricted to projects; the daemon keeps them in $KILN_DIR/audit as well.",
		Example: "  kiln monitor --type lifecycle --pretty\n  kiln monitor --type security --all-projects --pretty"}
	types := c.Flags().StringArray("type", nil, "operation, lifecycle, logging or security (repeatable; all but security)")
	form := choiceFlag(c, "format", "f", "yaml", "", "yaml", "json", "pretty")
	pretty := c.Flags().Bool("pretty", false, "the same as --format pretty: a line for each event")
	levels := []string{"trace", "debug", "info", "warning", "error"}
	level := choiceFlag(c, "loglevel", "", "trace", "with --format pretty, the lowest level of log messages", levels...)
	c.Flags().BoolVar(&a.AllProjects, "all-projects", false, "from all projects")
	c.RunE = func(c *cobra.Command, args []string) error {
		known := []string{"operation", "lifecycle", "logging", "security"}
		for _, t := range *types {
			if !slices.Contains(known, t) {
				return usageError{fmt.Errorf("--type %q is not a type of event%s; it is %s", t, kiln.DidYouMean(t, known),
					alternatives(known))}
			}
		}
		at, err := a.server(args)
		if err != nil {
			return err
		}
		err = at.Events(c.Context(), *types, func(e api.Event) error {
			switch {
			case *form == "json":
				return json.NewEncoder(a.data()).Encode(e)
			case *form == "pretty" || *pretty:
				text, of := prettyEvent(e)
				if n := slices.Index(levels, of); n < 0 || n >= slices.Index(levels, *level) {
					a.print("%s", text)
				}
				return nil
			}
			var v any
			b, err := json.Marshal(e)
			if err := errors.Join(err, json.Unmarshal(b, &v)); err != nil {
				return err
			}
			if err := a.yaml(v); err != nil {
				return err
			}
			_, err = fmt.Fprint(a.Out, "\n\n")
			return err
		})
		if c.Context().Err() != nil {
			return nil
		}
		return err
	}
	return c
}

// prettyEvent tells an event in one line, and of a log message its level.
func prettyEvent(e api.Event) (text, level string) {
	words := []string{e.Timestamp.UTC().Format(time.RFC3339), e.Type}
	if e.Project != "" {
		words = append(words, "project="+e.Project)
	}
	switch e.Type {
	case "lifecycle":
		var l api.Lifecycle
		_ = json.Unmarshal(e.Metadata, &l) // of another server, which may say what it likes
		words = append(words, l.Action, l.Source)
		if l.Requestor != nil {
			words = append(words, fmt.Sprintf("by %s/%s (%s)", l.Requestor.Protocol, l.Requestor.Username, l.Requestor.Address))
		}
	case "security":
		words = append(words, prettySecurity(e)...)
	case "operation":
		var o api.Operation
		_ = json.Unmarshal(e.Metadata, &o)
		words = append(words, o.ID, fmt.Sprintf("%q", o.Description), o.Status)
		if o.Err != "" {
			words = append(words, o.Err)
		}
	case "logging":
		var l struct {
			Message, Level string
			Context        map[string]string
		}
		_ = json.Unmarshal(e.Metadata, &l)
		words, level = append(words, l.Level, l.Message), l.Level
		for _, k := range slices.Sorted(maps.Keys(l.Context)) {
			words = append(words, k+"="+l.Context[k])
		}
	}
	return strings.Join(words, " "), level
}

// prettySecurity tells an event of the type security.
func prettySecurity(e api.Event) []string {
	var s api.SecurityEvent
	_ = json.Unmarshal(e.Metadata, &s) // of another server, which may say what it likes
	words := []string{s.Action}
	if s.Source != "" {
		words = append(words, s.Source)
	}
	if s.Reason != "" {
		s.Result += fmt.Sprintf(" (%s)", s.Reason)
	}
	words = append(words, s.Result)
	for _, k := range slices.Sorted(maps.Keys(s.Context)) {
		words = append(words, fmt.Sprintf("%s=%v", k, s.Context[k]))
	}
	if q := s.Requestor; q != nil {
		words = append(words, fmt.Sprintf("by %s/%s (%s)", q.Method, cmp.Or(q.Name, q.Certificate, "unknown"), q.Address))
	}
	return words
}
