package instance

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// A Record is all that rows say of an instance: what is kept beside its volume, so that
// the volume is more than files when the database is lost.
type Record struct {
	Instance  db.Instance
	Snapshots []db.Snapshot
	Profiles  []Profile // that the instance and its snapshots use, as they were
}

// The format of a record. Whether the instance runs, and when it was used last, is left
// out: starting one doesn't write its record.
type (
	recordFile struct {
		Version int    `json:"version"`
		Project string `json:"project,omitempty"` // "": the default one
		recordState
		Type      string           `json:"type,omitempty"`
		Snapshots []recordSnapshot `json:"snapshots,omitempty"`
		Contents  []recordProfile  `json:"profile_contents,omitempty"`
	}
	recordState struct {
		Name         string                       `json:"name"`
		Architecture string                       `json:"architecture"`
		Description  string                       `json:"description,omitempty"`
		Ephemeral    bool                         `json:"ephemeral,omitempty"`
		CreatedAt    time.Time                    `json:"created_at"`
		Base         kiln.Fingerprint             `json:"base"` // zero: no image
		Config       map[string]string            `json:"config"`
		Devices      map[string]map[string]string `json:"devices"`
		Profiles     []string                     `json:"profiles"`
	}
	recordSnapshot struct {
		recordState
		Files      string    `json:"files"` // names them in the pool
		ExpiresAt  time.Time `json:"expires_at"`
		LastUsedAt time.Time `json:"last_used_at"`
	}
	recordProfile struct {
		Name        string                       `json:"name"`
		Description string                       `json:"description,omitempty"`
		Config      map[string]string            `json:"config"`
		Devices     map[string]map[string]string `json:"devices"`
	}
)

// mostIndented is how many bytes of a record are indented for people: it makes one of many
// short values twice as large.
const mostIndented = 1 << 20

// recordVersion is that of the format.
const recordVersion = 1

// Encode gives a record as bytes: the same ones for the same record.
func (r Record) Encode() ([]byte, error) {
	var b bytes.Buffer
	err := writeRecord(&b, r.Instance, theseSnapshots(r.Snapshots), func() []Profile { return r.Profiles })
	return b.Bytes(), err
}

// someSnapshots calls add with each of some snapshots, as long as that gives no error.
type someSnapshots func(add func(db.Snapshot) error) error

func theseSnapshots(list []db.Snapshot) someSnapshots {
	return func(add func(db.Snapshot) error) error {
		for _, s := range list {
			if err := add(s); err != nil {
				return err
			}
		}
		return nil
	}
}

// writeRecord writes a record with one snapshot after the other, as snapshots gives them:
// those of an instance may be large together. profiles is asked for when all were given.
func writeRecord(w io.Writer, i db.Instance, snapshots someSnapshots, profiles func() []Profile) error {
	f := recordFile{Version: recordVersion, Project: i.Project, Type: i.Type, recordState: recordState{
		Name: i.Name, Architecture: i.Architecture, Description: i.Description, Ephemeral: i.Ephemeral,
		CreatedAt: i.CreatedAt, Base: i.Base, Config: i.Config, Devices: i.Devices, Profiles: i.Profiles,
	}}
	if f.Project == project.Default {
		f.Project = ""
	}
	out := indenting{w: w}
	head, err := json.Marshal(f) // which ends where the snapshots begin
	if err == nil {
		err = out.write(head[:len(head)-1])
	}
	if err != nil {
		return err
	}
	before := `,"snapshots":[`
	if err := snapshots(func(s db.Snapshot) error {
		b, err := json.Marshal(recordSnapshot{Files: s.Files, ExpiresAt: s.ExpiresAt, LastUsedAt: s.LastUsedAt,
			recordState: recordState{
				Name: s.Name, Architecture: s.Architecture, Description: s.Description, Ephemeral: s.Ephemeral,
				CreatedAt: s.CreatedAt, Base: s.Base, Config: s.Config, Devices: s.Devices, Profiles: s.Profiles,
			}})
		if err == nil {
			err = out.write([]byte(before), b)
		}
		before = ","
		return err
	}); err != nil {
		return err
	}
	end := ""
	if before == "," {
		end = "]"
	}
	var contents []recordProfile
	for _, p := range profiles() {
		contents = append(contents, recordProfile{p.Name, p.Description, p.Config, p.Devices})
	}
	if contents != nil {
		b, err := json.Marshal(contents)
		if err != nil {
			return err
		}
		end += `,"profile_contents":` + string(b)
	}
	if err := out.write([]byte(end + "}")); err != nil {
		return err
	}
	return out.end()
}

// indenting writes JSON, which is indented for people unless it is large.
type indenting struct {
	w     io.Writer
	held  bytes.Buffer // all of it, as long as that is little
	large bool
}

