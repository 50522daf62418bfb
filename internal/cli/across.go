package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
)

// A crossing is one instance on its way from one server to another.
type crossing struct {
	app      *app
	from, to place.Place
	post     api.InstancesPost
	instance string // of from
	secret   string // by which anybody can have it
	move     bool   // is what the user asked for
}

// copyAcross copies an instance, or a snapshot as one, to another server. It gives
// the state that the instance had; "" when it runs, or the server doesn't say it.
func (a *app) copyAcross(ctx context.Context, from, to place.Place, o *copyFlags) (state string, err error) {
	x := &crossing{app: a, from: from, to: to, move: o.move}
	var snap string
	x.instance, snap, _ = strings.Cut(from.Name, "/")
	if x.to.Name == "" {
		x.to.Name = x.instance
	}
	theirs, err := byPeers(ctx, from, to)
	if err != nil {
		return "", err
	}
	if theirs {
		return "", x.migrate(ctx, o)
	}
	if x.post, err = o.request(ctx, from, x.to); err != nil {
		return "", a.suggest(ctx, from, err)
	}
	if err := x.free(ctx); err != nil {
		return "", err
	}
	a.say("Creating %s", x.to.Name)
	r := client.Request{Method: http.MethodPost, Path: client.Path("/1.0/kiln/instances", x.instance) + "/share",
		Body: api.InstanceSharePost{Snapshot: snap, InstanceOnly: o.only}}
	op, err := a.watch(ctx, from, r)
	if err != nil {
		if snap == "" {
			err = a.suggest(ctx, from, err)
		}
		return "", err
	}
	x.secret, _ = op.Metadata["secret"].(string)
	token, _ := op.Metadata["token"].(string)
	defer drop(ctx, from, token)
	state, _ = op.Metadata["state"].(string)
	return state, x.run(ctx, *o.mode)
}

// free says at once that the target has an instance of this name. The error is
// Conflict.
func (x *crossing) free(ctx context.Context) error {
	_, err := x.to.Get(ctx, instancePath(x.to.Name), nil, nil)
	if err == nil {
		return kiln.Errorf(kiln.Conflict, "Instance %q already exists on %q; give the copy another name: %s:NAME", x.to.Name,
			x.to.Remote, x.to.Remote)
	}
	if errors.Is(err, kiln.NotFound) {
		return nil
	}
	return err
}

// run copies the instance in one way, or in the first that works.
func (x *crossing) run(ctx context.Context, mode string) error {
	switch mode {
	case pull:
		return x.pull(ctx)
	case relay:
		return x.relay(ctx)
	case push:
		x.app.remark("no server sends instances by itself: this client carries it, as with --mode relay")
		return x.relay(ctx)
	}
	err := x.pull(ctx)
	switch kiln.KindOf(err) {
	case kiln.Network, kiln.Timeout, kiln.Denied, kiln.Unsupported:
	default:
		return err
	}
	if err == nil || ctx.Err() != nil || errors.As(err, &final{}) {
		return err
	}
	x.app.remark("pull doesn't work (%v); copying by relay", err)
	return x.relay(ctx)
}

// relayVerb is how the user has this client carry the instance.
func (x *crossing) relayVerb() string {
	if x.move {
		return "kiln move --mode relay"
	}
	return "kiln copy --mode relay"
}

