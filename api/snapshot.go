package api

import "time"

// An InstanceSnapshot as GET /1.0/instances/<name>/snapshots/<snapshot> tells it:
// the instance as it was.
type InstanceSnapshot struct {
	Architecture    string                       `json:"architecture" yaml:"architecture"`
	Config          map[string]string            `json:"config" yaml:"config"`
	CreatedAt       time.Time                    `json:"created_at" yaml:"created_at"`
	Description     string                       `json:"description" yaml:"description"`
	Devices         map[string]map[string]string `json:"devices" yaml:"devices"`
	Ephemeral       bool                         `json:"ephemeral" yaml:"ephemeral"`
	ExpandedConfig  map[string]string            `json:"expanded_config" yaml:"expanded_config"`
	ExpandedDevices map[string]map[string]string `json:"expanded_devices" yaml:"expanded_devices"`
	ExpiresAt       time.Time                    `json:"expires_at" yaml:"expires_at"` // zero: never
	LastUsedAt      time.Time                    `json:"last_used_at" yaml:"last_used_at"`
	Name            string                       `json:"name" yaml:"name"`
	Profiles        []string                     `json:"profiles" yaml:"profiles"`
	Stateful        bool                         `json:"stateful" yaml:"stateful"`
	Size            int64                        `json:"size" yaml:"size"` // bytes changed since the snapshot before
}

// InstanceSnapshotsPost makes a snapshot.
type InstanceSnapshotsPost struct {
	Name      string     `json:"name"` // "": the next of the instance's pattern
	Stateful  bool       `json:"stateful"`
	ExpiresAt *time.Time `json:"expires_at"` // null: as the instance says; zero: never
}

// InstanceSnapshotPut is what a user may change of a snapshot.
type InstanceSnapshotPut struct {
	ExpiresAt time.Time `json:"expires_at" yaml:"expires_at"`
}
