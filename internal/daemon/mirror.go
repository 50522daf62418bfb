package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/trust"
)

// A Mirror is a set of images of another server that is kept, and served, here.
type Mirror = db.Mirror

// Mirrors gives every mirror, by name.
func (d *Daemon) Mirrors(ctx context.Context) ([]Mirror, error) { return d.db.Mirrors(ctx) }

// AddMirror begins to mirror another server; the first run is the operation's.
// Errors: Invalid, Conflict.
func (d *Daemon) AddMirror(ctx context.Context, m Mirror) (*op.Operation, error) {
	if m.Name == "" || m.Keep < 0 {
		return nil, kiln.Errorf(kiln.Invalid, "a mirror has a name, and keeps 0 or more older versions")
	}
	if _, err := d.remotes.Open(m.Remote, remote.Access{}); err != nil {
		return nil, err
	}
	if m.Remote.Certificate != "" && d.isOwn(m.Remote.Certificate) {
		return nil, kiln.Errorf(kiln.Invalid, "%s is this server itself; a mirror is of another one", m.Remote.Server)
	}
	if err := d.db.CreateMirror(ctx, m); errors.Is(err, kiln.Conflict) {
		return nil, kiln.Errorf(kiln.Conflict, "Mirror %q already exists; to update it now: kiln mirror run %[1]s; to add "+
			"another one of the same server, give it a name with --name; to change it: kiln mirror remove %[1]s, and add it "+
			"again", m.Name)
	} else if err != nil {
		return nil, err
	}
	return d.startMirror(ctx, m), nil
}

// RemoveMirror stops to mirror a server; the images stay. The error is NotFound.
func (d *Daemon) RemoveMirror(ctx context.Context, name string) error {
	if err := d.db.DeleteMirror(ctx, name); err != nil {
		return err
	}
	return d.passNothingOn(name)
}

// RunMirror brings a mirror up to date; stale accepts what the owner of a pinned key signed though it
// has expired. The error is NotFound.
func (d *Daemon) RunMirror(ctx context.Context, name string, stale bool) (*op.Operation, error) {
	list, err := d.Mirrors(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(m Mirror) bool { return m.Name == name })
	if i < 0 {
		return nil, kiln.Errorf(kiln.NotFound, "Mirror %q not found", name)
	}
	if err := whole(list[i]); err != nil {
		return nil, err
	}
	list[i].Remote.Stale = stale
	return d.startMirror(ctx, list[i]), nil
}

// whole says whether a mirror can be run. The error is Integrity when its row is damaged.
func whole(m Mirror) error {
	if m.Damage == "" {
		return nil
	}
	return kiln.Errorf(kiln.Integrity, "mirror %q can't be used: %s; remove it (kiln mirror remove %s) and add it "+
		"again", m.Name, m.Damage, m.Name)
}

func (d *Daemon) startMirror(ctx context.Context, m Mirror) *op.Operation {
	ctx = project.InDefault(ctx) // which has what is mirrored
	options := op.Options{MayCancel: true}
	return d.Ops.Start(ctx, "Mirroring "+m.Name, options, func(ctx context.Context, o *op.Operation) error {
		err := d.runMirror(ctx, o, m)
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		return errors.Join(err, d.db.FinishMirror(context.WithoutCancel(ctx), m.Name, time.Now(), problem))
	})
}

// runMirrors brings every mirror up to date.
func (d *Daemon) runMirrors() {
	list, err := d.Mirrors(d.ctx)
	if err != nil {
		d.cfg.Log.Error("look for mirrors", "err", err)
	}
	for _, m := range list {
		o, err := d.RunMirror(d.ctx, m.Name, false)
		if errors.Is(err, kiln.NotFound) {
			continue // it was removed while the others took their time
		}
		if err == nil {
			err = o.Wait(d.ctx).Err
		}
		if err != nil && d.ctx.Err() == nil {
			d.cfg.Log.Warn("mirror a server", "mirror", m.Name, "err", err)
		}
	}
}

// lister is a source that can tell all it has.
type lister interface {
	List(context.Context) ([]kiln.Image, error)
}

