// Package kiln holds the nouns of the project: fingerprints, images, streams of
// their files, the two ends that images travel between, and errors by kind.
//
// A name becomes an image, an image becomes a volume, a volume becomes an
// instance. This package knows only the first of those arrows. It does no I/O,
// and knows nothing of databases, HTTP, storage or processes.
package kiln

import (
	"context"
	"errors"
	"io"
	"maps"
	"time"
)

// An Image is what is known of one image. The zero Fingerprint means that its
// bytes were not read yet.
type Image struct {
	Project      string // of the store that has it; "": it isn't in one
	Fingerprint  Fingerprint
	Type         string // "container"
	Architecture string // canonical name, see ParseArch
	Size         int64  // bytes of all its files as stored
	Filename     string // as uploaded; for people only
	Properties   map[string]string
	Signature    string // who vouches for it, see internal/signing; "": nobody
	Profiles     []string
	Aliases      []Alias
	Public       bool
	AutoUpdate   bool
	Cached       bool
	CreatedAt    time.Time
	ExpiresAt    time.Time // zero: never
	LastUsedAt   time.Time // zero: never
	UploadedAt   time.Time
	Files        []File            // in fingerprint order; filled in by stores
	Origin       *Origin           // where it is updated from; nil: nowhere
	Own          map[string]string // properties that users changed; "" is one they removed
	ReplacedBy   Fingerprint       // the newer version that has its aliases now
	ReplacedAt   time.Time
	Damage       string // what of it a store can't read; "": nothing
	Missing      string // what is known to be wrong with its files in a store; "": nothing
}

// SignatureProperty is the property in which the signature of an image travels: through the
// API, and so through servers that know nothing of it.
const SignatureProperty = "kiln.signature"

// WithSignature gives a copy of the properties with the signature among them, as others
// are told them.
func (i *Image) WithSignature() map[string]string {
	m := maps.Clone(i.Properties)
	if i.Signature != "" {
		if m == nil {
			m = map[string]string{}
		}
		m[SignatureProperty] = i.Signature
	}
	return m
}

// TakeSignature is the inverse: what was among the properties is the signature. It is
// apart from them since it is of this image only, and they go over to instances, to what
// is published from those, and to newer versions.
func (i *Image) TakeSignature() {
	sig, ok := i.Properties[SignatureProperty]
	if i.Signature = sig; ok {
		i.Properties = maps.Clone(i.Properties)
		delete(i.Properties, SignatureProperty)
	}
}

// Present says whether the files of the image can be had from its store, as far as that
// is known: else nobody is offered it, until it is imported or copied again. The error is
// Integrity.
func (i *Image) Present() error {
	if i.Missing == "" {
		return nil
	}
	return Errorf(Integrity, "image %s can't be had: %s; import or copy it again, or delete it: kiln image delete %s",
		i.Fingerprint.Short(), i.Missing, i.Fingerprint.Short())
}

// Whole says whether all that a store keeps of the image can be read: else it can only
// be listed and deleted. The error is Integrity.
func (i *Image) Whole() error {
	if i.Damage == "" {
		return nil
	}
	return Errorf(Integrity, "image %s can't be used: %s; delete it (kiln image delete %s) and import or copy it again, "+
		"or bring a copy of the database back: kiln admin restore-database", i.Fingerprint.Short(), i.Damage,
		i.Fingerprint.Short())
}

// A Remote is a server of images and how to reach it.
type Remote struct {
	Protocol string   `json:"protocol"`          // see Protocols
	Server   string   `json:"server"`            // URL
	Mirrors  []string `json:"mirrors,omitempty"` // URLs of servers with the same files
	// PEM, what the server must show; "": whatever an authority vouches for
	Certificate string `json:"certificate,omitempty"`
	CA          string `json:"ca,omitempty"`    // PEM, authorities besides those of the system
	Proxy       string `json:"proxy,omitempty"` // URL; "": as the environment says
	// public key of minisign, with which every image from there is signed; "": none has to be
	ImageKey string `json:"image_key,omitempty"`
	// Stale accepts what the owner of the key signed and what has expired by now, this once.
	Stale bool `json:"-"`
}

