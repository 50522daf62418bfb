package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

// Recovery is what "admin recover" tells of.
type Recovery struct {
	Backup string // the copy of the database that it began with

	Images, Aliases, Instances, Snapshots, Projects, Profiles, Networks []string
	Remarks, Left, Gone                                                 []string
}

// Lost is one line of "admin lost".
type Lost struct {
	Name, Kind, About string
	Size              int64
	Since, GoesAt     time.Time // GoesAt: zero: never
}

// adminCmd is for what is done to the files of a daemon while none runs.
func (a *app) adminCmd() *cobra.Command {
	c := &cobra.Command{Use: "admin", Short: "Set up a server, or repair the files of a stopped one",
		Args: cobra.NoArgs, Long: "Set up a server that runs (init), and repair the files of a daemon that doesn't run. " +
			"They are looked for in $KILN_DIR, or where --dir says."}
	dir := c.PersistentFlags().String("dir", client.Dir(), "the daemon's directory")
	restore := &cobra.Command{Use: "restore-database [<file>]", Args: cobra.MaximumNArgs(1),
		Short: "Restore a copy of the database",
		Long: "Put a copy of the database in the place of the one that is there, which is kept beside it as " +
			"kiln.db.damaged-<time>. Where the database is lost or damaged, \"kiln admin recover\" alone does more: it " +
			"begins with the newest copy, and has what changed since. Without a file, it is the newest of the copies in " +
			"backups/ that is whole. Images, instances and snapshots that are newer than the copy are brought back by " +
			"\"kiln admin recover\": run it before the daemon starts, or within a week, for which their files and what was " +
			"known of them is kept. What both have stays as the copy has it.",
		Example: "  kiln admin restore-database\n  kiln admin restore-database /var/lib/kiln/backups/kiln-20260131.db"}
	restore.RunE = func(c *cobra.Command, args []string) error {
		file := ""
		if len(args) > 0 {
			file = args[0]
			if _, err := os.Stat(file); err != nil {
				return fileError(err)
			}
		}
		used, err := a.deps.RestoreDatabase(c.Context(), *dir, file)
		if err != nil {
			return err
		}
		a.say("The database in %s is %s now; before the daemon starts, bring back newer images and instances: kiln admin "+
			"recover", *dir, used)
		return nil
	}
	c.AddCommand(a.initCmd(), restore, a.recoverCmd(dir), a.lostCmd(dir))
	return c
}

func (a *app) recoverCmd(dir *string) *cobra.Command {
	c := &cobra.Command{Use: "recover", Args: cobra.NoArgs,
		Short: "Rebuild the database from the files of images and instances",
		Long: "Make rows of what is on the disk and in no row. What kiln writes beside the files gives images their " +
			"aliases, instances their names, configuration, profiles and snapshots, projects their rules and limits, and " +
			"networks their addresses again. A missing or damaged database is replaced by its newest copy that is whole. " +
			"What can't be placed stays on the disk; see: kiln admin lost. The exit code is 1 then.",
		Example: "  kiln admin recover"}
	c.RunE = func(c *cobra.Command, _ []string) error {
		r, err := a.deps.Recover(c.Context(), *dir)
		if errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Conflict) {
			return err // nothing was begun
		}
		if r.Backup != "" {
			a.say("Began with the copy %s", filepath.Base(r.Backup))
		}
		for _, part := range []struct {
			what string
			list []string
		}{{"image", r.Images}, {"alias", r.Aliases}, {"project", r.Projects}, {"profile", r.Profiles},
			{"instance", r.Instances}, {"snapshot", r.Snapshots}, {"network", r.Networks}} {
			for _, name := range part.list {
				a.print("%s %s", part.what, name)
			}
		}
		for _, text := range r.Remarks {
			a.remark("Note: %s", text)
		}
		for _, text := range r.Gone {
			a.remark("Not in the files: %s", text)
		}
		for _, text := range r.Left {
			a.remark("Not placed: %s", text)
		}
		if err != nil {
			a.remark("Not finished; run it again when what is wrong is fixed")
		}
		a.say("Brought back: %s, %s, %s, %s, %s, %s, %s", count(len(r.Images), "image"),
			count(len(r.Aliases), "alias"), count(len(r.Projects), "project"), count(len(r.Profiles), "profile"),
			count(len(r.Instances), "instance"), count(len(r.Snapshots), "snapshot"), count(len(r.Networks), "network"))
		if err == nil && len(r.Left) > 0 {
			err = fmt.Errorf("not all could be placed: %s; what is left stays on the disk, see: kiln admin lost",
				count(len(r.Left), "thing"))
		}
		return err
	}
	return c
}

func (a *app) lostCmd(dir *string) *cobra.Command {
	c := &cobra.Command{Use: "lost", Args: cobra.NoArgs,
		Short: "List files that belong to no image or instance",
		Long: "List the files that were put away since nothing in the database names them, and what they were of. " +
			"GOES says when the daemon removes them. To bring them back: kiln admin recover. --delete removes one; its " +
			"name may be shortened. A daemon may be running.",
		Example: "  kiln admin lost\n  kiln admin lost --delete 20260131T120000.000.volume.5b32ab10"}
	form := formatFlag(c)
	drop := c.Flags().String("delete", "", "remove this one for good")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed("delete") {
			name, err := a.deps.DropLost(c.Context(), *dir, *drop)
			if err == nil {
				a.say("Removed %s", name)
			}
			return err
		}
		all, err := a.deps.Lost(c.Context(), *dir)
		if err != nil {
			return err
		}
		return show(a, *form, []column[Lost]{
			col('n', "NAME", func(l Lost) string { return l.Name }),
			col('k', "KIND", func(l Lost) string { return l.Kind }),
			col('a', "ABOUT", func(l Lost) string { return l.About }),
			colBytes('s', "SIZE", func(l Lost) int64 { return l.Size }),
			col('t', "SINCE", func(l Lost) string { return minute(l.Since) }),
			col('g', "GOES", func(l Lost) string {
				if l.GoesAt.IsZero() {
					return "never"
				}
				return minute(l.GoesAt)
			}),
		}, all)
	}
	return c
}
