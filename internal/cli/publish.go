package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// publishFlags say how to make an image of an instance.
type publishFlags struct {
	aliases                               []string
	public, force, machineID              bool
	expire, compression, timestamp, check string
	format                                *string
}

func (a *app) publishCmd() *cobra.Command {
	c := &cobra.Command{Use: "publish [<remote>:]<instance>[/<snapshot>] [<remote>:] [<key>=<value>...]",
		Short: "Create an image from an instance or a snapshot", Args: cobra.MinimumNArgs(1),
		Long: "Create an image from an instance or a snapshot, on its server or on another. Properties replace those of " +
			"the image it was made from.\n\nThe same files always become the same image: it says that it was made when the " +
			"last of its files was changed. An alias that exists moves to it, and the image that it leaves is kept as the " +
			"version before: see kiln image history and kiln image rollback."}
	var p publishFlags
	f := c.Flags()
	f.StringArrayVar(&p.aliases, "alias", nil, "alias of the image (repeatable)")
	f.BoolVar(&p.public, "public", false, "make the image public: untrusted clients may use it")
	f.StringVar(&p.expire, "expire", "", "when it is out of date, for people to see: "+
		"after a time (30d) or at one (2030-01-31, RFC 3339); nothing deletes it then")
	f.StringVar(&p.compression, "compression", "", "none, gzip, zstd, xz, bzip2, lz4, or squashfs, which can't hold "+
		"POSIX ACLs; with options, as in \"gzip -9 --rsyncable\" or \"xz -9e\" (default: the server's "+
		"images.compression_algorithm, zstd)")
	f.Bool("reuse", false, "accepted for scripts: an alias moves anyway, and the image it leaves is kept as the version "+
		"before (images.keep_versions)")
	f.BoolVarP(&p.force, "force", "f", false, "stop the instance if it runs, and start it again afterwards; without, one "+
		"that runs is frozen for a few milliseconds")
	p.format = choiceFlag(c, "format", "", "unified", "one file, or metadata and rootfs apart", "unified", "split")
	f.StringVar(&p.timestamp, "timestamp", "", "when the image says it was made: now, 2030-01-31, RFC 3339, or seconds "+
		"since 1970 (default: when the last of its files was changed)")
	f.BoolVar(&p.machineID, "keep-machine-id", false, "leave /etc/machine-id as it is; by default it is empty in the "+
		"image, so that each instance gets its own")
	f.StringVar(&p.check, "check", "", "keep nothing; only compare with this image")
	signFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, err := a.At(args[0])
		if err != nil {
			return err
		}
		if at.Name == "" {
			return usageError{kiln.Errorf(kiln.Invalid, "%q names no instance; write its name after the colon", args[0])}
		}
		to, words := at, args[1:]
		if len(words) > 0 && a.namesServer(words[0]) {
			if err := forServer(words[0]); err != nil {
				return err
			}
			if to, err = a.At(words[0]); err != nil {
				return err
			}
			words = words[1:]
		}
		post, err := p.request(words)
		if err != nil {
			return err
		}
		var by *signer
		if c.Flag("sign").Changed && p.check != "" {
			return usageError{errors.New("--check makes no image that could be signed; leave --sign out")}
		}
		if p.check == "" {
			if by, err = a.wantedSigner(c, to.Remote); err != nil {
				return err
			}
		}
		fp, err := a.publishTo(c.Context(), at, to, post, p.force)
		if err != nil {
			return err
		}
		if p.check != "" {
			return a.compare(c.Context(), at, fp, p.check)
		}
		a.say("Instance published with fingerprint: %s", fp)
		a.tellOutdated(c.Context(), to, fp)
		return a.signNew(c.Context(), to, fp, by)
	}
	return c
}

