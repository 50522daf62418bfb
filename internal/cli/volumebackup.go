package cli

import (
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

func (a *app) volumeExportCmd() *cobra.Command {
	c := &cobra.Command{Use: "export [<remote>:]<pool> <volume> [<file>|<directory>|-]",
		Short: "Export a storage volume with its snapshots as a backup",
		Long: "Export a storage volume with its snapshots into a file, as a backup in the format of LXD: kiln storage " +
			"volume import, lxc storage volume import and incus storage volume import make a volume of it. Instances that " +
			"have it keep running. Without a file, the backup is <volume>.tar and what the compression adds, in this " +
			"directory.",
		Args: cobra.RangeArgs(2, 3)}
	only, optimized, compression := backupFlags(c.Flags(), "volume-only")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		kind, name, snap := parseVolume(args[1])
		switch {
		case kind == "container":
			return a.typed(at, kiln.Errorf(kiln.Unsupported, "the storage volume of an instance is exported with the "+
				"instance: kiln export %s", name))
		case kind != "custom":
			return kiln.Errorf(kiln.Unsupported, "only storage volumes of type custom can be exported; for an image: kiln "+
				"image export")
		case snap != "":
			return a.typed(at, kiln.Errorf(kiln.Unsupported, "a snapshot isn't exported by itself; make a volume of it first: "+
				"kiln storage volume copy %s/%s %[1]s/NEW", at.Name, args[1]))
		}
		if _, err := a.volume(c.Context(), args[0], args[1]); err != nil {
			return err
		}
		post := api.StorageVolumeBackupsPost{ExpiresAt: time.Now().Add(backupTime).UTC(), VolumeOnly: *only,
			OptimizedStorage: *optimized, CompressionAlgorithm: *compression}
		return a.exportBackup(c.Context(), at, volumePath(at.Name, "custom/"+name), name, post, strings.Join(args[2:], ""))
	}
	return c
}

func (a *app) volumeImportCmd() *cobra.Command {
	return &cobra.Command{Use: "import [<remote>:]<pool> <file>|- [<volume>]",
		Short: "Import a storage volume with its snapshots from a backup",
		Long: "Import a storage volume with its snapshots from a backup, as kiln storage volume export, lxc storage volume " +
			"export and incus storage volume export write it.",
		Args: cobra.RangeArgs(2, 3), RunE: func(c *cobra.Command, args []string) error {
			at, err := a.At(args[0])
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 3 {
				name = strings.TrimPrefix(args[2], "custom/")
				if err := kiln.CheckVolumeName(name); err != nil {
					return err
				}
			}
			return a.sendBackup(c.Context(), at, args[1], volumesPath(at.Name, "custom"), name, "create a volume, attach it "+
				"to an instance, and copy the files there with: kiln file push -r", http.Header{})
		}}
}