// pull has the target fetch the instance.
func (x *crossing) pull(ctx context.Context) error {
	r, err := x.app.Config()
	if err != nil {
		return err
	}
	where, err := r.Reach(x.from.Remote)
	if err != nil {
		return err
	}
	s := api.ImagesPostSource{
		Server: where.Server, Protocol: where.Protocol, Certificate: where.Certificate,
		RemoteAccess: place.Access(where),
	}
	if s.ImageKey != "" { // for the image that the instance stands on
		if err := place.Verifies(ctx, x.to); err != nil {
			return err
		}
	}
	if r.Remotes[x.from.Remote].Unix() {
		if err := place.OverNetwork(ctx, x.from.Client, &s, x.relayVerb()); err != nil {
			return err
		}
	}
	post := x.post
	post.Source.Mode, post.Source.Server, post.Source.Protocol, post.Source.Certificate = "pull", s.Server, s.Protocol,
		s.Certificate
	post.Source.RemoteAccess, post.Source.Secret = s.RemoteAccess, x.secret
	op, err := start(ctx, x.to, client.Request{Method: http.MethodPost, Path: "/1.0/instances", Body: post})
	if errors.Is(err, kiln.Denied) {
		return final{err}
	}
	if err == nil {
		_, err = x.app.await(ctx, x.to, op)
	}
	return err
}

// final is what the target itself refuses, in whatever way the instance comes.
type final struct{ error }

// Unwrap gives the error.
func (f final) Unwrap() error { return f.error }

// relay carries the instance through this client: first the images that the target
// hasn't, then what the target couldn't have otherwise.
func (x *crossing) relay(ctx context.Context) error {
	source := x.from.WithSecret(x.secret)
	t, err := source.Transfer(ctx, x.instance)
	if err != nil {
		return err
	}
	if err := x.checkProfiles(ctx, t); err != nil {
		return err
	}
	there := map[string]bool{} // images
	for _, m := range append([]api.TransferInstance{t.TransferInstance}, t.Snapshots...) {
		if m.Base == "" || there[m.Base] {
			continue
		}
		if there[m.Base], err = x.relayImage(ctx, m.Base, t); err != nil {
			return err
		}
	}
	var parts []string
	var size int64
	for _, p := range t.Parts {
		of, ok := strings.CutPrefix(p.ID, "image-")
		if !ok || !there[strings.TrimPrefix(of, "meta-")] {
			parts, size = append(parts, p.ID), size+p.Size
		}
	}
	wrap, done := x.app.progress("Copying the instance", size)
	defer done()
	_, err = x.to.SendInstance(ctx, api.InstanceArrival{InstancesPost: x.post, Transfer: t}, parts,
		func(id string) (io.ReadCloser, error) {
			part, err := source.TransferPart(ctx, x.instance, id)
			if err != nil {
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{wrap(part), part}, nil
		})
	return err
}

// checkProfiles says before anything moves which profiles the target lacks, as it
// would say itself.
func (x *crossing) checkProfiles(ctx context.Context, t api.InstanceTransfer) error {
	all, err := client.List[api.Profile](ctx, x.to.Client, "/1.0/profiles", 1)
	if err != nil {
		return err
	}
	wanted := t.Profiles
	for _, s := range t.Snapshots {
		wanted = append(wanted, s.Profiles...)
	}
	if x.post.Profiles != nil {
		wanted = x.post.Profiles
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(p api.Profile) bool { return p.Name == name }) {
			return kiln.Errorf(kiln.NotFound, "Profile '%s' doesn't exist on %q; make it there (kiln profile create), or "+
				"say which the copy shall have: -p default, or, if it has a root disk of its own or is given one "+
				"(-d root,type=disk,path=/,pool=default), --no-profiles", name, x.to.Remote)
		}
	}
	return nil
}

// relayImage carries an image that the target hasn't, and tells whether it has it
// then. One that isn't to be an image there, since nobody vouches for it, comes as files of the
// instance.
func (x *crossing) relayImage(ctx context.Context, fingerprint string, t api.InstanceTransfer) (bool, error) {
	fp, err := kiln.ParseFingerprint(fingerprint)
	if err != nil {
		return false, err
	}
	has, err := x.to.Images().Has(ctx, fp)
	if err != nil || has || !slices.Contains(t.Images, fingerprint) {
		return has, err
	}
	err = x.carryImage(ctx, fp)
	asFiles := slices.ContainsFunc(t.Parts, func(p api.TransferPart) bool { return p.ID == "image-"+fingerprint })
	switch {
	case err == nil, errors.Is(err, kiln.Conflict): // somebody else brought it
		return true, nil
	case errors.Is(err, kiln.Integrity) && asFiles:
		x.app.remark("image %s isn't kept on %q (%v); the instance has a copy of its files, of which nobody can make "+
			"another one", fp.Short(), x.to.Remote, err)
		return false, nil
	}
	return false, err
}

