package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/guestapi"
	"github.com/kiln-containers/kiln/internal/volume"
)

// strays are the containers that run and have no row: the database was lost, or is older than
// they. Each is followed to its end like an instance, by what its record says.
type strays struct {
	unsure bool // some could not be taken over

	mu   sync.Mutex
	list map[string]*stray // by UUID
}

type stray struct {
	live
	uuid   string
	record Record
	lost   error // why there is no record; nil: there is
	nics   []RunningNic
	ids    []box.IDMap
}

// called says which one it is.
func (s *stray) called() string {
	if s.lost != nil {
		return fmt.Sprintf("container %s (it isn't known what it was: %v; its init is process %d)", s.uuid, s.lost,
			s.box.InitPID())
	}
	return s.record.Instance.Name
}

// instance is what the record says; without one it has a UUID only.
func (s *stray) instance() Instance {
	if s.lost != nil {
		return Instance{Config: Config{Options: map[string]string{UUIDKey: s.uuid}}}
	}
	all := map[string]Profile{}
	for _, p := range s.record.Profiles {
		all[p.Name] = p
	}
	i := fromRow(s.record.Instance)
	var used []Profile
	for _, name := range i.Profiles {
		if p, ok := all[name]; ok {
			used = append(used, p)
		}
	}
	i.ExpandedConfig, i.ExpandedDevices = expand(i.Config, used)
	return i
}

// findStrays finds what runs without one of the rows whose UUIDs are in keep, and adds it
// there.
func (s *Set) findStrays(boxes []fs.DirEntry, keep map[string]bool) {
	s.strays.list = map[string]*stray{}
	for _, e := range boxes {
		id := e.Name()
		if keep[id] || uuid.Validate(id) != nil {
			continue
		}
		var b *box.Box
		err := s.db.WithReserve(func() (err error) { b, err = box.Open(filepath.Join(s.dir, id)); return err })
		if errors.Is(err, kiln.NotFound) {
			continue
		}
		keep[id] = true
		if err != nil { // it may run
			s.strays.unsure = true
			s.warn("take over the container "+strconv.Quote(id)+", which no instance has", err)
			continue
		}
		one := &stray{live: live{box: b, gone: make(chan struct{})}, uuid: id}
		one.record, one.lost = Recorded(s.pool, id)
		one.nics = s.nicsOf(one.instance(), &one.live)
		if one.ids, err = b.IDs(); err != nil {
			s.warn("look at the ids of "+one.called(), err)
		}
		s.strays.list[id] = one
	}
}

// snapshots gives what names the files of their snapshots. all: those of the ones without
// records aren't known, and so may be any.
func (s *strays) snapshots() (files map[string]bool, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, all = map[string]bool{}, s.unsure
	for _, one := range s.list {
		all = all || one.lost != nil
		for _, snap := range one.record.Snapshots {
			files[snap.Files] = true
		}
	}
	return files, all
}

// Unknown names what runs and has no row, by its record, or says that it has none.
func (s *Set) Unknown() []string {
	s.strays.mu.Lock()
	defer s.strays.mu.Unlock()
	var names []string
	for _, one := range s.strays.list {
		names = append(names, one.called())
	}
	slices.Sort(names)
	return names
}

// FollowUnknown waits for the ends of what runs and has no row, and answers it about itself
// meanwhile. fewer is told of each end.
func (s *Set) FollowUnknown(fewer func()) {
	s.strays.mu.Lock()
	defer s.strays.mu.Unlock()
	for _, one := range s.strays.list {
		if err := s.db.WithReserve(func() error { return s.letGo(s.ctx, one.row(), one.box) }); err != nil {
			s.warn("let go on "+one.called(), err)
		}
		if err := s.answerStray(one); err != nil {
			s.warn("guest API of "+one.called(), err)
		}
		s.wg.Go(func() { s.watchStray(one, fewer) })
	}
}

func (s *stray) row() db.Instance {
	return db.Instance{Name: s.called(), Config: map[string]string{UUIDKey: s.uuid}}
}

// answerStray has one be answered about itself, as far as its record says something.
func (s *Set) answerStray(one *stray) error {
	i := one.instance()
	dir := s.guestDir(one.uuid)
	if _, err := os.Stat(dir); err != nil || one.lost != nil || !hasGuest(i.ExpandedConfig) {
		return nil
	}
	return s.db.WithSome(func() (err error) {
		one.guest.server, err = guestapi.Listen(dir, one.box.RootUID(), guestOfRecord{i})
		return err
	})
}

// guestOfRecord is an instance that asks about itself, of which there is only its record.
type guestOfRecord struct{ Instance }

// About implements guestapi.Instance.
func (r guestOfRecord) About(context.Context) (guestapi.About, error) {
	return aboutGuest(r.Instance), nil
}

// SetReady implements guestapi.Instance. There is no row that would say it.
func (r guestOfRecord) SetReady(context.Context, bool) error { return nil }

// SendImage implements guestapi.Instance.
func (r guestOfRecord) SendImage(w http.ResponseWriter, _ *http.Request, _ string) {
	http.Error(w, "try again later", http.StatusServiceUnavailable)
}

// watchStray waits for the end of one. Its files stay where they are: the next start puts
// those away that no row names then.
func (s *Set) watchStray(one *stray, fewer func()) {
	for {
		e, err := one.box.Next(s.ctx)
		if err != nil {
			return // that the daemon ends; it goes on
		}
		if e.Kind == box.Stopped {
			break
		}
		if one.killing.Load() > 0 { // who killed it has killed the init before
			if err := one.box.Abort(s.ctx); err != nil && s.ctx.Err() == nil {
				s.warn("end "+one.called()+", which rebooted", err)
			}
			continue
		}
		if e.Unsaved != nil {
			s.warn("write down that "+one.called()+" rebooted", e.Unsaved)
		}
	}
	called := one.called()
	s.endDevicesOf(s.ctx, one.instance(), &one.live)
	_ = one.guest.close()
	s.strays.mu.Lock()
	delete(s.strays.list, one.uuid)
	s.strays.mu.Unlock()
	_ = one.box.Close()
	close(one.gone)
	s.warn(called+" has ended, which the database doesn't know", fmt.Errorf("unless it is brought back with kiln admin "+
		"recover, the next start of the daemon keeps its files in lost/ for %v", volume.LostTime))
	fewer()
}

// all gives those that run.
func (s *strays) all() []*stray {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.list))
}

// suspend stops one because the host goes down: it would be killed with that. Its files stay.
func (s *stray) suspend(ctx context.Context, i Instance) error {
	timeout, force := hostShutdown(i)
	if !force {
		bound, cancel := stopTime(ctx, s.called(), timeout)
		defer cancel()
		var err error
		if s.box.Frozen() {
			err = s.thaw(bound, s.called())
		}
		if err == nil {
			err = s.box.Shutdown(bound)
		}
		if err == nil {
			err = s.wait(bound)
		}
		if err == nil {
			return nil
		}
	}
	err := s.kill(ctx, s.called())
	select {
	case <-s.gone:
		return nil // perhaps by itself
	default:
		return err
	}
}

// close lets go of them. They go on.
func (s *strays) close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.list {
		err = errors.Join(err, one.guest.close(), one.box.Close())
	}
	return err
}
