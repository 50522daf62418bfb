package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/event"
	"github.com/kiln-containers/kiln/internal/fetch"
	"github.com/kiln-containers/kiln/internal/metrics"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/signing"
	"github.com/kiln-containers/kiln/internal/store"
)

// PullSpec says which image to get from elsewhere, and what to make of it here.
type PullSpec struct {
	ImportSpec
	Remote  kiln.Remote
	Name    string // an alias, or the beginning of a fingerprint; a URL for "direct"
	IsAlias bool   // as far as the caller knows
	Secret  string
	Project string
}

// origin is what the image is updated from; nil when Name can't mean another image
// tomorrow, or nobody could have it then.
func (s PullSpec) origin() *kiln.Origin {
	isURL := s.Remote.Protocol == kiln.ProtocolDirect
	if u, err := url.Parse(s.Name); isURL && (err != nil || u.User != nil) {
		return nil // a password isn't kept
	}
	if !s.IsAlias && !isURL || s.Secret != "" {
		return nil
	}
	return &kiln.Origin{Remote: s.Remote, Alias: s.Name}
}

// wrap says what was being fetched when err happened.
func (s PullSpec) wrap(err error) error {
	if s.Remote.Protocol == kiln.ProtocolDirect {
		return kiln.Errorf(kiln.KindOf(err), "fetch the image of %s: %w", s.Name, err)
	}
	return kiln.Errorf(kiln.KindOf(err), "fetch image %q from %s: %w", s.Name, s.Remote.Server, err)
}

// PullImage gets an image from a remote, unless it is here, and lays over it what
// the spec says. The metadata of the operation has its "fingerprint" and "size".
// The error is Invalid for what can't work.
func (d *Daemon) PullImage(ctx context.Context, spec PullSpec) (*op.Operation, error) {
	if err := d.checkProfiles(ctx, spec.Profiles); err != nil {
		return nil, err
	}
	if _, err := d.remotes.Open(spec.Remote, remote.Access{}); err != nil {
		return nil, err
	}
	if spec.AutoUpdate && spec.origin() == nil {
		return nil, kiln.Errorf(kiln.Invalid, "the image can't be updated automatically: %s; leave auto-update out, or "+
			"copy a public image by an alias", whyNoUpdate(spec))
	}
	options := op.Options{MayCancel: true}
	return d.Ops.Start(ctx, "Downloading image", options, func(ctx context.Context, o *op.Operation) error {
		img, err := d.pull(ctx, o, spec)
		if !img.Fingerprint.IsZero() {
			o.Set("fingerprint", img.Fingerprint.String())
			o.Set("size", strconv.FormatInt(img.Size, 10))
			o.AddResource("images", imageURL(img.Fingerprint))
		}
		return err
	}), nil
}

func whyNoUpdate(spec PullSpec) string {
	switch {
	case spec.Remote.Protocol == kiln.ProtocolDirect:
		return "its URL has a password in it, which isn't kept"
	case spec.Secret != "":
		return "the image is private there, so it couldn't be asked for again"
	}
	return "a fingerprint always means this one image"
}

// EstimateImage tells what PullImage would move, file by file: none when the image is
// here. Errors: NotFound, Network, Unsupported where the server can't tell.
func (d *Daemon) EstimateImage(ctx context.Context, spec PullSpec) (kiln.Image, []remote.Estimate, error) {
	img, err := d.find(ctx, nil, spec, false)
	if err != nil {
		return img, nil, err
	}
	if here, ok, err := d.here(ctx, spec, img); err != nil || ok {
		return here, nil, err
	}
	src, err := d.remotes.Open(spec.Remote, remote.Access{Secret: spec.Secret, Project: spec.Project,
		Base: d.basePath(ctx), Seeds: d.seeds(ctx, spec)})
	if err != nil {
		return img, nil, err
	}
	s, err := src.Open(ctx, img)
	if err != nil {
		return img, nil, err
	}
	defer s.Close()
	e, ok := s.(interface{ Estimate() []remote.Estimate })
	if !ok {
		return img, nil, kiln.Errorf(kiln.Unsupported, "%s doesn't tell how large the files of its images are",
			spec.Remote.Server)
	}
	list := e.Estimate()
	for i, f := range list {
		if part := d.partial(ctx, f.File.Hash); f.Moves == f.File.Size && part > 0 {
			list[i].Moves, list[i].How = f.Moves-part, "the rest of a download that broke off"
		}
	}
	return img, list, nil
}