func (o *indenting) write(parts ...[]byte) error {
	for _, b := range parts {
		if !o.large && o.held.Len()+len(b) > mostIndented {
			o.large = true
			if _, err := o.held.WriteTo(o.w); err != nil {
				return err
			}
		}
		to := io.Writer(&o.held)
		if o.large {
			to = o.w
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func (o *indenting) end() error {
	if o.large {
		return nil
	}
	var b bytes.Buffer
	if err := json.Indent(&b, o.held.Bytes(), "", " "); err != nil {
		return err
	}
	_, err := b.WriteTo(o.w)
	return err
}

// ParseRecord reads what Encode wrote. Errors: Integrity for what can't be a record,
// Unsupported for one that a newer kiln wrote.
func ParseRecord(b []byte) (Record, error) {
	var f recordFile
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&f); err != nil {
		return Record{}, kiln.Errorf(kiln.Integrity, "the record can't be read: %w", err)
	}
	if _, err := d.Token(); err != io.EOF { //nolint:errorlint // the decoder gives it as it is
		return Record{}, kiln.Errorf(kiln.Integrity, "something follows the record")
	}
	if f.Version != recordVersion {
		return Record{}, kiln.Errorf(kiln.Unsupported, "the record has version %d, this kiln knows %d", f.Version,
			recordVersion)
	}
	if f.Type != "container" {
		return Record{}, kiln.Errorf(kiln.Unsupported, "the record is of a %q", f.Type)
	}
	if err := f.check(kiln.CheckInstanceName); err != nil {
		return Record{}, err
	}
	f.Project = cmp.Or(f.Project, project.Default)
	if err := kiln.CheckProjectName(f.Project); err != nil {
		return Record{}, kiln.Errorf(kiln.Integrity, "the record names a project that can't be: %w", err)
	}
	r := Record{Instance: db.Instance{
		Project: f.Project, Name: f.Name, Type: f.Type, Architecture: f.Architecture, Description: f.Description,
		Ephemeral: f.Ephemeral,
		CreatedAt: f.CreatedAt, Base: f.Base, Config: f.Config, Devices: f.Devices, Profiles: f.Profiles,
	}}
	seen := map[string]bool{}
	for _, s := range f.Snapshots {
		if err := s.check(kiln.CheckSnapshotName); err != nil {
			return Record{}, err
		}
		if s.Files == "" || seen[s.Name] || seen["/"+s.Files] {
			return Record{}, kiln.Errorf(kiln.Integrity, "the record has snapshot %q twice, or without files", s.Name)
		}
		seen[s.Name], seen["/"+s.Files] = true, true
		r.Snapshots = append(r.Snapshots, db.Snapshot{
			Name: s.Name, Files: s.Files, CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt, LastUsedAt: s.LastUsedAt,
			Architecture: s.Architecture, Description: s.Description, Ephemeral: s.Ephemeral, Base: s.Base,
			Config: s.Config, Devices: s.Devices, Profiles: s.Profiles,
		})
	}
	for _, p := range f.Contents {
		if err := CheckProfileName(p.Name); err != nil {
			return Record{}, err
		}
		r.Profiles = append(r.Profiles, Profile{Name: p.Name, Description: p.Description, Config: p.Config,
			Devices: p.Devices})
	}
	return r, nil
}

// Recorded gives the record that is beside a volume. Errors: NotFound, and Integrity,
// TooLarge or Unsupported for one that can't be used.
func Recorded(pool *volume.Pool, uuid string) (Record, error) {
	b, err := pool.Note(uuid)
	return recordOf(uuid, b, err)
}

// ReadRecord is Recorded for the directory of a pool, which others may be using.
func ReadRecord(dir, uuid string) (Record, error) {
	b, err := volume.ReadNote(dir, uuid)
	return recordOf(uuid, b, err)
}

// recordOf reads what a volume's record has, unless there was an error before.
func recordOf(uuid string, b []byte, err error) (Record, error) {
	if err != nil {
		return Record{}, err
	}
	r, err := ParseRecord(b)
	if err == nil && r.Instance.Config[UUIDKey] != uuid {
		err = kiln.Errorf(kiln.Integrity, "the record is of the volume %q", r.Instance.Config[UUIDKey])
	}
	return r, err
}

// Differing names what isn't the same of two rows of an instance, of what users see of it.
func Differing(a, b db.Instance) []string {
	var names []string
	add := func(name string, same bool) {
		if !same {
			names = append(names, name)
		}
	}
	add("name", a.Name == b.Name && a.Project == b.Project)
	add("description", a.Description == b.Description)
	add("ephemeral", a.Ephemeral == b.Ephemeral)
	add("profiles", slices.Equal(a.Profiles, b.Profiles))
	for _, key := range keysOf(a.Config, b.Config) {
		add(key, a.Config[key] == b.Config[key] || strings.HasPrefix(key, volatilePrefix))
	}
	for _, name := range keysOf(a.Devices, b.Devices) {
		add("device "+name, maps.Equal(a.Devices[name], b.Devices[name]))
	}
	return names
}

// keysOf gives the keys of two maps, sorted.
func keysOf[V any](a, b map[string]V) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// RecordedIn says what the records in the directory of a pool know of volumes and of the
// files of snapshots: "instance c1", "snapshot c1/s0". Those that can't be read know
// nothing.
func RecordedIn(dir string) map[string]string {
	about := map[string]string{}
	names, _ := volume.Notes(dir)
	for _, uuid := range names {
		b, err := volume.ReadNote(dir, uuid)
		if err != nil {
			continue
		}
		r, err := ParseRecord(b)
		if err != nil {
			continue
		}
		about[uuid] = "instance " + r.Instance.Name
		for _, s := range r.Snapshots {
			about[s.Files] = "snapshot " + r.Instance.Name + "/" + s.Name
		}
	}
	return about
}

// check says whether a state can be one of an instance or a snapshot, whose name a
// function checks. The error is Integrity. Values that this kiln wouldn't take today
// stay: they are looked at when the instance is started.
func (s recordState) check(name func(string) error) error {
	if err := name(s.Name); err != nil {
		return kiln.Errorf(kiln.Integrity, "the record names a %q, which can't be: %w", s.Name, err)
	}
	if _, err := kiln.ParseArch(s.Architecture); err != nil {
		return kiln.Errorf(kiln.Integrity, "the record of %q: %w", s.Name, err)
	}
	for _, p := range s.Profiles {
		if err := CheckProfileName(p); err != nil {
			return err
		}
	}
	return nil
}

// CheckProfileName says whether a record may name a profile so. The error is Integrity.
func CheckProfileName(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsAny(name, "/\x00\n") {
		return kiln.Errorf(kiln.Integrity, "the record names a profile %q, which can't be", name)
	}
	return nil
}
