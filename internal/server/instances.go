package server

import (
	"bufio"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/filter"
	"github.com/kiln-containers/kiln/internal/format"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/template"
)

func instancePut(i instance.Instance) api.InstancePut {
	return api.InstancePut{
		Architecture: i.Architecture, Config: orEmpty(i.Options), Devices: orEmpty(i.Devices), Ephemeral: i.Ephemeral,
		Profiles: orNone(i.Profiles), Description: i.Description,
	}
}

func wireInstance(i instance.Instance) api.Instance {
	return api.Instance{
		InstancePut: instancePut(i), CreatedAt: i.CreatedAt, ExpandedConfig: orEmpty(i.ExpandedConfig),
		ExpandedDevices: orEmpty(i.ExpandedDevices),
		Name:            i.Name, Status: i.Status.String(), StatusCode: int(i.Status), LastUsedAt: lastUsed(i.LastUsedAt),
		Problem:  i.Problem,
		Location: "none",
		Type:     i.Type, Project: i.Project,
	}
}

// lastUsed has the first second of 1970 for an instance that never ran, as LXD does.
func lastUsed(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return t
}

func config(p api.InstancePut) instance.Config {
	return instance.Config{Description: p.Description, Ephemeral: p.Ephemeral, Profiles: p.Profiles, Options: p.Config,
		Devices: p.Devices}
}

func (s *Server) getInstances(w http.ResponseWriter, r *http.Request) (any, error) {
	f, err := filter.Parse(r.URL.Query().Get("filter"))
	if err != nil {
		return nil, err
	}
	all, err := s.d.Instances(r.Context())
	if err != nil {
		return nil, err
	}
	var snapshots *instance.AllSnapshots
	var backups map[string][]backup.Stored
	if recursion(r) > 1 {
		if snapshots, err = s.d.AllSnapshots(r.Context(), ""); err != nil {
			return nil, err
		}
		if backups, err = s.d.AllBackups(); err != nil {
			return nil, err
		}
	}
	return long(func(w *bufio.Writer) error {
		list := array{w: w}
		for _, i := range all {
			o := wireInstance(i)
			if !f.Empty() && !f.Match(fields(o)) {
				continue
			}
			var err error
			switch recursion(r) {
			case 0:
				err = list.add(inURL("/1.0/instances/"+i.Name, i.Project))
			case 1:
				err = list.add(o)
			default:
				one := s.fullInstance(r, i, o, backups[instance.BackupsOf(i.Options)])
				if err = list.next(); err == nil {
					err = writeFull(w, one, snapshotsOf(r, snapshots, i))
				}
			}
			if err != nil {
				return err
			}
		}
		return list.end()
	}), nil
}

// snapshotsOf gives the snapshots of an instance as they are on the wire, one after another.
func snapshotsOf(r *http.Request, all *instance.AllSnapshots, i instance.Instance) func(
	func(api.InstanceSnapshot) error) error {
	return func(f func(api.InstanceSnapshot) error) error {
		return all.Each(r.Context(), db.Name{Project: i.Project, Name: i.Name}, func(s instance.Snapshot) error {
			return f(wireSnapshot(s))
		})
	}
}

// fullInstance gives an instance with all that belongs to it, but for its snapshots.
func (s *Server) fullInstance(r *http.Request, i instance.Instance, o api.Instance, backups []backup.Stored,
) api.InstanceFull {
	st := wireState(s.d.StateOf(r.Context(), i))
	return api.InstanceFull{Instance: o, State: &st, Backups: wired(backups, wireBackup)}
}

func wireState(st instance.State) api.InstanceState {
	out := api.InstanceState{
		Status: st.Status.String(), StatusCode: int(st.Status), PID: int64(st.PID), Processes: st.Usage.Processes,
		CPU: api.InstanceStateCPU{Usage: st.Usage.CPUNanoseconds},
		Memory: api.InstanceStateMemory{Usage: st.Usage.MemoryBytes, UsagePeak: st.Usage.MemoryPeakBytes,
			SwapUsage: st.Usage.SwapBytes},
		Disk:    map[string]api.InstanceStateDisk{"root": {Usage: st.DiskUsage}},
		Network: map[string]api.InstanceStateNetwork{},
	}
	for _, n := range st.Network {
		out.Network[n.Name] = wireInterface(n)
	}
	return out
}

func (s *Server) getInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	i, err := s.d.Instance(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	o := wireInstance(i)
	if recursion(r) > 0 {
		snapshots, err := s.d.AllSnapshots(r.Context(), i.Name)
		if err != nil {
			return nil, err
		}
		of, err := s.d.InstanceBackups(r.Context(), i.Name)
		if err != nil {
			return nil, err
		}
		backups, err := of.List()
		if err != nil {
			return nil, err
		}
		full := s.fullInstance(r, i, o, backups)
		return tagged{long(func(w *bufio.Writer) error {
			return writeFull(w, full, snapshotsOf(r, snapshots, i))
		}), instancePut(i)}, nil
	}
	return tagged{o, instancePut(i)}, nil
}

