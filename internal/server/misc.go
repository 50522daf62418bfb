package server

import (
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/filter"
	"github.com/kiln-containers/kiln/internal/trust"
)

// extensions are the additions to the first 1.0 API that this server has. The
// ones of kiln's own begin with its name.
var extensions = []string{
	"etag", "patch", "instances", "container_full", "instance_get_full", "instance_all_projects", "projects",
	"image_create_aliases", "images_expiry", "image_profiles", "image_types", "images_default_architecture",
	"images_all_projects", "image_import_alias",
	"container_exec_recording", "container_exec_user_group_cwd", "container_exec_signal_handling",
	"container_edit_metadata", "console",
	"container_last_used_at", "container_copy_project", "api_filtering", "storage", "network", "profile_usedby",
	"entity_description",
	"operation_description", "event_lifecycle", "operation_wait", "instance_create_start", "image_template_permissions",
	"certificate_update", "certificate_token", "certificate_project", "certificate_description", "explicit_trust_token",
	"images_push_relay", "image_force_refresh",
	"snapshot_scheduling", "snapshot_schedule_aliases", "snapshot_expiry", "snapshot_expiry_creation",
	"snapshot_disk_usage", "container_only_migration",
	"kiln_error_kind", "kiln_image_aliases", "kiln_image_verify", "kiln_image_df", "kiln_shutdown", "kiln_image_files",
	"kiln_image_kept", "kiln_image_prune", "kiln_remotes", "kiln_mirrors", "kiln_image_delta", "kiln_alias_history",
	"kiln_alias_rollback", "kiln_publish_machine_id",
	"kiln_image_diff", "instances_rebuild", "image_compression_algorithm", "instance_publish_split", "kiln_publish",
	"kiln_image_estimate",
	"kiln_instance_copy",
}

func (s *Server) root(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.URL.Path != "/" {
		return nil, kiln.Errorf(kiln.NotFound, "not found: there is no %s", r.URL.Path)
	}
	return []string{"/1.0"}, nil
}

func (s *Server) notYet(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, kiln.Errorf(kiln.Unsupported, "%s %s is not supported by this version of kiln", r.Method, r.URL.Path)
}

func (s *Server) emptyList(w http.ResponseWriter, r *http.Request) (any, error) {
	return []string{}, nil
}

// emptyOf is the list of something that instances don't have yet.
func (s *Server) emptyOf(w http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := s.d.Instance(r.Context(), r.PathValue("name")); err != nil {
		return nil, err
	}
	return []string{}, nil
}

func (s *Server) settings(r *http.Request) (map[string]any, error) {
	set, err := s.d.Settings(r.Context())
	config := map[string]any{}
	for k, v := range set {
		config[k] = v
		if v == "true" && k == "core.trust_password" {
			config[k] = true
		}
	}
	return config, err
}

func (s *Server) getServer(w http.ResponseWriter, r *http.Request) (any, error) {
	config, err := s.settings(r)
	if err != nil {
		return nil, err
	}
	e := s.d.Environment()
	if !callerOf(r).trusted {
		return api.UntrustedServer{APIExtensions: extensions, APIStatus: "stable", APIVersion: "1.0", Auth: "untrusted",
			AuthMethods: []string{"tls"}}, nil
	}
	cert := s.d.Certificate().Leaf
	return tagged{api.Server{
		Config: config, APIExtensions: extensions, APIStatus: "stable", APIVersion: "1.0", Auth: "trusted",
		AuthMethods: []string{"tls"},
		Environment: &api.Environment{
			Addresses: s.d.Addresses(), Certificate: trust.PEM(cert), CertificateFingerprint: trust.Fingerprint(cert),
			Architectures: e.Architectures, Driver: "lxc", DriverVersion: e.RuntimeVersion,
			Kernel: e.Kernel, KernelArchitecture: e.HostArch, KernelVersion: e.KernelVersion,
			KernelFeatures: map[string]string{}, LXCFeatures: map[string]string{}, OSName: e.OSName, OSVersion: e.OSVersion,
			Project: defaultProject, Server: "kiln", ServerEventMode: "full-mesh", ServerName: e.Hostname,
			ServerPID:     os.Getpid(),
			ServerVersion: e.Version, Storage: "overlay", StorageVersion: "1",
			StorageDrivers: []api.StorageDriverInfo{{Name: "overlay", Version: "1"}},
		},
	}, config}, nil
}

