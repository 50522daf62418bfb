package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/fetch"
	"github.com/kiln-containers/kiln/internal/simplestreams"
)

// streams is the images of a simplestreams server.
type streams struct {
	o      *Opener
	fetch  *fetch.Client
	http   *http.Client
	remote kiln.Remote
	access Access
	fresh  bool // the index was asked for already
}

// missAge is how old an index may be by which something isn't there: who looks for many
// names that nobody has doesn't make a server be asked for each.
const missAge = time.Second

// An offer is what a server has: its images, and the lists of products they are from.
type offer struct {
	images  []simplestreams.Image
	lists   []*simplestreams.Products
	missing error // why lists are not in it; nil if all are
}

// offer is what the server has, as far as that is known here.
func (s *streams) offer(ctx context.Context) (offer, error) {
	return s.ask(ctx, get{fresh: s.access.Fresh && !s.fresh})
}

// offerOf is an offer that what is looked for is in. Before something is said to be
// nowhere, the server is asked: most often its index hasn't changed, and isn't sent.
func (s *streams) offerOf(ctx context.Context, has func(offer) bool) (offer, error) {
	all, err := s.offer(ctx)
	if err != nil || has(all) {
		return all, err
	}
	return s.ask(ctx, get{fresh: true, within: missAge})
}

// ask reads the index and the products that it names. A list that can't be had is
// only an error if no other can: a server has more than what is wrong with it.
func (s *streams) ask(ctx context.Context, g get) (offer, error) {
	g.http, g.agent, g.stall, g.warn = s.http, s.o.UserAgent, s.o.stall(), s.access.Warn
	g.limit = simplestreams.MaxIndex
	g.urls = join(s.remote, simplestreams.IndexPath)
	g.parse = func(r io.Reader) (any, error) { return simplestreams.ParseIndex(r) }
	v, err := s.o.Indexes.get(ctx, g)
	if err != nil {
		return offer{}, err
	}
	g.limit = simplestreams.MaxProducts
	g.parse = func(r io.Reader) (any, error) { return simplestreams.ParseProducts(r) }
	var all offer
	for _, path := range v.([]string) {
		g.urls = join(s.remote, path)
		v, err := s.o.Indexes.get(ctx, g)
		if ctx.Err() != nil {
			return offer{}, context.Cause(ctx)
		}
		if err != nil {
			all.missing = errors.Join(all.missing, fmt.Errorf("list of products %s: %w", path, err))
			continue
		}
		list := v.(*simplestreams.Products)
		all.images, all.lists = append(all.images, list.Images()...), append(all.lists, list)
		if len(all.images) > simplestreams.MaxImages {
			return offer{}, kiln.Errorf(kiln.TooLarge, "%s has more than %d images", s.remote.Server, simplestreams.MaxImages)
		}
	}
	if len(all.lists) == 0 && all.missing != nil {
		return offer{}, all.missing
	}
	if all.missing != nil && s.access.Warn != nil && !s.fresh {
		s.access.Warn(fmt.Sprintf("%s: some images are not listed: %v", s.remote.Server, all.missing))
	}
	s.fresh = true
	return all, nil
}

// Find is kiln.Source's.
func (s *streams) Find(ctx context.Context, name string) (kiln.Image, error) {
	all, err := s.offerOf(ctx, func(all offer) bool {
		_, err := simplestreams.Find(all.images, name, s.o.Architectures)
		return !errors.Is(err, kiln.NotFound)
	})
	if err != nil {
		return kiln.Image{}, err
	}
	found, err := simplestreams.Find(all.images, name, s.o.Architectures)
	if errors.Is(err, kiln.NotFound) && all.missing != nil {
		return kiln.Image{}, all.missing // it may be there
	}
	if err != nil {
		return kiln.Image{}, err
	}
	i := slices.IndexFunc(all.images, func(o simplestreams.Image) bool {
		return o.Product == found.Product && o.Version == found.Version && slices.Equal(o.Files, found.Files)
	})
	return imageOf(found, simplestreams.Names(all.images, s.o.Architectures)[i]), nil
}

// List gives the containers' images.
func (s *streams) List(ctx context.Context) ([]kiln.Image, error) {
	all, err := s.offerOf(ctx, func(all offer) bool { return len(all.images) > 0 })
	list := make([]kiln.Image, 0, len(all.images))
	names := simplestreams.Names(all.images, s.o.Architectures)
	for i, img := range all.images {
		list = append(list, imageOf(img, names[i]))
	}
	return list, err
}

// orName is what an image is called that may have no fingerprint yet.
func orName(img kiln.Image) string {
	if img.Fingerprint.IsZero() {
		return img.Properties["description"]
	}
	return img.Fingerprint.Short()
}

