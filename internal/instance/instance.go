// Package instance keeps system containers: the row that says what one is, the
// volume that holds its files, and the box that it runs in. It starts, stops,
// watches and looks into them, one at a time.
//
// It doesn't know where images come from, nor of HTTP, operations or users; it
// tells what happened to whoever made the Set.
package instance

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// A Status says whether an instance runs. The values are the codes of the wire.
type Status int

// The statuses an instance can have when somebody looks.
const (
	Stopped Status = 102
	Running Status = 103
	Frozen  Status = 110
	Broken  Status = 112 // its files are not as they should be
	Ready   Status = 113 // it runs, and says that it has begun its work
)

// Runs reports whether there are processes of the instance.
func (s Status) Runs() bool { return s == Running || s == Ready || s == Frozen }

func (s Status) String() string {
	switch s {
	case Stopped:
		return "Stopped"
	case Running:
		return "Running"
	case Frozen:
		return "Frozen"
	case Ready:
		return "Ready"
	}
	return "Error"
}

// An Instance is what is known of one instance at one moment.
type Instance struct {
	Project      string
	ProfilesOf   string // the project whose profiles it has: its own, or the default one
	Name         string
	Type         string // "container"
	Architecture string // canonical
	CreatedAt    time.Time
	LastUsedAt   time.Time // of the last start; zero: never
	Base         kiln.Fingerprint
	Status       Status
	Problem      string // why the status is Broken, or would be if it didn't run, or why it isn't started; "": nothing
	Config
	ExpandedConfig  map[string]string
	ExpandedDevices map[string]map[string]string
}

// Config is what a user may change of an instance.
type Config struct {
	Description string
	Ephemeral   bool
	Profiles    []string
	Options     map[string]string            // "limits.memory": "1GiB"
	Devices     map[string]map[string]string // name → "type": "disk", …
}

// A Profile is configuration that instances share.
type Profile = db.Profile

// Uses reports whether the instance's configuration includes a profile.
func (i *Instance) Uses(p Profile) bool {
	return i.ProfilesOf == p.Project && slices.Contains(i.Profiles, p.Name)
}

// UUIDKey is the option that names an instance's volume and box. It is set once
// and outlives renames, so that a rename is one row.
const UUIDKey = "volatile.uuid"

// volatilePrefix begins the options that kiln keeps for itself.
const volatilePrefix = "volatile."

// BaseKey is the option in which clients look for the image's fingerprint.
const BaseKey = "volatile.base_image"

// refreshedKey has the UUID, on the other server, of the instance that this one was brought up
// to date from.
const refreshedKey = "volatile.refreshed_from.uuid"

// backupsKey names an instance's backups since a rebuild gave its files another name.
//
// lxc takes such keys along to LXD, which doesn't know kiln's: it knows those that end so.
const backupsKey = "volatile.backups.uuid"

// olderBackupsKey was its name.
const olderBackupsKey = "volatile.backups"

// BackupsOf gives the UUID that the backups of an instance with these options are kept by.
func BackupsOf(options map[string]string) string {
	return cmp.Or(options[backupsKey], options[olderBackupsKey], options[UUIDKey])
}

// TemplateKey holds the trigger of the templates that the next start applies.
const TemplateKey = "volatile.apply_template"

// restoreKey names the snapshot that an instance's files are being made from, so
// that what a crash interrupts can be finished.
const restoreKey = "volatile.restore"

// restartKey says that an instance that is being stopped is to run again, so that
// what a crash interrupts can be finished: "clean", or "force" when it may be killed.
const restartKey = "volatile.restart"

// powerKey remembers over a shutdown of the host that an instance was running.
const powerKey = "volatile.last_state.power"

// readyKey says that an instance which runs has said that it is ready.
const readyKey = "volatile.last_state.ready"

// expand lays an instance's own configuration over that of its profiles, the
// later ones over the earlier.
func expand(c Config, profiles []Profile) (map[string]string, map[string]map[string]string) {
	options := map[string]string{}
	devices := map[string]map[string]string{}
	for _, p := range profiles {
		maps.Copy(options, p.Config)
		maps.Copy(devices, p.Devices)
	}
	maps.Copy(options, c.Options)
	maps.Copy(devices, c.Devices)
	for name, d := range devices {
		if d["type"] == "none" {
			delete(devices, name)
		}
	}
	return options, devices
}

func fromRow(r db.Instance) Instance {
	return Instance{
		Project: r.Project, Name: r.Name, Type: r.Type, Architecture: r.Architecture,
		CreatedAt: r.CreatedAt, LastUsedAt: r.LastUsedAt, Base: r.Base, Status: Stopped,
		Config: Config{
			Description: r.Description, Ephemeral: r.Ephemeral, Profiles: r.Profiles,
			Options: r.Config, Devices: r.Devices,
		},
	}
}
