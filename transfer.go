package kiln

import "time"

// A Stack names what a file tree stands on: an image and layers over it.
type Stack struct {
	Base   Fingerprint // zero: no image
	Layers []string    // top first; the ids mean something to the server that has them
	Meta   string      // the metadata, if the tree has its own; an id as well
}

// An InstanceState is an instance as it was once: its configuration and its files.
type InstanceState struct {
	Name         string // of the instance, or of its snapshot
	Architecture string
	Description  string
	Ephemeral    bool
	Profiles     []string
	Config       map[string]string
	Devices      map[string]map[string]string
	CreatedAt    time.Time
	ExpiresAt    time.Time // zero: never
	LastUsedAt   time.Time // zero: never
	Trigger      string    // of the templates that the first start would have applied
	Stack
}

// A Transfer is what a server tells another of an instance that is copied there.
type Transfer struct {
	InstanceState
	Snapshots []InstanceState // oldest first
	Images    []Fingerprint   // those of the bases that the server has as images
	Parts     []Part          // what the stacks name, and the trees of the other bases
}

// A Part is what travels in one piece: a layer, or metadata.
type Part struct {
	ID   string
	Size int64 // bytes on the disk it comes from
}