// pull is PullImage within an operation.
func (d *Daemon) pull(ctx context.Context, o *op.Operation, spec PullSpec) (kiln.Image, error) {
	if err := d.mayFetch(ctx, spec.Remote); err != nil {
		return kiln.Image{}, err
	}
	img, err := d.find(ctx, o, spec, false)
	if err != nil {
		return kiln.Image{}, err
	}
	given := d.given(spec)
	if !spec.MoveAliases {
		if err := d.Images.Taken(ctx, given.Aliases, img.Fingerprint); err != nil {
			return kiln.Image{}, err
		}
	}
	// A name, also one that everybody may use, is the user's to give. What the server
	// says the name means is not: it may be an image here that is nobody's business.
	proof := spec.Public || spec.AutoUpdate
	img, err = d.bring(ctx, o, spec, img, bringOptions{proof: proof, mend: true})
	if err != nil {
		return kiln.Image{}, err
	}
	if !cameFrom(img, spec.Remote) {
		given.Origin = nil
		if spec.AutoUpdate && img.Origin != nil {
			d.warn(o, fmt.Sprintf("image %s was here already, from %s, and goes on being updated from there; to have it "+
				"updated from %s, delete it first", img.Fingerprint.Short(), img.Origin.Server, spec.Remote.Server))
		}
	}
	if err := d.Images.Apply(ctx, img.Fingerprint, given, spec.MoveAliases); err != nil {
		return img, err
	}
	if now, err := d.Images.Get(ctx, img.Fingerprint); err == nil && now.UpdatedElsewhere(given.Origin) {
		d.warn(o, fmt.Sprintf("image %s was here already and goes on being updated from %q of %s, not from %q; its aliases "+
			"follow that", img.Fingerprint.Short(), now.Origin.Alias, now.Origin.Server, given.Origin.Alias))
	}
	d.tell(ctx, "image-updated", imageURL(img.Fingerprint), nil)
	return img, d.named(ctx, img.Fingerprint, given.Aliases...)
}

// given is what a spec says of the image, whatever its bytes are.
func (d *Daemon) given(spec PullSpec) kiln.Image {
	return kiln.Image{
		Public: spec.Public, AutoUpdate: spec.AutoUpdate, Cached: spec.Cached, Own: spec.Properties,
		Signature: spec.Signature,
		Profiles:  spec.Profiles, Aliases: spec.Aliases, ExpiresAt: spec.ExpiresAt, Origin: spec.origin(),
	}
}

// find asks a remote what a name means there.
func (d *Daemon) find(ctx context.Context, o *op.Operation, spec PullSpec, fresh bool) (kiln.Image, error) {
	src, err := d.remotes.Open(spec.Remote, remote.Access{
		Secret: spec.Secret, Project: spec.Project, Fresh: fresh,
		Warn: func(text string) { d.warn(o, text) },
	})
	if err != nil {
		return kiln.Image{}, err
	}
	stop := waiting(o, spec.Remote.Server)
	img, err := src.Find(ctx, spec.Name)
	stop()
	if errors.Is(err, kiln.Integrity) && !fresh { // its index may be older than the signature
		return d.find(ctx, o, spec, true)
	}
	if err == nil && img.Type == "virtual-machine" {
		err = kiln.Errorf(kiln.Unsupported, "%q is an image of a virtual machine; kiln runs system containers", spec.Name)
	}
	if err != nil && spec.Remote.ImageKey != "" {
		err = d.refused(ctx, spec.Remote, spec.Name, err)
	}
	if err != nil {
		return kiln.Image{}, spec.wrap(err)
	}
	return img, nil
}

