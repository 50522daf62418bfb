package instance

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// New says what instance to make.
type New struct {
	Name         string
	Architecture string
	Base         kiln.Fingerprint // zero: made from nothing
	Trigger      string           // of the templates to apply at the first start
	CreatedAt    time.Time        // zero: now
	// RefreshedFrom is the UUID that another server has for what this is a copy of, if the client
	// goes on to bring it up to date; else "".
	RefreshedFrom string
	Config
}

// Files are those of an instance that is to be: a volume, and the trees of its
// snapshots. Who makes them closes them, which removes what no instance was made of.
type Files struct {
	UUID string // names the volume in the pool

	set       *Set
	snapshots []db.Snapshot
	taken     bool
}

// NewFiles gives the place of an instance's files, in which nothing is yet.
func (s *Set) NewFiles() *Files { return &Files{UUID: uuid.NewString(), set: s} }

// Close removes the files, unless an instance has them.
func (f *Files) Close() error {
	if f.taken {
		return nil
	}
	ctx := context.Background() // what was cancelled is removed, too
	return errors.Join(f.set.pool.Delete(ctx, f.UUID), f.set.pool.DeleteSnapshots(ctx, f.snapshotFiles()...))
}

// Check says whether an instance with this configuration can be made, before any work
// is done. What an existing instance may have lost since is asked for here: the
// directories of this host that its disks show. Errors: Invalid, Unsupported.
func (s *Set) Check(ctx context.Context, c Config) error {
	if err := s.CheckAccess(ctx, c); err != nil { // first: the rest tells of the host
		return err
	}
	if err := s.checkRules(ctx, "the instance", c, Config{}); err != nil {
		return err
	}
	if err := s.check(ctx, c); err != nil {
		return err
	}
	profiles, err := s.profiles(ctx)
	if err != nil {
		return err
	}
	if err := once(c.Profiles); err != nil {
		return err
	}
	used, err := pick(c.Profiles, profiles)
	if err != nil {
		return err
	}
	_, devices := expand(c, used)
	if err := checkPaths(nil, devices); err != nil {
		return err
	}
	return s.checkSources(ctx, devices)
}

// once refuses a list that has a profile twice. The error is Invalid.
func once(profiles []string) error {
	for n, p := range profiles {
		if slices.Contains(profiles[:n], p) {
			return kiln.Errorf(kiln.Invalid, "profile %q is given twice; name each once: the last one wins where they differ", p)
		}
	}
	return nil
}

// checkSnapshots says whether the project takes the snapshots among files. The error is Denied.
func (s *Set) checkSnapshots(ctx context.Context, f *Files) error {
	if err := s.CheckArriving(ctx, len(f.snapshots), "--instance-only"); err != nil {
		return err
	}
	for _, r := range f.snapshots {
		if err := s.checkAccess(ctx, "its snapshot "+r.Name, snapshotConfig(r), Config{}); err != nil {
			return err
		}
	}
	return nil
}

// Create makes an instance of files. What it says of profiles is checked once more with
// its row, in one transaction. Of options of volatile.* it has none but the hardware addresses,
// as long as no other instance has these: said tells of others. Errors: Conflict, Denied, Invalid.
func (s *Set) Create(ctx context.Context, n New, f *Files) (said []string, err error) {
	if err := s.CheckAccess(ctx, n.Config); err != nil {
		return nil, err
	}
	if err := s.checkSnapshots(ctx, f); err != nil {
		return nil, err
	}
	options := map[string]string{}
	for k, v := range n.Options {
		if v != "" && !strings.HasPrefix(k, volatilePrefix) { // those of another instance mean nothing here
			options[k] = v
		}
	}
	options[UUIDKey] = f.UUID
	if !n.Base.IsZero() {
		options[BaseKey] = n.Base.String()
	}
	if n.Trigger != "" {
		options[TemplateKey] = n.Trigger
	}
	if uuid.Validate(n.RefreshedFrom) == nil {
		options[refreshedKey] = n.RefreshedFrom
	}
	if n.CreatedAt.IsZero() {
		n.CreatedAt = time.Now().UTC()
	}
	release, err := s.useNetworks(ctx, n.Devices) // that of a profile is that one's
	if err != nil {
		return nil, err
	}
	defer release()
	if len(Addresses(n.Options)) > 0 {
		s.addressing.Lock()
		defer s.addressing.Unlock()
	}
	kept, said, err := s.addresses(ctx, n, f)
	if err != nil {
		return nil, err
	}
	maps.Copy(options, kept)
	err = s.db.CreateInstance(ctx, db.Instance{
		Name: n.Name, Type: "container", Architecture: n.Architecture, Description: n.Description,
		Ephemeral: n.Ephemeral, CreatedAt: n.CreatedAt, Config: options, Devices: n.Devices,
		Profiles: n.Profiles, Base: n.Base,
	}, f.snapshots...)
	if errors.Is(err, kiln.Conflict) {
		return nil, conflict(n.Name)
	}
	if err != nil {
		return nil, err
	}
	f.taken = true
	s.notify(ctx, Change{Name: n.Name, Action: "created"})
	return said, nil
}

// snapshotFiles gives what names the files of the snapshots.
func (f *Files) snapshotFiles() (list []string) {
	for _, r := range f.snapshots {
		list = append(list, r.Files)
	}
	return list
}
