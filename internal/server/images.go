package server

import (
	"cmp"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/filter"
	"github.com/kiln-containers/kiln/internal/remote"
	"github.com/kiln-containers/kiln/internal/store"
)

func imagePut(img kiln.Image) api.ImagePut {
	properties := orEmpty(img.WithSignature())
	if wrong := cmp.Or(img.Damage, img.Missing); wrong != "" {
		properties["description"] = described("", wrong) // where every client shows it
	}
	return api.ImagePut{AutoUpdate: img.AutoUpdate, Properties: properties, Public: img.Public,
		ExpiresAt: img.ExpiresAt, Profiles: orNone(img.Profiles)}
}

func image(img kiln.Image) api.Image {
	aliases := make([]api.ImageAlias, 0, len(img.Aliases))
	for _, a := range img.Aliases {
		aliases = append(aliases, api.ImageAlias{Name: a.Name, Description: described(a.Description, a.Damage)})
	}
	return api.Image{
		ImagePut: imagePut(img), Aliases: aliases, Architecture: img.Architecture, Cached: img.Cached, Filename: img.Filename,
		Fingerprint: img.Fingerprint.String(), Size: img.Size, Type: img.Type, CreatedAt: img.CreatedAt,
		LastUsedAt: img.LastUsedAt,
		UploadedAt: img.UploadedAt, Project: img.Project, Locations: []string{"none"},
		UpdateSource: updateSource(img.Origin),
		ReplacedBy:   fingerprintText(img.ReplacedBy),
	}
}

func fingerprintText(fp kiln.Fingerprint) string {
	if fp.IsZero() {
		return ""
	}
	return fp.String()
}

func updateSource(o *kiln.Origin) *api.ImageSource {
	if o == nil {
		return nil
	}
	return &api.ImageSource{Alias: o.Alias, Certificate: o.Certificate, Protocol: o.Protocol, Server: o.Server,
		ImageType: "container", ImageKey: o.ImageKey}
}

// wholeImage is an image with what lists leave out.
func (s *Server) wholeImage(r *http.Request, img kiln.Image) (api.Image, error) {
	i := image(img)
	for _, f := range img.Files {
		i.Files = append(i.Files, api.ImageFile{Role: string(f.Role), Name: f.Name, Size: f.Size, Hash: f.Hash.String(),
			Ext: f.Ext})
	}
	if !callerOf(r).trusted {
		i.UpdateSource = nil // where it came from is nobody's business
		return i, nil
	}
	var err error
	i.Kept, err = s.d.Kept(r.Context(), img)
	return i, err
}

func (s *Server) getImages(w http.ResponseWriter, r *http.Request) (any, error) {
	f, err := filter.Parse(r.URL.Query().Get("filter"))
	if err != nil {
		return nil, err
	}
	all, err := s.d.Images.List(r.Context(), store.Query{Public: !callerOf(r).trusted,
		Properties: f.Equalities("properties.")})
	if err != nil {
		return nil, err
	}
	urls, images := []string{}, make([]api.Image, 0, len(all))
	for _, img := range all {
		if !callerOf(r).trusted {
			img.Origin = nil // where it came from is nobody's business, nor is it for a filter to find out
		}
		switch {
		case !f.Empty() && !f.Match(imageFields(img)):
		case recursion(r) == 0:
			urls = append(urls, inURL("/1.0/images/"+img.Fingerprint.String(), img.Project))
		default:
			images = append(images, image(img))
		}
	}
	if recursion(r) == 0 {
		return urls, nil
	}
	return images, nil
}

// image finds the image of a request: by the beginning of its fingerprint. An
// untrusted client has to know the secret of a private one, for which it might as well not
// be there otherwise.
func (s *Server) image(r *http.Request) (kiln.Image, error) {
	ctx, name := r.Context(), r.PathValue("name")
	if callerOf(r).trusted {
		img, err := s.d.Images.ByPrefix(ctx, name)
		if errors.Is(err, kiln.NotFound) && r.Method == http.MethodGet {
			return s.d.PullThrough(ctx, name, asker(r))
		}
		return img, err
	}
	if word := r.URL.Query().Get("secret"); word != "" {
		// The secret is looked at first: how long the answer takes tells nothing of
		// private images to who has none. Whoever has one knows the whole fingerprint.
		if fp, err := kiln.ParseFingerprint(name); err == nil {
			if in, ok := s.d.Shared(ctx, word, fp); ok {
				img, err := s.d.Images.Get(in, fp)
				if err == nil && img.Missing != "" {
					err = kiln.Errorf(kiln.NotFound, "Image not found")
				}
				return img, err
			}
		}
	}
	img, err := s.d.Images.PublicByPrefix(ctx, name)
	if errors.Is(err, kiln.NotFound) {
		return s.d.PullThrough(ctx, name, asker(r))
	}
	return img, err
}

// asker says who wants an image that may be on a mirror.
func asker(r *http.Request) daemon.Asker {
	by := daemon.Asker{Trusted: callerOf(r).trusted}
	if v := r.Header.Get(remote.ViaHeader); v != "" {
		by.Via = strings.SplitN(v, ",", 64)
	}
	return by
}

