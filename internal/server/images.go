package server

import (
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/filter"
	"github.com/kiln-containers/kiln/internal/store"
)

func imagePut(img kiln.Image) api.ImagePut {
	return api.ImagePut{AutoUpdate: img.AutoUpdate, Properties: orEmpty(img.Properties), Public: img.Public, ExpiresAt: img.ExpiresAt, Profiles: orNone(img.Profiles)}
}

func image(img kiln.Image) api.Image {
	aliases := make([]api.ImageAlias, 0, len(img.Aliases))
	for _, a := range img.Aliases {
		aliases = append(aliases, api.ImageAlias{Name: a.Name, Description: a.Description})
	}
	return api.Image{
		ImagePut: imagePut(img), Aliases: aliases, Architecture: img.Architecture, Cached: img.Cached, Filename: img.Filename,
		Fingerprint: img.Fingerprint.String(), Size: img.Size, Type: img.Type, CreatedAt: img.CreatedAt, LastUsedAt: img.LastUsedAt,
		UploadedAt: img.UploadedAt, Project: defaultProject, Locations: []string{"none"}, UpdateSource: updateSource(img.Origin),
		ReplacedBy: fingerprintText(img.ReplacedBy),
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
	return &api.ImageSource{Alias: o.Alias, Certificate: o.Certificate, Protocol: o.Protocol, Server: o.Server, ImageType: "container"}
}

// wholeImage is an image with what lists leave out.
func (s *Server) wholeImage(r *http.Request, img kiln.Image) (api.Image, error) {
	i := image(img)
	for _, f := range img.Files {
		i.Files = append(i.Files, api.ImageFile{Role: string(f.Role), Name: f.Name, Size: f.Size, Hash: f.Hash.String(), Ext: f.Ext})
	}
	if !who(r).trusted {
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
	all, err := s.d.Images.List(r.Context(), store.Query{Public: !who(r).trusted, Properties: f.Equalities("properties.")})
	if err != nil {
		return nil, err
	}
	urls, images := []string{}, make([]api.Image, 0, len(all))
	for _, img := range all {
		switch {
		case !f.Empty() && !f.Match(imageFields(img)):
		case recursion(r) == 0:
			urls = append(urls, "/1.0/images/"+img.Fingerprint.String())
		default:
			images = append(images, image(img))
		}
	}
	if recursion(r) == 0 {
		return urls, nil
	}
	return images, nil
}

// image finds the image of a request: by the beginning of its fingerprint. A
// stranger has to know the secret of a private one, for which it might as well not
// be there otherwise.
func (s *Server) image(r *http.Request) (kiln.Image, error) {
	ctx, name := r.Context(), r.PathValue("name")
	if who(r).trusted {
		return s.d.Images.ByPrefix(ctx, name)
	}
	if word := r.URL.Query().Get("secret"); word != "" {
		img, err := s.d.Images.ByPrefix(ctx, name)
		if err == nil && s.d.Shared(word, img.Fingerprint) {
			return img, nil
		}
	}
	img, err := s.d.Images.PublicByPrefix(ctx, name)
	if errors.Is(err, kiln.NotFound) {
		return s.d.PullThrough(ctx, name)
	}
	return img, err
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	i, err := s.wholeImage(r, img)
	return tagged{i, imageState(img)}, err
}

// imageState is what an image's ETag stands for.
func imageState(img kiln.Image) any {
	return []any{img.Public, img.AutoUpdate, orEmpty(img.Properties), img.ExpiresAt, orNone(img.Profiles)}
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
		return change(img)
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
	out := api.ImageStoreUsage{Images: []api.ImageUsage{}, Stored: u.Stored, Shared: u.Shared, Trees: u.Trees, Free: u.Free}
	for _, i := range u.Images {
		names := []string{}
		for _, a := range i.Image.Aliases {
			names = append(names, a.Name)
		}
		out.Images = append(out.Images, api.ImageUsage{
			Fingerprint: i.Image.Fingerprint.String(), Aliases: names, Stored: i.Stored, Shared: i.Shared,
			Tree: i.Tree, TreeKind: i.Kind, UsedBy: orNone(i.UsedBy), InStore: i.InStore,
		})
	}
	return out, nil
}

// exportImage sends an image as it came: one file as it is, with ranges, or two as
// parts of a form.
func (s *Server) exportImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	if len(img.Files) == 1 {
		return s.sendFile(w, r, img, img.Files[0])
	}
	form := multipart.NewWriter(w)
	w.Header().Set("Content-Type", form.FormDataContentType())
	if r.Method == http.MethodHead {
		return handled{}, nil
	}
	for i, file := range img.Files {
		if err := s.exportPart(form, img, i); err != nil {
			// The answer has begun: all that is left is to break it off.
			s.log.Error("export an image", "image", img.Fingerprint, "file", file.Role, "err", err)
			panic(http.ErrAbortHandler)
		}
	}
	return handled{}, form.Close()
}

// sendFile sends one file of an image, or what is asked for of it.
func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, img kiln.Image, file kiln.File) (any, error) {
	f, err := s.d.Images.OpenFile(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "inline;filename="+img.Fingerprint.String()+file.Ext)
	w.Header().Set("ETag", `"`+file.Hash.String()+`"`)
	http.ServeContent(w, r, "", img.UploadedAt.Truncate(time.Second), f)
	return handled{}, nil
}

