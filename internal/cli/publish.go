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
	"github.com/kiln-containers/kiln/internal/place"
)

func (a *app) publishCmd() *cobra.Command {
	c := &cobra.Command{Use: "publish [<remote>:]<instance>[/<snapshot>] [<key>=<value>...]",
		Short: "Make an image of an instance or a snapshot", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeInstances,
		Long: "Make an image of an instance or a snapshot. Properties replace those of the image it was made from. The " +
			"same files always become the same image."}
	f := c.Flags()
	aliases := f.StringArray("alias", nil, "alias of the image (repeatable)")
	public := f.Bool("public", false, "let everybody have it")
	expire := f.String("expire", "", "when it is deleted: after a time (30d) or at one (2030-01-31, RFC 3339)")
	compression := f.String("compression", "", "none, gzip, zstd, xz, bzip2, lz4, or squashfs, which can't hold POSIX "+
		"ACLs (default: the server's images.compression_algorithm, zstd)")
	f.Bool("reuse", false, "accepted for scripts: an alias moves anyway, and the image it leaves is kept as the version "+
		"before (images.keep_versions)")
	force := f.BoolP("force", "f", false, "stop the instance if it runs, and start it again afterwards; without, one "+
		"that runs stands still for a moment")
	form := f.String("format", "unified", "unified: one file, or split: metadata and root filesystem")
	timestamp := f.String("timestamp", "", "when the image says it was made (RFC 3339 or 2030-01-31); default: when "+
		"what it was made from was")
	check := f.String("check", "", "keep nothing; only compare with this image")
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		words := args[1:]
		if len(words) > 0 && strings.HasSuffix(words[0], ":") && !strings.Contains(words[0], "=") {
			if words[0] != at.Remote+":" {
				return kiln.Errorf(kiln.Unsupported, "an image is published on the server of its instance; copy it from there: "+
					"kiln image copy %s:<image> %s", at.Remote, words[0])
			}
			words = words[1:]
		}
		post := api.ImagesPost{CompressionAlgorithm: *compression, Format: *form, MoveAliases: true, Check: *check != ""}
		post.Public = *public
		if len(words) > 0 {
			if post.Properties, err = pairs(words); err != nil {
				return err
			}
		}
		if *expire != "" {
			if post.ExpiresAt, err = expiry(*expire, time.Now()); err != nil {
				return usageError{fmt.Errorf("--expire: %w", err)}
			}
		}
		if *timestamp != "" {
			if post.Timestamp, err = expiry(*timestamp, time.Time{}); err != nil {
				return usageError{fmt.Errorf("--timestamp: %w", err)}
			}
		}
		for _, n := range *aliases {
			post.Aliases = append(post.Aliases, api.ImageAlias{Name: n})
		}
		fp, err := a.publish(c.Context(), at, post, *force)
		if err != nil {
			return err
		}
		if *check != "" {
			return a.compare(c.Context(), at, fp, *check)
		}
		a.say("Instance published with fingerprint: %s", fp)
		return nil
	}
	return c
}

// compare says whether an image has the fingerprint that publishing would give.
func (a *app) compare(ctx context.Context, at place.Place, fp, word string) error {
	img, err := a.imageBeside(ctx, heldImage{at: at}, word)
	if err != nil {
		return err
	}
	if img.Fingerprint != fp {
		return kiln.Errorf(kiln.Integrity, "%s would be published as %s, which is not %q: that is %s; what differs tells: "+
			"kiln image diff", at.Name, fp, word, img.Fingerprint)
	}
	a.say("%s: the same, %s", word, fp)
	return nil
}

func (a *app) publish(ctx context.Context, at place.Place, post api.ImagesPost, force bool) (fp string, err error) {
	post.Source = &api.ImagesPostSource{Type: "instance", Name: at.Name}
	switch {
	case strings.Contains(at.Name, "/"):
		post.Source.Type = "snapshot"
	case force:
		i, err := a.instance(ctx, at.Word())
		if err != nil {
			return "", err
		}
		if i.Status != "Stopped" {
			again, err := a.stopForPublish(ctx, i)
			if err != nil {
				return "", err
			}
			defer func() {
				if serr := again(); err == nil {
					err = serr
				}
			}()
		}
	}
	done, err := a.watch(ctx, at, client.Request{Method: http.MethodPost, Path: "/1.0/images", Body: post})
	if err != nil && !strings.Contains(at.Name, "/") {
		return "", a.suggest(ctx, at, err)
	}
	fp, _ = done.Metadata["fingerprint"].(string)
	return fp, err
}

// stopForPublish stops an instance and gives what starts it again.
func (a *app) stopForPublish(ctx context.Context, i heldInstance) (again func() error, err error) {
	if i.Ephemeral {
		return nil, kiln.Errorf(kiln.Conflict, "instance %q is ephemeral: it would be gone when it stops; publish it "+
			"without --force, which needs no stop", i.Name)
	}
	if err := a.act(ctx, i.at, api.InstanceStatePut{Action: "stop", Timeout: -1, Force: true}); err != nil {
		return nil, err
	}
	return func() error {
		return a.act(context.WithoutCancel(ctx), i.at, api.InstanceStatePut{Action: "start", Timeout: -1})
	}, nil
}
