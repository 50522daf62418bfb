package api

import "time"

// An Image as GET /1.0/images/<fingerprint> tells it. Times that are unset are
// the zero time.
type Image struct {
	ImagePut     `yaml:",inline"`
	Aliases      []ImageAlias `json:"aliases" yaml:"aliases"`
	Architecture string       `json:"architecture" yaml:"architecture"`
	Cached       bool         `json:"cached" yaml:"cached"`
	Filename     string       `json:"filename" yaml:"filename"`
	Fingerprint  string       `json:"fingerprint" yaml:"fingerprint"`
	Size         int64        `json:"size" yaml:"size"` // bytes as stored
	UpdateSource *ImageSource `json:"update_source,omitempty" yaml:"update_source,omitempty"`
	Type         string       `json:"type" yaml:"type"`
	CreatedAt    time.Time    `json:"created_at" yaml:"created_at"`
	LastUsedAt   time.Time    `json:"last_used_at" yaml:"last_used_at"`
	UploadedAt   time.Time    `json:"uploaded_at" yaml:"uploaded_at"`
	Project      string       `json:"project" yaml:"project"`
	Locations    []string     `json:"locations" yaml:"locations"`
	// of kiln_image_files; not in lists
	Files []ImageFile `json:"files,omitempty" yaml:"files,omitempty"`
	// of kiln_alias_history: the newer version
	ReplacedBy string `json:"replaced_by,omitempty" yaml:"replaced_by,omitempty"`
	// of kiln_image_kept: why, and until when; not in lists
	Kept string `json:"kept,omitempty" yaml:"kept,omitempty"`
}

// An ImageFile is one of the files of an image, in fingerprint order.
type ImageFile struct {
	Role string `json:"role" yaml:"role"` // "unified", "metadata" or "rootfs"
	Name string `json:"name" yaml:"name"`
	Size int64  `json:"size" yaml:"size"` // bytes
	Hash string `json:"hash" yaml:"hash"` // SHA-256
	Ext  string `json:"ext" yaml:"ext"`   // ".tar.xz", by content
}

// ImagePut is what a user may change of an image.
type ImagePut struct {
	AutoUpdate bool              `json:"auto_update" yaml:"auto_update"`
	Properties map[string]string `json:"properties" yaml:"properties"`
	Public     bool              `json:"public" yaml:"public"`
	ExpiresAt  time.Time         `json:"expires_at" yaml:"expires_at"`
	Profiles   []string          `json:"profiles" yaml:"profiles"`
}

// An ImageAlias is an alias as an image lists it.
type ImageAlias struct {
	Name        string `json:"name" yaml:"name"`
	Description string `json:"description" yaml:"description"`
}

// An ImageSource says where an image is updated from.
type ImageSource struct {
	Alias       string `json:"alias" yaml:"alias"`
	Certificate string `json:"certificate" yaml:"certificate"`
	Protocol    string `json:"protocol" yaml:"protocol"`
	Server      string `json:"server" yaml:"server"`
	ImageType   string `json:"image_type" yaml:"image_type"`
	// of kiln_image_signatures: the public key that every version from there is signed with
	ImageKey string `json:"image_key,omitempty" yaml:"image_key,omitempty"`
}

// An ImageAliasesEntry is an alias as the list of aliases has it.
type ImageAliasesEntry struct {
	Name        string `json:"name" yaml:"name"`
	Description string `json:"description" yaml:"description"`
	Target      string `json:"target" yaml:"target"` // fingerprint; a prefix will do in requests
	Type        string `json:"type" yaml:"type"`
}

// ImageAliasPut is what a user may change of an alias.
type ImageAliasPut struct {
	Description string `json:"description"`
	Target      string `json:"target"`
}

// ImagesPost is the JSON body of POST /1.0/images.
type ImagesPost struct {
	ImagePut
	Filename             string            `json:"filename"`
	CompressionAlgorithm string            `json:"compression_algorithm"`
	Format               string            `json:"format"`
	Aliases              []ImageAlias      `json:"aliases"`
	Source               *ImagesPostSource `json:"source"`

	// of kiln_publish: when the image says it was made; zero: when its files were last changed
	Timestamp time.Time `json:"timestamp,omitzero"`
	// of kiln_publish_machine_id: leave /etc/machine-id as it is, instead of empty
	KeepMachineID bool `json:"keep_machine_id,omitempty"`

	Check  bool `json:"check,omitempty"`   // of kiln_publish: only tell the fingerprint
	DryRun bool `json:"dry_run,omitempty"` // of kiln_image_estimate: only tell what would move
	// of kiln_image_aliases: from other images, instead of a conflict. An image that
	// loses its last alias by it becomes an older version of this one. An instance
	// may be published again without having changed.
	MoveAliases bool `json:"move_aliases,omitempty"`
	Reuse       bool `json:"reuse,omitempty"` // of kiln_image_aliases: move the aliases, too
}