// getImageFile sends one file of an image by its hash, so that also those of split
// images can be had in pieces.
func (s *Server) getImageFile(w http.ResponseWriter, r *http.Request) (any, error) {
	img, f, err := s.file(r)
	if err != nil {
		return nil, err
	}
	return s.sendFile(w, r, img, f)
}

// file finds the file of an image that a request names by its hash.
func (s *Server) file(r *http.Request) (kiln.Image, kiln.File, error) {
	img, err := s.image(r)
	if err != nil {
		return img, kiln.File{}, err
	}
	for _, f := range img.Files {
		if f.Hash.String() == r.PathValue("hash") {
			return img, f, nil
		}
	}
	return img, kiln.File{}, kiln.Errorf(kiln.NotFound, "Image not found")
}

func (s *Server) refreshImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	return s.d.RefreshImage(r.Context(), img.Fingerprint), nil
}

func (s *Server) shareImage(w http.ResponseWriter, r *http.Request) (any, error) {
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	return s.d.ShareImage(r.Context(), img.Fingerprint), nil
}

// pushImage sends an image to another server.
func (s *Server) pushImage(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.ImageExportPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	img, err := s.image(r)
	if err != nil {
		return nil, err
	}
	return s.d.PushImage(r.Context(), img, daemon.Target{Server: post.Target, Certificate: post.Certificate, Secret: post.Secret, Project: post.Project})
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

func (s *Server) exportPart(form *multipart.Writer, img kiln.Image, i int) error {
	file := img.Files[i]
	name := img.Fingerprint.String() + file.Ext
	if file.Role == kiln.Metadata {
		name = "meta-" + name
	}
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="%s"; filename="%s"`, file.Role, name))
	h.Set("Content-Type", "application/octet-stream")
	part, err := form.CreatePart(h)
	if err != nil {
		return err
	}
	f, err := s.d.Images.OpenFile(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(part, f)
	return err
}

// header gives a header of an upload, under the names of LXD and of Incus.
func header(r *http.Request, name string) string {
	if v := r.Header.Get("X-LXD-" + name); v != "" {
		return v
	}
	return r.Header.Get("X-Incus-" + name)
}

func isTrue(v string) bool {
	switch strings.ToLower(v) {
	case "true", "1", "yes", "on":
		return true
	}
	return false
}

func (s *Server) postImages(w http.ResponseWriter, r *http.Request) (any, error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		if !who(r).trusted {
			return nil, kiln.Errorf(kiln.Denied, "not authorized")
		}
		return s.postImagesJSON(r)
	}
	spec, err := importSpec(r)
	if err != nil {
		return nil, drained(r, err)
	}
	word := header(r, "secret")
	if word != "" || !who(r).trusted {
		fp := spec.Fingerprint
		if spec, err = s.d.Expected(word, fp); err != nil {
			return nil, err
		}
		spec.Filename, spec.Secret = header(r, "filename"), word
		// An image takes its time, whoever sends it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	upload, err := newUpload(r, spec.Filename)
	if err != nil {
		return nil, drained(r, err)
	}
	o := s.d.ImportImage(r.Context(), spec, upload)
	if final := o.Snapshot(); final.Err != nil {
		_ = drained(r, nil)
	}
	return o, nil
}

// postImagesJSON answers the ways of getting an image that are not an upload.
func (s *Server) postImagesJSON(r *http.Request) (any, error) {
	var post api.ImagesPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if post.Source == nil {
		return nil, kiln.Errorf(kiln.Invalid, "Invalid images JSON: the source is missing")
	}
	spec := daemon.ImportSpec{
		Filename: post.Filename, Public: post.Public, AutoUpdate: post.AutoUpdate, Properties: post.Properties, Profiles: post.Profiles,
		MoveAliases: post.MoveAliases || post.Reuse, Reuse: post.Reuse,
	}
	if !unset(post.ExpiresAt) {
		spec.ExpiresAt = post.ExpiresAt
	}
	for _, a := range post.Aliases {
		spec.Aliases = append(spec.Aliases, kiln.Alias{Name: a.Name, Description: a.Description})
	}
	switch src := post.Source; {
	case src.Mode == "push":
		if spec.AutoUpdate {
			return nil, kiln.Errorf(kiln.Invalid, "Auto update is only available in pull mode: what is pushed can't be asked for again")
		}
		fp, err := kiln.ParseFingerprint(src.Fingerprint)
		if err != nil {
			return nil, err
		}
		spec.Fingerprint = fp
		return s.d.ExpectImage(r.Context(), spec)
	case src.Type == "image", src.Type == "url":
		return s.d.PullImage(r.Context(), pullSpec(spec, *src))
	default:
		return nil, kiln.Errorf(kiln.Unsupported, "making an image from a source of type %q is not supported by this version of kiln; there are image and url", src.Type)
	}
}

// pullSpec reads where an image is to come from.
func pullSpec(spec daemon.ImportSpec, src api.ImagesPostSource) daemon.PullSpec {
	p := daemon.PullSpec{ImportSpec: spec, Remote: remoteOf(src.Server, src.Protocol, src.Certificate, src.RemoteAccess), Secret: src.Secret, Project: src.Project}
	switch {
	case src.Type == "url":
		p.Remote.Protocol, p.Remote.Server, p.Name = kiln.ProtocolDirect, src.URL, src.URL
	case src.Alias != "":
		p.Name, p.IsAlias = src.Alias, true
	default:
		// Clients put the alias of a public image here, too.
		p.Name, p.IsAlias = src.Fingerprint, !kiln.IsPrefix(strings.ToLower(src.Fingerprint))
	}
	return p
}

func remoteOf(server, protocol, certificate string, more api.RemoteAccess) kiln.Remote {
	if protocol == "" {
		protocol = kiln.ProtocolLXD
	}
	return kiln.Remote{Protocol: protocol, Server: strings.TrimSuffix(server, "/"), Mirrors: more.Mirrors, Certificate: certificate, CA: more.CA, Proxy: more.Proxy}
}

// importSpec reads what the headers of an upload say.
func importSpec(r *http.Request) (daemon.ImportSpec, error) {
	spec := daemon.ImportSpec{
		Filename: header(r, "filename"), Public: isTrue(header(r, "public")),
		MoveAliases: isTrue(r.Header.Get("X-Kiln-Move-Aliases")), Reuse: isTrue(r.Header.Get("X-Kiln-Reuse")),
		Cached: isTrue(r.Header.Get("X-Kiln-Cached")),
	}
	properties, err := url.ParseQuery(header(r, "properties"))
	if err != nil {
		return spec, kiln.Errorf(kiln.Invalid, "the properties of the upload: %w", err)
	}
	spec.Properties = map[string]string{}
	for k := range properties {
		spec.Properties[k] = properties.Get(k)
	}
	if spec.Profiles, err = names(header(r, "profiles"), "profile"); err != nil {
		return spec, err
	}
	aliases, err := names(header(r, "aliases"), "alias")
	if err != nil {
		return spec, err
	}
	for _, a := range aliases {
		spec.Aliases = append(spec.Aliases, kiln.Alias{Name: a})
	}
	if fp := header(r, "fingerprint"); fp != "" {
		spec.Fingerprint, err = kiln.ParseFingerprint(fp)
	}
	return spec, err
}

// names reads a header that has one name, or several as a query.
func names(v, key string) ([]string, error) {
	if v == "" {
		return nil, nil
	}
	if !strings.Contains(v, key+"=") {
		v = key + "=" + url.QueryEscape(v)
	}
	q, err := url.ParseQuery(v)
	if err != nil {
		return nil, kiln.Errorf(kiln.Invalid, "the %s header of the upload: %w", key, err)
	}
	return q[key], nil
}

// drained reads the rest of an upload that failed, for a while: a client that is
// still sending would see a broken connection in the place of the answer.
func drained(r *http.Request, err error) error {
	end := time.Now().Add(10 * time.Second)
	buf := make([]byte, 1<<20)
	for time.Now().Before(end) {
		if _, rerr := r.Body.Read(buf); rerr != nil {
			break
		}
	}
	return err
}

// upload is the body of a request as the files of an image, read once.
type upload struct {
	name  string
	size  int64
	body  io.Reader
	parts *multipart.Reader // of a split image
	count int
}

func newUpload(r *http.Request, name string) (*upload, error) {
	u := &upload{name: name, size: r.ContentLength, body: r.Body}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		var err error
		if u.parts, err = r.MultipartReader(); err != nil {
			return nil, kiln.Errorf(kiln.Invalid, "the upload is no form: %w", err)
		}
		u.body = nil
	}
	return u, nil
}

// Next is kiln.Stream's.
func (u *upload) Next() (kiln.File, error) {
	u.count++
	if u.parts == nil {
		if u.count > 1 {
			return kiln.File{}, io.EOF
		}
		return kiln.File{Name: u.name, Size: u.size}, nil
	}
	part, err := u.parts.NextRawPart()
	if errors.Is(err, io.EOF) {
		return kiln.File{}, io.EOF
	}
	if err != nil {
		return kiln.File{}, kiln.Errorf(kiln.Invalid, "the upload is cut off or no form: %w", err)
	}
	switch want := [...]string{1: "metadata", 2: "rootfs"}; {
	case part.FormName() == "rootfs.img":
		return kiln.File{}, kiln.Errorf(kiln.Unsupported, "this is an image of a virtual machine; kiln runs system containers")
	case u.count >= len(want) || part.FormName() != want[u.count]:
		return kiln.File{}, kiln.Errorf(kiln.Invalid, "part %d of the upload is %q; an upload of two files has the parts \"metadata\" and \"rootfs\", in this order", u.count, part.FormName())
	}
	u.body = part
	return kiln.File{Name: part.FileName(), Size: -1}, nil
}

// Read is kiln.Stream's. A connection that breaks is an error of its own kind.
func (u *upload) Read(b []byte) (int, error) {
	if u.body == nil {
		return 0, io.EOF
	}
	n, err := u.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = kiln.Errorf(kiln.Network, "the upload broke off: %w", err)
	}
	return n, err
}

// Close is kiln.Stream's.
func (u *upload) Close() error { return nil }

func aliasEntry(a kiln.Alias) api.ImageAliasesEntry {
	return api.ImageAliasesEntry{Name: a.Name, Description: a.Description, Target: a.Target.String(), Type: "container"}
}

func (s *Server) getAliases(w http.ResponseWriter, r *http.Request) (any, error) {
	all, err := s.d.Images.Aliases(r.Context())
	if err != nil {
		return nil, err
	}
	entries := make([]api.ImageAliasesEntry, 0, len(all))
	for _, a := range all {
		entries = append(entries, aliasEntry(a))
	}
	return list(r, entries, func(a api.ImageAliasesEntry) string { return "/1.0/images/aliases/" + segment(a.Name) })
}

func (s *Server) postAliases(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.ImageAliasesEntry
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if post.Name == "" || post.Target == "" {
		return nil, kiln.Errorf(kiln.Invalid, "name and target are required")
	}
	img, err := s.d.Images.ByPrefix(r.Context(), post.Target)
	if err != nil {
		return nil, err
	}
	a := kiln.Alias{Name: post.Name, Description: post.Description, Target: img.Fingerprint}
	return created("/1.0/images/aliases/" + segment(a.Name)), s.d.CreateAlias(r.Context(), a)
}

// alias finds the alias of a request. To a stranger, one of a private image might
// as well not be there.
func (s *Server) alias(r *http.Request) (kiln.Alias, error) {
	ctx, name := r.Context(), r.PathValue("name")
	if who(r).trusted {
		return s.d.Images.Alias(ctx, name)
	}
	a, err := s.d.Images.PublicAlias(ctx, name)
	if !errors.Is(err, kiln.NotFound) {
		return a, err
	}
	img, perr := s.d.PullThrough(ctx, name)
	if perr != nil {
		return a, err
	}
	return kiln.Alias{Name: name, Target: img.Fingerprint}, nil
}

func (s *Server) getAlias(w http.ResponseWriter, r *http.Request) (any, error) {
	a, err := s.alias(r)
	if err != nil {
		return nil, err
	}
	return tagged{aliasEntry(a), aliasEntry(a)}, nil
}

func (s *Server) putAlias(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.ImageAliasPut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	if put.Target == "" {
		return nil, kiln.Errorf(kiln.Invalid, "The target field is required")
	}
	return nil, s.changeAlias(r, &put.Description, put.Target)
}

func (s *Server) patchAlias(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct{ Description, Target *string }
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	target := ""
	set(&target, change.Target)
	return nil, s.changeAlias(r, change.Description, target)
}

func (s *Server) changeAlias(r *http.Request, description *string, target string) error {
	a, err := s.d.Images.Alias(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if err := checkETag(r, aliasEntry(a)); err != nil {
		return err
	}
	set(&a.Description, description)
	if target != "" {
		img, err := s.d.Images.ByPrefix(r.Context(), target)
		if err != nil {
			return err
		}
		a.Target = img.Fingerprint
	}
	return s.d.UpdateAlias(r.Context(), a)
}

func (s *Server) postAlias(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.Rename
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	return created("/1.0/images/aliases/" + segment(to.Name)), s.d.RenameAlias(r.Context(), r.PathValue("name"), to.Name)
}

func (s *Server) deleteAlias(w http.ResponseWriter, r *http.Request) (any, error) {
	return nil, s.d.DeleteAlias(r.Context(), r.PathValue("name"))
}
