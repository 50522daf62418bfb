// Package op runs work in the background under an ID that can be waited for,
// watched and cancelled. It notes in which project that is, and knows nothing of HTTP, nor of what the work does.
package op

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Class tells clients what an operation offers besides its end.
type Class string

// The classes of operation.
const (
	Task      Class = "task"
	Websocket Class = "websocket"
	Token     Class = "token"
)

// A Status says how far an operation is.
type Status int

// The statuses an operation passes through, with the codes of the wire.
const (
	Pending   Status = 105
	Running   Status = 103
	Success   Status = 200
	Failure   Status = 400
	Cancelled Status = 401
)

// Final reports whether nothing more will happen.
func (s Status) Final() bool { return s >= Success }

// A Snapshot is an operation as it is at one moment.
type Snapshot struct {
	ID          string
	Class       Class
	Description string
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Status      Status
	Resources   map[string][]string // "images": {"/1.0/images/<fp>"}
	Metadata    map[string]any
	MayCancel   bool
	Project     string // in which it works; "": in none
	Owner       string // for whom it works, see WithOwner
	Err         error  // why the status is Failure or Cancelled
}

// Keep is how long an operation can still be read after its end.
const Keep = 5 * time.Second

// A Table holds the operations of a daemon.
type Table struct {
	ctx    context.Context
	cancel context.CancelFunc
	notify func(Snapshot)
	wg     sync.WaitGroup

	mu     sync.Mutex
	ops    map[string]*Operation
	loads  map[string]Load // by owner; those without any aren't in it
	closed bool            // what is started from now on is cancelled before it begins
}

// A Load counts operations that are under way.
type Load struct {
	Working int // all but tokens, which cost nothing
	Waiting int // those that only wait for somebody, tokens among them
}

func (l Load) plus(more Load) Load { return Load{l.Working + more.Working, l.Waiting + more.Waiting} }

// NewTable makes an empty table. notify is called, in order for each operation,
// with every change of one; it must not block for long nor call back.
func NewTable(notify func(Snapshot)) *Table {
	ctx, cancel := context.WithCancel(context.Background())
	return &Table{ctx: ctx, cancel: cancel, notify: notify, ops: map[string]*Operation{}, loads: map[string]Load{}}
}

// Close cancels everything under way and waits for it.
func (t *Table) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
}

// Load counts all operations under way.
func (t *Table) Load() (all Load) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.loads {
		all = all.plus(l)
	}
	return all
}

// LoadOf counts the operations under way of an owner.
func (t *Table) LoadOf(owner string) Load {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.loads[owner]
}

// burden adds to what an owner has under way.
func (t *Table) burden(owner string, more Load) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.loads[owner].plus(more); l == (Load{}) {
		delete(t.loads, owner)
	} else {
		t.loads[owner] = l
	}
}

// Hold counts as an operation of an owner what may become one, until it is released. It
// tells what the owner has then.
func (t *Table) Hold(owner string) (own Load, release func()) {
	t.burden(owner, Load{Working: 1})
	return t.LoadOf(owner), func() { t.burden(owner, Load{Working: -1}) }
}

// CancelWaiting is that of all operations.
func (t *Table) CancelWaiting(gone func(ctx context.Context) bool) {
	t.mu.Lock()
	ops := slices.Collect(maps.Values(t.ops))
	t.mu.Unlock()
	for _, o := range ops {
		o.CancelWaiting(gone)
	}
}

type ownerKey struct{}

// WithOwner has the operations that are started with a context, and those that these start,
// work for somebody: a name that means something to who asks for it. Without, they are
// nobody's.
func WithOwner(ctx context.Context, owner string) context.Context {
	return context.WithValue(ctx, ownerKey{}, owner)
}

// OwnerOf tells for whom the operations of a context work; false: for nobody.
func OwnerOf(ctx context.Context) (owner string, ok bool) {
	owner, ok = ctx.Value(ownerKey{}).(string)
	return owner, ok
}

// Options say what an operation is, besides its function. The zero value is a
// task that can't be cancelled by users.
type Options struct {
	Class     Class
	Resources map[string][]string
	Metadata  map[string]any
	MayCancel bool
	Waits     bool // it only waits for somebody until Joined, as tokens always do
}

// An Operation is one piece of work under way or just finished.
type Operation struct {
	table  *Table
	cancel context.CancelFunc
	done   chan struct{}
	waits  atomic.Bool
	ctx    context.Context // of its work

	mu   sync.Mutex
	snap Snapshot
	ends []func(Snapshot)
}

