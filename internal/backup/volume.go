package backup

import (
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
)

// A Volume is what is said of a custom storage volume, or of a snapshot of one.
type Volume struct {
	Name, Description string
	Config            map[string]string
	CreatedAt         time.Time
	ExpiresAt         time.Time // of a snapshot; zero: never
	Snapshots         []Volume  // of a volume, oldest first
}

// memory estimates what is remembered of it while its files come, in bytes.
func (v Volume) memory() int64 {
	n := int64(len(v.Name)+len(v.Description)) + kiln.MapMemory(v.Config)
	for _, s := range v.Snapshots {
		n += s.memory()
	}
	return n
}

// volumeIDs is the key of a volume with the map of ids that its files were shifted by, for
// the instance that had it last.
const volumeIDs = "volatile.idmap.last"

// encodeVolume gives index.yaml of a volume.
func encodeVolume(v Volume) ([]byte, error) {
	own := wireVolume(v)
	own.Type = "custom"
	c := &config{Volume: &own}
	i := index{Name: v.Name, Backend: "dir", Pool: "default", Type: "custom", Config: c}
	for _, s := range v.Snapshots {
		i.Snapshots = append(i.Snapshots, s.Name)
		c.VolumeSnapshots = append(c.VolumeSnapshots, &volumeSnapshot{wireVolume(s), s.ExpiresAt})
	}
	return yaml.Marshal(i)
}

func wireVolume(v Volume) volume {
	if v.Config == nil {
		v.Config = map[string]string{}
	}
	return volume{Config: v.Config, Description: v.Description, Name: v.Name, ContentType: "filesystem",
		CreatedAt: v.CreatedAt}
}

// volume gives what the index says of a storage volume. Errors: Invalid, Unsupported.
func (i index) volume() (v Volume, of contents, err error) {
	switch {
	case i.Type == "" || i.Type == "container":
		return v, of, ofInstance()
	case i.Type == "virtual-machine":
		return v, of, ofMachine()
	case i.Type != "custom":
		return v, of, kiln.Errorf(kiln.Unsupported, "this is the backup of a %.100q, and not of a storage volume", i.Type)
	case i.Config == nil || i.Config.Volume == nil:
		return v, of, kiln.Errorf(kiln.Invalid, "%s doesn't have the configuration of the storage volume", indexPath)
	}
	own := i.Config.Volume
	if t := own.ContentType; t != "" && t != "filesystem" {
		return v, of, kiln.Errorf(kiln.Unsupported, "this is the backup of a storage volume with the content %.100q; kiln "+
			"has filesystem", t)
	}
	states := map[string]*volumeSnapshot{}
	for _, s := range i.Config.VolumeSnapshots {
		if s != nil {
			states[lastPart(s.Name)] = s
		}
	}
	of, err = i.contents(own.Config[volumeIDs], func(snap string) (string, bool) {
		s := states[snap]
		if s == nil {
			return "", false
		}
		return s.Config[volumeIDs], true
	})
	if err != nil {
		return v, of, err
	}
	v = ofWire(own, i.Name)
	for _, name := range of.snapshots {
		s := ofWire(&states[name].volume, name)
		s.ExpiresAt = states[name].ExpiresAt
		v.Snapshots = append(v.Snapshots, s)
	}
	slices.SortStableFunc(v.Snapshots, func(a, b Volume) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return v, of, nil
}

// ofWire reads what is said of a volume, without what was only true of where it was.
func ofWire(w *volume, name string) Volume {
	v := Volume{Name: name, Description: w.Description, Config: map[string]string{}, CreatedAt: w.CreatedAt}
	for key, value := range w.Config {
		if !strings.HasPrefix(key, "volatile.") {
			v.Config[key] = value
		}
	}
	return v
}