// An ImageExportPost asks a server to send an image to another.
type ImageExportPost struct {
	Target      string       `json:"target"`
	Secret      string       `json:"secret"`
	Certificate string       `json:"certificate"`
	Aliases     []ImageAlias `json:"aliases"`
	Project     string       `json:"project"`
	Profiles    []string     `json:"profiles"`
}

// ImagesPostSource says where an image is to come from.
type ImagesPostSource struct {
	Type        string `json:"type"` // "image", "url", "instance", "container" or "snapshot"
	Mode        string `json:"mode"` // "pull" or "push"
	Server      string `json:"server"`
	Protocol    string `json:"protocol"`
	Certificate string `json:"certificate"`
	Alias       string `json:"alias"`
	Fingerprint string `json:"fingerprint"`
	Secret      string `json:"secret"`
	Project     string `json:"project"`
	ImageType   string `json:"image_type"`
	Name        string `json:"name"`
	URL         string `json:"url"`
	RemoteAccess
}

// RemoteAccess says how a server is reached, besides its URL and certificate (API
// extension kiln_remotes).
type RemoteAccess struct {
	CA      string   `json:"ca,omitempty" yaml:"ca,omitempty"`           // PEM, authorities besides those of the system
	Mirrors []string `json:"mirrors,omitempty" yaml:"mirrors,omitempty"` // URLs of servers with the same files
	Proxy   string   `json:"proxy,omitempty" yaml:"proxy,omitempty"`     // URL
	// of kiln_image_signatures: the public key of minisign that images from there have to be
	// signed with; "": they needn't be signed
	ImageKey string `json:"image_key,omitempty" yaml:"image_key,omitempty"`
	// of kiln_image_keys: take what the owner of the key signed though it has expired, this once
	Stale bool `json:"image_stale,omitempty" yaml:"image_stale,omitempty"`
}

// An AliasVersion is an image that an alias points, or pointed, to (API extension
// kiln_alias_history).
type AliasVersion struct {
	Version     int       `json:"version" yaml:"version"` // 0 is the present one; -1: rolled back from
	Fingerprint string    `json:"fingerprint" yaml:"fingerprint"`
	Since       time.Time `json:"since" yaml:"since"`
	Here        bool      `json:"here" yaml:"here"` // it was not deleted
	Description string    `json:"description" yaml:"description"`
	Size        int64     `json:"size" yaml:"size"` // bytes as stored
	// of kiln_alias_rollback: when the alias was rolled back from it
	RolledBackAt time.Time `json:"rolled_back_at,omitzero" yaml:"rolled_back_at,omitempty"`
}

// An AliasRollback asks to point an alias to an image it pointed to before, and tells
// what became of it (API extension kiln_alias_rollback).
type AliasRollback struct {
	Versions   int    `json:"versions"`              // how many to go back, at least 1
	From       string `json:"from,omitempty"`        // fingerprint of the image it left
	To         string `json:"to,omitempty"`          // … and of the one it points to
	AutoUpdate bool   `json:"auto_update,omitempty"` // the first version after From will take over
}

// An ImageDiff tells what one image has that another hasn't (API extension
// kiln_image_diff).
type ImageDiff struct {
	Files    []FileDiff    `json:"files" yaml:"files"`
	Packages []PackageDiff `json:"packages" yaml:"packages"`
}

// A FileDiff is a file that two images don't have in common.
type FileDiff struct {
	Path   string `json:"path" yaml:"path"`
	Change string `json:"change" yaml:"change"` // "added", "removed", "changed" or "metadata"
	Before int64  `json:"before" yaml:"before"` // bytes
	After  int64  `json:"after" yaml:"after"`   // bytes
}

// A PackageDiff is a package that two images don't have in common.
type PackageDiff struct {
	Name   string `json:"name" yaml:"name"`
	Before string `json:"before" yaml:"before"` // version, "" where there is none
	After  string `json:"after" yaml:"after"`
}

// An ImageEstimate tells what getting an image would move (API extension
// kiln_image_estimate).
type ImageEstimate struct {
	Fingerprint string         `json:"fingerprint" yaml:"fingerprint"`
	Size        int64          `json:"size" yaml:"size"` // bytes of all its files
	Here        bool           `json:"here" yaml:"here"` // nothing moves
	Files       []FileEstimate `json:"files" yaml:"files"`
}

