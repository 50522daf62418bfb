package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

// imageAt is at for a word that means an image, where nothing means "default".
func (a *app) imageAt(word string) (place, error) {
	at, err := a.at(word)
	if at.name == "" {
		at.name = "default"
	}
	return at, err
}

// isStreams reports whether a word is about a server that only has images.
func (a *app) isStreams(word string) (remote, name string, streams bool, err error) {
	r, err := a.remotes()
	if err != nil {
		return "", "", false, err
	}
	remote, name = r.split(word)
	c, err := r.find(orElse(remote, r.Default))
	return remote, name, err == nil && c.streams(), err
}

// listImages gives the images of the server that the first word means, whichever
// protocol it speaks, and the other words.
func (a *app) listImages(ctx context.Context, words []string) ([]api.Image, []string, error) {
	if len(words) > 0 && strings.HasSuffix(words[0], ":") {
		if remote, _, streams, err := a.isStreams(words[0]); err != nil {
			return nil, nil, err
		} else if streams {
			all, err := a.listStreams(ctx, remote)
			return all, words[1:], err
		}
	}
	at, words, err := a.server(words)
	if err != nil {
		return nil, nil, err
	}
	all, err := client.List[api.Image](ctx, at.Client, "/1.0/images", 1)
	return all, words, err
}

func (a *app) listStreams(ctx context.Context, remote string) ([]api.Image, error) {
	src, err := a.source(remote)
	if err != nil {
		return nil, err
	}
	lister, ok := src.(interface {
		List(context.Context) ([]kiln.Image, error)
	})
	if !ok {
		return nil, kiln.Errorf(kiln.Unsupported, "the images of the remote %q can't be listed", remote)
	}
	list, err := lister.List(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]api.Image, 0, len(list))
	for _, i := range list {
		all = append(all, wireImage(i))
	}
	return all, nil
}

// wireImage is an image of a server without an API, as one with it would tell it.
func wireImage(i kiln.Image) api.Image {
	w := api.Image{
		ImagePut:     api.ImagePut{Properties: i.Properties, Public: i.Public, ExpiresAt: i.ExpiresAt, Profiles: []string{}},
		Architecture: i.Architecture, Filename: i.Filename, Fingerprint: i.Fingerprint.String(), Size: i.Size, Type: i.Type,
		CreatedAt: i.CreatedAt, UploadedAt: i.UploadedAt, Aliases: []api.ImageAlias{},
	}
	for _, al := range i.Aliases {
		w.Aliases = append(w.Aliases, api.ImageAlias{Name: al.Name, Description: al.Description})
	}
	return w
}

// listAliases is listImages for aliases.
func (a *app) listAliases(ctx context.Context, words []string) ([]api.ImageAliasesEntry, []string, error) {
	if len(words) > 0 && strings.HasSuffix(words[0], ":") {
		if remote, _, streams, err := a.isStreams(words[0]); err != nil {
			return nil, nil, err
		} else if streams {
			var all []api.ImageAliasesEntry
			images, err := a.listStreams(ctx, remote)
			for _, i := range images {
				for _, al := range i.Aliases {
					all = append(all, api.ImageAliasesEntry{Name: al.Name, Target: i.Fingerprint, Type: i.Type})
				}
			}
			return all, words[1:], err
		}
	}
	at, words, err := a.server(words)
	if err != nil {
		return nil, nil, err
	}
	all, err := client.List[api.ImageAliasesEntry](ctx, at.Client, "/1.0/images/aliases", 1)
	return all, words, err
}

// anyImage is image for verbs that only look: also at servers without an API.
func (a *app) anyImage(ctx context.Context, word string) (heldImage, error) {
	if _, _, streams, err := a.isStreams(word); err != nil {
		return heldImage{}, err
	} else if !streams {
		return a.image(ctx, word)
	}
	_, img, err := a.findImage(ctx, word)
	return heldImage{Image: wireImage(img)}, err
}

// findImage finds the image a word means, and where its files are.
func (a *app) findImage(ctx context.Context, word string) (kiln.Source, kiln.Image, error) {
	r, err := a.remotes()
	if err != nil {
		return nil, kiln.Image{}, err
	}
	remote, name := r.split(word)
	src, err := a.source(orElse(remote, r.Default))
	if err != nil {
		return nil, kiln.Image{}, err
	}
	img, err := src.Find(ctx, orElse(name, "default"))
	return src, img, err
}

