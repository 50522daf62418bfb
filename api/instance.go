package api

import "time"

// An Instance as GET /1.0/instances/<name> tells it.
type Instance struct {
	InstancePut     `yaml:",inline"`
	CreatedAt       time.Time                    `json:"created_at" yaml:"created_at"`
	ExpandedConfig  map[string]string            `json:"expanded_config" yaml:"expanded_config"`
	ExpandedDevices map[string]map[string]string `json:"expanded_devices" yaml:"expanded_devices"`
	Name            string                       `json:"name" yaml:"name"`
	Status          string                       `json:"status" yaml:"status"`
	StatusCode      int                          `json:"status_code" yaml:"status_code"`
	LastUsedAt      time.Time                    `json:"last_used_at" yaml:"last_used_at"`
	Location        string                       `json:"location" yaml:"location"`
	Type            string                       `json:"type" yaml:"type"`
	Project         string                       `json:"project" yaml:"project"`
	// Problem is of kiln_instance_problem: why the status is an error, or why the instance
	// isn't started again by itself.
	Problem string `json:"problem,omitempty" yaml:"problem,omitempty"`
}

// InstanceFull is an instance with its state, for recursion.
type InstanceFull struct {
	Instance  `yaml:",inline"`
	State     *InstanceState     `json:"state" yaml:"state"`
	Snapshots []InstanceSnapshot `json:"snapshots" yaml:"snapshots"`
	Backups   []InstanceBackup   `json:"backups" yaml:"backups"`
}

// InstancePut is what a user may change of an instance.
type InstancePut struct {
	Architecture string                       `json:"architecture" yaml:"architecture"`
	Config       map[string]string            `json:"config" yaml:"config"`
	Devices      map[string]map[string]string `json:"devices" yaml:"devices"`
	Ephemeral    bool                         `json:"ephemeral" yaml:"ephemeral"`
	Profiles     []string                     `json:"profiles" yaml:"profiles"`
	Stateful     bool                         `json:"stateful" yaml:"stateful"`
	Description  string                       `json:"description" yaml:"description"`
	Restore      string                       `json:"restore,omitempty" yaml:"restore,omitempty"`
}

// InstancesPost makes an instance.
type InstancesPost struct {
	InstancePut
	Name         string         `json:"name"`
	Type         string         `json:"type"`
	InstanceType string         `json:"instance_type"`
	Source       InstanceSource `json:"source"`
	Start        bool           `json:"start"`
}

// An InstanceSource says what an instance is made from.
type InstanceSource struct {
	Type         string            `json:"type"` // "image", "copy", "none" or "migration"
	Alias        string            `json:"alias,omitempty"`
	Fingerprint  string            `json:"fingerprint,omitempty"`
	Properties   map[string]string `json:"properties,omitempty"`
	Server       string            `json:"server,omitempty"`
	Protocol     string            `json:"protocol,omitempty"`
	Mode         string            `json:"mode,omitempty"`
	Certificate  string            `json:"certificate,omitempty"`
	Secret       string            `json:"secret,omitempty"`
	Source       string            `json:"source,omitempty"`
	Project      string            `json:"project,omitempty"`
	InstanceOnly bool              `json:"instance_only,omitempty"`
	// ContainerOnly is the same, of older clients.
	ContainerOnly bool `json:"container_only,omitempty"`
	Refresh       bool `json:"refresh,omitempty"`
	Offline       bool `json:"offline,omitempty"` // of kiln_remotes: use local images only
	// Of a migration in mode "pull": the operation of the source, and the secrets of its
	// websockets.
	Operation string            `json:"operation,omitempty"`
	Secrets   map[string]string `json:"secrets,omitempty"`
	// of kiln_instance_copy: take over settings that give the instance access to the host
	HostAccess bool `json:"host_access,omitempty"`
	RemoteAccess
}

// InstancePost is the body of POST /1.0/instances/{name}: another name, another project, or a
// copy to another server, which this one sends to the target, or that fetches it.
type InstancePost struct {
	Rename
	Live          bool                   `json:"live,omitempty"` // with its processes
	InstanceOnly  bool                   `json:"instance_only,omitempty"`
	ContainerOnly bool                   `json:"container_only,omitempty"` // the same, of older clients
	Target        *InstanceMigrateTarget `json:"target,omitempty"`
}

// InstanceMigrateTarget is how to reach the target of a migration.
type InstanceMigrateTarget struct {
	Certificate string            `json:"certificate"`
	Operation   string            `json:"operation"`
	Secrets     map[string]string `json:"secrets"` // of the websockets "control" and "fs"
}

