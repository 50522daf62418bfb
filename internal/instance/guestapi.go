package instance

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/guestapi"
)

// guestDir is the directory, below that of the box, with the socket on which an instance
// asks about itself. The container has the directory, so that the next daemon can make
// the socket anew; it has it also without a socket, so that one may come later.
const guestDir = "guest"

// SendImage answers an instance with the files of an image, by the fingerprint.
type SendImage func(w http.ResponseWriter, r *http.Request, fingerprint string)

// SetSendImage says what instances are answered that ask for images.
func (s *Set) SetSendImage(f SendImage) { s.sendImage.Store(&f) }

// hasGuest reports whether an instance with this configuration may ask about itself: it
// may unless LXD's or Incus's key says otherwise.
func hasGuest(config map[string]string) bool {
	return isTrueOr(config["security.devlxd"], true) && isTrueOr(config["security.guestapi"], true)
}

// isTrueOr reads an option that checkBool let through.
func isTrueOr(v string, unset bool) bool {
	if v == "" {
		return unset
	}
	return kiln.IsTrue(v)
}

func (s *Set) guestDir(uuid string) string {
	return filepath.Join(s.boxDir(db.Instance{Config: map[string]string{UUIDKey: uuid}}), guestDir)
}

// guestMounts show an instance the directory with its socket.
func (s *Set) guestMounts(i Instance) []box.Mount {
	var mounts []box.Mount
	for _, path := range guestapi.Paths() {
		mounts = append(mounts, box.Mount{Name: "guest API", Source: s.guestDir(i.Options[UUIDKey]), Target: path,
			ReadOnly: true})
	}
	return mounts
}

// openGuest makes what answers an instance that is about to start, so that its init
// finds it; nil when it may not ask.
func (s *Set) openGuest(i Instance) (*guestapi.Server, error) {
	var root uint32
	if ids := s.idsOf(i); len(ids) > 0 {
		root = ids[0].Host
	}
	dir := s.guestDir(i.Options[UUIDKey])
	err := os.MkdirAll(filepath.Dir(dir), 0o700)
	if merr := os.Mkdir(dir, 0o755); !errors.Is(merr, os.ErrExist) {
		err = errors.Join(err, merr)
	}
	if err = errors.Join(err, os.Chmod(dir, 0o755)); err != nil || !hasGuest(i.ExpandedConfig) {
		return nil, err
	}
	return guestapi.Listen(dir, root, asked{s, i.Project, i.Name, i.Options[UUIDKey]})
}

func closeGuest(g *guestapi.Server) error {
	if g == nil {
		return nil
	}
	return g.Close()
}

// guestServer is what answers an instance that runs.
type guestServer struct {
	mu     sync.Mutex
	server *guestapi.Server // nil: it isn't answered
	over   bool             // nor will it be
}

// close ends what answers, for good.
func (g *guestServer) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := closeGuest(g.server)
	g.server, g.over = nil, true
	return err
}

// tell tells an instance what was changed of it.
func (g *guestServer) tell(was, is Instance) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.server != nil {
		g.server.Changed(aboutGuest(was), aboutGuest(is))
	}
}

// setGuest answers an instance that runs from now on, or not any more, as its
// configuration says.
func (s *Set) setGuest(l *live, i Instance) error {
	l.guest.mu.Lock()
	defer l.guest.mu.Unlock()
	switch wanted := hasGuest(i.ExpandedConfig); {
	case l.guest.over: // it has just ended
	case wanted && l.guest.server == nil:
		root := l.box.RootUID()
		dir := s.guestDir(i.Options[UUIDKey])
		if _, err := os.Stat(dir); err != nil {
			return nil // it was started by a kiln without guest API
		}
		return s.db.WithSome(func() (err error) {
			l.guest.server, err = guestapi.Listen(dir, root, asked{s, i.Project, i.Name, i.Options[UUIDKey]})
			return err
		})
	case !wanted:
		err := closeGuest(l.guest.server)
		l.guest.server = nil
		return err
	}
	return nil
}

// guestChanged lets an instance that runs know its next configuration.
func (s *Set) guestChanged(now, next Instance) {
	l := s.runs(now.Options[UUIDKey])
	if l == nil {
		return
	}
	l.guest.tell(now, next)
	if err := s.setGuest(l, next); err != nil {
		s.warn("guest API of instance "+now.Name, err)
	}
}

// asked is an instance that asks about itself.
type asked struct {
	set                 *Set
	project, name, uuid string
}

// About implements guestapi.Instance.
func (a asked) About(ctx context.Context) (guestapi.About, error) {
	i, _, err := a.get(ctx)
	if err == nil && i.Options[UUIDKey] != a.uuid {
		err = kiln.Errorf(kiln.NotFound, "instance %q is another one now", a.name)
	}
	if err != nil {
		return guestapi.About{}, err
	}
	return aboutGuest(i), nil
}

func aboutGuest(i Instance) guestapi.About {
	return guestapi.About{Name: i.Name, ID: cloudID(i), Ready: kiln.IsTrue(i.Options[readyKey]),
		Images: kiln.IsTrue(i.ExpandedConfig["security.devlxd.images"]) ||
			kiln.IsTrue(i.ExpandedConfig["security.guestapi.images"]),
		Config: i.ExpandedConfig, Devices: i.ExpandedDevices}
}

// cloudID is another one when cloud-init is to begin anew: for a copy, after a rename, and
// when what is for it has changed.
func cloudID(i Instance) string {
	text := []string{i.Name}
	for _, k := range slices.Sorted(maps.Keys(i.ExpandedConfig)) {
		if cloudKey(k) {
			text = append(text, k, i.ExpandedConfig[k])
		}
	}
	space, _ := uuid.Parse(i.Options[UUIDKey]) // of a damaged row: none
	return uuid.NewSHA1(space, []byte(strings.Join(text, "\x00"))).String()
}

// get gives the instance, and a context that is about its project.
func (a asked) get(ctx context.Context) (Instance, context.Context, error) {
	ctx, err := a.set.in(ctx, a.project)
	if err != nil {
		return Instance{}, ctx, err
	}
	i, err := a.set.Get(ctx, a.name)
	return i, ctx, err
}

// SetReady implements guestapi.Instance.
func (a asked) SetReady(ctx context.Context, ready bool) error {
	i, ctx, err := a.get(ctx)
	if err != nil || i.Options[UUIDKey] != a.uuid {
		return err
	}
	return a.set.setReady(ctx, a.name, ready)
}

// SendImage implements guestapi.Instance.
func (a asked) SendImage(w http.ResponseWriter, r *http.Request, fingerprint string) {
	send := a.set.sendImage.Load()
	if send == nil { // the daemon has just begun
		http.Error(w, "try again later", http.StatusServiceUnavailable)
		return
	}
	ctx, err := a.set.in(r.Context(), a.project)
	if err != nil {
		http.Error(w, "try again later", http.StatusServiceUnavailable)
		return
	}
	(*send)(w, r.WithContext(ctx), fingerprint)
}

// setReady writes down whether an instance that runs is ready, unless it is written.
func (s *Set) setReady(ctx context.Context, name string, ready bool) error {
	r, err := s.db.Instance(ctx, name)
	if err != nil || kiln.IsTrue(r.Config[readyKey]) == ready {
		return err
	}
	if err := s.edit(ctx, name, func(r *db.Instance) {
		delete(r.Config, readyKey)
		if ready {
			r.Config[readyKey] = "true"
		}
	}); err != nil {
		return err
	}
	if ready {
		s.notify(ctx, Change{Name: name, Action: "ready"})
	}
	return nil
}