// watch sends a request that starts an operation, shows how that goes, and waits
// for its end. Who interrupts it cancels the operation.
func (a *app) watch(ctx context.Context, at place, r client.Request) (api.Operation, error) {
	_, op, err := at.Do(ctx, r, nil)
	if err != nil {
		return api.Operation{}, err
	}
	if op == nil {
		return api.Operation{}, kiln.Errorf(kiln.Network, "the server didn't start an operation")
	}
	looking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.showProgress(looking, at, op.ID)
	}()
	final, err := at.Wait(ctx, op.ID)
	stop()
	<-done
	if ctx.Err() != nil {
		cancel, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer end()
		_ = at.Change(cancel, http.MethodDelete, "/1.0/operations/"+op.ID, nil, "") // it may be over
		return *op, kiln.Errorf(kiln.Cancelled, "interrupted; what was downloaded is kept for a while, and the next "+
			"attempt goes on with it")
	}
	if warning, ok := final.Metadata["warning"].(string); ok {
		a.remark("kiln: warning: %s", warning)
	}
	for k, v := range op.Resources {
		if final.Resources == nil {
			final.Resources = map[string][]string{}
		}
		if len(final.Resources[k]) == 0 {
			final.Resources[k] = v
		}
	}
	return final, err
}

// showProgress shows an operation's progress in one line of a terminal.
func (a *app) showProgress(ctx context.Context, at place, id string) {
	if a.quiet || !terminal(a.Err) {
		return
	}
	shown := 0
	defer func() {
		if shown > 0 {
			fmt.Fprintf(a.Err, "\r%s\r", strings.Repeat(" ", shown))
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(250 * time.Millisecond):
		}
		var o api.Operation
		if _, err := at.Get(ctx, "/1.0/operations/"+id, nil, &o); err != nil {
			return
		}
		for k, v := range o.Metadata {
			if text, ok := v.(string); ok && strings.HasSuffix(k, "_progress") {
				fmt.Fprintf(a.Err, "\r%-*s", shown, text)
				shown = max(shown, len(text))
			}
		}
	}
}

// instanceSource says what an instance is to be made from, on the server where it
// will be: an image there, or one that it is to fetch.
func (a *app) instanceSource(ctx context.Context, word string, to place, offline bool) (api.InstanceSource, error) {
	r, err := a.remotes()
	if err != nil {
		return api.InstanceSource{}, err
	}
	remote, name := r.split(word)
	remote, name = orElse(remote, r.Default), orElse(name, "default")
	if remote == to.remote {
		return api.InstanceSource{Type: "image", Alias: name}, nil
	}
	s, err := a.imageSource(ctx, remote, name, offline)
	if err != nil {
		return api.InstanceSource{}, err
	}
	return api.InstanceSource{
		Type: "image", Mode: "pull", Server: s.Server, Protocol: s.Protocol, Certificate: s.Certificate, Alias: s.Alias,
		Fingerprint: s.Fingerprint,
		Secret:      s.Secret, Project: s.Project, Offline: offline, RemoteAccess: s.RemoteAccess,
	}, nil
}

// enough digits of a fingerprint aren't an alias by chance.
const enough = 12

// imageSource says where a server finds an image of a remote. A private one is
// shared with it by a secret.
func (a *app) imageSource(ctx context.Context, remote, name string, offline bool) (api.ImagesPostSource, error) {
	r, err := a.remotes()
	if err != nil {
		return api.ImagesPostSource{}, err
	}
	c, err := r.find(remote)
	if err != nil {
		return api.ImagesPostSource{}, err
	}
	where, err := r.remote(remote)
	if err != nil {
		return api.ImagesPostSource{}, err
	}
	s := api.ImagesPostSource{
		Type: "image", Mode: "pull", Server: where.Server, Protocol: where.Protocol, Certificate: where.Certificate,
		Project:      c.Project,
		RemoteAccess: api.RemoteAccess{CA: where.CA, Mirrors: where.Mirrors, Proxy: where.Proxy},
	}
	if s.Alias = name; len(name) >= enough && kiln.IsPrefix(strings.ToLower(name)) {
		s.Alias, s.Fingerprint = "", name
	}
	if c.streams() || offline {
		return s, nil
	}
	at, err := a.connect(remote)
	if err != nil {
		return s, err
	}
	img, _, err := at.Images().Resolve(ctx, name)
	if errors.Is(err, kiln.Network) && !c.unix() {
		return s, nil // the other server may have the image already
	}
	if err != nil {
		return s, err
	}
	if c.unix() {
		if err := a.overNetwork(ctx, at, &s); err != nil {
			return s, err
		}
	}
	if img.Public && s.Alias != "" {
		return s, nil
	}
	s.Alias, s.Fingerprint = "", img.Fingerprint
	if !img.Public {
		s.Secret, err = shareImage(ctx, at, img)
	}
	return s, err
}

