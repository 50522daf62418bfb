package backup

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/foreign"
	"github.com/kiln-containers/kiln/internal/yamlerr"
)

// maxIndex bounds index.yaml, in bytes: LXD has some three thousand for each snapshot.
const maxIndex = 16 << 20

// maxIndexValues bounds what is in it: LXD has some hundred values for each snapshot.
const maxIndexValues = 1 << 20

// maxSnapshots bounds the snapshots of one instance.
const maxSnapshots = 10_000

// The index, with the keys of LXD 5.0. What it says of a pool, of profiles and of
// volumes is for LXD; kiln has its own.
type (
	index struct {
		Name            string   `yaml:"name"`
		Backend         string   `yaml:"backend"`
		Pool            string   `yaml:"pool"`
		Snapshots       []string `yaml:"snapshots,omitempty"`
		Optimized       bool     `yaml:"optimized"`
		OptimizedHeader bool     `yaml:"optimized_header"`
		Type            string   `yaml:"type,omitempty"`
		Config          *config  `yaml:"config,omitempty"`
	}
	config struct {
		Container       *state            `yaml:"container,omitempty"`
		Instance        *state            `yaml:"instance,omitempty"` // the name of later versions
		Snapshots       []*snapshotState  `yaml:"snapshots,omitempty"`
		Pool            *pool             `yaml:"pool,omitempty"`
		Volume          *volume           `yaml:"volume,omitempty"`
		VolumeSnapshots []*volumeSnapshot `yaml:"volume_snapshots,omitempty"`
	}
	common struct {
		Name            string                       `yaml:"name"`
		Architecture    string                       `yaml:"architecture"`
		Config          map[string]string            `yaml:"config"`
		Devices         map[string]map[string]string `yaml:"devices"`
		Ephemeral       bool                         `yaml:"ephemeral"`
		Profiles        []string                     `yaml:"profiles"`
		Stateful        bool                         `yaml:"stateful"`
		CreatedAt       time.Time                    `yaml:"created_at"`
		LastUsedAt      time.Time                    `yaml:"last_used_at"`
		ExpandedConfig  map[string]string            `yaml:"expanded_config"`
		ExpandedDevices map[string]map[string]string `yaml:"expanded_devices"`
	}
	state struct {
		common      `yaml:",inline"`
		Description string `yaml:"description"`
		Status      string `yaml:"status"`
		StatusCode  int    `yaml:"status_code"`
		Location    string `yaml:"location"`
		Type        string `yaml:"type"`
		Project     string `yaml:"project"`
	}
	snapshotState struct {
		common    `yaml:",inline"`
		ExpiresAt time.Time `yaml:"expires_at"`
		Size      int64     `yaml:"size"`
	}
	pool struct {
		Config      map[string]string `yaml:"config"`
		Description string            `yaml:"description"`
		Name        string            `yaml:"name"`
		Driver      string            `yaml:"driver"`
		UsedBy      []string          `yaml:"used_by"`
		Status      string            `yaml:"status"`
		Locations   []string          `yaml:"locations"`
	}
	volume struct {
		Config      map[string]string `yaml:"config"`
		Description string            `yaml:"description"`
		Name        string            `yaml:"name"`
		Type        string            `yaml:"type,omitempty"`
		ContentType string            `yaml:"content_type"`
		CreatedAt   time.Time         `yaml:"created_at"`
	}
	volumeSnapshot struct {
		volume    `yaml:",inline"`
		ExpiresAt time.Time `yaml:"expires_at"` // LXD fails without one
	}
)

// The keys of a configuration that say something about files and not about this host.
const (
	baseKey    = "volatile.base_image"
	triggerKey = "volatile.apply_template"
	idmapKey   = "volatile.last_state.idmap"
)

