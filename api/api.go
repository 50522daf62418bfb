// Package api holds the values of the 1.0 REST API as they travel: JSON in,
// JSON out. It knows neither HTTP nor what the values mean. The facts are
// LXD 1.0's; clients of LXD and Incus read and write the same structures.
package api

import (
	"encoding/json"
	"time"
)

// A Response is the envelope of every answer that is not a file.
type Response struct {
	Type       string          `json:"type"` // "sync", "async" or "error"
	Status     string          `json:"status"`
	StatusCode int             `json:"status_code"`
	Operation  string          `json:"operation"` // URL, when async
	ErrorCode  int             `json:"error_code"`
	Error      string          `json:"error"`
	Metadata   json.RawMessage `json:"metadata"`
}

// An Operation is background work.
type Operation struct {
	ID          string              `json:"id" yaml:"id"`
	Class       string              `json:"class" yaml:"class"` // "task", "websocket" or "token"
	Description string              `json:"description" yaml:"description"`
	CreatedAt   time.Time           `json:"created_at" yaml:"created_at"`
	UpdatedAt   time.Time           `json:"updated_at" yaml:"updated_at"`
	Status      string              `json:"status" yaml:"status"`
	StatusCode  int                 `json:"status_code" yaml:"status_code"`
	Resources   map[string][]string `json:"resources" yaml:"resources"`
	Metadata    map[string]any      `json:"metadata" yaml:"metadata"`
	MayCancel   bool                `json:"may_cancel" yaml:"may_cancel"`
	Err         string              `json:"err" yaml:"err"`
	Location    string              `json:"location" yaml:"location"`
}

// KindKey is where an operation's metadata, and KindHeader where an error
// answer, carries the kiln.Kind of the error (API extension kiln_error_kind).
const (
	KindKey    = "kiln_error"
	KindHeader = "X-Kiln-Error"
)

// An Event is one message of the events websocket.
type Event struct {
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Metadata  json.RawMessage `json:"metadata"`
	Location  string          `json:"location"`
	Project   string          `json:"project"`
}

// A Lifecycle is the metadata of a lifecycle event.
type Lifecycle struct {
	Action    string         `json:"action"` // "image-created"
	Source    string         `json:"source"` // URL of the thing
	Context   map[string]any `json:"context"`
	Requestor *Requestor     `json:"requestor,omitempty"` // nil: the server did it unasked
}

// A SecurityEvent is the metadata of an event of the type "security", and a line of the record
// that a server keeps of what matters for its security.
type SecurityEvent struct {
	Time      time.Time          `json:"time"`
	Action    string             `json:"action"`              // "instance-exec"
	Result    string             `json:"result"`              // "begun", "ok", "refused" or "failed"
	Reason    string             `json:"reason,omitempty"`    // why it was refused or failed
	Source    string             `json:"source,omitempty"`    // URL of what it was done to
	Project   string             `json:"project,omitempty"`   // "": in none
	Requestor *SecurityRequestor `json:"requestor,omitempty"` // nil: the server did it unasked
	Operation string             `json:"operation,omitempty"` // in which it was done
	Context   map[string]any     `json:"context,omitempty"`
}

// A SecurityRequestor is who asked for what a SecurityEvent tells of.
type SecurityRequestor struct {
	Method      string  `json:"method"`                // "unix", "tls" or "anonymous"
	Name        string  `json:"name,omitempty"`        // of the local user, or that a client is trusted by
	Certificate string  `json:"certificate,omitempty"` // fingerprint of what the client showed
	UID         *uint32 `json:"uid,omitempty"`         // of the process at the other end of the socket
	PID         *int32  `json:"pid,omitempty"`
	Address     string  `json:"address"` // with the port; "@" for the unix socket
	Restricted  bool    `json:"restricted,omitempty"`
	Trusted     bool    `json:"trusted"`
	Request     string  `json:"request"` // its name, as in X-Request-Id
}

