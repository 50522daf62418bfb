package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/client"
)

// Recovery is what "admin recover" tells of.
type Recovery struct {
	Backup                  string // the copy of the database that it began with
	Images, Instances, Left []string
}

// adminCmd is for what is done to the files of a daemon while none runs.
func (a *app) adminCmd() *cobra.Command {
	c := &cobra.Command{Use: "admin", Short: "Repair the files of a daemon that doesn't run", Args: cobra.NoArgs,
		Long: "Repair the files of a daemon that doesn't run. They are looked for in $KILN_DIR, or where --dir says."}
	dir := c.PersistentFlags().String("dir", client.Dir(), "the daemon's directory")
	restore := &cobra.Command{Use: "restore-database [<file>]", Args: cobra.MaximumNArgs(1),
		Short: "Bring back a copy of the database",
		Long: "Put a copy of the database in the place of the one that is there, which is kept beside it as " +
			"kiln.db.damaged-<time>. Without a file, it is the newest of the daily copies in backups/ that is whole.",
		Example: "  kiln admin restore-database\n  kiln admin restore-database /var/lib/kiln/backups/kiln-20260131.db"}
	restore.RunE = func(c *cobra.Command, args []string) error {
		file := ""
		if len(args) > 0 {
			file = args[0]
		}
		used, err := a.deps.RestoreDatabase(c.Context(), *dir, file)
		if err != nil {
			return err
		}
		a.say("The database in %s is %s now", *dir, used)
		return nil
	}
	recover := &cobra.Command{Use: "recover", Args: cobra.NoArgs,
		Short: "Rebuild the database from the files of images and instances",
		Long: "Make rows of what is on the disk and in no row: images of their files, instances of their volumes. A " +
			"missing or damaged database is replaced by its newest copy that is whole. Instances get the names and " +
			"the configuration that were recorded beside their files, or else names that are made up; their profiles, and " +
			"the aliases of images, have to be made again.",
		Example: "  kiln admin recover"}
	recover.RunE = func(c *cobra.Command, _ []string) error {
		r, err := a.deps.Recover(c.Context(), *dir)
		if r.Backup != "" {
			a.say("Began with the copy %s", filepath.Base(r.Backup))
		}
		for _, fp := range r.Images {
			fmt.Fprintf(a.Out, "image %s\n", fp)
		}
		for _, name := range r.Instances {
			fmt.Fprintf(a.Out, "instance %s\n", name)
		}
		for _, text := range r.Left {
			a.remark("%s", text)
		}
		a.say("Brought back: %s, %s", count(len(r.Images), "image"), count(len(r.Instances), "instance"))
		return err
	}
	c.AddCommand(restore, recover)
	return c
}