// runMirror fetches the newest version of each image that the filters let through.
// One that can't be had doesn't keep the others away.
func (d *Daemon) runMirror(ctx context.Context, o *op.Operation, m Mirror) error {
	if m.PullThrough { // images come on demand only
		return d.passOn(ctx, m)
	}
	src, err := d.remotes.Open(m.Remote, remote.Access{Fresh: true, Warn: func(s string) { d.warn(o, s) }})
	if err != nil {
		return err
	}
	all, ok := src.(lister)
	if !ok {
		return kiln.Errorf(kiln.Unsupported, "the protocol %q can't tell which images there are", m.Remote.Protocol)
	}
	list, err := all.List(ctx)
	if err != nil && m.Remote.ImageKey != "" {
		err = d.refused(ctx, m.Remote, "", err)
	}
	if err != nil {
		return err
	}
	var errs []error
	var done mirrored
	defer func() { done.tell(o, m.Name, len(list)) }()
	for _, img := range list {
		if done.skips(img, m.Filters) {
			continue
		}
		if _, err := d.mirrorImage(ctx, o, m, img); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", img.Aliases[0].Name, err))
		} else {
			done.here++
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	// Only now, so that who goes by them finds the images here.
	return errors.Join(append(errs, d.passOn(ctx, m))...)
}

// isOwn reports whether a certificate, as PEM, is this server's.
func (d *Daemon) isOwn(text string) bool {
	cert, err := trust.Parse([]byte(text))
	return err == nil && trust.Fingerprint(cert) == trust.Fingerprint(d.cert.Leaf)
}

// mirrored counts what came of the images of another server.
type mirrored struct {
	here, unnamed, machines, filtered int
}

// skips reports whether an image isn't mirrored, and counts why.
func (c *mirrored) skips(img kiln.Image, filters []string) bool {
	switch {
	case img.Type == "virtual-machine":
		c.machines++
	case len(img.Aliases) == 0:
		c.unnamed++
	case !passes(img, filters):
		c.filtered++
	default:
		return false
	}
	return true
}

// tell puts what was done into an operation's metadata, under "mirrored".
func (c *mirrored) tell(o *op.Operation, name string, all int) {
	text := fmt.Sprintf("mirror %s: %d of %d images", name, c.here, all)
	for _, part := range []struct {
		n    int
		what string
	}{{c.unnamed, "without an alias"}, {c.machines, "of virtual machines"}, {c.filtered, "not matching the filters"}} {
		if part.n > 0 {
			text += fmt.Sprintf("; %d %s", part.n, part.what)
		}
	}
	o.Set("mirrored", text)
}

// mirrorImage has one image here under the names it has there. One that is here from
// elsewhere comes again: only a server that has the bytes may say what they are called
// here, and that everybody may have them.
func (d *Daemon) mirrorImage(ctx context.Context, o *op.Operation, m Mirror, img kiln.Image) (kiln.Image, error) {
	if err := d.mayFetch(ctx, m.Remote); err != nil {
		return kiln.Image{}, err
	}
	if len(img.Aliases) == 0 {
		return d.mirrorUnnamed(ctx, o, m, img)
	}
	img.Aliases = slices.Clone(img.Aliases)
	check, err := d.checks(ctx, m.Remote)
	if err != nil {
		return kiln.Image{}, err
	}
	var refused error
	img.Aliases = slices.DeleteFunc(img.Aliases, func(a kiln.Alias) bool {
		err := d.refused(ctx, m.Remote, a.Name, check(img, a.Name))
		refused = cmp.Or(refused, err)
		return err != nil
	})
	if len(img.Aliases) == 0 {
		return kiln.Image{}, refused
	}
	spec := PullSpec{Remote: m.Remote, Name: img.Aliases[0].Name, IsAlias: true}
	spec.Public, spec.MoveAliases = m.Public, true
	for _, a := range img.Aliases {
		if d.mayName(ctx, a.Name, m.Remote) {
			spec.Aliases = append(spec.Aliases, kiln.Alias{Name: a.Name, Description: a.Description})
		} else {
			d.warn(o, fmt.Sprintf("the alias %q is another image's here; the mirror %s leaves it alone", a.Name, m.Name))
		}
	}
	last, err := d.lastOf(ctx, spec.origin())
	if err != nil {
		return kiln.Image{}, err
	}
	replaces := kiln.Fingerprint{}
	if last != nil && last.Fingerprint != img.Fingerprint {
		if left, err := d.leftOut(ctx, o, *last, spec, img); err != nil || left {
			return *last, err
		}
		replaces = last.Fingerprint
	}
	if here, known, err := d.here(ctx, spec, img); err == nil && known && here.UpdatedElsewhere(spec.origin()) {
		replaces = kiln.Fingerprint{} // the aliases are moved to it all the same
	}
	got, err := d.bring(ctx, o, spec, img, bringOptions{replaces: replaces, proof: true})
	if err != nil {
		return kiln.Image{}, err
	}
	if err := d.Images.Apply(ctx, got.Fingerprint, d.given(spec), true); err != nil {
		return kiln.Image{}, err
	}
	d.tell(ctx, "image-updated", imageURL(got.Fingerprint), nil)
	if err := d.dropVersionsBut(ctx, got.Fingerprint, m.Keep); err != nil {
		return kiln.Image{}, err
	}
	return d.Images.Get(ctx, got.Fingerprint)
}

// mirrorUnnamed has an image here that has no name there, and was asked for by its fingerprint.
// It gets none here either, and goes when nobody uses it any more.
func (d *Daemon) mirrorUnnamed(ctx context.Context, o *op.Operation, m Mirror, img kiln.Image) (kiln.Image, error) {
	spec := PullSpec{Remote: m.Remote, Name: img.Fingerprint.String()}
	spec.Public, spec.Cached = m.Public, true
	check, err := d.checks(ctx, m.Remote)
	if err == nil {
		err = d.refused(ctx, m.Remote, spec.Name, check(img, spec.Name))
	}
	if err != nil {
		return kiln.Image{}, err
	}
	got, err := d.bring(ctx, o, spec, img, bringOptions{proof: true})
	if err != nil {
		return kiln.Image{}, err
	}
	return d.Images.Get(ctx, got.Fingerprint)
}

// mayName reports whether a mirror may give an alias to an image: nobody has it, or
// an image that came from the same server.
func (d *Daemon) mayName(ctx context.Context, name string, r kiln.Remote) bool {
	if kiln.CheckAlias(name) != nil {
		return false
	}
	a, err := d.Images.Alias(ctx, name)
	if err != nil {
		return errors.Is(err, kiln.NotFound)
	}
	img, err := d.Images.Get(ctx, a.Target)
	return err == nil && img.Origin != nil && img.Origin.Server == r.Server
}

// passes reports whether an image fits every filter: a part of an alias, or
// key=value of a property, the architecture or the type.
func passes(img kiln.Image, filters []string) bool {
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case !ok:
			if !slices.ContainsFunc(img.Aliases, func(a kiln.Alias) bool { return strings.Contains(a.Name, f) }) {
				return false
			}
		case key == "architecture" || key == "arch":
			if want, err := kiln.ParseArch(value); err != nil || want != img.Architecture {
				return false
			}
		case key == "type":
			if img.Type != value {
				return false
			}
		default:
			if !strings.EqualFold(img.Properties[strings.TrimPrefix(key, "properties.")], value) {
				return false
			}
		}
	}
	return true
}