// imageOf is an image as the others have it, with its names.
func imageOf(i simplestreams.Image, names []string) kiln.Image {
	img := kiln.Image{
		Fingerprint: i.Fingerprint, Type: i.Type, Architecture: i.Architecture, Size: i.Size, Filename: i.Files[0].Name,
		Properties: i.Properties, Signature: i.Signature,
		Public: true, CreatedAt: i.CreatedAt, UploadedAt: i.CreatedAt, ExpiresAt: i.ExpiresAt,
	}
	for _, n := range names {
		img.Aliases = append(img.Aliases, kiln.Alias{Name: n, Target: i.Fingerprint})
	}
	roles := []kiln.Role{kiln.Metadata, kiln.Rootfs}
	if len(i.Files) == 1 {
		roles = []kiln.Role{kiln.Unified}
		if i.Fingerprint.IsZero() {
			roles = []kiln.Role{""} // a root filesystem without metadata
		}
	}
	for n, f := range i.Files {
		img.Files = append(img.Files, kiln.File{Role: roles[n], Name: f.Name, Size: sizeOf(f), Hash: f.SHA256,
			Ext: extension(f.Name)})
	}
	return img
}

// extension is all after the first dot of a file name.
func extension(name string) string {
	if _, ext, ok := strings.Cut(name, "."); ok {
		return "." + ext
	}
	return ""
}

func sizeOf(f simplestreams.File) int64 {
	if f.Size == 0 {
		return -1
	}
	return f.Size
}

// Open is kiln.Source's. The root filesystem comes as the difference from an older
// version where that is here.
func (s *streams) Open(ctx context.Context, img kiln.Image) (kiln.Stream, error) {
	at := func(all offer) int {
		return slices.IndexFunc(all.images, func(o simplestreams.Image) bool {
			return o.Fingerprint == img.Fingerprint && o.Files[len(o.Files)-1].SHA256 == img.Files[len(img.Files)-1].Hash
		})
	}
	all, err := s.offerOf(ctx, func(all offer) bool { return at(all) >= 0 })
	if err != nil {
		return nil, err
	}
	i := at(all)
	if i < 0 {
		if all.missing != nil {
			return nil, all.missing
		}
		return nil, kiln.Errorf(kiln.NotFound, "the image %s is not on %s any more", orName(img), s.remote.Server)
	}
	found := all.images[i]
	w := &webStream{ctx: ctx, fetch: s.fetch, access: s.access, img: img}
	for n, f := range imageOf(found, nil).Files {
		path := found.Files[n].Path
		w.files = append(w.files, webFile{f, join(s.remote, path), func(kind string, base kiln.Fingerprint) []string {
			return join(s.remote, simplestreams.Beside(path, kind, base))
		}})
	}
	if d, base := s.delta(found, all.lists); base != "" {
		w.access.Seeds = nil
		return &deltaStream{webStream: w, delta: webFile{File: kiln.File{Size: sizeOf(d.File)}, urls: join(s.remote, d.Path)},
			base: base}, nil
	}
	return w, nil
}

// delta picks the smallest difference whose base is here.
func (s *streams) delta(img simplestreams.Image, lists []*simplestreams.Products) (best simplestreams.Delta,
	base string) {
	if s.access.Base == nil || !archive.HasVCDIFF() {
		return best, ""
	}
	whole := img.Files[len(img.Files)-1].Size
	for _, d := range img.Deltas {
		if d.Size <= 0 || d.Size >= whole || base != "" && d.Size >= best.Size {
			continue
		}
		for _, list := range lists {
			if fp, ok := list.BaseOf(img, d); ok {
				if path := s.access.Base(fp); path != "" {
					best, base = d, path
				}
			}
		}
	}
	return best, base
}

// deltaStream makes the last file of an image from an older one.
type deltaStream struct {
	*webStream
	delta webFile
	base  string
	made  io.ReadCloser // nil: not at the last file
}

// Next is kiln.Stream's.
func (s *deltaStream) Next() (kiln.File, error) {
	if s.made != nil {
		return kiln.File{}, io.EOF
	}
	if len(s.files) > 1 {
		return s.webStream.Next()
	}
	whole := s.files[0].File
	s.files = []webFile{s.delta}
	if _, err := s.webStream.Next(); err != nil {
		return kiln.File{}, err
	}
	var err error
	s.made, err = archive.ApplyVCDIFF(s.ctx, s.base, s.now)
	return whole, err
}

// CanSkip reports whether the current file can be begun later.
func (s *deltaStream) CanSkip() bool { return s.made == nil && s.webStream.CanSkip() }

// Read is kiln.Stream's.
func (s *deltaStream) Read(b []byte) (int, error) {
	if s.made == nil {
		return s.webStream.Read(b)
	}
	return s.made.Read(b)
}

// Close is kiln.Stream's.
func (s *deltaStream) Close() error {
	if s.made != nil {
		s.webStream.now.Close() // what reads it would wait for it
		s.made.Close()
	}
	return s.webStream.Close()
}
