package api

import "time"

// An InstanceSharePost asks for a secret by which another server can copy an
// instance (API extension kiln_instance_copy). The metadata of the operation also have the
// "state" of an instance that doesn't run: DELETE of the instance with ?state= is a Conflict
// when it isn't that any more (API extension kiln_delete_unchanged).
type InstanceSharePost struct {
	Snapshot     string `json:"snapshot,omitempty"` // this one of its snapshots, as an instance
	InstanceOnly bool   `json:"instance_only,omitempty"`
}

// An InstanceTransfer tells another server what there is to copy.
type InstanceTransfer struct {
	TransferInstance
	Snapshots []TransferInstance `json:"snapshots"` // oldest first
	Images    []string           `json:"images"`    // fingerprints of bases that the secret opens
	Parts     []TransferPart     `json:"parts"`
}

// A TransferInstance is an instance as it was once, and what its files stand on.
type TransferInstance struct {
	Name         string                       `json:"name"`
	Architecture string                       `json:"architecture"`
	Description  string                       `json:"description"`
	Ephemeral    bool                         `json:"ephemeral"`
	Profiles     []string                     `json:"profiles"`
	Config       map[string]string            `json:"config"`
	Devices      map[string]map[string]string `json:"devices"`
	CreatedAt    time.Time                    `json:"created_at"`
	ExpiresAt    time.Time                    `json:"expires_at"`
	LastUsedAt   time.Time                    `json:"last_used_at"`
	Trigger      string                       `json:"trigger,omitempty"`  // of templates
	Base         string                       `json:"base,omitempty"`     // fingerprint
	Layers       []string                     `json:"layers"`             // ids of parts, top first
	Metadata     string                       `json:"metadata,omitempty"` // id of a part
}

// A TransferPart is what travels in one piece, as .tar.zst.
type TransferPart struct {
	ID   string `json:"id"`
	Size int64  `json:"size"` // bytes on disk
}

// An InstanceArrival is the first part of the form that POST /1.0/kiln/instances
// takes. The others are the parts of the transfer, by their ids and in their order.
type InstanceArrival struct {
	InstancesPost
	Transfer InstanceTransfer `json:"transfer"`
}