func (s *Server) postInstances(w http.ResponseWriter, r *http.Request) (any, error) {
	if isFile(r) {
		return s.postBackupFile(w, r)
	}
	var post api.InstancesPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	src := post.Source
	if src.Server == "" && src.Mode == "pull" && src.Type == "image" {
		return nil, kiln.Errorf(kiln.Invalid, "the source says to pull the image, but not from which server")
	}
	if src.Type == "copy" && src.Server == "" && src.Project != "" && !callerOf(r).mayUse(src.Project) {
		return nil, noProject(src.Project)
	}
	size, err := instance.SizeOptions(post.InstanceType)
	if err != nil {
		return nil, err
	}
	if size != nil {
		maps.Copy(size, post.Config) // what is said by itself wins
		post.Config = size
	}
	spec := daemon.CreateSpec{
		Name: post.Name, Type: post.Type, Architecture: post.Architecture, Start: post.Start,
		Config: config(post.InstancePut),
		Source: source(src),
	}
	if src.Type == "migration" {
		return s.awaitInstance(r, spec, src)
	}
	return s.d.CreateInstance(r.Context(), spec)
}

func source(src api.InstanceSource) daemon.Source {
	return daemon.Source{
		Type: src.Type, Alias: src.Alias, Fingerprint: src.Fingerprint, Properties: src.Properties, Instance: src.Source,
		Only:   src.InstanceOnly || src.ContainerOnly,
		Remote: remoteOf(src.Server, src.Protocol, src.Certificate, src.RemoteAccess), Secret: src.Secret,
		Project: src.Project, Offline: src.Offline, HostAccess: src.HostAccess, Refresh: src.Refresh,
	}
}

// rebuildInstance makes the root filesystem of an instance anew.
func (s *Server) rebuildInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.InstanceRebuildPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if t := post.Source.Type; t != "" && t != "image" && t != "none" {
		return nil, kiln.Errorf(kiln.Unsupported, "an instance is rebuilt from an image or from nothing (none), not from a "+
			"source of type %q", t)
	}
	return s.d.RebuildInstance(r.Context(), r.PathValue("name"), source(post.Source), post.Force)
}

func (s *Server) putInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.InstancePut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	if put.Restore != "" {
		audit.Note(r.Context(), "snapshot", put.Restore)
		return s.d.RestoreSnapshot(r.Context(), r.PathValue("name"), put.Restore)
	}
	warnings, err := s.changeInstance(r, func(api.InstancePut) api.InstancePut { return put })
	if err != nil {
		return nil, err
	}
	return s.d.Done(r.Context(), "Updating instance", r.PathValue("name"), warned(warnings)), nil
}

func (s *Server) patchInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Config      map[string]string
		Devices     map[string]map[string]string
		Profiles    *[]string
		Description *string
		Ephemeral   *bool
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	warnings, err := s.changeInstance(r, func(p api.InstancePut) api.InstancePut {
		set(&p.Profiles, change.Profiles)
		set(&p.Description, change.Description)
		set(&p.Ephemeral, change.Ephemeral)
		p.Config = merged(p.Config, change.Config)
		p.Devices = maps.Clone(p.Devices)
		maps.Copy(p.Devices, change.Devices)
		return p
	})
	return warned(warnings), err
}

func (s *Server) changeInstance(r *http.Request, change func(api.InstancePut) api.InstancePut) ([]string, error) {
	return s.d.UpdateInstance(r.Context(), r.PathValue("name"), func(i instance.Instance) (instance.Config, error) {
		if err := checkETag(r, instancePut(i)); err != nil {
			return instance.Config{}, err
		}
		return config(change(instancePut(i))), nil
	})
}

func (s *Server) postInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.InstancePost
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	if to.Project != "" && !callerOf(r).mayUse(to.Project) {
		return nil, noProject(to.Project)
	}
	if to.Project != "" {
		return s.d.MoveInstance(r.Context(), r.PathValue("name"), to.Project, to.Name, to.Profiles)
	}
	if to.Migration {
		return s.sendInstance(r, r.PathValue("name"), to)
	}
	return s.d.RenameInstance(r.Context(), r.PathValue("name"), to.Name)
}

func (s *Server) deleteInstance(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.d.DeleteUnchanged(r.Context(), r.PathValue("name"), r.URL.Query().Get("state"))
}