// waiting tells an operation's watchers which server it waits for, once that has taken
// a second. It ends with stop.
func waiting(o *op.Operation, server string) (stop func()) {
	if o == nil {
		return func() {}
	}
	timer := time.AfterFunc(time.Second, func() { o.Set("download_progress", "waiting for an answer of "+server) })
	return func() { timer.Stop() }
}

// warn tells the user, through the operation, and the log that something works but
// not as it should.
func (d *Daemon) warn(o *op.Operation, text string) {
	d.cfg.Log.Warn(text)
	if o != nil {
		o.Set("warning", text)
	}
}

// bringOptions say how an image comes from a remote.
type bringOptions struct {
	replaces kiln.Fingerprint // takes over from that one in the same transaction; zero: from none
	// proof has an image that is here from elsewhere fetched all the same: that a
	// server names a fingerprint doesn't show that it has the image.
	proof bool
	mend  bool // has an image whose files are damaged here fetched again
}

// partial tells how much of a file is here that a download goes on with, see store.Put.
func (d *Daemon) partial(ctx context.Context, hash kiln.Fingerprint) int64 {
	if in, err := project.One(ctx, project.Images); err != nil || in != project.Default {
		return 0
	}
	return d.blobs.Partial(hash)
}

// bring has an image that find gave in the store, as one that nobody asked to keep.
// One that is here isn't moved; one that others wait for comes once for all.
func (d *Daemon) bring(ctx context.Context, o *op.Operation, spec PullSpec, img kiln.Image,
	options bringOptions) (kiln.Image, error) {
	got, err := d.bringFiles(ctx, o, spec, img, options)
	if err != nil {
		return got, err
	}
	return d.vouched(ctx, spec.Remote, img, got)
}

// joinTries is how many downloads of others one waits for that may not have the memory.
const joinTries = 4

func (d *Daemon) bringFiles(ctx context.Context, o *op.Operation, spec PullSpec, img kiln.Image,
	options bringOptions) (kiln.Image, error) {
	here, ok, err := d.here(ctx, spec, img)
	if err != nil {
		return kiln.Image{}, err
	}
	again := ok && options.proof && !cameFrom(here, spec.Remote)
	if ok && options.mend && !again {
		err := d.Images.Verify(ctx, here.Fingerprint)
		if again = errors.Is(err, kiln.Integrity); again {
			d.warn(o, fmt.Sprintf("%v; fetching it again", err))
		} else if err != nil {
			return kiln.Image{}, err
		}
	}
	if ok && !again {
		d.Counters.Pulled(metrics.PullHit)
		if !options.replaces.IsZero() {
			err = d.Images.Replace(ctx, options.replaces, here.Fingerprint)
		}
		return here, err
	}
	key := img.Fingerprint.String()
	if img.Fingerprint.IsZero() {
		key = img.Files[len(img.Files)-1].Hash.String()
	}
	if options.proof {
		key = spec.Remote.Server + " " + key // what another server brings proves nothing of this one
	}
	in, err := project.One(ctx, project.Images)
	if err != nil {
		return kiln.Image{}, err
	}
	key = in + " " + key // who waits wants it in their project
	life := forClient(event.WithRequestor(project.Like(d.ctx, ctx), event.RequestorOf(ctx)), clientOf(ctx))
	life = audit.WithWho(life, audit.WhoOf(ctx))
	var got kiln.Image
	joined := true
	for range joinTries {
		got, err = d.flights.join(ctx, life, key, progress(o, img.Size), func(ctx context.Context,
			report func(string, int64)) (kiln.Image, error) {
			joined = false
			warn := func(text string) { d.warn(o, text) }
			return d.download(ctx, spec, img, download{options.replaces, again, report, warn})
		})
		if ctx.Err() != nil || !errors.Is(err, kiln.Busy) || !joined {
			break // else it was somebody else's, who may not have the memory
		}
	}
	d.Counters.Pulled(pullResult(err, joined))
	if err != nil {
		return kiln.Image{}, spec.wrap(err)
	}
	if joined && !options.replaces.IsZero() { // somebody else's download didn't do that
		err = d.Images.Replace(ctx, options.replaces, got.Fingerprint)
	}
	return got, err
}