func (s *Server) putServer(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.changeServer(r, true)
}

func (s *Server) patchServer(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.changeServer(r, false)
}

func (s *Server) changeServer(r *http.Request, replace bool) error {
	var put api.ServerPut
	if err := readJSON(r, &put); err != nil {
		return err
	}
	old, err := s.settings(r)
	if err != nil {
		return err
	}
	if err := checkETag(r, old); err != nil {
		return err
	}
	change := map[string]string{}
	for k, v := range put.Config {
		text, ok := v.(string)
		if b, isBool := v.(bool); isBool {
			text, ok = strconv.FormatBool(b), true
		}
		if !ok {
			return kiln.Errorf(kiln.Invalid, "the value of %q is not a text", k)
		}
		change[k] = text
	}
	return s.d.SetSettings(r.Context(), change, replace)
}

func (s *Server) postShutdown(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.d.Shutdown(r.Context()); err != nil {
		return nil, err
	}
	s.shutdown()
	return nil, nil
}

// list answers with URLs or with objects, and lets the request's filter choose.
func list[T any](r *http.Request, all []T, url func(T) string) (any, error) {
	f, err := filter.Parse(r.URL.Query().Get("filter"))
	if err != nil {
		return nil, err
	}
	objects, urls := []T{}, []string{}
	for _, o := range all {
		if !f.Empty() && !f.Match(fields(o)) {
			continue
		}
		objects, urls = append(objects, o), append(urls, url(o))
	}
	if recursion(r) == 0 {
		return urls, nil
	}
	return objects, nil
}

func profile(p daemon.Profile) api.Profile {
	used := []string{}
	for _, n := range p.UsedBy {
		used = append(used, "/1.0/instances/"+n)
	}
	return api.Profile{Name: p.Name, Description: p.Description, Config: orEmpty(p.Config), Devices: orEmpty(p.Devices),
		UsedBy: used}
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

func orNone(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func (s *Server) getProfiles(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Profiles(r.Context())
	if err != nil {
		return nil, err
	}
	profiles := []api.Profile{}
	for _, p := range all {
		profiles = append(profiles, profile(p))
	}
	return list(r, profiles, func(p api.Profile) string { return "/1.0/profiles/" + p.Name })
}

func (s *Server) postProfiles(w http.ResponseWriter, r *http.Request) (any, error) {
	var p api.ProfilesPost
	if err := readJSON(r, &p); err != nil {
		return nil, err
	}
	err := s.d.CreateProfile(r.Context(), db.Profile{Name: p.Name, Description: p.Description, Config: p.Config,
		Devices: p.Devices})
	return created("/1.0/profiles/" + segment(p.Name)), err
}

// profilePut is what a profile's ETag stands for.
func profilePut(p daemon.Profile) api.ProfilePut {
	return api.ProfilePut{Description: p.Description, Config: orEmpty(p.Config), Devices: orEmpty(p.Devices)}
}

func (s *Server) getProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	p, err := s.d.Profile(r.Context(), r.PathValue("name"))
	return tagged{profile(p), profilePut(p)}, err
}

func (s *Server) putProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.ProfilePut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.changeProfile(r, func(api.ProfilePut) api.ProfilePut { return put })
}

func (s *Server) patchProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Description *string
		Config      map[string]string
		Devices     map[string]map[string]string
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	return nil, s.changeProfile(r, func(p api.ProfilePut) api.ProfilePut {
		if change.Description != nil {
			p.Description = *change.Description
		}
		p.Config = merged(p.Config, change.Config)
		maps.Copy(p.Devices, change.Devices)
		return p
	})
}