// request is what a server is asked for.
func (p *publishFlags) request(words []string) (api.ImagesPost, error) {
	post := api.ImagesPost{CompressionAlgorithm: p.compression, Format: *p.format, MoveAliases: true, Check: p.check != "",
		KeepMachineID: p.machineID}
	post.Public = p.public
	for _, n := range p.aliases {
		if err := kiln.CheckAlias(n); err != nil {
			return post, err
		}
		post.Aliases = append(post.Aliases, api.ImageAlias{Name: n})
	}
	var err error
	if len(words) > 0 {
		if post.Properties, err = pairs(words); err != nil {
			return post, err
		}
	}
	if p.expire != "" {
		if post.ExpiresAt, err = expiry(p.expire, time.Now()); err != nil {
			return post, usageError{fmt.Errorf("--expire: %w", err)}
		}
	}
	if p.timestamp != "" {
		if post.Timestamp, err = timestamp(p.timestamp, time.Now()); err != nil {
			return post, usageError{fmt.Errorf("--timestamp: %w", err)}
		}
	}
	return post, nil
}

// timestamp reads a time: "now", a day, RFC 3339, or seconds since 1970, as they are in
// SOURCE_DATE_EPOCH.
func timestamp(v string, now time.Time) (time.Time, error) {
	if v == "now" {
		return now.UTC(), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, v); err == nil {
			return at.UTC(), nil
		}
	}
	seconds, err := strconv.ParseInt(strings.TrimPrefix(v, "@"), 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<37 {
		return time.Time{}, fmt.Errorf("%q is no time; it is now, 2030-01-31, 2030-01-31T12:00:00Z, or seconds since 1970", v)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// publishTo makes an image on the server of the instance and, if the image is to be on
// another, copies it there; it stays only where it was before.
func (a *app) publishTo(ctx context.Context, at, to place.Place, post api.ImagesPost, force bool) (fp string,
	err error) {
	if at.Remote == to.Remote || post.Check {
		fp, _, err := a.publish(ctx, at, post, force)
		return fp, err
	}
	aliases, public := post.Aliases, post.Public
	post.Aliases, post.Public = nil, false
	fp, existed, err := a.publish(ctx, at, post, force)
	if err != nil {
		return "", err
	}
	if !existed {
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, dropUnnamed(ctx, at, fp))
		}()
	}
	job, err := a.planCopy(ctx, at.Remote+":"+fp, to.Remote+":", "")
	if err != nil {
		return "", err
	}
	job.aliases, job.put = aliases, api.ImagePut{Public: public}
	return fp, job.run(ctx, auto)
}

// dropUnnamed deletes an image, unless somebody has given it a name meanwhile.
func dropUnnamed(ctx context.Context, at place.Place, fp string) error {
	var img api.Image
	if _, err := at.Get(ctx, "/1.0/images/"+fp, nil, &img); err != nil || len(img.Aliases) > 0 {
		return err
	}
	_, op, err := at.Do(ctx, client.Request{Method: http.MethodDelete, Path: "/1.0/images/" + fp}, nil)
	if err == nil {
		_, err = at.Wait(ctx, op.ID)
	}
	return err
}

// compare says whether an image has the fingerprint that publishing would give.
func (a *app) compare(ctx context.Context, at place.Place, fp, word string) error {
	img, err := a.imageBeside(ctx, heldImage{at: at}, word)
	if err != nil {
		return err
	}
	if img.Fingerprint != fp {
		return fmt.Errorf("%s would be published as %s, which is not %q: that is %s; to see what differs, publish it and "+
			"compare: kiln image diff", at.Name, fp, word, img.Fingerprint)
	}
	a.say("%s: the same, %s", word, fp)
	return nil
}

// publish has a server make an image, which may have existed.
func (a *app) publish(ctx context.Context, at place.Place, post api.ImagesPost, force bool) (fp string,
	existed bool, err error) {
	post.Source = &api.ImagesPostSource{Type: "instance", Name: at.Name}
	switch {
	case strings.Contains(at.Name, "/"):
		post.Source.Type = "snapshot"
	case force:
		i, err := a.instance(ctx, at.Word())
		if err != nil {
			return "", false, err
		}
		if i.Status != "Stopped" {
			again, err := a.stopForPublish(ctx, i)
			if err != nil {
				return "", false, err
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
		return "", false, a.suggest(ctx, at, err)
	}
	fp, _ = done.Metadata["fingerprint"].(string)
	existed, _ = done.Metadata["existed"].(bool)
	return fp, existed, err
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