// The protocols of remotes. The first three are one on the wire.
const (
	ProtocolKiln    = "kiln"
	ProtocolLXD     = "lxd"
	ProtocolIncus   = "incus"
	ProtocolStreams = "simplestreams"
	ProtocolDirect  = "direct" // a URL with headers that tell the image
)

// An Origin is where an image came from: a name at a remote, which may mean
// another image tomorrow.
type Origin struct {
	Remote
	Alias string `json:"alias"`
}

// Key is what two origins of the same thing have in common, however it is reached.
func (o *Origin) Key() string {
	protocol := o.Protocol
	if protocol == ProtocolKiln || protocol == ProtocolIncus {
		protocol = ProtocolLXD
	}
	return protocol + " " + o.Server + " " + o.Alias
}

// UpdatedElsewhere reports whether somebody has an image updated from elsewhere than an
// origin: its aliases would silently follow that if it became the image's. A launch, which
// leaves an image without a name, asks for no such thing.
func (i Image) UpdatedElsewhere(o *Origin) bool {
	if i.Origin == nil || o == nil || !i.AutoUpdate || i.Cached && len(i.Aliases) == 0 {
		return false
	}
	return i.Origin.Server != o.Server || i.Origin.Alias != o.Alias
}

// An Alias is a name that points to an image.
type Alias struct {
	Name        string
	Description string
	Target      Fingerprint
	Damage      string // what of it a store can't read; "": nothing
}

// A Role says what a file is to its image.
type Role string

// The roles of an image's files. A unified image has the one, a split image the
// other two, in this order.
const (
	Unified  Role = "unified"
	Metadata Role = "metadata"
	Rootfs   Role = "rootfs"
)

// A File is one of the files of an image. What a source doesn't know before the
// file was read is zero.
type File struct {
	Role Role   // "" when the receiver has to find out
	Name string // a plain file name, never a path; for people only
	Size int64  // bytes, -1 if unknown
	Hash Fingerprint
	Ext  string // ".tar.xz", ".squashfs": by content; "" if unknown
}

// A Stream yields the files of one image, once, in fingerprint order: Next, read
// until io.EOF, Next again.
type Stream interface {
	Next() (File, error) // io.EOF after the last
	io.ReadCloser        // Read reads the current file
}

// A Source is where images come from: a remote, a tarball, an instance, a store.
type Source interface {
	// Find gives the image a name stands for. Errors: NotFound, Ambiguous.
	Find(ctx context.Context, name string) (Image, error)
	// Open starts reading the files of an image that Find returned.
	Open(ctx context.Context, img Image) (Stream, error)
}

// A Sink is where images go: a store, a directory, another server.
type Sink interface {
	// Has reports whether the image is there, whole.
	Has(ctx context.Context, fp Fingerprint) (bool, error)
	// Put reads s to its end and keeps the image, or keeps nothing. What img
	// says of the image is checked where it can be (Fingerprint) and kept
	// where it is the user's to say (Aliases, Properties, Public, …).
	Put(ctx context.Context, img Image, s Stream) (Image, error)
}

// Copy moves one image from src to dst and returns it as dst has it. An image
// that is there already is not moved. Import, pull, push, relay, publish, cache and
// refresh are this function with different ends.
func Copy(ctx context.Context, dst Sink, src Source, name string) (Image, error) {
	img, err := src.Find(ctx, name)
	if err != nil {
		return Image{}, err
	}
	if !img.Fingerprint.IsZero() {
		has, err := dst.Has(ctx, img.Fingerprint)
		if err != nil || has {
			return img, err
		}
	}
	s, err := src.Open(ctx, img)
	if err != nil {
		return Image{}, err
	}
	got, err := dst.Put(ctx, img, s)
	return got, errors.Join(err, s.Close())
}
