package place

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
)

// defaultImage is the alias that an instance is made from where none is named, as with lxc.
const defaultImage = "default"

// Image is At for a word that means an image. The error is Invalid where it names none.
func (r *Resolver) Image(word string) (Place, error) {
	at, err := r.At(word)
	if err == nil && at.Name == "" {
		err = unnamedImage(at.Word())
	}
	return at, err
}

func unnamedImage(word string) error {
	return kiln.Errorf(kiln.Invalid, "Image identifier missing: %q names no image; write an alias or the beginning of a "+
		"fingerprint after the colon", word)
}

// OnlyImages reports whether a word is about a server that only has images.
func (r *Resolver) OnlyImages(word string) (bool, error) {
	c, err := r.Config()
	if err != nil {
		return false, err
	}
	name, _ := c.Split(word)
	remote, err := c.Find(name)
	return err == nil && remote.Streams(), err
}

// FindImage finds the image that a word means, and where its files are. The error is
// Integrity for one that isn't signed as those of its remote have to be.
func (r *Resolver) FindImage(ctx context.Context, word string) (kiln.Source, kiln.Image, error) {
	src, img, err := r.LookAtImage(ctx, word)
	if err != nil {
		return nil, kiln.Image{}, err
	}
	c, err := r.Config()
	if err != nil {
		return nil, kiln.Image{}, err
	}
	remote, name := c.Split(word)
	return src, img, r.CheckSigned(ctx, img, remote, name)
}

// CheckSigned says whether an image is signed as those of a remote have to be, as what it
// was asked for by. The error is Integrity.
func (r *Resolver) CheckSigned(ctx context.Context, img kiln.Image, remote, name string) error {
	_, err := r.Vouched(ctx, img, remote, name)
	return err
}

// Vouched is CheckSigned, and gives the key that signed the image: "" if it needn't be signed.
func (r *Resolver) Vouched(ctx context.Context, img kiln.Image, remote, name string) (key string, err error) {
	by, err := r.authority(ctx, remote)
	if err != nil || by == nil {
		return "", err
	}
	if err = by.Check(img, name); err == nil {
		return by.Signer(img).String(), nil
	}
	return "", kiln.Errorf(kiln.KindOf(err), "the image %q of the remote %q is refused: %w; ask who runs it, or pin "+
		"another key: kiln remote set-key %s <key>", name, remote, err, remote)
}

// LookAtImage is FindImage for who only wants to look, whoever signed it.
func (r *Resolver) LookAtImage(ctx context.Context, word string) (kiln.Source, kiln.Image, error) {
	c, err := r.Config()
	if err != nil {
		return nil, kiln.Image{}, err
	}
	remote, name := c.Split(word)
	if name == "" {
		return nil, kiln.Image{}, unnamedImage(remote + ":")
	}
	src, err := r.Source(remote)
	if err != nil {
		return nil, kiln.Image{}, err
	}
	img, err := src.Find(ctx, name)
	return src, img, err
}

// Images gives the images of the server that the first word means, whichever
// protocol it speaks, and the other words. filter makes of those what is asked of the
// server, which can spare it most of the answer; it need not heed it.
func (r *Resolver) Images(ctx context.Context, words []string,
	filter func(words []string) string) ([]api.Image, []string, error) {
	all, rest, streams, err := r.streamed(ctx, words)
	if streams || err != nil {
		return all, rest, err
	}
	at, rest, err := r.Filtered(words)
	if err != nil {
		return nil, nil, err
	}
	if _, err := r.authority(ctx, at.Remote); err != nil {
		return nil, nil, err
	}
	all, err = client.Search[api.Image](ctx, at.Client, "/1.0/images", 1, filter(rest))
	return all, rest, err
}