// carryImage carries an image to the target, which verifies it by the key of its remote, too.
// The error is Integrity for one that isn't signed as it has to be.
func (x *crossing) carryImage(ctx context.Context, fp kiln.Fingerprint) error {
	from, to := x.from.Images(), x.to.Images()
	img, err := from.Find(ctx, fp.String())
	if err != nil {
		return err
	}
	by, err := x.app.Vouched(ctx, img, x.from.Remote, fp.String())
	if err != nil {
		return err
	}
	if by == "" {
		if err := x.needsKey(ctx); err != nil {
			return err
		}
	}
	to.Cached, to.ImageKey = true, by
	_, err = kiln.Copy(ctx, to, carried{Source: from, app: x.app, what: "Copying the image", from: img,
		img:  kiln.Image{Fingerprint: fp, Filename: img.Filename, Signature: x.app.signature(img, x.from.Remote)},
		size: img.Size}, fp.String())
	return err
}

// needsKey says before an image moves that the target takes none that isn't verified by a key,
// as far as it lets the client know. The error is Integrity.
func (x *crossing) needsKey(ctx context.Context) error {
	var server api.Server
	if _, err := x.to.Get(ctx, "/1.0", nil, &server); err != nil {
		return err
	}
	if server.Config["images.require_signature"] != "always" {
		return nil
	}
	return kiln.Errorf(kiln.Integrity, "images.require_signature is always on %q, and no key is pinned: kiln remote "+
		"set-key %s <key>", x.to.Remote, x.from.Remote)
}

// moveAcross copies an instance that is stopped to another server and deletes it.
func (a *app) moveAcross(ctx context.Context, from, to place.Place, o *copyFlags) error {
	if strings.Contains(from.Name, "/") {
		return kiln.Errorf(kiln.Invalid, "a snapshot isn't moved to another server; make an instance of it there: kiln "+
			"copy %s:%s %s:NAME", from.Remote, from.Name, to.Remote)
	}
	var before, after api.Instance
	if _, err := from.Get(ctx, instancePath(from.Name), nil, &before); err != nil {
		return a.suggest(ctx, from, err)
	}
	if before.Status != "Stopped" {
		return kiln.Errorf(kiln.Conflict, "instance %q is running and can't be moved to another server; stop it first, or "+
			"copy it, which needs no stop", from.Name)
	}
	o.move = true
	state, err := a.copyAcross(ctx, from, to, o)
	if err != nil {
		return err
	}
	if state == "" { // an older server: as near to its deletion as can be
		_, err = from.Get(ctx, instancePath(from.Name), nil, &after)
		if err == nil && (after.Status != "Stopped" || !after.LastUsedAt.Equal(before.LastUsedAt) ||
			after.Config["volatile.uuid"] != before.Config["volatile.uuid"]) {
			err = kiln.Errorf(kiln.Conflict, "it was started meanwhile, or another one has its name now")
		}
	}
	if err == nil {
		r := client.Request{Method: http.MethodDelete, Path: instancePath(from.Name)}
		if state != "" {
			r.Query = url.Values{"state": {state}}
		}
		_, err = a.watch(ctx, from, r)
	}
	if err == nil {
		return nil
	}
	if _, look := from.Get(context.WithoutCancel(ctx), instancePath(from.Name), nil, nil); errors.Is(look, kiln.NotFound) {
		return fmt.Errorf("%q was moved to %q, but not all of it was removed from %q: %w", from.Name, to.Remote, from.Remote,
			err)
	}
	return fmt.Errorf("the copy is on %q, but %q stays on %q, too: %w", to.Remote, from.Name, from.Remote, err)
}