// encode gives index.yaml and backup.yaml of an instance. expanded gives a configuration
// with that of its profiles.
func encode(t kiln.Transfer, expanded Expand) (idx, inst []byte, err error) {
	c := &config{
		Container: &state{common: commonOf(t.InstanceState, expanded), Description: t.Description, Status: "Stopped",
			StatusCode: 102, Location: "none", Type: "container", Project: "default"},
		Pool: &pool{Config: map[string]string{}, Name: "default", Driver: "dir", UsedBy: []string{}, Status: "Created",
			Locations: []string{"none"}},
		Volume: &volume{Config: map[string]string{}, Name: t.Name, Type: "container", ContentType: "filesystem"},
	}
	i := index{Name: t.Name, Backend: "dir", Pool: "default", Type: "container", Config: c}
	for _, s := range t.Snapshots {
		i.Snapshots = append(i.Snapshots, s.Name)
		c.Snapshots = append(c.Snapshots, &snapshotState{common: commonOf(s, expanded), ExpiresAt: s.ExpiresAt, Size: -1})
		v := wireVolume(Volume{Name: s.Name, CreatedAt: s.CreatedAt})
		c.VolumeSnapshots = append(c.VolumeSnapshots, &volumeSnapshot{v, s.ExpiresAt})
	}
	if inst, err = yaml.Marshal(c); err != nil {
		return nil, nil, err
	}
	idx, err = yaml.Marshal(i)
	return idx, inst, err
}

// Expand gives a configuration with that of profiles.
type Expand func(s kiln.InstanceState) (config map[string]string, devices map[string]map[string]string)

func commonOf(s kiln.InstanceState, expanded Expand) common {
	options := map[string]string{idmapKey: "[]"} // the owners are as the instance sees them
	for k, v := range s.Config {
		options[k] = v
	}
	if !s.Base.IsZero() {
		options[baseKey] = s.Base.String()
	}
	if s.Trigger != "" {
		options[triggerKey] = s.Trigger
	}
	c := common{Name: s.Name, Architecture: s.Architecture, Config: options, Devices: s.Devices, Ephemeral: s.Ephemeral,
		Profiles: s.Profiles, CreatedAt: s.CreatedAt, LastUsedAt: s.LastUsedAt}
	s.Config = options
	c.ExpandedConfig, c.ExpandedDevices = expanded(s)
	return c
}

// contents are what the files of a backup have to agree with: the snapshots that it has,
// and the owners of each tree, by the name of the snapshot, "" for what the backup is of.
type contents struct {
	snapshots []string
	owners    map[string]idMap
}

// memory estimates what is remembered of it while the files come, in bytes.
func (c contents) memory() int64 {
	const size = 256 // of a snapshot, in all that is by its name
	return int64(len(c.owners)) * size
}

// The errors for a backup of something else.
func ofInstance() error {
	return kiln.Errorf(kiln.Unsupported, "this is the backup of an instance; import it with: kiln import")
}

func ofVolume() error {
	return kiln.Errorf(kiln.Unsupported, "this is the backup of a storage volume, not of an instance; import it with: "+
		"kiln storage volume import default")
}

func ofMachine() error {
	return kiln.Errorf(kiln.Unsupported, "this is the backup of a virtual machine; kiln runs system containers")
}

// parseIndex reads an index. Errors: Invalid, TooLarge, Unsupported.
func parseIndex(b []byte) (index, error) {
	var i index
	err := foreign.YAML(b, foreign.Limit{Bytes: maxIndex, Values: maxIndexValues}, func(doc *yaml.Node) error {
		if err := doc.Decode(&i); err != nil {
			return kiln.Errorf(kiln.Invalid, "%s", yamlerr.Plain(err))
		}
		return nil
	})
	if err != nil {
		return i, kiln.Errorf(kiln.KindOf(err), "%s can't be read: %w", indexPath, err)
	}
	return i, nil
}

