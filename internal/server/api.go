package server

import (
	"net/http"
	"os"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/hardware"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/trust"
)

// extensions are the additions to the first 1.0 API that this server has. The
// ones of kiln's own begin with its name.
var extensions = []string{
	"etag", "patch", "instances", "container_full", "instance_get_full", "instance_all_projects", "projects",
	"image_create_aliases", "images_expiry", "image_profiles", "image_types", "images_default_architecture",
	"images_all_projects", "image_import_alias",
	"container_exec_recording", "container_exec_user_group_cwd", "container_exec_signal_handling",
	"container_edit_metadata", "console", "console_force",
	"container_last_used_at", "container_copy_project", "api_filtering", "storage", "network", "network_leases",
	"network_state", "network_forward", "network_types", "instance_nic_network", "profile_usedby",
	"proxy", "proxy_udp", "proxy_unix", "proxy_tcp_udp_multi_port_handling", "proxy_nat", "proxy_priv_drop",
	"proxy_unix_dac_properties", "proxy_haproxy_protocol",
	"entity_description", "devlxd_events", "devlxd_images", "instance_ready_state", "resources", "resources_v2",
	"operation_description", "event_lifecycle", "operation_wait", "instance_create_start", "image_template_permissions",
	"project_usage", "instance_project_move", "warnings", "metrics",
	"certificate_update", "certificate_token", "certificate_project", "certificate_description", "explicit_trust_token",
	"images_push_relay", "image_force_refresh",
	"snapshot_scheduling", "snapshot_schedule_aliases", "snapshot_expiry", "snapshot_expiry_creation",
	"snapshot_disk_usage", "container_only_migration", "container_push", "container_push_target",
	"container_incremental_copy",
	"directory_manipulation", "file_append", "file_delete", "file_symlinks", "file_get_symlink", "instance_sftp",
	"instances_files_modify_permissions",
	"container_backup", "backup_compression", "backup_compression_algorithm", "container_backup_override_pool",
	"backup_override_name", "kiln_instance_backup", "storage_api_volume_rename", "storage_api_volume_snapshots",
	"storage_api_local_volume_handling", "custom_volume_snapshot_expiry", "storage_shifted",
	"storage_volume_state", "storage_volumes_all_projects", "custom_volume_backup",
	"kiln_error_kind", "kiln_image_aliases", "kiln_image_verify", "kiln_image_df", "kiln_shutdown", "kiln_image_files",
	"kiln_image_kept", "kiln_image_prune", "kiln_remotes", "kiln_mirrors", "kiln_image_delta", "kiln_alias_history",
	"kiln_alias_rollback", "kiln_publish_machine_id",
	"kiln_image_diff", "instances_rebuild", "image_compression_algorithm", "instance_publish_split", "kiln_publish",
	"kiln_image_estimate",
	"kiln_instance_copy", "kiln_instance_problem", "kiln_rebuild_force", "kiln_network_explain",
	"kiln_delete_unchanged", "kiln_instance_uuid",
	"kiln_image_signatures", "kiln_image_keys", "kiln_scrub", "kiln_host", "kiln_security_events",
	"kiln_metrics",
}

func (s *Server) root(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.URL.Path != "/" {
		return nil, kiln.Errorf(kiln.NotFound, "not found: there is no %s", r.URL.Path)
	}
	w.Header().Set("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "text/html") { // somebody looks; clients take anything
		return s.sendPage(w, r)
	}
	return []string{"/1.0"}, nil
}

func (s *Server) notYet(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, kiln.Errorf(kiln.Unsupported, "%s %s is not supported by this version of kiln", r.Method, r.URL.Path)
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
	problems := s.d.Problems()
	if callerOf(r).restricted { // which may know of its projects, and proxies have passwords
		config, problems = map[string]any{}, nil
	}
	var pem, fingerprint string
	if cert := s.d.Certificate().Leaf; cert != nil {
		pem, fingerprint = trust.PEM(cert), trust.Fingerprint(cert)
	}
	return tagged{api.Server{
		Config: config, APIExtensions: extensions, APIStatus: "stable", APIVersion: "1.0", Auth: "trusted",
		AuthMethods: []string{"tls"},
		Environment: &api.Environment{
			Addresses: s.d.Addresses(), Certificate: pem, CertificateFingerprint: fingerprint, Problems: problems,
			Architectures: e.Architectures, Driver: "lxc", DriverVersion: e.RuntimeVersion,
			Kernel: e.Kernel, KernelArchitecture: e.HostArch, KernelVersion: e.KernelVersion,
			KernelFeatures: map[string]string{}, LXCFeatures: map[string]string{}, OSName: e.OSName, OSVersion: e.OSVersion,
			Project: project.Name(r.Context()), Server: "kiln", ServerEventMode: "full-mesh", ServerName: e.Hostname,
			ServerPID:     os.Getpid(),
			ServerVersion: e.Version, Storage: "overlay", StorageVersion: "1",
			StorageDrivers: []api.StorageDriverInfo{{Name: "overlay", Version: "1"}},
		},
	}, config}, nil
}

// getReady is answered by a daemon that has begun its work, as every one that answers has.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) (any, error) { return nil, nil }

// getResources tells what the host is made of.
func (s *Server) getResources(w http.ResponseWriter, r *http.Request) (any, error) {
	return hardware.Host.Read(s.d.Environment().HostArch), nil
}

// examineHost tells what of the host is in the way of instances.
func (s *Server) examineHost(w http.ResponseWriter, r *http.Request) (any, error) {
	found, err := s.d.ExamineHost(r.Context())
	list := []api.HostFinding{}
	for _, f := range found {
		list = append(list, api.HostFinding{Check: f.Check, State: string(f.State), Detail: f.Detail, Cure: f.Cure})
	}
	return list, err
}

func (s *Server) postShutdown(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.d.Shutdown(r.Context()); err != nil {
		return nil, err
	}
	s.shutdown()
	return nil, nil
}