// A Requestor is whose request had an event as its effect.
type Requestor struct {
	Username string `json:"username"` // local user, or fingerprint of the client's certificate
	Protocol string `json:"protocol"` // "unix" or "tls"
	Address  string `json:"address"`  // with the port; "@" for the unix socket
}

// Server is what GET /1.0 tells.
type Server struct {
	Config        map[string]any `json:"config" yaml:"config"`
	APIExtensions []string       `json:"api_extensions" yaml:"api_extensions"`
	APIStatus     string         `json:"api_status" yaml:"api_status"`
	APIVersion    string         `json:"api_version" yaml:"api_version"`
	Auth          string         `json:"auth" yaml:"auth"` // "trusted" or "untrusted"
	Public        bool           `json:"public" yaml:"public"`
	AuthMethods   []string       `json:"auth_methods" yaml:"auth_methods"`
	Environment   *Environment   `json:"environment,omitempty" yaml:"environment,omitempty"`
}

// UntrustedServer is what GET /1.0 tells who isn't trusted.
type UntrustedServer struct {
	APIExtensions []string `json:"api_extensions"`
	APIStatus     string   `json:"api_status"`
	APIVersion    string   `json:"api_version"`
	Auth          string   `json:"auth"` // "untrusted"
	Public        bool     `json:"public"`
	AuthMethods   []string `json:"auth_methods"`
}

// ServerPut is what a user may change of a server.
type ServerPut struct {
	Config map[string]any `json:"config" yaml:"config"`
}

// An Environment describes a server's host and software.
type Environment struct {
	Addresses              []string            `json:"addresses" yaml:"addresses"`
	Architectures          []string            `json:"architectures" yaml:"architectures"`
	Certificate            string              `json:"certificate" yaml:"certificate"`
	CertificateFingerprint string              `json:"certificate_fingerprint" yaml:"certificate_fingerprint"`
	Problems               []string            `json:"kiln_problems,omitempty" yaml:"kiln_problems,omitempty"`
	Driver                 string              `json:"driver" yaml:"driver"`
	DriverVersion          string              `json:"driver_version" yaml:"driver_version"`
	Firewall               string              `json:"firewall" yaml:"firewall"`
	Kernel                 string              `json:"kernel" yaml:"kernel"`
	KernelArchitecture     string              `json:"kernel_architecture" yaml:"kernel_architecture"`
	KernelFeatures         map[string]string   `json:"kernel_features" yaml:"kernel_features"`
	KernelVersion          string              `json:"kernel_version" yaml:"kernel_version"`
	LXCFeatures            map[string]string   `json:"lxc_features" yaml:"lxc_features"`
	OSName                 string              `json:"os_name" yaml:"os_name"`
	OSVersion              string              `json:"os_version" yaml:"os_version"`
	Project                string              `json:"project" yaml:"project"`
	Server                 string              `json:"server" yaml:"server"`
	ServerClustered        bool                `json:"server_clustered" yaml:"server_clustered"`
	ServerEventMode        string              `json:"server_event_mode" yaml:"server_event_mode"`
	ServerName             string              `json:"server_name" yaml:"server_name"`
	ServerPID              int                 `json:"server_pid" yaml:"server_pid"`
	ServerVersion          string              `json:"server_version" yaml:"server_version"`
	Storage                string              `json:"storage" yaml:"storage"`
	StorageVersion         string              `json:"storage_version" yaml:"storage_version"`
	StorageDrivers         []StorageDriverInfo `json:"storage_supported_drivers" yaml:"storage_supported_drivers"`
}

// A StorageDriverInfo names a way of keeping instances. The wire has no tags.
type StorageDriverInfo struct {
	Name    string
	Version string
	Remote  bool
}

// A Profile is configuration that instances share.
type Profile struct {
	Project     string                       `json:"project,omitempty" yaml:"-"`
	Name        string                       `json:"name" yaml:"name"`
	Description string                       `json:"description" yaml:"description"`
	Config      map[string]string            `json:"config" yaml:"config"`
	Devices     map[string]map[string]string `json:"devices" yaml:"devices"`
	UsedBy      []string                     `json:"used_by" yaml:"used_by"`
}