// overNetwork says how a server that the client reaches by a socket is reached by
// others.
func (a *app) overNetwork(ctx context.Context, at *client.Client, s *api.ImagesPostSource) error {
	var server api.Server
	if _, err := at.Get(ctx, "/1.0", nil, &server); err != nil {
		return err
	}
	if server.Environment == nil || len(server.Environment.Addresses) == 0 {
		return kiln.Errorf(kiln.Unsupported, "The source server isn't listening on the network; have it listen with: kiln "+
			"config set core.https_address \":8443\", or copy with --mode push or relay")
	}
	s.Server, s.Certificate, s.Protocol = "https://"+server.Environment.Addresses[0], server.Environment.Certificate,
		kiln.ProtocolLXD
	for _, other := range server.Environment.Addresses[1:] {
		s.Mirrors = append(s.Mirrors, "https://"+other)
	}
	return nil
}

// shareImage gets the secret by which others can have a private image.
func shareImage(ctx context.Context, at *client.Client, img api.Image) (string, error) {
	_, op, err := at.Do(ctx, client.Request{Method: http.MethodPost, Path: imagePath(img) + "/secret", Body: struct{}{}},
		nil)
	if err != nil {
		return "", err
	}
	secret, ok := op.Metadata["secret"].(string)
	if !ok {
		return "", kiln.Errorf(kiln.Network, "the server gave no secret for the image %s", img.Fingerprint)
	}
	return secret, nil
}

// importURL has a server fetch the image that a URL tells of.
func (a *app) importURL(ctx context.Context, at place, url string, img kiln.Image, reuse bool) error {
	if !strings.HasPrefix(url, "https://") {
		return kiln.Errorf(kiln.Invalid, "Only https:// is supported for remote image import")
	}
	post := api.ImagesPost{
		ImagePut: api.ImagePut{Public: img.Public, Properties: img.Properties}, Aliases: wireAliases(img.Aliases),
		Source: &api.ImagesPostSource{Type: "url", Mode: "pull", Protocol: kiln.ProtocolDirect, URL: url}, MoveAliases: true,
		Reuse: reuse,
	}
	op, err := a.watch(ctx, at, client.Request{Method: http.MethodPost, Path: "/1.0/images", Body: post})
	if err != nil {
		return err
	}
	a.say("Image imported with fingerprint: %v", op.Metadata["fingerprint"])
	return nil
}

func wireAliases(aliases []kiln.Alias) []api.ImageAlias {
	list := []api.ImageAlias{}
	for _, al := range aliases {
		list = append(list, api.ImageAlias{Name: al.Name, Description: al.Description})
	}
	return list
}

func (a *app) imageRefreshCmd() *cobra.Command {
	return &cobra.Command{Use: "refresh [<remote>:]<image>...",
		Short: "Get the newest version of images from where they came from", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			return each(args, func(word string) error {
				i, err := a.image(c.Context(), word)
				if err != nil {
					return err
				}
				op, err := a.watch(c.Context(), i.at, client.Request{Method: http.MethodPost, Path: imagePath(i.Image) + "/refresh",
					Body: struct{}{}})
				if err != nil {
					return err
				}
				if op.Metadata["refreshed"] == true {
					a.say("Image refreshed successfully!")
				} else {
					a.say("Image already up to date.")
				}
				return nil
			})
		}}
}

func (a *app) imagePruneCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "prune [<remote>:]", Short: "Delete images that nobody needs", Args: cobra.MaximumNArgs(1),
		Long: "Delete cached images and older versions of images that no instance was made from.",
	}
	all := c.Flags().Bool("all", false, "also images without an alias")
	dry := c.Flags().Bool("dry-run", false, "only tell which")
	form := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		at, _, err := a.server(args)
		if err != nil {
			return err
		}
		var list []api.PrunedImage
		r := client.Request{Method: http.MethodPost, Path: "/1.0/kiln/images/prune",
			Body: api.ImagesPrune{All: *all, DryRun: *dry}}
		if _, _, err := at.Do(c.Context(), r, &list); err != nil {
			return err
		}
		if err := show(a.Out, *form, []column[api.PrunedImage]{
			{'f', "FINGERPRINT", func(p api.PrunedImage) string { return p.Fingerprint[:12] }},
			{'d', "DESCRIPTION", func(p api.PrunedImage) string { return p.Properties["description"] }},
			{'s', "SIZE", func(p api.PrunedImage) string { return size(p.Size) }},
			{'w', "WHY", func(p api.PrunedImage) string { return p.Why }},
		}, list); err != nil {
			return err
		}
		var sum int64
		for _, p := range list {
			sum += p.Size
		}
		verb := "deleted"
		if *dry {
			verb = "would be deleted"
		}
		a.remark("%d images of %s %s", len(list), kiln.FormatSize(sum), verb)
		return nil
	}
	return c
}
