package cli

import (
	"context"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

const scrubPath = "/1.0/kiln/scrub"

func (a *app) scrubCmd() *cobra.Command {
	c := &cobra.Command{Use: "scrub", Short: "Manage scrubs, which look for damaged files of images", Args: cobra.NoArgs,
		Long: "A scrub reads the files of all images, and the trees that instances are made of, as they are on the disk, " +
			"and compares them with what they were. A damaged tree is made again from its image. A damaged file is replaced " +
			"by what has the same bytes: here, where the image came from, or on a server that is mirrored; what has others " +
			"changes nothing. The damaged ones are kept for a while: kiln admin lost. A daemon scrubs by itself as often as " +
			"storage.scrub_interval says, and reads at most storage.scrub_rate bytes a second. What instances, their " +
			"snapshots and storage volumes have of their own has no hash: of these only kiln's records are checked, by " +
			"which a layer that is lost is found, too."}
	c.AddCommand(a.scrubStartCmd(), a.scrubStatusCmd(), a.scrubStopCmd())
	return c
}

// scrubOf asks a server how its last scrub stands.
func scrubOf(c *cobra.Command, at place.Place) (s api.Scrub, err error) {
	if err := hasExtension(c.Context(), at, "kiln_scrub", "scrub"); err != nil {
		return s, err
	}
	_, err = at.Get(c.Context(), scrubPath, nil, &s)
	return s, err
}

func (a *app) scrubStartCmd() *cobra.Command {
	c := &cobra.Command{Use: "start [<remote>:]", Short: "Start a scrub, or resume one that was stopped",
		Args: cobra.MaximumNArgs(1),
		Long: "Start a scrub, or resume the one that was stopped. It resumes when the daemon is restarted. While one " +
			"is under way no other is begun. With --wait, the exit code is 7 when something is damaged and couldn't be " +
			"repaired."}
	wait := c.Flags().Bool("wait", false, "show the progress, and wait for the end; an interrupt leaves the scrub running")
	anew := c.Flags().Bool("anew", false, "read everything, though one was stopped in the middle")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		before, err := scrubOf(c, at)
		if err != nil {
			return err
		}
		op, err := start(c.Context(), at, client.Request{Method: http.MethodPost, Path: scrubPath,
			Body: api.ScrubPost{Anew: *anew}})
		if err != nil {
			return err
		}
		switch joined := before.Operation == op.ID; {
		case joined && *anew:
			a.warn("a scrub is under way already, and goes on as it is; to begin anew, stop it first: kiln scrub stop")
		case joined:
			a.say("A scrub is under way already")
		case before.Status == "stopped" && !*anew:
			a.say("The scrub of %s goes on after %s", minute(before.StartedAt), size(before.BytesRead))
		case !*wait:
			a.say("The scrub is under way; see: kiln scrub status")
		}
		if !*wait {
			return nil
		}
		return a.scrubWait(c, at, op)
	}
	return c
}

// scrubWait shows how a scrub goes. Who doesn't want to watch any more doesn't stop it.
func (a *app) scrubWait(c *cobra.Command, at place.Place, op api.Operation) error {
	done := make(chan struct{})
	looking, stop := context.WithCancel(c.Context())
	go func() {
		defer close(done)
		a.follow(looking, at, op)
	}()
	final, err := at.Wait(c.Context(), op.ID)
	stop()
	<-done
	if c.Context().Err() != nil {
		return kiln.Errorf(kiln.Cancelled, "interrupted; the scrub goes on; to stop it: kiln scrub stop")
	}
	if warning, ok := final.Metadata["warning"].(string); ok {
		a.warn(warning)
	}
	if err == nil {
		a.say("No damage is left")
	}
	return err
}

func (a *app) scrubStopCmd() *cobra.Command {
	return &cobra.Command{Use: "stop [<remote>:]", Short: "Stop the scrub; the next start resumes it",
		Args: cobra.MaximumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
			at, err := a.server(args)
			if err != nil {
				return err
			}
			if _, err := scrubOf(c, at); err != nil {
				return err
			}
			return at.Change(c.Context(), http.MethodDelete, scrubPath, nil, "")
		}}
}

func (a *app) scrubStatusCmd() *cobra.Command {
	c := &cobra.Command{Use: "status [<remote>:]", Short: "Show the progress and the results of the last scrub",
		Args: cobra.MaximumNArgs(1)}
	form := objectFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		s, err := scrubOf(c, at)
		if err != nil {
			return err
		}
		if done, err := a.object(*form, s); done || err != nil {
			return err
		}
		a.print("Status: %s", s.Status)
		for _, t := range []struct {
			what string
			at   time.Time
		}{{"Started", s.StartedAt}, {map[bool]string{true: "Stopped", false: "Finished"}[s.Status == "stopped"], s.EndedAt},
			{"Next", s.NextAt}} {
			if !t.at.IsZero() {
				a.print("%s: %s", t.what, minute(t.at))
			}
		}
		if s.Status == "never" {
			return nil
		}
		of := ""
		if s.BytesTotal > 0 && s.Operation != "" {
			of = " of " + size(s.BytesTotal)
		}
		a.print("Read: %s%s, %d files and %d trees", size(s.BytesRead), of, s.Files, s.Trees)
		if len(s.Damage) == 0 {
			a.print("Damage: none")
			return nil
		}
		a.print("Damage:")
		for _, d := range s.Damage {
			how := "not repaired"
			switch {
			case d.Repaired != "":
				how = "repaired: " + d.Repaired
			case d.Unread:
				how = "not known, it couldn't be read"
			}
			a.print("  - %s: %s\n    %s", d.About, how, d.Problem)
		}
		if s.Unlisted > 0 {
			a.print("  - %d more", s.Unlisted)
		}
		return nil
	}
	return c
}