// ProfilePut is what a user may change of a profile.
type ProfilePut struct {
	Description string                       `json:"description" yaml:"description"`
	Config      map[string]string            `json:"config" yaml:"config"`
	Devices     map[string]map[string]string `json:"devices" yaml:"devices"`
}

// ProfilesPost makes a profile.
type ProfilesPost struct {
	ProfilePut `yaml:",inline"`
	Name       string `json:"name" yaml:"name"`
}

// A Rename is the body of every POST that gives a thing another name.
type Rename struct {
	Name      string `json:"name"`
	Migration bool   `json:"migration,omitempty"`
	// Of an instance: the project it moves to, on the same server, and which of that one's
	// profiles it has; null: those of the same names (API extension instance_project_move).
	Project  string   `json:"project,omitempty"`
	Profiles []string `json:"profiles,omitzero"`
}

// ProjectPut is what can be changed of a project.
type ProjectPut struct {
	Description string            `json:"description" yaml:"description"`
	Config      map[string]string `json:"config" yaml:"config"`
}

// ProjectsPost makes a project.
type ProjectsPost struct {
	Name string `json:"name" yaml:"name"`
	ProjectPut
}

// A ProjectState is how much of its limits a project uses, by the names of resources.
type ProjectState struct {
	Resources map[string]ProjectResource `json:"resources" yaml:"resources"`
}

// A ProjectResource is how much of something a project has. The wire has no tags.
type ProjectResource struct {
	Limit int64 // -1: none
	Usage int64
}

// A Project groups instances, and the images and profiles that it doesn't share.
type Project struct {
	Name        string            `json:"name" yaml:"name"`
	Description string            `json:"description" yaml:"description"`
	Config      map[string]string `json:"config" yaml:"config"`
	UsedBy      []string          `json:"used_by" yaml:"used_by"`
}

// A StoragePool is where instances' file trees are.
type StoragePool struct {
	Name        string            `json:"name" yaml:"name"`
	Description string            `json:"description" yaml:"description"`
	Driver      string            `json:"driver" yaml:"driver"`
	Status      string            `json:"status" yaml:"status"`
	Config      map[string]string `json:"config" yaml:"config"`
	UsedBy      []string          `json:"used_by" yaml:"used_by"`
	Locations   []string          `json:"locations" yaml:"locations"`
}

// StoragePoolResources tells how full a pool is, in bytes and inodes.
type StoragePoolResources struct {
	Space  ResourceUse `json:"space" yaml:"space"`
	Inodes ResourceUse `json:"inodes" yaml:"inodes"`
}

// ResourceUse is how much of a thing there is and is used.
type ResourceUse struct {
	Used  uint64 `json:"used" yaml:"used"`
	Total uint64 `json:"total" yaml:"total"`
}

// A Certificate is a client that the server trusts.
type Certificate struct {
	CertificatePut `yaml:",inline"`
	Fingerprint    string `json:"fingerprint" yaml:"fingerprint"` // SHA-256 of the DER form
}

// CertificatePut is what a user may change of a certificate, and its text.
type CertificatePut struct {
	Name        string   `json:"name" yaml:"name"`
	Type        string   `json:"type" yaml:"type"` // "client" or "metrics"
	Restricted  bool     `json:"restricted" yaml:"restricted"`
	Projects    []string `json:"projects" yaml:"projects"`
	Certificate string   `json:"certificate" yaml:"certificate"` // PEM
	Description string   `json:"description" yaml:"description"`
}

// CertificatesPost adds a client, or makes a token by which one can add itself.
type CertificatesPost struct {
	CertificatePut
	Password   string `json:"password,omitempty"`    // of the server, or a token
	TrustToken string `json:"trust_token,omitempty"` // the same under its newer name
	Token      bool   `json:"token,omitempty"`
}