// Aliases is Images for aliases.
func (r *Resolver) Aliases(ctx context.Context, words []string) ([]api.ImageAliasesEntry, []string, error) {
	images, rest, streams, err := r.streamed(ctx, words)
	if err != nil {
		return nil, nil, err
	}
	if streams {
		var all []api.ImageAliasesEntry
		for _, i := range images {
			for _, al := range i.Aliases {
				all = append(all, api.ImageAliasesEntry{Name: al.Name, Description: al.Description, Target: i.Fingerprint,
					Type: i.Type})
			}
		}
		return all, rest, nil
	}
	at, rest, err := r.Filtered(words)
	if err != nil {
		return nil, nil, err
	}
	all, err := client.List[api.ImageAliasesEntry](ctx, at.Client, "/1.0/images/aliases", 1)
	return all, rest, err
}

// streamed gives the images of the server that the first word means, if that is one
// that only has images.
func (r *Resolver) streamed(ctx context.Context, words []string) (all []api.Image, rest []string, ok bool, err error) {
	word, rest, err := filters(words)
	if err != nil {
		return nil, nil, false, err
	}
	if ok, err = r.OnlyImages(word); !ok || err != nil {
		return nil, nil, false, err
	}
	c, err := r.Config()
	if err != nil {
		return nil, nil, false, err
	}
	name, _ := c.Split(word)
	if _, err := r.authority(ctx, name); err != nil {
		return nil, nil, false, err
	}
	src, err := r.Source(name)
	if err != nil {
		return nil, nil, false, err
	}
	lister, can := src.(interface {
		List(context.Context) ([]kiln.Image, error)
	})
	if !can {
		return nil, nil, false, kiln.Errorf(kiln.Unsupported, "the images of the remote %q can't be listed", name)
	}
	list, err := lister.List(ctx)
	if err != nil {
		return nil, nil, false, err
	}
	all = make([]api.Image, 0, len(list))
	for _, i := range list {
		all = append(all, Wire(i))
	}
	return all, rest, true, nil
}

// Wire is an image of a server without an API, as one with it would tell it. An image
// whose metadata is made when it is copied has no fingerprint before.
func Wire(i kiln.Image) api.Image {
	w := api.Image{
		ImagePut: api.ImagePut{Properties: i.WithSignature(), Public: i.Public, ExpiresAt: i.ExpiresAt,
			Profiles: []string{}},
		Architecture: i.Architecture, Filename: i.Filename, Fingerprint: i.Fingerprint.String(), Size: i.Size, Type: i.Type,
		CreatedAt: i.CreatedAt, UploadedAt: i.UploadedAt, Aliases: []api.ImageAlias{},
	}
	if i.Fingerprint.IsZero() {
		w.Fingerprint = ""
	}
	for _, al := range i.Aliases {
		w.Aliases = append(w.Aliases, api.ImageAlias{Name: al.Name, Description: al.Description})
	}
	return w
}

// ImageSource says where another server finds an image of a remote. A private one is
// shared with it by a secret. With offline, no server is asked.
func (r *Resolver) ImageSource(ctx context.Context, name, image string, offline bool) (api.ImagesPostSource, error) {
	var s api.ImagesPostSource
	config, err := r.Config()
	if err != nil {
		return s, err
	}
	where, err := config.Reach(name)
	if err != nil {
		return s, err
	}
	c := config.Remotes[name]
	s = api.ImagesPostSource{
		Type: "image", Mode: "pull", Server: where.Server, Protocol: where.Protocol, Certificate: where.Certificate,
		Project:      c.Project,
		RemoteAccess: Access(where),
	}
	if s.Alias = image; len(image) >= kiln.ShortDigits && kiln.IsPrefix(strings.ToLower(image)) {
		s.Alias, s.Fingerprint = "", image
	}
	if c.Streams() || offline && !c.Unix() {
		return s, nil
	}
	at, err := r.Connect(name)
	if err != nil {
		return s, err
	}
	if c.Unix() {
		if err := OverNetwork(ctx, at, &s, ImageRelay); err != nil || offline {
			return s, err
		}
	}
	img, _, err := at.Images().Resolve(ctx, image)
	if errors.Is(err, kiln.Network) && !c.Unix() {
		return s, nil // the other server may have the image already
	}
	if err != nil {
		return s, err
	}
	if c.ImageKey != "" { // the other server is told a fingerprint, and doesn't know what it is called
		found, err := client.Image(img)
		if err == nil {
			err = r.CheckSigned(ctx, found, name, image)
		}
		if err != nil {
			return s, err
		}
	}
	if img.Public && s.Alias != "" {
		return s, nil
	}
	s.Alias, s.Fingerprint = "", img.Fingerprint
	if !img.Public {
		s.Secret, err = share(ctx, at, img)
	}
	return s, err
}

