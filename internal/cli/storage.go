package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

func poolPath(pool string) string { return client.Path("/1.0/storage-pools", pool) }

func (a *app) storageCmd() *cobra.Command {
	c := &cobra.Command{Use: "storage", Short: "Manage storage volumes, and show the storage pool",
		Long: "Manage storage volumes: directories that instances have beside their own files, several at once if need " +
			"be. There is one storage pool, \"default\", in the daemon's directory."}
	c.AddCommand(a.poolListCmd(), a.poolShowCmd(), a.poolInfoCmd(), a.volumeCmd())
	return c
}

func (a *app) pool(ctx context.Context, word string) (p api.StoragePool, at place.Place, err error) {
	if at, err = a.At(word); err == nil {
		_, err = at.Get(ctx, poolPath(at.Name), nil, &p)
	}
	return p, at, err
}

func (a *app) poolListCmd() *cobra.Command {
	c := &cobra.Command{Use: "list [<remote>:]", Short: "List storage pools",
		Args: cobra.MaximumNArgs(1)}
	show := listFlags(a, c, "nDdus", []column[api.StoragePool]{
		col('n', "NAME", func(p api.StoragePool) string { return p.Name }),
		col('D', "DRIVER", func(p api.StoragePool) string { return p.Driver }),
		col('d', "DESCRIPTION", func(p api.StoragePool) string { return p.Description }),
		col('u', "USED BY", func(p api.StoragePool) string { return fmt.Sprint(len(p.UsedBy)) }),
		col('s', "STATE", func(p api.StoragePool) string { return strings.ToUpper(p.Status) }),
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.server(args)
		if err != nil {
			return err
		}
		all, err := client.List[api.StoragePool](c.Context(), at.Client, "/1.0/storage-pools", 1)
		if err != nil {
			return err
		}
		return show(all)
	}
	return c
}

func (a *app) poolShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show [<remote>:]<pool>", Short: "Show a storage pool as YAML", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, _, err := a.pool(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.yaml(p)
		}}
}

func (a *app) poolInfoCmd() *cobra.Command {
	c := &cobra.Command{Use: "info [<remote>:]<pool>", Short: "Show the usage of a storage pool", Args: cobra.ExactArgs(1)}
	exact := c.Flags().Bool("bytes", false, "sizes in bytes")
	c.RunE = func(c *cobra.Command, args []string) error {
		p, at, err := a.pool(c.Context(), args[0])
		if err != nil {
			return err
		}
		var r api.StoragePoolResources
		if _, err := at.Get(c.Context(), poolPath(at.Name)+"/resources", nil, &r); err != nil {
			return err
		}
		text := func(n uint64) string { return size(int64(n)) }
		if *exact {
			text = func(n uint64) string { return fmt.Sprint(n) }
		}
		return a.value(strings.Join([]string{"Name: " + p.Name, "Driver: " + p.Driver, "Description: " + p.Description,
			"Space used: " + text(r.Space.Used), "Total space: " + text(r.Space.Total),
			fmt.Sprintf("Inodes: %d of %d", r.Inodes.Used, r.Inodes.Total), "Used by: " + fmt.Sprint(len(p.UsedBy))}, "\n"))
	}
	return c
}
