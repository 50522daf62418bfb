package instance

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/files"
)

// filesTime is how long somebody who wants the files of an instance waits for other work
// on it. One process serves them: those of an instance that runs from within its
// namespaces, those of one that doesn't from a mount that nobody else sees, and that is
// gone before anybody else works on the instance.
const filesTime = 30 * time.Second

// OpenFiles gives a connection that speaks SFTP with root of an instance, running or not.
// Errors: NotFound, Conflict, Busy, Integrity when its files are not as they should be.
func (s *Set) OpenFiles(ctx context.Context, name string) (net.Conn, error) {
	var err error
	for range 3 { // it may end by itself between the look and the call
		var h *files.Helper
		if h, err = s.fileServer(ctx, name); err != nil {
			return nil, kiln.Errorf(kiln.KindOf(err), "files of instance %q: %w", name, err)
		}
		var c net.Conn
		if c, err = h.Dial(); err == nil {
			return c, nil
		}
		if !h.Ended() {
			break
		}
	}
	return nil, kiln.Errorf(kiln.KindOf(err), "files of instance %q: %w", name, err)
}

// fileServer gives what serves the files of an instance, and starts it if need be.
func (s *Set) fileServer(ctx context.Context, name string) (*files.Helper, error) {
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	ctx = Meaning(ctx, fromRow(r)) // also where it waits for other work
	uuid := r.Config[UUIDKey]
	unlock, err := s.files.lock(ctx, uuid, "")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if h := s.serving(uuid); h != nil {
		return h, nil
	}
	if l := s.running(r); l != nil {
		return s.joinFiles(ctx, name, uuid, l)
	}
	return s.enterFiles(ctx, name)
}

// serving gives what serves an instance's files already.
func (s *Set) serving(uuid string) *files.Helper {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.served[uuid]; h != nil && !h.Ended() {
		return h
	}
	return nil
}

// serve makes a helper that of an instance, if that is as it was, and as soon as nobody
// needs its files to stay as they are.
func (s *Set) serve(ctx context.Context, uuid string, h *files.Helper, same func() bool) error {
	const step = 2 * time.Millisecond
	for end := time.Now().Add(filesTime); ; {
		// Whoever ends what is in the map comes after the change of what is looked at here.
		s.mu.Lock()
		ok, still := same(), s.still[uuid]
		if ok && !still {
			s.served[uuid] = h
		}
		s.mu.Unlock()
		switch {
		case !ok:
			return kiln.Errorf(kiln.Conflict, "the instance stopped or rebooted meanwhile; try again")
		case !still:
			return nil
		case time.Now().After(end):
			return kiln.Errorf(kiln.Busy, "a snapshot has kept them as they are for %v; try again later", filesTime)
		}
		select {
		case <-time.After(step):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// joinFiles serves the files of an instance that runs.
func (s *Set) joinFiles(ctx context.Context, name, uuid string, l *live) (*files.Helper, error) {
	pid := l.box.InitPID()
	var h *files.Helper
	if err := l.steady(name, func() error {
		process, mapped, err := l.box.InitProcess()
		if err != nil {
			return err
		}
		defer process.Close()
		h, err = files.Join(ctx, process, mapped, files.Options{})
		return err
	}); err != nil {
		return nil, err
	}
	same := func() bool { return s.live[uuid] == l && l.box.InitPID() == pid }
	if err := s.serve(ctx, uuid, h, same); err != nil {
		return nil, errors.Join(err, h.Close(err))
	}
	return h, nil
}

// enterFiles serves the files of an instance that doesn't run.
func (s *Set) enterFiles(ctx context.Context, name string) (*files.Helper, error) {
	waiting, cancel := turn(ctx, filesTime)
	defer cancel()
	unlock, err := s.names.lock(waiting, key(ctx, name), s.work(ctx))
	if err != nil {
		return nil, err
	}
	defer unlock()
	r, err := s.db.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	uuid := r.Config[UUIDKey]
	if l, err := s.look(r); l != nil || err != nil {
		if err != nil {
			return nil, err
		}
		return s.joinFiles(ctx, name, uuid, l)
	}
	i, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if uuid == "" {
		return nil, kiln.Errorf(kiln.Integrity, "%s; mend that, or delete the instance", i.Problem)
	}
	h, err := s.mountFiles(ctx, i)
	if err != nil {
		return nil, err
	}
	if err := s.serve(ctx, uuid, h, func() bool { return true }); err != nil {
		return nil, errors.Join(err, h.Close(err))
	}
	return h, nil
}

func (s *Set) mountFiles(ctx context.Context, i Instance) (*files.Helper, error) {
	vol, err := s.pool.Get(i.Options[UUIDKey])
	if err != nil {
		return nil, filesOfInstance(i.Name, err)
	}
	ids := s.idsOf(i)
	tree, err := vol.Mount(ctx, volumeIDs(ids))
	if err != nil {
		return nil, filesOfInstance(i.Name, err)
	}
	defer tree.Close()
	var users *os.File
	if ids != nil {
		if users, err = s.pool.UserNS(ctx, volumeIDs(ids)); err != nil {
			return nil, err
		}
	}
	return files.Enter(ctx, tree, users, files.Options{})
}

// pauseFiles lets nobody change the files of an instance until the function that it gives
// is called.
func (s *Set) pauseFiles(uuid string) (resume func(), err error) {
	s.mu.Lock()
	s.still[uuid] = true
	h := s.served[uuid]
	s.mu.Unlock()
	again := func() {}
	if h != nil {
		if again, err = h.Pause(); err != nil && h.Ended() {
			again, err = func() {}, nil // the instance stopped or rebooted: nobody changes them by it
		}
	}
	resume = func() {
		s.mu.Lock()
		delete(s.still, uuid)
		s.mu.Unlock()
		again()
	}
	if err != nil {
		again = func() {}
		resume()
	}
	return resume, err
}

// endFiles ends what serves the files of an instance, because something happened to it.
func (s *Set) endFiles(uuid, name, happened string) {
	s.mu.Lock()
	v := s.served[uuid]
	delete(s.served, uuid)
	s.mu.Unlock()
	if v == nil {
		return
	}
	if err := v.Close(kiln.Errorf(kiln.Conflict, "the instance was %s meanwhile; what was under way may be done in part: "+
		"try again", happened)); err != nil {
		s.warn("let go of the files of instance "+name, err)
	}
}

// endAllFiles ends what serves the files of any instance.
func (s *Set) endAllFiles() error {
	s.mu.Lock()
	all := s.served
	s.served = map[string]*files.Helper{}
	s.mu.Unlock()
	var errs []error
	for _, v := range all {
		errs = append(errs, v.Close(kiln.Errorf(kiln.Network, "the daemon ends")))
	}
	return errors.Join(errs...)
}