// An Asker is who wants an image that isn't here.
type Asker struct {
	Trusted bool
	// Via are the daemons that were asked before this one and look for it themselves:
	// servers may mirror one another.
	Via []string
}

// mostVia is how many daemons one question goes through.
const mostVia = 8

// PullThrough fetches an image that somebody asked for and that isn't here, from the
// first mirror that does so and has it. An untrusted caller gets nothing that isn't
// public there and here, and isn't told which mirrors there are. Errors: NotFound where
// no mirror has it, Network where one that may have it doesn't answer, Busy when too
// many ask.
func (d *Daemon) PullThrough(ctx context.Context, name string, by Asker) (kiln.Image, error) {
	missing := kiln.Errorf(kiln.NotFound, "Image not found")
	if in, err := project.One(ctx, project.Images); err != nil || in != project.Default {
		return kiln.Image{}, cmp.Or(err, missing) // mirrors are for the images of the default project
	}
	if len(by.Via) >= mostVia || slices.Contains(by.Via, d.id) {
		return kiln.Image{}, missing // who asked first gets it from another mirror, or from none
	}
	trusted := by.Trusted
	list, err := d.Mirrors(ctx)
	if err != nil {
		return kiln.Image{}, err
	}
	list = slices.DeleteFunc(list, func(m Mirror) bool {
		return m.Damage != "" || !m.PullThrough || !m.Public && !trusted
	})
	if len(list) == 0 || d.asked.lacks(name, trusted) {
		return kiln.Image{}, missing
	}
	done, err := d.asked.enter(ctx)
	if err != nil {
		return kiln.Image{}, err
	}
	defer done()
	var failed error
	for _, m := range list {
		img, err := d.pullThrough(ctx, m, name, append(slices.Clone(by.Via), d.id))
		if err == nil && (trusted || img.Public) {
			return img, nil
		}
		if err != nil && !errors.Is(err, kiln.NotFound) {
			failed = errors.Join(failed, fmt.Errorf("mirror %s: %w", m.Name, err))
		}
	}
	switch {
	case failed != nil && !trusted:
		d.cfg.Log.Debug("an image that somebody asked for may be on a mirror", "image", name, "err", failed)
		return kiln.Image{}, kiln.Errorf(kiln.KindOf(failed), "Image not found here, and a mirror that may have it can't "+
			"be asked; try again later")
	case failed != nil:
		return kiln.Image{}, failed
	}
	d.asked.lack(name, trusted)
	return kiln.Image{}, missing
}