// A FileEstimate tells what getting one file would move.
type FileEstimate struct {
	Role  string `json:"role" yaml:"role"`
	Size  int64  `json:"size" yaml:"size"`   // bytes
	Moves int64  `json:"moves" yaml:"moves"` // bytes over the network, roughly
	How   string `json:"how" yaml:"how"`
}

// ImagesPrune deletes images that nobody needs (API extension kiln_image_prune).
type ImagesPrune struct {
	All    bool `json:"all"`     // also images without an alias
	DryRun bool `json:"dry_run"` // only tell which
}

// A PrunedImage is an image that nobody needs.
type PrunedImage struct {
	Image `yaml:",inline"`
	Why   string `json:"why" yaml:"why"`
}

// A Mirror is a set of images of another server that is kept and served (API
// extension kiln_mirrors).
type Mirror struct {
	MirrorsPost `yaml:",inline"`
	LastRunAt   time.Time `json:"last_run_at" yaml:"last_run_at"`
	LastError   string    `json:"last_error" yaml:"last_error"`
}

// MirrorsPost begins to mirror a server.
type MirrorsPost struct {
	Name         string   `json:"name" yaml:"name"`
	Server       string   `json:"server" yaml:"server"`
	Protocol     string   `json:"protocol" yaml:"protocol"`
	Certificate  string   `json:"certificate" yaml:"certificate"` // PEM
	Filters      []string `json:"filters" yaml:"filters"`
	Keep         int      `json:"keep" yaml:"keep"` // versions besides the current one
	PullThrough  bool     `json:"pull_through" yaml:"pull_through"`
	Public       bool     `json:"public" yaml:"public"`
	RemoteAccess `yaml:",inline"`
}

// ImageMetadata is an instance's metadata.yaml.
type ImageMetadata struct {
	Architecture string                            `json:"architecture" yaml:"architecture"`
	CreationDate int64                             `json:"creation_date" yaml:"creation_date"` // Unix seconds
	ExpiryDate   int64                             `json:"expiry_date" yaml:"expiry_date"`     // Unix seconds, 0: never
	Properties   map[string]string                 `json:"properties" yaml:"properties"`
	Templates    map[string]*ImageMetadataTemplate `json:"templates" yaml:"templates"`
}

// An ImageMetadataTemplate says when and how one file is made from a template.
type ImageMetadataTemplate struct {
	When       []string          `json:"when" yaml:"when"`
	CreateOnly bool              `json:"create_only" yaml:"create_only"`
	Template   string            `json:"template" yaml:"template"`
	Properties map[string]string `json:"properties" yaml:"properties"`
	UID        string            `json:"uid,omitempty" yaml:"uid,omitempty"`
	GID        string            `json:"gid,omitempty" yaml:"gid,omitempty"`
	Mode       string            `json:"mode,omitempty" yaml:"mode,omitempty"`
}

// ImageStoreUsage is GET /1.0/images?… of kiln_image_df: what images cost, in bytes.
type ImageStoreUsage struct {
	Images []ImageUsage `json:"images" yaml:"images"`
	Stored int64        `json:"stored" yaml:"stored"` // all blobs, each counted once
	Shared int64        `json:"shared" yaml:"shared"` // saved by images that have a file in common
	Trees  int64        `json:"trees" yaml:"trees"`   // unpacked trees of instances' images
	Free   int64        `json:"free" yaml:"free"`     // left in the file system of the store
}

// An ImageUsage is what one image costs, in bytes.
type ImageUsage struct {
	Fingerprint string   `json:"fingerprint" yaml:"fingerprint"`
	Aliases     []string `json:"aliases" yaml:"aliases"`
	Stored      int64    `json:"stored" yaml:"stored"`           // its files
	Shared      int64    `json:"shared" yaml:"shared"`           // of them, in files that other images have too
	Tree        int64    `json:"tree" yaml:"tree"`               // its unpacked tree; 0 where there is none
	TreeShared  int64    `json:"tree_shared" yaml:"tree_shared"` // of that, with the trees of other images
	TreeKind    string   `json:"tree_kind" yaml:"tree_kind"`
	UsedBy      []string `json:"used_by" yaml:"used_by"` // instances
	InStore     bool     `json:"in_store" yaml:"in_store"`
}

// ImageRefreshPost asks for the newest version of an image, or for a run of a mirror
// (kiln_image_signatures).
type ImageRefreshPost struct {
	// Stale accepts what the owner of the key of the images signed though it has expired, this once.
	Stale bool `json:"image_stale,omitempty" yaml:"image_stale,omitempty"`
}
