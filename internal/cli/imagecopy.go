package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// A copying is one image on its way from one server to another.
type copying struct {
	app     *app
	remote  string // where it is …
	typed   string // … and by which name
	src     kiln.Source
	img     kiln.Image
	isAlias bool
	to      place.Place
	server  api.Server // of to
	put     api.ImagePut
	aliases []api.ImageAlias
	reuse   bool // take aliases from other images
	within  bool // from one project of a server to another
}

// forServer says what is wrong with the word for the server that an image is to be on.
func forServer(word string) error {
	switch server, name, ok := strings.Cut(word, ":"); {
	case !ok:
		return usageError{fmt.Errorf("the target is a server: write it as %q", word+":")}
	case name != "":
		return usageError{fmt.Errorf("the target is a server, without a name; to give the image an alias there write "+
			"\"%s: --alias %s\"", server, strings.TrimSuffix(name, ":"))}
	}
	return nil
}

// The ways of an image, as --mode has them.
const (
	pull  = "pull"  // the target fetches it
	push  = "push"  // the source sends it
	relay = "relay" // the client carries it
	auto  = "auto"  // the first of these that works
)

func (a *app) imageCopyCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "copy [<remote>:]<image> <remote>:",
		Short: "Copy an image to another server or project", Args: cobra.ExactArgs(2),
		Long: "Copy an image to another server, or to another project of its own (--target-project). With --mode pull " +
			"the target fetches it, with push the source sends it, " +
			"with relay it goes through this client; auto tries them in this order.",
	}
	f := c.Flags()
	aliases := f.StringArray("alias", nil, "alias of the copy (repeatable); moved from the image that has it")
	copyAliases := f.Bool("copy-aliases", false, "also copy the aliases of the image")
	autoUpdate := f.Bool("auto-update", false, "update the copy when the source has a newer version")
	public := f.Bool("public", false, "make the copy public: untrusted clients may use it")
	mode := choiceFlag(c, "mode", "", auto, "how the image travels", auto, pull, push, relay)
	project := f.String("target-project", "", "project on the target")
	reuse := f.Bool("reuse", false, "with --copy-aliases, also move aliases that other images have; those are kept "+
		"as the version before (images.keep_versions)")
	profiles := f.StringArrayP("profile", "p", nil, "profile of instances made from the copy (repeatable)")
	dry := f.Bool("dry-run", false, "only show how much would be transferred")
	a.staleFlag(c)
	vm := f.Bool("vm", false, "a virtual machine")
	_ = f.MarkHidden("vm")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *vm {
			return kiln.Errorf(kiln.Unsupported, "kiln keeps images of system containers, not of virtual machines")
		}
		if err := forServer(args[1]); err != nil {
			return err
		}
		for _, n := range *aliases {
			if err := kiln.CheckAlias(n); err != nil {
				return err
			}
		}
		job, err := a.planCopy(c.Context(), args[0], args[1], *project, *aliases...)
		if err != nil {
			return err
		}
		for _, n := range *aliases {
			job.aliases = append(job.aliases, api.ImageAlias{Name: n})
		}
		job.put = api.ImagePut{Public: *public, AutoUpdate: *autoUpdate, Profiles: *profiles}
		job.reuse = *reuse
		if *copyAliases {
			if err := job.copyAliases(c.Context()); err != nil {
				return err
			}
		}
		if *dry {
			return job.estimate(c.Context(), *mode)
		}
		if err := job.run(c.Context(), *mode); err != nil {
			return err
		}
		a.say("Image copied successfully!")
		return nil
	}
	return c
}

// planCopy finds out what is to be copied from where to where.
func (a *app) planCopy(ctx context.Context, from, to, project string, aliases ...string) (*copying, error) {
	r, err := a.Config()
	if err != nil {
		return nil, err
	}
	job := &copying{app: a}
	if job.to, err = a.At(to); err != nil {
		return nil, err
	}
	if project != "" {
		job.to = a.InProject(job.to, project)
	}
	if job.server, err = trustedServer(ctx, job.to); err != nil {
		return nil, err
	}
	job.remote, job.typed = r.Split(from)
	if job.within = job.remote == job.to.Remote; job.within {
		at, err := a.At(from)
		if err != nil {
			return nil, err
		}
		if current(at) != current(job.to) {
			return job.find(ctx, from)
		}
		name := "<alias>"
		if len(aliases) > 0 {
			name = aliases[0]
		}
		if job.remote != r.Default {
			name = job.remote + ":" + name
		}
		return nil, kiln.Errorf(kiln.Invalid, "The source and target servers must be different; for one more name: kiln "+
			"image alias create %s %s; for a copy in another project give --target-project", name, job.typed)
	}
	return job.find(ctx, from)
}