// Access says how another server reaches a remote.
func Access(where kiln.Remote) api.RemoteAccess {
	return api.RemoteAccess{CA: where.CA, Mirrors: where.Mirrors, Proxy: where.Proxy, ImageKey: where.ImageKey,
		Stale: where.Stale}
}

// InstanceSource says what an instance is to be made from, on the server where it
// will be: an image there, or one that it is to fetch.
func (r *Resolver) InstanceSource(ctx context.Context, word string, to Place, offline bool) (
	api.InstanceSource, error) {
	c, err := r.Config()
	if err != nil {
		return api.InstanceSource{}, err
	}
	remote, name := c.Split(word)
	if name == "" {
		name = defaultImage
	}
	if remote == to.Remote {
		return api.InstanceSource{Type: "image", Alias: name}, nil
	}
	s, err := r.ImageSource(ctx, remote, name, offline)
	if err == nil && s.ImageKey != "" {
		err = Verifies(ctx, to)
	}
	if err != nil {
		return api.InstanceSource{}, err
	}
	return api.InstanceSource{
		Type: "image", Mode: "pull", Server: s.Server, Protocol: s.Protocol, Certificate: s.Certificate, Alias: s.Alias,
		Fingerprint: s.Fingerprint, Secret: s.Secret, Project: s.Project, Offline: offline, RemoteAccess: s.RemoteAccess,
	}, nil
}

// Verifies says whether a server checks signatures of the images that it is told to get. The
// error is Unsupported.
func Verifies(ctx context.Context, at Place) error {
	var server api.Server
	if _, err := at.Get(ctx, "/1.0", nil, &server); err != nil {
		return err
	}
	if slices.Contains(server.APIExtensions, "kiln_image_signatures") {
		return nil
	}
	return kiln.Errorf(kiln.Unsupported, "the server %q can't check the signature of an image, which the remote's key "+
		"asks for; copy the image there through this client, which can: %s", at.Remote, ImageRelay)
}

// ImageRelay sends an image through the client.
const ImageRelay = "kiln image copy --mode relay"

// OverNetwork says how a server that the client reaches by a socket is reached by
// others. The error is Unsupported if it isn't, and names the verb that does without.
func OverNetwork(ctx context.Context, at *client.Client, s *api.ImagesPostSource, instead string) error {
	var server api.Server
	if _, err := at.Get(ctx, "/1.0", nil, &server); err != nil {
		return err
	}
	if server.Environment == nil || len(server.Environment.Addresses) == 0 {
		return kiln.Errorf(kiln.Unsupported, "the source server isn't listening on the network, so that no other server "+
			"can fetch from it; have it listen with: kiln config set core.https_address \":8443\"; or send it through "+
			"this client: %s", instead)
	}
	s.Server, s.Certificate, s.Protocol = "https://"+server.Environment.Addresses[0], server.Environment.Certificate,
		kiln.ProtocolLXD
	for _, other := range server.Environment.Addresses[1:] {
		s.Mirrors = append(s.Mirrors, "https://"+other)
	}
	return nil
}

// share gets the secret by which others can have a private image.
func share(ctx context.Context, at *client.Client, img api.Image) (string, error) {
	_, op, err := at.Do(ctx, client.Request{Method: http.MethodPost,
		Path: client.Path("/1.0/images", img.Fingerprint) + "/secret", Body: struct{}{}}, nil)
	if err != nil {
		return "", err
	}
	if op == nil {
		return "", kiln.Errorf(kiln.Network, "the server gave no secret for the image %s", img.Fingerprint)
	}
	secret, ok := op.Metadata["secret"].(string)
	if !ok {
		return "", kiln.Errorf(kiln.Network, "the server gave no secret for the image %s", img.Fingerprint)
	}
	return secret, nil
}
