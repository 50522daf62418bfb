// Package migrate speaks the protocol by which LXD and Incus copy an instance from one
// server to another: two websockets, one for control messages and one for files.
//
// On the control websocket each binary message is one protobuf. The source begins with a
// Header, the target answers with one that says what it takes of that, and the end is a
// Control from the target, or from whoever fails. On the other websocket whole trees follow
// one another, each as a Stream with rsync on both ends: the snapshots that the headers
// name, oldest first, and the instance itself.
//
// The package doesn't know what runs at the ends of a stream, nor what an instance is here.
package migrate

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kiln-containers/kiln"
)

// The kinds of file transfer of Header.FS. Each server takes RSYNC, whatever else it has.
const RSYNC = 0

// The kinds of Header.Processes.
const (
	noProcesses = 0 // of an instance that doesn't run: the field is absent
	JustFiles   = 3 // it runs, and only its files are copied: those of the instance itself come twice
	criuOffset  = 1 // between these and the numbers of the wire
	criuMost    = 64
)

// A Header is what source and target tell each other before files move.
type Header struct {
	FS uint64
	// Processes is zero, or one more than the number that the wire has for how the
	// processes of a running instance are copied.
	Processes uint64
	// IDs are the ranges of ids that files have on the source's disk; none: files
	// belong to whom they belong to in the instance.
	IDs       []IDRange
	Names     []string   // of the snapshots that are copied, oldest first
	Snapshots []Snapshot // what is said of them
	Features  *Features  // of rsync; nil: the peer is older than that
	Refresh   bool
}

// Features are what rsync is run with, if both ends have it.
type Features struct {
	Xattrs, Delete, Compress bool
	// Bidirectional says that both ends end each stream.
	Bidirectional bool
	// Links keeps hard links. Only kiln has it: the protocol of the peers loses them.
	Links bool
}

// An IDRange says which ids of the host are the instance's from NS on.
type IDRange struct {
	Users, Groups   bool
	Host, NS, Count int64
}

// A Snapshot is what is said of one snapshot.
type Snapshot struct {
	Name         string
	Config       map[string]string
	Profiles     []string
	Ephemeral    bool
	Devices      map[string]map[string]string
	Architecture uint64 // by the numbers of the peers, see Arch
	Stateful     bool
	CreatedAt    time.Time // zero: unknown
	LastUsedAt   time.Time // zero: never
	ExpiresAt    time.Time // zero: never
}

// architectures are the names of kiln by the numbers of the peers.
var architectures = map[uint64]string{1: "i686", 2: "x86_64", 3: "armv7l", 4: "aarch64", 5: "ppc", 6: "ppc64",
	7: "ppc64le", 8: "s390x", 9: "mips", 10: "mips64", 11: "riscv32", 12: "riscv64", 13: "armv6l", 14: "armv8l",
	15: "loongarch64"}

// Arch names an architecture by its number; "" for one that nobody knows.
func Arch(n uint64) string { return architectures[n] }

// ArchNumber is the other way round; 0 for an architecture that the peers have no number of.
func ArchNumber(name string) uint64 {
	for n, a := range architectures {
		if a == name {
			return n
		}
	}
	return 0
}

// JSON gives ranges as the peers keep them in a configuration.
func JSON(ids []IDRange) string {
	type wire struct {
		Isuid, Isgid           bool
		Hostid, Nsid, Maprange int64
	}
	list := []wire{}
	for _, r := range ids {
		list = append(list, wire{r.Users, r.Groups, r.Host, r.NS, r.Count})
	}
	b, err := json.Marshal(list)
	if err != nil {
		return ""
	}
	return string(b)
}

// The fields of the messages, as they are seen on the wire of LXD 5.0.
const (
	headerFS        = 1
	headerProcesses = 2
	headerIDs       = 3
	headerNames     = 4
	headerSnapshots = 5
	headerPredump   = 7
	headerFeatures  = 8
	headerRefresh   = 9

	featureXattrs        = 1
	featureDelete        = 2
	featureCompress      = 3
	featureBidirectional = 4
	featureLinks         = 1020 // kiln's own, where the peers have none

	idUsers  = 1
	idGroups = 2
	idHost   = 3
	idNS     = 4
	idCount  = 5

	snapName      = 1
	snapConfig    = 2
	snapProfiles  = 3
	snapEphemeral = 4
	snapDevices   = 5
	snapArch      = 6
	snapStateful  = 7
	snapCreated   = 8
	snapUsed      = 9
	snapExpires   = 10

	pairKey   = 1 // of an option, and the name of a device
	pairValue = 2 // of an option, and each option of a device

	controlSuccess = 1
	controlMessage = 2
)