// find finds the image to copy.
func (c *copying) find(ctx context.Context, from string) (*copying, error) {
	var err error
	if c.src, c.img, err = c.app.FindImage(ctx, from); err != nil {
		return nil, err
	}
	c.isAlias = slices.ContainsFunc(c.img.Aliases, func(al kiln.Alias) bool { return al.Name == c.typed })
	return c, nil
}

// run copies the image in one way, or in the first that works.
func (c *copying) run(ctx context.Context, mode string) error {
	if c.put.AutoUpdate {
		if err := c.canUpdate(mode); err != nil {
			return err
		}
		mode = pull
	}
	if c.within {
		mode = relay // the client may use both projects, and the server needs no address for it
	}
	ways := map[string]func(context.Context) error{pull: c.pull, push: c.push, relay: c.relay}
	if mode != auto {
		return ways[mode](ctx)
	}
	var errs []error // each once: two ways can have the same obstacle
	for _, way := range []string{pull, push, relay} {
		err := ways[way](ctx)
		if err == nil {
			if way != pull {
				c.app.remark("copied by %s", way)
			}
			return nil
		}
		if ctx.Err() != nil || !anotherWay(err) {
			return err
		}
		known := slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() })
		if !known {
			errs = append(errs, err)
		}
		switch {
		case way == relay: // the last one
		case known:
			c.app.remark("%s doesn't work for the same reason", way)
		default:
			c.app.remark("%s doesn't work (%v)", way, err)
		}
	}
	last := errs[len(errs)-1]
	if !c.app.quiet { // the others were told
		return last
	}
	return kiln.Errorf(kiln.KindOf(last), "%w", errors.Join(errs...))
}

// anotherWay reports whether an error is about the way, not about the image.
func anotherWay(err error) bool {
	switch kiln.KindOf(err) {
	case kiln.Conflict, kiln.Integrity, kiln.NoSpace, kiln.Cancelled, kiln.TooLarge:
		return false
	}
	return true
}

// canUpdate says at once why a copy couldn't be kept up to date.
func (c *copying) canUpdate(mode string) error {
	switch {
	case c.within:
		return kiln.Errorf(kiln.Invalid, "a copy in another project of its server isn't updated from there; leave "+
			"--auto-update out")
	case mode == push || mode == relay:
		return kiln.Errorf(kiln.Invalid, "Auto update is only available in pull mode: the target has to know where to ask "+
			"for the next version")
	case !c.img.Public:
		return kiln.Errorf(kiln.Invalid, "the image is private at %q, so the target couldn't ask for the next version; "+
			"make it public there, or leave --auto-update out", c.remote)
	case !c.isAlias:
		return kiln.Errorf(kiln.Invalid, "%q is no alias: a fingerprint always means this one image; copy by an alias, or "+
			"leave --auto-update out", c.typed)
	}
	return nil
}

// unverified says why the target can't be told to fetch the image itself: it would take it
// unsigned. The error is Unsupported.
func (c *copying) unverified(ctx context.Context) error {
	r, err := c.app.Config()
	if err != nil || r.Remotes[c.remote].ImageKey == "" {
		return err
	}
	return place.Verifies(ctx, c.to)
}

// request is what the target is told, whichever way the image comes.
func (c *copying) request(s api.ImagesPostSource) client.Request {
	return client.Request{Method: http.MethodPost, Path: "/1.0/images", Body: api.ImagesPost{
		ImagePut: c.put, Aliases: c.aliases, Source: &s, MoveAliases: true,
	}}
}