// pullThrough fetches an image from one mirror. The error is NotFound when it isn't
// public there, or is here: then it is for the store to tell who may see it.
func (d *Daemon) pullThrough(ctx context.Context, m Mirror, name string, via []string) (kiln.Image, error) {
	src, err := d.remotes.Open(m.Remote, remote.Access{Via: via})
	if err != nil {
		return kiln.Image{}, err
	}
	img, err := src.Find(ctx, name)
	if err != nil && m.Remote.ImageKey != "" {
		err = d.refused(ctx, m.Remote, name, err)
	}
	if err != nil {
		return kiln.Image{}, err
	}
	_, err = d.Images.Get(ctx, img.Fingerprint)
	if err == nil || img.Type == "virtual-machine" || !img.Public || !passes(img, m.Filters) {
		return kiln.Image{}, kiln.Errorf(kiln.NotFound, "Image not found")
	}
	got, err := d.mirrorImage(ctx, nil, m, img)
	if err == nil {
		err = d.passOn(ctx, m)
	}
	return got, err
}

// asked bounds what names that nobody has can cost: how many are looked for at once,
// and how often the same one is.
type asked struct {
	mu       sync.Mutex
	lacking  map[question]time.Time // names that no mirror had, and when
	underWay int
}

// A question is what was asked for, and by whom: not everybody may ask every mirror.
type question struct {
	name    string
	trusted bool
}

const (
	mostAsked    = 16               // look-ups at once
	mostLacking  = 4096             // names
	lackingStays = 30 * time.Second // then mirrors are asked again
)

// lacks reports whether no mirror had a name a short time ago.
func (a *asked) lacks(name string, trusted bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.lacking[question{name, trusted}]) < lackingStays
}

func (a *asked) lack(name string, trusted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lacking == nil || len(a.lacking) >= mostLacking {
		a.lacking = map[question]time.Time{}
	}
	a.lacking[question{name, trusted}] = time.Now()
}

// enter waits until fewer look-ups are under way, for some seconds, and gives the
// function that ends this one. The error is Timeout.
func (a *asked) enter(ctx context.Context) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		a.mu.Lock()
		free := a.underWay < mostAsked
		if free {
			a.underWay++
		}
		a.mu.Unlock()
		if free {
			return func() {
				a.mu.Lock()
				a.underWay--
				a.mu.Unlock()
			}, nil
		}
		select {
		case <-ctx.Done():
			return nil, kiln.Errorf(kiln.Busy, "too many images are looked for at the mirrors; try again later")
		case <-time.After(50 * time.Millisecond):
		}
	}
}