// instance gives what the index says of an instance. Errors: Invalid, Unsupported.
func (i index) instance() (t kiln.Transfer, of contents, err error) {
	switch {
	case i.Type == "custom":
		return t, of, ofVolume()
	case i.Type == "virtual-machine":
		return t, of, ofMachine()
	case i.Type != "" && i.Type != "container":
		return t, of, kiln.Errorf(kiln.Unsupported, "this is the backup of a %.100q; kiln knows those of containers", i.Type)
	case i.Config == nil || i.Config.Container == nil && i.Config.Instance == nil:
		err := kiln.Errorf(kiln.Unsupported, "%s doesn't have the configuration of the instance: an LXD before 4.0 wrote "+
			"it; import the backup there, with a newer version, and export the instance again", indexPath)
		return t, of, cmp.Or(i.readable(), err)
	}
	c := i.Config.Container
	if c == nil {
		c = i.Config.Instance
	}
	states := map[string]*snapshotState{}
	for _, s := range i.Config.Snapshots {
		if s != nil {
			states[lastPart(s.Name)] = s
		}
	}
	of, err = i.contents(c.Config[idmapKey], func(snap string) (string, bool) {
		if s := states[snap]; s != nil {
			return s.Config[idmapKey], true
		}
		return "", false
	})
	if err != nil {
		return t, of, err
	}
	if t.InstanceState, err = stateOf(&c.common, i.Name); err != nil {
		return t, of, err
	}
	t.Description = c.Description
	for _, name := range of.snapshots {
		m, err := stateOf(&states[name].common, name)
		if err != nil {
			return t, of, err
		}
		m.ExpiresAt = states[name].ExpiresAt
		t.Snapshots = append(t.Snapshots, m)
	}
	slices.SortStableFunc(t.Snapshots, func(a, b kiln.InstanceState) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return t, of, nil
}

// lastPart is the name of a snapshot, which is "c1/snap0" in older versions.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// readable refuses what only the storage driver can read that wrote it.
func (i index) readable() error {
	if !i.Optimized {
		return nil
	}
	return kiln.Errorf(kiln.Unsupported, "the backup is in the format of the storage driver %.100q, which only that "+
		"can read; make it again without --optimized-storage", i.Backend)
}

// contents takes the snapshots that the index names, which are the ones whose files are
// there, with the maps of ids that are said of them. Errors: Invalid, Unsupported.
func (i index) contents(own string, snapshot func(string) (ids string, ok bool)) (contents, error) {
	c := contents{owners: map[string]idMap{}}
	if err := i.readable(); err != nil {
		return c, err
	}
	if len(i.Snapshots) > maxSnapshots {
		return c, kiln.Errorf(kiln.Invalid, "%s has more than %d snapshots", indexPath, maxSnapshots)
	}
	ranges, known := 0, map[string]idMap{} // the map of most snapshots is the instance's
	parse := func(text string) (m idMap, err error) {
		m, ok := known[text]
		if !ok {
			m, err = parseIDMap(text)
			known[text] = m
			if ranges += len(m); ranges > maxAllRanges {
				err = kiln.Errorf(kiln.Invalid, "%s has more than %d ranges of ids", indexPath, maxAllRanges)
			}
		}
		return m, err
	}
	var err error
	if c.owners[""], err = parse(own); err != nil {
		return c, err
	}
	for _, name := range i.Snapshots {
		if err := kiln.CheckSnapshotName(name); err != nil {
			return c, err
		}
		if _, ok := c.owners[name]; ok {
			return c, kiln.Errorf(kiln.Invalid, "%s has the snapshot %q twice", indexPath, name)
		}
		ids, ok := snapshot(name)
		if !ok {
			return c, kiln.Errorf(kiln.Invalid, "%s doesn't have the configuration of the snapshot %q", indexPath, name)
		}
		if c.owners[name], err = parse(ids); err != nil {
			return c, kiln.Errorf(kiln.Invalid, "snapshot %q: %w", name, err)
		}
	}
	c.snapshots = i.Snapshots
	return c, nil
}

// stateOf reads what is said of an instance or a snapshot. What was only true of the host
// that it was on is left out: keys of "volatile.", but for the hardware addresses of its
// interfaces, and the pool of its root disk.
func stateOf(c *common, name string) (kiln.InstanceState, error) {
	s := kiln.InstanceState{Name: name, Ephemeral: c.Ephemeral, Profiles: c.Profiles, Config: map[string]string{},
		Devices: map[string]map[string]string{}, CreatedAt: c.CreatedAt}
	var err error
	if s.Architecture, err = kiln.ParseArch(c.Architecture); err != nil {
		return s, err
	}
	if c.LastUsedAt.Unix() > 0 {
		s.LastUsedAt = c.LastUsedAt
	}
	for k, v := range c.Config {
		switch {
		case k == baseKey:
			if s.Base, err = kiln.ParseFingerprint(v); err != nil {
				s.Base = kiln.Fingerprint{} // of a server that counts in another way
			}
		case k == triggerKey && v == "create":
			s.Trigger = v
		case !strings.HasPrefix(k, "volatile.") || strings.HasSuffix(k, ".hwaddr"):
			s.Config[k] = v
		}
	}
	for n, d := range c.Devices {
		if d["type"] == "disk" && d["path"] == "/" && d["pool"] != "" {
			d["pool"] = "default"
		}
		s.Devices[n] = d
	}
	return s, nil
}