// pullResult is how a pull that moved something is counted.
func pullResult(err error, joined bool) string {
	switch {
	case err != nil:
		return metrics.PullFailed
	case joined:
		return metrics.PullJoined
	}
	return metrics.PullDownloaded
}

// cameFrom reports whether the bytes of an image came from a server.
func cameFrom(img kiln.Image, r kiln.Remote) bool {
	return img.Origin != nil && img.Origin.Server == r.Server
}

// here finds the image in the store, if it is there whole.
func (d *Daemon) here(ctx context.Context, spec PullSpec, img kiln.Image) (kiln.Image, bool, error) {
	if !img.Fingerprint.IsZero() {
		has, err := d.Images.Has(ctx, img.Fingerprint)
		if err != nil || !has {
			return kiln.Image{}, false, err
		}
		got, err := d.Images.Get(ctx, img.Fingerprint)
		if err == nil {
			err = got.Whole()
		}
		return got, err == nil, err
	}
	// A root filesystem whose metadata are made up here: known by its file.
	origin := spec.origin()
	if origin == nil {
		return kiln.Image{}, false, nil
	}
	list, err := d.Images.List(ctx, store.Query{Origin: origin, Files: true})
	for _, i := range list {
		if i.Damage == "" && i.Files[len(i.Files)-1].Hash == img.Files[len(img.Files)-1].Hash {
			return i, true, err
		}
	}
	return kiln.Image{}, false, err
}

// A download says how the bytes are moved.
type download struct {
	replaces kiln.Fingerprint
	again    bool // though the image is here, and with no help of what is here
	report   func(string, int64)
	warn     func(string)
}

// download moves the bytes. What another attempt can fix is attempted: an index that was
// older than the files, a difference that leads elsewhere, a partial file that is
// not the beginning of the whole.
func (d *Daemon) download(ctx context.Context, spec PullSpec, img kiln.Image, how download) (got kiln.Image,
	err error) {
	var helped atomic.Bool       // something that is here was used
	var moved, done atomic.Int64 // bytes of what helps, and of whole files
	report := how.report
	counted := d.Counters.Download()
	defer func() { counted.End(err, got.Size, moved.Load()+done.Load(), helped.Load()) }()
	base := d.basePath(ctx)
	access := remote.Access{Secret: spec.Secret, Project: spec.Project, Progress: func(server string, n int64) {
		done.Store(n)
		report(server, n)
	},
		Base: func(fp kiln.Fingerprint) string {
			path := base(fp)
			if path != "" {
				helped.Store(true)
			}
			return path
		}, Seeds: d.seeds(ctx, spec), Moved: func(n int64) {
			helped.Store(true)
			report("", moved.Add(n))
		}}
	if how.again {
		access.Base, access.Seeds = nil, nil
	}
	sink := receiver{d.Images.With(store.PutOptions{Replaces: how.replaces, Warn: how.warn}), spec, how.again,
		how.warn}
	for again := false; ; {
		src, err := d.remotes.Open(spec.Remote, access)
		if err != nil {
			return kiln.Image{}, err
		}
		if !access.Fresh {
			src = known{src, img}
		}
		got, err := kiln.Copy(ctx, sink, src, spec.Name)
		switch {
		case err == nil:
			d.tell(ctx, "image-created", imageURL(got.Fingerprint), map[string]any{"type": got.Type})
			return got, nil
		case ctx.Err() != nil:
			return got, err
		case helped.Swap(false): // what was made by the difference may be in the partial file
			access.Base, access.Seeds = nil, nil
		case byIndex(err) && spec.Remote.Protocol == kiln.ProtocolStreams && !access.Fresh:
			access.Fresh = true
		case kiln.KindOf(err) == kiln.Integrity && !again:
			again = true
		default:
			return got, err
		}
	}
}

