package api

import "time"

// A StorageVolume is files in a pool: those of an instance ("container"), or ones that
// instances have beside their own ("custom").
type StorageVolume struct {
	StorageVolumePut `yaml:",inline"`
	Name             string    `json:"name" yaml:"name"`
	Type             string    `json:"type" yaml:"type"`
	ContentType      string    `json:"content_type" yaml:"content_type"`
	UsedBy           []string  `json:"used_by" yaml:"used_by"`
	Location         string    `json:"location" yaml:"location"`
	Project          string    `json:"project" yaml:"project"`
	CreatedAt        time.Time `json:"created_at" yaml:"created_at"`
}

// StorageVolumePut is what a user may change of a volume.
type StorageVolumePut struct {
	Config      map[string]string `json:"config" yaml:"config"`
	Description string            `json:"description" yaml:"description"`
	Restore     string            `json:"restore,omitempty" yaml:"restore,omitempty"`
}

// StorageVolumesPost makes a volume.
type StorageVolumesPost struct {
	StorageVolumePut
	Name        string              `json:"name"`
	Type        string              `json:"type"`
	ContentType string              `json:"content_type"`
	Source      StorageVolumeSource `json:"source"`
}

// A StorageVolumeSource says what a volume is made of.
type StorageVolumeSource struct {
	Type       string `json:"type"`           // "copy"; "", "none": of nothing
	Name       string `json:"name,omitempty"` // of a volume, or "volume/snapshot"
	Pool       string `json:"pool,omitempty"`
	Project    string `json:"project,omitempty"`
	VolumeOnly bool   `json:"volume_only,omitempty"` // without its snapshots
	Refresh    bool   `json:"refresh,omitempty"`
	Mode       string `json:"mode,omitempty"`
}

// A StorageVolumeSnapshot is a volume as it was at one moment. In lists its name follows the
// volume's and a slash.
type StorageVolumeSnapshot struct {
	StorageVolumeSnapshotPut `yaml:",inline"`
	Name                     string            `json:"name" yaml:"name"`
	Config                   map[string]string `json:"config" yaml:"config"`
	ContentType              string            `json:"content_type" yaml:"content_type"`
	CreatedAt                time.Time         `json:"created_at" yaml:"created_at"`
}

// StorageVolumeSnapshotPut is what a user may change of a snapshot.
type StorageVolumeSnapshotPut struct {
	Description string     `json:"description" yaml:"description"`
	ExpiresAt   *time.Time `json:"expires_at" yaml:"expires_at"` // nil: never
}

// StorageVolumeSnapshotsPost makes a snapshot.
type StorageVolumeSnapshotsPost struct {
	Name      string     `json:"name"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"` // zero: never; nil: as the volume says
}

// StorageVolumePost renames a volume.
type StorageVolumePost struct {
	Name      string `json:"name"`
	Pool      string `json:"pool"`
	Project   string `json:"project"`
	Migration bool   `json:"migration"`
}

// StorageVolumeState tells how much a volume takes, in bytes.
type StorageVolumeState struct {
	Usage struct {
		Used uint64 `json:"used"`
	} `json:"usage"`
}