// InstanceRebuildPost is the body of POST /1.0/instances/{name}/rebuild.
type InstanceRebuildPost struct {
	Source InstanceSource `json:"source"`
	// of kiln_rebuild_force: stop an instance that runs when its new files are ready, and
	// start it again
	Force bool `json:"force,omitempty"`
}

// InstanceStatePut asks for another state.
type InstanceStatePut struct {
	Action   string `json:"action"`  // "start", "stop", "restart", "freeze" or "unfreeze"
	Timeout  int    `json:"timeout"` // seconds, -1: the server's default
	Force    bool   `json:"force"`
	Stateful bool   `json:"stateful"`
}

// InstanceState is how an instance is at the moment.
type InstanceState struct {
	Status     string                          `json:"status" yaml:"status"`
	StatusCode int                             `json:"status_code" yaml:"status_code"`
	CPU        InstanceStateCPU                `json:"cpu" yaml:"cpu"`
	Disk       map[string]InstanceStateDisk    `json:"disk" yaml:"disk"`
	Memory     InstanceStateMemory             `json:"memory" yaml:"memory"`
	Network    map[string]InstanceStateNetwork `json:"network" yaml:"network"`
	PID        int64                           `json:"pid" yaml:"pid"`
	Processes  int64                           `json:"processes" yaml:"processes"`
}

// InstanceStateCPU has the processor time used, in nanoseconds.
type InstanceStateCPU struct {
	Usage int64 `json:"usage" yaml:"usage"`
}

// InstanceStateDisk has the bytes that a disk takes.
type InstanceStateDisk struct {
	Usage int64 `json:"usage" yaml:"usage"`
	Total int64 `json:"total" yaml:"total"`
}

// InstanceStateMemory is in bytes.
type InstanceStateMemory struct {
	Usage         int64 `json:"usage" yaml:"usage"`
	UsagePeak     int64 `json:"usage_peak" yaml:"usage_peak"`
	SwapUsage     int64 `json:"swap_usage" yaml:"swap_usage"`
	SwapUsagePeak int64 `json:"swap_usage_peak" yaml:"swap_usage_peak"`
}

// InstanceStateNetwork is one interface inside an instance.
type InstanceStateNetwork struct {
	Addresses []InstanceStateNetworkAddress `json:"addresses" yaml:"addresses"`
	Counters  InstanceStateNetworkCounters  `json:"counters" yaml:"counters"`
	Hwaddr    string                        `json:"hwaddr" yaml:"hwaddr"`
	HostName  string                        `json:"host_name" yaml:"host_name"`
	Mtu       int                           `json:"mtu" yaml:"mtu"`
	State     string                        `json:"state" yaml:"state"` // "up" or "down"
	Type      string                        `json:"type" yaml:"type"`   // "loopback", "broadcast", …
}

// InstanceStateNetworkAddress is one address of an interface.
type InstanceStateNetworkAddress struct {
	Family  string `json:"family" yaml:"family"` // "inet" or "inet6"
	Address string `json:"address" yaml:"address"`
	Netmask string `json:"netmask" yaml:"netmask"` // length of the prefix
	Scope   string `json:"scope" yaml:"scope"`     // "local", "link" or "global"
}

// InstanceStateNetworkCounters are since the interface was made.
type InstanceStateNetworkCounters struct {
	BytesReceived   int64 `json:"bytes_received" yaml:"bytes_received"`
	BytesSent       int64 `json:"bytes_sent" yaml:"bytes_sent"`
	PacketsReceived int64 `json:"packets_received" yaml:"packets_received"`
	PacketsSent     int64 `json:"packets_sent" yaml:"packets_sent"`
}

// InstanceExecPost runs a command in an instance.
type InstanceExecPost struct {
	Command      []string          `json:"command"`
	WaitForWS    bool              `json:"wait-for-websocket"`
	Interactive  bool              `json:"interactive"`
	Environment  map[string]string `json:"environment"`
	Width        int               `json:"width"`
	Height       int               `json:"height"`
	RecordOutput bool              `json:"record-output"`
	User         uint32            `json:"user"`
	Group        uint32            `json:"group"`
	Cwd          string            `json:"cwd"`
}

// InstanceConsolePost attaches to the console of an instance.
type InstanceConsolePost struct {
	Type   string `json:"type,omitempty"` // "console"; "vga" is for virtual machines
	Width  int    `json:"width"`          // of the terminal, in characters; 0: as it is
	Height int    `json:"height"`
	Force  bool   `json:"force,omitempty"` // take it from whoever is attached
}

// InstanceExecControl is a message on the control websocket of an exec.
type InstanceExecControl struct {
	Command string            `json:"command"` // "window-resize" or "signal"
	Args    map[string]string `json:"args"`
	Signal  int               `json:"signal"`
}