// pull has the target fetch the image.
func (c *copying) pull(ctx context.Context) error {
	if err := c.unverified(ctx); err != nil {
		return err
	}
	s, err := c.app.ImageSource(ctx, c.remote, c.typed, false)
	if err != nil {
		return err
	}
	if s.Alias != "" {
		// LXD takes the alias of a public image for a fingerprint here.
		s.Fingerprint = s.Alias
	}
	// Aliases of images here may be somebody else's there.
	req, own, kilnServer := c.request(s), c.aliases, c.movesAliases()
	if !kilnServer {
		post := req.Body.(api.ImagesPost)
		post.Aliases = nil
		req.Body = post
	}
	op, err := c.app.watch(ctx, c.to, req)
	if err != nil || kilnServer {
		return err
	}
	fp, _ := op.Metadata["fingerprint"].(string) // LXD tells it, Incus doesn't always
	return c.nameIt(ctx, own, orElse(fp, c.img.Fingerprint.String()))
}

// estimate tells what the copy would move.
func (c *copying) estimate(ctx context.Context, mode string) error {
	if mode == push || mode == relay || c.within {
		c.app.say("%s: %s, the whole image", c.img.Fingerprint.Short(), kiln.FormatSize(c.img.Size))
		return nil
	}
	s, err := c.app.ImageSource(ctx, c.remote, c.typed, false)
	if err != nil {
		return err
	}
	if !c.movesAliases() {
		return kiln.Errorf(kiln.Unsupported, "the server %q can't tell what a copy would transfer; it has to be kiln",
			c.to.Remote)
	}
	req := c.request(s)
	post := req.Body.(api.ImagesPost)
	post.DryRun = true
	req.Body = post
	var e api.ImageEstimate
	if _, _, err := c.to.Do(ctx, req, &e); err != nil {
		return err
	}
	if e.Here {
		c.app.say("%s: nothing; it is there", short(e.Fingerprint))
		return nil
	}
	var sum int64
	for _, f := range e.Files {
		c.app.say("%s: %s of %s, %s", f.Role, kiln.FormatSize(f.Moves), kiln.FormatSize(f.Size), f.How)
		sum += max(f.Moves, 0)
	}
	c.app.say("%s: %s of %s would move", short(e.Fingerprint), kiln.FormatSize(sum), kiln.FormatSize(e.Size))
	return nil
}

// movesAliases reports whether the target moves aliases from other images by itself.
func (c *copying) movesAliases() bool {
	return slices.Contains(c.server.APIExtensions, "kiln_image_aliases")
}

// copyAliases adds the aliases of the source to those of the copy. One that another
// image of the target has is a Conflict, unless that image came from the same server:
// then this is its newer version.
func (c *copying) copyAliases(ctx context.Context) error {
	r, err := c.app.Config()
	if err != nil {
		return err
	}
	where, err := r.Reach(c.remote)
	if err != nil {
		return err
	}
	for _, al := range c.img.Aliases {
		if err := kiln.CheckAlias(al.Name); err != nil {
			c.app.remark("not copied: %v", err)
			continue
		}
		if err := c.app.CheckSigned(ctx, c.img, c.remote, al.Name); err != nil {
			c.app.remark("the alias %s is not copied: %v", al.Name, err)
			continue
		}
		has, _, err := c.to.Images().Resolve(ctx, al.Name)
		isAlias := slices.ContainsFunc(has.Aliases, func(a api.ImageAlias) bool { return a.Name == al.Name })
		if err == nil && isAlias && has.Fingerprint != c.img.Fingerprint.String() && !c.reuse &&
			(has.UpdateSource == nil || has.UpdateSource.Server != where.Server) {
			return kiln.Errorf(kiln.Conflict, "the alias %q is that of another image on %q, %s; to move it to the copy give "+
				"--reuse, or choose other names with --alias in place of --copy-aliases", al.Name, c.to.Remote,
				short(has.Fingerprint))
		}
		c.aliases = append(c.aliases, api.ImageAlias{Name: al.Name, Description: al.Description})
	}
	return nil
}

