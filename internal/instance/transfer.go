package instance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Share keeps what an instance is at one moment, for another server to copy it,
// until it is closed.
type Share struct {
	kiln.Transfer
	// State names all that the instance was when it was kept, for Delete; "": it was running.
	State string

	set   *Set
	trees []string // snapshots in the pool by names of passingName
}

// Share keeps an instance with its snapshots, or without them, or one snapshot as if
// it were an instance. One that runs stands still for a moment. The error is NotFound.
func (s *Set) Share(ctx context.Context, name string, only bool) (*Share, error) {
	instance, snap, ofSnapshot := strings.Cut(name, "/")
	ctx, unlock, err := s.lock(ctx, instance)
	if err != nil {
		return nil, err
	}
	defer unlock()
	h := &Share{set: s}
	if ofSnapshot {
		var row db.Snapshot
		if row, err = s.wholeSnapshot(ctx, instance, snap); err == nil {
			h.InstanceState, err = h.keep(ctx, row)
		}
	} else {
		err = h.keepAll(ctx, instance, only)
	}
	if err == nil {
		stacks := []kiln.Stack{h.Stack}
		for _, m := range h.Snapshots {
			stacks = append(stacks, m.Stack)
		}
		h.Parts, err = s.pool.Parts(stacks)
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// passingPrefix begins the names of snapshots in the pool that a daemon makes for the time of its
// work: no row ever names them, and what is in them is the instance's as well, or was deleted.
const passingPrefix = "passing-"

// passingName names such a snapshot. The next Open removes what a daemon that died has left of them.
func passingName() string { return passingPrefix + uuid.NewString() }

// keepAll keeps an instance and its snapshots.
func (h *Share) keepAll(ctx context.Context, name string, only bool) error {
	i, err := h.set.Get(ctx, name)
	if err != nil {
		return err
	}
	if !only {
		rows, err := h.set.db.Snapshots(ctx, name)
		if err != nil {
			return err
		}
		for _, r := range rows {
			m, err := h.keep(ctx, r)
			if err != nil {
				return err
			}
			h.Snapshots = append(h.Snapshots, m)
		}
	}
	pause, err := h.set.pause(i)
	if err != nil {
		return err
	}
	tree := passingName()
	kept, err := h.set.pool.Snapshot(ctx, i.Options[UUIDKey], tree, pause)
	if err != nil {
		err = filesOfInstance(name, err)
		return kiln.Errorf(kiln.KindOf(err), "keep instance %q for a copy: %w", name, err)
	}
	h.trees = append(h.trees, tree)
	if h.set.runs(i.Options[UUIDKey]) == nil {
		if h.State, err = h.set.state(ctx, i); err != nil {
			return err
		}
	}
	h.InstanceState = kiln.InstanceState{
		Name: i.Name, Architecture: i.Architecture, Description: i.Description, Ephemeral: i.Ephemeral, Profiles: i.Profiles,
		Config: Lasting(i.Options), Devices: i.Devices, CreatedAt: i.CreatedAt, LastUsedAt: i.LastUsedAt,
		Trigger: i.Options[TemplateKey], Stack: kept.Stack(),
	}
	for device, d := range i.ExpandedDevices {
		if keepsAddress(d) { // for who brings back what is gone: a copy has others
			h.Config[AddressKey(device)] = Address(i.Options, device, d).String()
		}
	}
	return nil
}

// state names what a stopped instance is: which one, when it was last started, all that is
// said of it, its files and its snapshots.
func (s *Set) state(ctx context.Context, i Instance) (string, error) {
	files, err := s.pool.State(i.Options[UUIDKey])
	if err != nil {
		return "", filesOfInstance(i.Name, err)
	}
	snapshots, err := s.db.SnapshotFiles(ctx, i.Name)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal([]any{files, i.Options, i.Devices, i.Profiles, i.Description, i.Ephemeral, i.LastUsedAt,
		filesOf(snapshots)})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// keep keeps one snapshot.
func (h *Share) keep(ctx context.Context, r db.Snapshot) (kiln.InstanceState, error) {
	if err := r.Whole(); err != nil {
		return kiln.InstanceState{}, err
	}
	tree := passingName()
	if err := h.set.pool.CopySnapshot(ctx, r.Files, tree); err != nil {
		return kiln.InstanceState{}, filesOfSnapshot(r.Instance, r.Name, err)
	}
	h.trees = append(h.trees, tree)
	kept, err := h.set.pool.GetSnapshot(tree)
	if err != nil {
		return kiln.InstanceState{}, err
	}
	return kiln.InstanceState{
		Name: r.Name, Architecture: r.Architecture, Description: r.Description, Ephemeral: r.Ephemeral, Profiles: r.Profiles,
		Config: Lasting(r.Config), Devices: r.Devices, CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt,
		LastUsedAt: r.LastUsedAt,
		Trigger:    r.Config[TemplateKey], Stack: kept.Stack(),
	}, nil
}

// Lasting is a configuration without what only this host knows.
func Lasting(options map[string]string) map[string]string {
	out := maps.Clone(options)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.HasPrefix(k, "volatile.") })
	return out
}

// Export writes a part of what is shared as tar. visit counts what is remembered of the files.
// Errors: NotFound, and those of Visit.Add.
func (h *Share) Export(ctx context.Context, part string, w io.Writer, visit *archive.Visit) error {
	if !h.Has(part) {
		return kiln.Errorf(kiln.NotFound, "there is no part %q", part)
	}
	return h.set.pool.Export(ctx, part, w, visit)
}

// Has reports whether something is a part of what is shared.
func (h *Share) Has(part string) bool {
	return slices.ContainsFunc(h.Parts, func(p kiln.Part) bool { return p.ID == part })
}

// Close lets go of the files.
func (h *Share) Close() error {
	return h.set.pool.DeleteSnapshots(context.Background(), h.trees...)
}

// CheckTransfer says whether what comes from another server can be here, before any
// of it does. The error is Invalid.
func (s *Set) CheckTransfer(ctx context.Context, t kiln.Transfer) error {
	if err := checkArrivingText(t.Snapshots); err != nil {
		return err
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, m := range t.Snapshots {
		if err := kiln.CheckSnapshotName(m.Name); err != nil {
			return err
		}
		if seen[m.Name] {
			return kiln.Errorf(kiln.Invalid, "there are two snapshots %q", m.Name)
		}
		seen[m.Name] = true
		c := Config{Options: m.Config, Devices: m.Devices, Profiles: m.Profiles}
		if err := s.checkAccess(ctx, "its snapshot "+m.Name, c, Config{}); err != nil {
			return err
		}
		if err := errors.Join(CheckOptions(m.Config), CheckDevices(m.Devices)); err != nil {
			return kiln.Errorf(kiln.KindOf(err), "snapshot %q: %w", m.Name, err)
		}
		if err := missing(m.Profiles, profiles, "snapshot "+m.Name+" of the instance"); err != nil {
			return err
		}
	}
	return missing(t.Profiles, profiles, "the instance")
}

func missing(names []string, profiles map[string]Profile, who string) error {
	for _, n := range names {
		if _, ok := profiles[n]; !ok {
			return kiln.Errorf(kiln.NotFound, "Profile '%s', which %s has, doesn't exist on the target; make it there (kiln "+
				"profile create), or say which the copy shall have: -p default, or, if it has a root disk of its own or is given "+
				"one (-d root,type=disk,path=/,pool=default), --no-profiles", n, who)
		}
	}
	return nil
}

// Receive makes the files of a new instance, and of its snapshots, of what came from
// another server or out of a backup. stack gives what a tree stands on here, when that
// isn't what it stood on there. A trigger is that of the templates which a snapshot's
// first start is to apply.
func (s *Set) Receive(ctx context.Context, to *Files, t kiln.Transfer, receiver *volume.Receiver,
	stack func(kiln.Stack) kiln.Stack) error {
	stacks := map[string]kiln.Stack{}
	for _, m := range t.Snapshots {
		r := db.Snapshot{
			Name: m.Name, Files: uuid.NewString(), CreatedAt: m.CreatedAt, ExpiresAt: m.ExpiresAt, LastUsedAt: m.LastUsedAt,
			Architecture: m.Architecture, Description: m.Description, Ephemeral: m.Ephemeral, Base: m.Base,
			Config: Lasting(m.Config), Devices: m.Devices, Profiles: m.Profiles,
		}
		if r.Config == nil {
			r.Config = map[string]string{}
		}
		r.Config[UUIDKey] = to.UUID
		if !m.Base.IsZero() {
			r.Config[BaseKey] = m.Base.String()
		}
		if m.Trigger != "" {
			r.Config[TemplateKey] = m.Trigger
		}
		to.snapshots = append(to.snapshots, r)
		stacks[r.Files] = stack(m.Stack)
	}
	return receiver.Commit(ctx, to.UUID, stack(t.Stack), stacks)
}