// byIndex reports whether an error can come of an index that is older than the files it
// names: they are gone, or moved, or others.
func byIndex(err error) bool {
	return errors.Is(err, kiln.NotFound) || errors.Is(err, kiln.Integrity) || fetch.Refused(err)
}

// known is a source that was asked already.
type known struct {
	kiln.Source
	img kiln.Image
}

// Find is kiln.Source's.
func (k known) Find(context.Context, string) (kiln.Image, error) { return k.img, nil }

// receiver is the store for what comes from elsewhere: what a remote says of its
// image (public, aliases) isn't said of ours.
type receiver struct {
	*store.Store
	spec  PullSpec
	again bool
	warn  func(string)
}

// Has implements kiln.Sink.
func (l receiver) Has(ctx context.Context, fp kiln.Fingerprint) (bool, error) {
	if l.again {
		return false, nil
	}
	return l.Store.Has(ctx, fp)
}

// Put implements kiln.Sink.
func (l receiver) Put(ctx context.Context, img kiln.Image, s kiln.Stream) (kiln.Image, error) {
	got, err := l.Store.Put(ctx, kiln.Image{
		Fingerprint: img.Fingerprint, Filename: img.Filename, Properties: img.Properties, ExpiresAt: img.ExpiresAt,
		Profiles: []string{defaultProfile}, Cached: true, Origin: l.spec.origin(), Signature: l.signature(img),
	}, s)
	if errors.Is(err, kiln.Conflict) && !got.Fingerprint.IsZero() {
		return got, nil // somebody else brought it
	}
	return got, err
}

// signature gives what a remote says is the signature of its image. One that can't be is
// left out, with a warning: the image may be good all the same, and whoever wants it signed
// has pinned a key.
func (l receiver) signature(img kiln.Image) string {
	if img.Signature == "" {
		return ""
	}
	if _, err := signing.ParseOf(img.Signature, img.Fingerprint); err != nil {
		l.warn(fmt.Sprintf("the signature of the image that %s gives is left out: %v", l.spec.Remote.Server, err))
		return ""
	}
	return img.Signature
}

// progress tells an operation's watchers how a download of so many bytes goes, a few
// times a second; size is 0 if that isn't known.
func progress(o *op.Operation, size int64) func(string, int64) {
	if o == nil {
		return func(string, int64) {}
	}
	var last time.Time
	var p pace
	return func(server string, done int64) {
		now := time.Now()
		rate := p.rate(now, done)
		if now.Sub(last) < 300*time.Millisecond {
			return
		}
		last = now
		o.Set("download_progress", progressText(server, done, size, rate))
	}
}

// A pace is how fast something comes, from its beginning on.
type pace struct {
	start       time.Time
	first, last int64 // what was here before, and what is
}

// rate gives the bytes a second. Fewer bytes than before are another beginning: what was
// here proved wrong.
func (p *pace) rate(now time.Time, done int64) float64 {
	if p.start.IsZero() || done < p.last {
		p.start, p.first = now, done
	}
	p.last = done
	return float64(done-p.first) / max(now.Sub(p.start).Seconds(), 1e-3)
}

// progressText is one line: how much, how fast, how long yet and from where.
func progressText(server string, done, size int64, rate float64) string {
	text := kiln.FormatSize(done)
	if size > 0 {
		text = fmt.Sprintf("%d%%", 100*min(done, size)/size)
	}
	text = fmt.Sprintf("rootfs: %s (%s/s)", text, kiln.FormatSize(int64(rate)))
	if size > done && rate > 0 {
		text += fmt.Sprintf(", %s of %s, %s left", kiln.FormatSize(done), kiln.FormatSize(size),
			(time.Duration(float64(size-done)/rate) * time.Second).Round(time.Second))
	}
	if server != "" {
		text += ", from " + server
	}
	return text
}