// nameIt gives the image on the target its names, one by one. One that is another
// image's moves in one step: there is no moment in which it is nobody's.
func (c *copying) nameIt(ctx context.Context, names []api.ImageAlias, fingerprint string) error {
	for _, n := range names {
		entry := api.ImageAliasesEntry{Name: n.Name, Description: n.Description, Target: fingerprint}
		err := c.to.Change(ctx, http.MethodPost, "/1.0/images/aliases", entry, "")
		if errors.Is(err, kiln.Conflict) {
			put := api.ImageAliasPut{Description: n.Description, Target: fingerprint}
			err = c.to.Change(ctx, http.MethodPut, aliasPath(n.Name), put, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// push has the source send the image.
func (c *copying) push(ctx context.Context) error {
	from, err := c.app.Connect(c.remote)
	if err != nil {
		return err
	}
	target, err := c.target(ctx)
	if err != nil {
		return err
	}
	kilnServer := c.movesAliases()
	img := c.img
	img.Signature = c.app.signature(img, c.remote)
	c.put.Properties = img.WithSignature()
	req := c.request(api.ImagesPostSource{Type: "image", Mode: "push", Fingerprint: c.img.Fingerprint.String()})
	_, token, err := c.to.Do(ctx, req, nil)
	if err != nil {
		return err
	}
	secret, ok := token.Metadata["secret"].(string)
	if !ok {
		return kiln.Errorf(kiln.Network, "the target gave no secret to push the image with")
	}
	defer drop(ctx, c.to, token.ID)
	post := api.ImageExportPost{Target: target.Server, Certificate: target.Certificate, Secret: secret, Aliases: c.aliases,
		Profiles: c.put.Profiles}
	path := "/1.0/images/" + c.img.Fingerprint.String() + "/export"
	r := client.Request{Method: http.MethodPost, Path: path, Body: post}
	if _, err := c.app.watch(ctx, place.Place{Client: from, Remote: c.remote}, r); err != nil || kilnServer {
		return err
	}
	return c.nameIt(ctx, c.aliases, c.img.Fingerprint.String())
}

// target is how the source reaches the target.
func (c *copying) target(ctx context.Context) (api.ImagesPostSource, error) {
	r, err := c.app.Config()
	if err != nil {
		return api.ImagesPostSource{}, err
	}
	where, err := r.Reach(c.to.Remote)
	if err != nil {
		return api.ImagesPostSource{}, err
	}
	s := api.ImagesPostSource{Server: where.Server, Certificate: where.Certificate}
	if r.Remotes[c.to.Remote].Unix() {
		err = place.OverNetwork(ctx, c.to.Client, &s, place.ImageRelay)
	}
	return s, err
}

// relay carries the image through the client.
func (c *copying) relay(ctx context.Context) error {
	images := c.to.Images()
	images.Warn = c.app.warn
	img := kiln.Image{Fingerprint: c.img.Fingerprint, Filename: c.img.Filename, Public: c.put.Public,
		Properties: c.img.Properties, Signature: c.app.signature(c.img, c.remote), Profiles: c.put.Profiles}
	kilnServer := c.movesAliases()
	if kilnServer {
		for _, al := range c.aliases {
			img.Aliases = append(img.Aliases, kiln.Alias{Name: al.Name, Description: al.Description})
		}
	}
	has, err := images.Has(ctx, img.Fingerprint)
	if err != nil {
		return err
	}
	damaged := has && c.damaged(ctx)
	src := carried{Source: c.src, app: c.app, what: "Copying the image", from: c.img, img: img, size: c.img.Size}
	got, err := kiln.Copy(ctx, known{images, has && !damaged}, src, c.typed)
	if err != nil && !(damaged && errors.Is(err, kiln.Conflict)) { // it is there, and was mended
		return err
	}
	if kilnServer && !has {
		return nil
	}
	return c.nameIt(ctx, c.aliases, got.Fingerprint.String())
}

// damaged reports whether the target's copy of the image is damaged, as far as the target
// can tell. Then it is sent again.
func (c *copying) damaged(ctx context.Context) bool {
	if !slices.Contains(c.server.APIExtensions, "kiln_image_verify") {
		return false
	}
	err := c.to.Change(ctx, http.MethodPost, imagePath(api.Image{Fingerprint: c.img.Fingerprint.String()})+"/verify",
		struct{}{}, "")
	if !errors.Is(err, kiln.Integrity) {
		return false
	}
	c.app.remark("%v; sending it again", err)
	return true
}

// known are the images of a server that was asked already whether it has the one to copy.
type known struct {
	client.Images
	has bool
}

// Has implements kiln.Sink.
func (k known) Has(context.Context, kiln.Fingerprint) (bool, error) { return k.has, nil }