// usableImage is image for what needs more of it than its name. The error is Integrity
// when its row is damaged, or its files are missing or damaged.
func (s *Server) usableImage(r *http.Request) (kiln.Image, error) {
	img, err := s.image(r)
	if err == nil {
		err = cmp.Or(img.Whole(), img.Present())
	}
	return img, err
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request) (any, error) {
	if !callerOf(r).trusted && r.URL.Query().Get("secret") == "" {
		return s.untrustedImage(r)
	}
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	i, err := s.wholeImage(r, img)
	return tagged{i, imageState(img)}, err
}

// imageState is what an image's ETag stands for.
func imageState(img kiln.Image) any {
	return []any{img.Public, img.AutoUpdate, orEmpty(img.WithSignature()), img.ExpiresAt, orNone(img.Profiles)}
}

// unset reports whether a time of the wire means none: people write the zero time
// and the first second of 1970.
func unset(t time.Time) bool { return t.IsZero() || t.Unix() == 0 }

func (s *Server) putImage(w http.ResponseWriter, r *http.Request) (any, error) {
	put := struct {
		api.ImagePut
		ExpiresAt *time.Time `json:"expires_at"`
		Profiles  *[]string  `json:"profiles"`
	}{}
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return nil, s.changeImage(r, func(img *kiln.Image) error {
		img.AutoUpdate, img.Public, img.Properties = put.AutoUpdate, put.Public, orEmpty(put.Properties)
		switch {
		case put.ExpiresAt == nil:
			img.ExpiresAt = time.Time{} // null clears
		case !unset(*put.ExpiresAt):
			img.ExpiresAt = *put.ExpiresAt
		}
		img.Profiles = []string{"default"}
		if put.Profiles != nil {
			img.Profiles = *put.Profiles
		}
		return nil
	})
}

func (s *Server) patchImage(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		AutoUpdate *bool             `json:"auto_update"`
		Public     *bool             `json:"public"`
		Properties map[string]string `json:"properties"`
		ExpiresAt  *time.Time        `json:"expires_at"`
		Profiles   *[]string         `json:"profiles"`
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	return nil, s.changeImage(r, func(img *kiln.Image) error {
		set(&img.AutoUpdate, change.AutoUpdate)
		set(&img.Public, change.Public)
		set(&img.Profiles, change.Profiles)
		if change.ExpiresAt != nil && !unset(*change.ExpiresAt) {
			img.ExpiresAt = *change.ExpiresAt
		}
		img.Properties = merged(img.Properties, change.Properties)
		return nil
	})
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *Server) changeImage(r *http.Request, change func(*kiln.Image) error) error {
	img, err := s.image(r)
	if err != nil {
		return err
	}
	return s.d.UpdateImage(r.Context(), img.Fingerprint, func(img *kiln.Image) error {
		if err := checkETag(r, imageState(*img)); err != nil {
			return err
		}
		img.Properties = img.WithSignature()
		if err := change(img); err != nil {
			return err
		}
		img.TakeSignature()
		return nil
	})
}

func (s *Server) deleteImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	return s.d.DeleteImage(r.Context(), img.Fingerprint), nil
}

func (s *Server) verifyImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	return s.d.VerifyImage(r.Context(), img.Fingerprint), nil
}

func (s *Server) getUsage(w http.ResponseWriter, r *http.Request) (any, error) {
	u, err := s.d.ImageUsage(r.Context())
	if err != nil {
		return nil, err
	}
	out := api.ImageStoreUsage{Images: []api.ImageUsage{}, Stored: u.Stored, Shared: u.Shared, Trees: u.Trees,
		Free: u.Free}
	for _, i := range u.Images {
		names := []string{}
		for _, a := range i.Image.Aliases {
			names = append(names, a.Name)
		}
		out.Images = append(out.Images, api.ImageUsage{
			Fingerprint: i.Image.Fingerprint.String(), Aliases: names, Stored: i.Stored, Shared: i.Shared,
			Tree: i.Tree, TreeShared: i.Common, TreeKind: i.Kind, UsedBy: orNone(i.UsedBy), InStore: i.InStore,
		})
	}
	return out, nil
}

func (s *Server) refreshImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	stale, err := acceptsStale(r)
	if err != nil {
		return nil, err
	}
	return s.d.RefreshImage(r.Context(), img.Fingerprint, stale), nil
}

// acceptsStale reports whether a request to look for newer images accepts what the owner of their
// key signed though it has expired. Others send no body.
func acceptsStale(r *http.Request) (bool, error) {
	if r.ContentLength == 0 {
		return false, nil
	}
	var post api.ImageRefreshPost
	err := readJSON(r, &post)
	return post.Stale, err
}

func (s *Server) pruneImages(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.ImagesPrune
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	list, err := s.d.PruneImages(r.Context(), post.All, post.DryRun)
	pruned := []api.PrunedImage{}
	for _, p := range list {
		pruned = append(pruned, api.PrunedImage{Image: image(p.Image), Why: p.Why})
	}
	return pruned, err
}