// Marshal gives the message of a header.
func (h Header) Marshal() []byte {
	b := number(nil, headerFS, h.FS)
	if h.Processes != noProcesses {
		b = number(b, headerProcesses, h.Processes-criuOffset)
	}
	for _, r := range h.IDs {
		m := truth(nil, idUsers, r.Users)
		m = truth(m, idGroups, r.Groups)
		m = number(m, idHost, uint64(r.Host))
		m = number(m, idNS, uint64(r.NS))
		b = block(b, headerIDs, number(m, idCount, uint64(r.Count)))
	}
	for _, n := range h.Names {
		b = block(b, headerNames, []byte(n))
	}
	for _, s := range h.Snapshots {
		b = block(b, headerSnapshots, s.marshal())
	}
	b = truth(b, headerPredump, false)
	if f := h.Features; f != nil {
		m := truth(nil, featureXattrs, f.Xattrs)
		m = truth(m, featureDelete, f.Delete)
		m = truth(m, featureCompress, f.Compress)
		m = truth(m, featureBidirectional, f.Bidirectional)
		b = block(b, headerFeatures, truth(m, featureLinks, f.Links))
	}
	return truth(b, headerRefresh, h.Refresh)
}

func (s Snapshot) marshal() []byte {
	b := block(nil, snapName, []byte(s.Name))
	b = options(b, snapConfig, s.Config)
	for _, p := range s.Profiles {
		b = block(b, snapProfiles, []byte(p))
	}
	b = truth(b, snapEphemeral, s.Ephemeral)
	for _, name := range slices.Sorted(maps.Keys(s.Devices)) {
		b = block(b, snapDevices, options(block(nil, pairKey, []byte(name)), pairValue, s.Devices[name]))
	}
	b = number(b, snapArch, s.Architecture)
	b = truth(b, snapStateful, s.Stateful)
	b = number(b, snapCreated, uint64(s.CreatedAt.Unix()))
	b = number(b, snapUsed, uint64(s.LastUsedAt.Unix()))
	return number(b, snapExpires, uint64(s.ExpiresAt.Unix()))
}

