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

// These are what a Transfer takes of memory, in bytes, at most: of a snapshot and of a map beside
// what is in them, and of a text beside its bytes.
const (
	stateSize = 1024
	mapSize   = 512
	textSize  = 64
)

// Memory estimates what is remembered of it while its files come, in bytes: a snapshot may have
// thousands of devices of a few bytes.
func (t Transfer) Memory() int64 {
	n := t.memory()
	for _, s := range t.Snapshots {
		n += s.memory()
	}
	for _, p := range t.Parts {
		n += textSize + int64(len(p.ID))
	}
	return n + int64(len(t.Images)*len(Fingerprint{}))
}

func (s InstanceState) memory() int64 {
	n := stateSize + int64(len(s.Name)+len(s.Description)) + MapMemory(s.Config) + mapSize
	for name, d := range s.Devices {
		n += textSize + int64(len(name)) + MapMemory(d)
	}
	for _, list := range [][]string{s.Profiles, s.Layers} {
		for _, text := range list {
			n += textSize + int64(len(text))
		}
	}
	return n
}

// MapMemory estimates what a map of texts takes of memory, in bytes.
func MapMemory(m map[string]string) int64 {
	n := int64(mapSize)
	for k, v := range m {
		n += textSize + int64(len(k)+len(v))
	}
	return n
}

// A Part is what travels in one piece: a layer, or metadata.
type Part struct {
	ID   string
	Size int64 // bytes on the disk it comes from
}