// Start runs f in the background. f's context has the values of ctx, but it ends when
// the operation is cancelled or the table closed, not with the request that started it.
func (t *Table) Start(ctx context.Context, description string, o Options,
	f func(context.Context, *Operation) error) *Operation {
	if o.Class == "" {
		o.Class = Task
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(t.ctx, cancel)
	owner, _ := OwnerOf(ctx)
	now := time.Now().UTC()
	op := &Operation{table: t, ctx: ctx, cancel: cancel, done: make(chan struct{}), snap: Snapshot{
		ID: uuid.NewString(), Class: o.Class, Description: description, CreatedAt: now, UpdatedAt: now,
		Status: Pending, Project: project.Name(ctx), Resources: o.Resources, Metadata: maps.Clone(o.Metadata),
		MayCancel: o.MayCancel, Owner: owner,
	}}
	op.waits.Store(o.Waits || o.Class == Token)
	var load Load
	if o.Class != Token {
		load.Working = 1
	}
	if op.waits.Load() {
		load.Waiting = 1
	}
	t.burden(owner, load)
	t.mu.Lock()
	t.ops[op.snap.ID] = op
	closed := t.closed
	if !closed {
		t.wg.Add(1) // Close waits for what was started before it, and for nothing else
	}
	t.mu.Unlock()
	op.update(func(*Snapshot) {})
	if closed {
		stop()
		cancel()
		op.finish(context.Cause(ctx))
		return op
	}
	op.update(func(s *Snapshot) { s.Status = Running })
	go func() {
		defer t.wg.Done()
		defer cancel()
		defer stop()
		op.finish(f(context.WithValue(ctx, operationKey{}, op), op))
	}()
	return op
}

type operationKey struct{}

// Of gives the operation that ctx is of; nil: it is of none.
func Of(ctx context.Context) *Operation {
	o, _ := ctx.Value(operationKey{}).(*Operation)
	return o
}

// Get finds an operation. The error is NotFound.
func (t *Table) Get(id string) (*Operation, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if op, ok := t.ops[id]; ok {
		return op, nil
	}
	return nil, kiln.Errorf(kiln.NotFound, "Operation not found")
}

// List gives every operation, oldest first.
func (t *Table) List() []Snapshot {
	t.mu.Lock()
	ops := slices.Collect(maps.Values(t.ops))
	t.mu.Unlock()
	list := make([]Snapshot, 0, len(ops))
	for _, op := range ops {
		list = append(list, op.Snapshot())
	}
	slices.SortFunc(list, func(a, b Snapshot) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return list
}

// CancelWaiting cancels an operation that only waits for somebody, if who started it, by the
// values of its context, is gone.
func (o *Operation) CancelWaiting(gone func(ctx context.Context) bool) {
	if o.waits.Load() && gone(o.ctx) {
		o.cancel()
	}
}

// Joined says that the one for whom the operation waited is there. Nobody's is none.
func (o *Operation) Joined() {
	if o != nil && o.waits.Swap(false) {
		o.table.burden(o.snap.Owner, Load{Waiting: -1})
	}
}

// ID names the operation.
func (o *Operation) ID() string { return o.Snapshot().ID }

// Snapshot tells how the operation stands.
func (o *Operation) Snapshot() Snapshot {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.clone()
}

func (o *Operation) clone() Snapshot {
	s := o.snap
	s.Metadata = maps.Clone(s.Metadata)
	s.Resources = maps.Clone(s.Resources)
	return s
}

// Set puts a value in the operation's metadata and tells whoever listens.
func (o *Operation) Set(key string, value any) {
	o.update(func(s *Snapshot) {
		if s.Metadata == nil {
			s.Metadata = map[string]any{}
		}
		s.Metadata[key] = value
	})
}

// AddResource says that the operation concerns one more thing.
func (o *Operation) AddResource(kind, url string) {
	o.update(func(s *Snapshot) {
		if s.Resources == nil {
			s.Resources = map[string][]string{}
		}
		s.Resources[kind] = append(slices.Clone(s.Resources[kind]), url)
	})
}

// Wait returns at the operation's end or when ctx is done, whichever is first,
// with how the operation stands then.
func (o *Operation) Wait(ctx context.Context) Snapshot {
	select {
	case <-o.done:
	case <-ctx.Done():
	}
	return o.Snapshot()
}

// Cancel asks the work to stop. Errors: Invalid when the operation is finished
// or can't be cancelled.
func (o *Operation) Cancel() error {
	s := o.Snapshot()
	if s.Status.Final() {
		return kiln.Errorf(kiln.Invalid, "Only running operations can be cancelled")
	}
	if !s.MayCancel {
		return kiln.Errorf(kiln.Invalid, "This operation can't be cancelled")
	}
	o.cancel()
	return nil
}

// update changes the snapshot and tells the listener while the lock is held, so
// that changes are told in order.
func (o *Operation) update(f func(*Snapshot)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.snap.Status.Final() {
		return
	}
	f(&o.snap)
	o.snap.UpdatedAt = time.Now().UTC()
	o.table.notify(o.clone())
}

// AtEnd has f called once, with how the operation ended, also if it has already. f may not
// block. The end of the table waits for it.
func (o *Operation) AtEnd(f func(Snapshot)) {
	o.mu.Lock()
	if !o.snap.Status.Final() {
		o.ends = append(o.ends, f)
		o.mu.Unlock()
		return
	}
	s := o.clone()
	o.mu.Unlock()
	f(s)
}

func (o *Operation) finish(err error) {
	o.update(func(s *Snapshot) {
		s.MayCancel = false
		s.Err = err
		switch {
		case err == nil:
			s.Status = Success
		case kiln.KindOf(err) == kiln.Cancelled:
			s.Status = Cancelled
		default:
			s.Status = Failure
		}
	})
	for _, f := range o.ends { // to which nobody adds any more
		f(o.Snapshot())
	}
	o.Joined()
	if o.snap.Class != Token {
		o.table.burden(o.snap.Owner, Load{Working: -1})
	}
	close(o.done)
	time.AfterFunc(Keep, func() {
		o.table.mu.Lock()
		defer o.table.mu.Unlock()
		delete(o.table.ops, o.snap.ID)
	})
}