func number(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func truth(b []byte, field protowire.Number, v bool) []byte {
	return number(b, field, protowire.EncodeBool(v))
}

func block(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func options(b []byte, field protowire.Number, m map[string]string) []byte {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = block(b, field, block(block(nil, pairKey, []byte(k)), pairValue, []byte(m[k])))
	}
	return b
}

// maxValues bounds what is read of one message: each value becomes an object in memory.
const maxValues = 1 << 18

// A reader takes a message apart.
type reader struct{ left int }

// fields calls fn with each field of a message: n of one that is a number, b of one that is
// bytes. Fields of other types are passed over, as those of later versions.
func (r *reader) fields(b []byte, fn func(field protowire.Number, n uint64, b []byte) error) error {
	for len(b) > 0 {
		if r.left--; r.left < 0 {
			return kiln.Errorf(kiln.TooLarge, "the message has more than %d values", maxValues)
		}
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return broken(n)
		}
		b = b[n:]
		var err error
		switch kind {
		case protowire.VarintType:
			v, k := protowire.ConsumeVarint(b)
			if n = k; n >= 0 {
				err = fn(field, v, nil)
			}
		case protowire.BytesType:
			v, k := protowire.ConsumeBytes(b)
			if n = k; n >= 0 {
				err = fn(field, 0, v)
			}
		case protowire.Fixed32Type, protowire.Fixed64Type:
			n = protowire.ConsumeFieldValue(field, kind, b)
		default: // groups, which nobody sends, may be nested
			return kiln.Errorf(kiln.Invalid, "the message has a field of type %d", kind)
		}
		if n < 0 {
			return broken(n)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func broken(n int) error {
	return kiln.Errorf(kiln.Invalid, "the message is damaged: %w", protowire.ParseError(n))
}

// ParseHeader reads the message of a header. Errors: Invalid, TooLarge.
func ParseHeader(b []byte) (Header, error) {
	r := reader{left: maxValues}
	h := Header{FS: RSYNC}
	err := r.fields(b, func(field protowire.Number, n uint64, b []byte) (err error) {
		switch field {
		case headerFS:
			h.FS = n
		case headerProcesses:
			h.Processes = min(n, criuMost) + criuOffset
		case headerIDs:
			var id IDRange
			id, err = r.ids(b)
			h.IDs = append(h.IDs, id)
		case headerNames:
			h.Names = append(h.Names, string(b))
		case headerSnapshots:
			var s Snapshot
			s, err = r.snapshot(b)
			h.Snapshots = append(h.Snapshots, s)
		case headerFeatures:
			h.Features, err = r.features(b)
		case headerRefresh:
			h.Refresh = n != 0
		}
		return err
	})
	return h, err
}

func (r *reader) ids(b []byte) (id IDRange, err error) {
	return id, r.fields(b, func(field protowire.Number, n uint64, _ []byte) error {
		switch field {
		case idUsers:
			id.Users = n != 0
		case idGroups:
			id.Groups = n != 0
		case idHost:
			id.Host = int64(n)
		case idNS:
			id.NS = int64(n)
		case idCount:
			id.Count = int64(n)
		}
		return nil
	})
}

func (r *reader) features(b []byte) (*Features, error) {
	f := &Features{}
	return f, r.fields(b, func(field protowire.Number, n uint64, _ []byte) error {
		switch field {
		case featureXattrs:
			f.Xattrs = n != 0
		case featureDelete:
			f.Delete = n != 0
		case featureCompress:
			f.Compress = n != 0
		case featureBidirectional:
			f.Bidirectional = n != 0
		case featureLinks:
			f.Links = n != 0
		}
		return nil
	})
}

func (r *reader) snapshot(b []byte) (s Snapshot, err error) {
	s.Config, s.Devices = map[string]string{}, map[string]map[string]string{}
	err = r.fields(b, func(field protowire.Number, n uint64, b []byte) error {
		switch field {
		case snapName:
			s.Name = string(b)
		case snapConfig:
			return r.option(b, s.Config)
		case snapProfiles:
			s.Profiles = append(s.Profiles, string(b))
		case snapEphemeral:
			s.Ephemeral = n != 0
		case snapDevices:
			return r.device(b, s.Devices)
		case snapArch:
			s.Architecture = n
		case snapStateful:
			s.Stateful = n != 0
		case snapCreated:
			s.CreatedAt = moment(n)
		case snapUsed:
			s.LastUsedAt = moment(n)
		case snapExpires:
			s.ExpiresAt = moment(n)
		}
		return nil
	})
	return s, err
}

// lastTime is the last second that has a date in JSON: that of the year 9999.
const lastTime = 253402300799

// moment reads a time, in seconds since 1970. What can't be one is none.
func moment(n uint64) time.Time {
	if s := int64(n); s > 0 && s <= lastTime {
		return time.Unix(s, 0).UTC()
	}
	return time.Time{}
}

func (r *reader) option(b []byte, to map[string]string) error {
	var key, value string
	err := r.fields(b, func(field protowire.Number, _ uint64, b []byte) error {
		switch field {
		case pairKey:
			key = string(b)
		case pairValue:
			value = string(b)
		}
		return nil
	})
	to[key] = value
	return err
}

func (r *reader) device(b []byte, to map[string]map[string]string) error {
	name, device := "", map[string]string{}
	err := r.fields(b, func(field protowire.Number, _ uint64, b []byte) error {
		switch field {
		case pairKey:
			name = string(b)
		case pairValue:
			return r.option(b, device)
		}
		return nil
	})
	to[name] = device
	return err
}

// A Control ends a migration.
type Control struct {
	Success bool
	Message string // why not
}

// Marshal gives the message of a control.
func (c Control) Marshal() []byte {
	return block(truth(nil, controlSuccess, c.Success), controlMessage, []byte(c.Message))
}

// ParseControl reads the message of a control. Errors: Invalid, TooLarge.
func ParseControl(b []byte) (c Control, err error) {
	r := reader{left: maxValues}
	return c, r.fields(b, func(field protowire.Number, n uint64, b []byte) error {
		switch field {
		case controlSuccess:
			c.Success = n != 0
		case controlMessage:
			c.Message = string(b)
		}
		return nil
	})
}