func (s *Server) getState(w http.ResponseWriter, r *http.Request) (any, error) {
	st, err := s.d.InstanceState(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return wireState(st), nil
}

func (s *Server) putState(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.InstanceStatePut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	if put.Stateful {
		return nil, kiln.Errorf(kiln.Unsupported, "stateful stops and starts are not supported; kiln is stateless")
	}
	if most := int(instance.MostStop / time.Second); put.Timeout > most {
		return nil, kiln.Errorf(kiln.Invalid, "a timeout is at most %d seconds: nobody else can work on the instance until "+
			"then", most)
	}
	// -1 is what clients send for "no timeout given".
	timeout := time.Duration(max(put.Timeout, 0)) * time.Second
	return s.d.SetInstanceState(r.Context(), r.PathValue("name"), put.Action, timeout, put.Force)
}

func wireInterface(n box.Interface) api.InstanceStateNetwork {
	out := api.InstanceStateNetwork{
		Addresses: []api.InstanceStateNetworkAddress{}, Hwaddr: n.HardwareAddr.String(), Mtu: n.MTU, State: "down",
		Type: "broadcast",
		Counters: api.InstanceStateNetworkCounters{BytesReceived: n.BytesIn, BytesSent: n.BytesOut,
			PacketsReceived: n.PacketsIn, PacketsSent: n.PacketsOut},
	}
	if n.Up() {
		out.State = "up"
	}
	if n.Loopback() {
		out.Type = "loopback"
	}
	for _, a := range n.Addresses {
		out.Addresses = append(out.Addresses, wireAddress(a))
	}
	return out
}

func (s *Server) getLogs(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	files, err := s.d.InstanceLogs(r.Context(), name)
	urls := []string{}
	for _, f := range files {
		urls = append(urls, inURL("/1.0/instances/"+name+"/logs/"+f, project.Name(r.Context())))
	}
	return urls, err
}

func (s *Server) getLog(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.sendLog(w, r, r.PathValue("file"))
}

func (s *Server) deleteLog(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteInstanceLog(r.Context(), r.PathValue("name"), r.PathValue("file"))
}

func (s *Server) sendLog(w http.ResponseWriter, r *http.Request, file string) (any, error) {
	f, err := s.d.OpenInstanceLog(r.Context(), r.PathValue("name"), file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	_, err = io.Copy(w, f)
	if err != nil {
		s.log.Debug("send a log", "err", err)
	}
	return handled{}, nil
}

func wireMetadata(m *format.Metadata) api.ImageMetadata {
	out := api.ImageMetadata{
		Architecture: m.Architecture, CreationDate: m.CreationDate, ExpiryDate: m.ExpiryDate,
		Properties: orEmpty(m.Properties), Templates: map[string]*api.ImageMetadataTemplate{},
	}
	for path, t := range m.Templates {
		out.Templates[path] = &api.ImageMetadataTemplate{
			When: t.When, CreateOnly: t.CreateOnly, Template: t.Template, Properties: orEmpty(t.Properties), UID: t.UID,
			GID: t.GID, Mode: t.Mode,
		}
	}
	return out
}

func metadata(a api.ImageMetadata) *format.Metadata {
	m := &format.Metadata{Architecture: a.Architecture, CreationDate: a.CreationDate, ExpiryDate: a.ExpiryDate,
		Properties: a.Properties, Templates: map[string]*format.Template{}}
	for path, t := range a.Templates {
		if t != nil {
			m.Templates[path] = &format.Template{When: t.When, CreateOnly: t.CreateOnly, Template: t.Template,
				Properties: t.Properties, UID: t.UID, GID: t.GID, Mode: t.Mode}
		}
	}
	return m
}

func (s *Server) getMetadata(w http.ResponseWriter, r *http.Request) (any, error) {
	m, err := s.d.InstanceMetadata(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return tagged{wireMetadata(m), wireMetadata(m)}, nil
}

func (s *Server) putMetadata(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.changeMetadata(r, false)
}

func (s *Server) patchMetadata(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.changeMetadata(r, true)
}

// changeMetadata decodes the request over nothing, or over what there is.
func (s *Server) changeMetadata(r *http.Request, over bool) error {
	var sent json.RawMessage // all of it, before the instance is kept from others
	if err := readJSON(r, &sent); err != nil {
		return err
	}
	return s.d.EditInstanceMetadata(r.Context(), r.PathValue("name"), func(m *format.Metadata) (*format.Metadata, error) {
		now := wireMetadata(m)
		if err := checkETag(r, now); err != nil {
			return nil, err
		}
		if !over {
			now = api.ImageMetadata{}
		}
		if err := decode(sent, maxJSON, &now); err != nil {
			return nil, err
		}
		return metadata(now), nil
	})
}

func (s *Server) getTemplates(w http.ResponseWriter, r *http.Request) (any, error) {
	name, file := r.PathValue("name"), r.URL.Query().Get("path")
	if file == "" {
		return s.d.Templates(r.Context(), name)
	}
	b, err := s.d.Template(r.Context(), name, file)
	if err != nil {
		return nil, err
	}
	w.Header().Set("ETag", `"`+etag(string(b))+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := w.Write(b); err != nil {
		s.log.Debug("send a template", "err", err)
	}
	return handled{}, nil
}

func (s *Server) postTemplate(w http.ResponseWriter, r *http.Request) (any, error) {
	b, err := readBody(r, template.MaxSource)
	if err != nil {
		return nil, err
	}
	return nil, s.d.SetTemplate(r.Context(), r.PathValue("name"), r.URL.Query().Get("path"), b, sameTemplate(r))
}

func (s *Server) deleteTemplate(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteTemplate(r.Context(), r.PathValue("name"), r.URL.Query().Get("path"), sameTemplate(r))
}

// sameTemplate gives what compares a template with the one that the request wants to change.
func sameTemplate(r *http.Request) func([]byte) error {
	return func(now []byte) error { return checkETag(r, string(now)) }
}
