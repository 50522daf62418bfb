package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

func (a *app) publishCmd() *cobra.Command {
	c := &cobra.Command{Use: "publish [<remote>:]<instance>[/<snapshot>] [<key>=<value>...]", Short: "Make an image of an instance or a snapshot", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completeInstances,
		Long: "Make an image of an instance or a snapshot. Properties replace those of the image it was made from. The same files always become the same image."}
	f := c.Flags()
	aliases := f.StringArray("alias", nil, "alias of the image (repeatable)")
	public := f.Bool("public", false, "let everybody have it")
	expire := f.String("expire", "", "when it is deleted: after a time (30d) or at one (2030-01-31, RFC 3339)")
	compression := f.String("compression", "", "none, gzip, zstd, xz, bzip2, lz4, or squashfs, which can't hold POSIX ACLs (default: the server's images.compression_algorithm)")
	reuse := f.Bool("reuse", false, "take aliases away from other images, and delete those that lose their last")
	force := f.BoolP("force", "f", false, "stop the instance if it runs, and start it again afterwards")
	c.RunE = func(c *cobra.Command, args []string) error {
		words := args[1:]
		if len(words) > 0 && strings.HasSuffix(words[0], ":") && !strings.Contains(words[0], "=") {
			if _, err := a.name(words[0]); err != nil {
				return err
			}
			words = words[1:]
		}
		post := api.ImagesPost{CompressionAlgorithm: *compression}
		post.Public = *public
		if len(words) > 0 {
			var err error
			if post.Properties, err = pairs(words); err != nil {
				return err
			}
		}
		if *expire != "" {
			at, err := expiry(*expire, time.Now())
			if err != nil {
				return usageError{fmt.Errorf("--expire: %w", err)}
			}
			post.ExpiresAt = at
		}
		for _, n := range *aliases {
			post.Aliases = append(post.Aliases, api.ImageAlias{Name: n})
		}
		name, err := a.name(args[0])
		if err != nil {
			return err
		}
		return a.publish(c.Context(), name, post, *reuse, *force)
	}
	return c
}

func (a *app) publish(ctx context.Context, name string, post api.ImagesPost, reuse, force bool) (err error) {
	post.Source = &api.ImagesPostSource{Type: "instance", Name: name}
	if strings.Contains(name, "/") {
		post.Source.Type = "snapshot"
	} else {
		i, _, err := a.instance(ctx, name)
		if err != nil {
			return err
		}
		if i.Status != "Stopped" {
			again, err := a.stopForPublish(ctx, i, force)
			if err != nil {
				return err
			}
			defer func() {
				if serr := again(); err == nil {
					err = serr
				}
			}()
		}
	}
	r := client.Request{Method: http.MethodPost, Path: "/1.0/images", Body: post, Header: http.Header{}}
	if reuse {
		r.Header.Set("X-Kiln-Move-Aliases", "true")
		r.Header.Set("X-Kiln-Reuse", "true")
	}
	_, op, err := a.client().Do(ctx, r, nil)
	if err != nil {
		return err
	}
	done, err := a.client().Wait(ctx, op.ID)
	if err != nil {
		return err
	}
	a.say("Instance published with fingerprint: %v", done.Metadata["fingerprint"])
	return nil
}

// stopForPublish stops an instance and gives what starts it again.
func (a *app) stopForPublish(ctx context.Context, i api.Instance, force bool) (again func() error, err error) {
	if !force {
		return nil, kiln.Errorf(kiln.Conflict, "The instance is currently running. Use --force to have it stopped and restarted; or publish a snapshot of it, which needs no stop")
	}
	if i.Ephemeral {
		return nil, kiln.Errorf(kiln.Conflict, "instance %q is ephemeral: it would be gone when it stops; publish a snapshot of it", i.Name)
	}
	if err := a.act(ctx, i.Name, api.InstanceStatePut{Action: "stop", Timeout: -1, Force: true}); err != nil {
		return nil, err
	}
	return func() error {
		return a.act(context.WithoutCancel(ctx), i.Name, api.InstanceStatePut{Action: "start", Timeout: -1})
	}, nil
}
