package api

import "time"

// An InstanceBackup is one that the server keeps of an instance.
type InstanceBackup struct {
	Name             string    `json:"name" yaml:"name"`
	CreatedAt        time.Time `json:"created_at" yaml:"created_at"`
	ExpiresAt        time.Time `json:"expires_at" yaml:"expires_at"` // zero: never
	InstanceOnly     bool      `json:"instance_only" yaml:"instance_only"`
	ContainerOnly    bool      `json:"container_only" yaml:"container_only"` // the same, for older clients
	OptimizedStorage bool      `json:"optimized_storage" yaml:"optimized_storage"`
	// Size is of kiln_instance_backup: bytes of the tarball.
	Size int64 `json:"size" yaml:"size"`
}

// InstanceBackupsPost makes a backup.
type InstanceBackupsPost struct {
	Name                 string    `json:"name"` // "": the server finds one
	ExpiresAt            time.Time `json:"expires_at"`
	InstanceOnly         bool      `json:"instance_only"`
	ContainerOnly        bool      `json:"container_only"`
	OptimizedStorage     bool      `json:"optimized_storage"`
	CompressionAlgorithm string    `json:"compression_algorithm"`
}

// A StorageVolumeBackup is one that the server keeps of a custom storage volume.
type StorageVolumeBackup struct {
	Name             string    `json:"name" yaml:"name"`
	CreatedAt        time.Time `json:"created_at" yaml:"created_at"`
	ExpiresAt        time.Time `json:"expires_at" yaml:"expires_at"` // zero: never
	VolumeOnly       bool      `json:"volume_only" yaml:"volume_only"`
	OptimizedStorage bool      `json:"optimized_storage" yaml:"optimized_storage"`
	Size             int64     `json:"size" yaml:"size"` // as of InstanceBackup
}

// StorageVolumeBackupsPost makes a backup of a custom storage volume.
type StorageVolumeBackupsPost struct {
	Name                 string    `json:"name"` // "": the server finds one
	ExpiresAt            time.Time `json:"expires_at"`
	VolumeOnly           bool      `json:"volume_only"`
	OptimizedStorage     bool      `json:"optimized_storage"`
	CompressionAlgorithm string    `json:"compression_algorithm"`
}

// InstanceHeader is the header of an upload of a backup with JSON of InstancesPost: what
// the instance shall have in the place of what the backup says. It is of
// kiln_instance_backup.
const InstanceHeader = "X-Kiln-Instance"