// merged lays changes over a map; an empty value removes a key.
func merged(m, change map[string]string) map[string]string {
	out := maps.Clone(orEmpty(m))
	maps.Copy(out, change)
	maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
	return out
}

func (s *Server) changeProfile(r *http.Request, change func(api.ProfilePut) api.ProfilePut) error {
	p, err := s.d.Profile(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if err := checkETag(r, profilePut(p)); err != nil {
		return err
	}
	put := change(profilePut(p))
	return s.d.UpdateProfile(r.Context(), db.Profile{Name: p.Name, Description: put.Description, Config: put.Config,
		Devices: put.Devices})
}

func (s *Server) postProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.Rename
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	return created("/1.0/profiles/" + segment(to.Name)), s.d.RenameProfile(r.Context(), r.PathValue("name"), to.Name)
}

func (s *Server) deleteProfile(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteProfile(r.Context(), r.PathValue("name"))
}

func theProject() api.Project {
	return api.Project{Name: defaultProject, Description: "Default kiln project", UsedBy: []string{},
		Config: map[string]string{
			"features.images": "true", "features.profiles": "true", "features.networks": "true",
			"features.storage.volumes": "true",
		}}
}

func (s *Server) getProjects(w http.ResponseWriter, r *http.Request) (any, error) {
	return list(r, []api.Project{theProject()}, func(p api.Project) string { return "/1.0/projects/" + p.Name })
}

func (s *Server) getProject(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.PathValue("name") != defaultProject {
		return nil, kiln.Errorf(kiln.NotFound, "Project not found")
	}
	return tagged{theProject(), theProject().Config}, nil
}

func networks() ([]api.Network, error) {
	interfaces, err := net.Interfaces()
	all := []api.Network{}
	for _, i := range interfaces {
		kind := "physical"
		if i.Flags&net.FlagLoopback != 0 {
			kind = "loopback"
		}
		all = append(all, api.Network{Name: i.Name, Type: kind, Config: map[string]string{}, UsedBy: []string{},
			Locations: []string{"none"}})
	}
	return all, err
}

func (s *Server) getNetworks(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := networks()
	if err != nil {
		return nil, err
	}
	return list(r, all, func(n api.Network) string { return "/1.0/networks/" + n.Name })
}

func (s *Server) getNetwork(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := networks()
	for _, n := range all {
		if n.Name == r.PathValue("name") {
			return n, nil
		}
	}
	if err == nil {
		err = kiln.Errorf(kiln.NotFound, "Network not found")
	}
	return nil, err
}

func thePool() api.StoragePool {
	return api.StoragePool{Name: "default", Description: "Default kiln pool", Driver: "overlay", Status: "Created",
		Config: map[string]string{}, UsedBy: []string{"/1.0/profiles/default"}, Locations: []string{"none"}}
}

func (s *Server) getPools(w http.ResponseWriter, r *http.Request) (any, error) {
	return list(r, []api.StoragePool{thePool()}, func(p api.StoragePool) string { return "/1.0/storage-pools/" + p.Name })
}

func (s *Server) getPool(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.PathValue("name") != "default" {
		return nil, kiln.Errorf(kiln.NotFound, "Storage pool not found")
	}
	return tagged{thePool(), thePool().Config}, nil
}

func (s *Server) getPoolResources(w http.ResponseWriter, r *http.Request) (any, error) {
	st, err := s.d.PoolUsage()
	block := uint64(st.Bsize)
	return api.StoragePoolResources{
		Space:  api.ResourceUse{Used: (st.Blocks - st.Bfree) * block, Total: st.Blocks * block},
		Inodes: api.ResourceUse{Used: st.Files - st.Ffree, Total: st.Files},
	}, err
}
