package server

import (
	"net/http"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// The types of volumes.
const (
	customVolume    = "custom"
	containerVolume = "container"
	imageVolume     = "image"
)

const (
	poolVolumes   = "/1.0/storage-pools/default/volumes/"
	customVolumes = poolVolumes + customVolume + "/"
)

func wireVolume(v daemon.Volume, to caller) api.StorageVolume {
	used := []string{}
	for _, i := range v.Instances {
		if to.mayUse(i.Project) {
			used = append(used, inURL("/1.0/instances/"+i.Name, i.Project))
		}
	}
	for _, p := range v.Profiles {
		if to.mayUse(p.Project) {
			used = append(used, inURL("/1.0/profiles/"+segment(p.Name), p.Project))
		}
	}
	out := api.StorageVolume{StorageVolumePut: volumePut(v.CustomState), Name: v.Name, Type: customVolume,
		ContentType: "filesystem", UsedBy: used, Location: "none", Project: v.In, CreatedAt: v.CreatedAt}
	out.Description = described(v.Description, v.Damage)
	return out
}

// wireInstanceVolume tells of the volume that an instance has for itself.
func wireInstanceVolume(i instance.Instance) api.StorageVolume {
	return api.StorageVolume{StorageVolumePut: api.StorageVolumePut{Config: map[string]string{}}, Name: i.Name,
		Type: containerVolume, ContentType: "filesystem", UsedBy: []string{inURL("/1.0/instances/"+i.Name, i.Project)},
		Location: "none", Project: i.Project, CreatedAt: i.CreatedAt}
}

// wireImageVolume tells of the tree of an image.
func wireImageVolume(img kiln.Image) api.StorageVolume {
	fp := img.Fingerprint.String()
	return api.StorageVolume{StorageVolumePut: api.StorageVolumePut{Config: map[string]string{}}, Name: fp,
		Type: imageVolume, ContentType: "filesystem", UsedBy: []string{inURL("/1.0/images/"+fp, img.Project)},
		Location: "none", Project: img.Project, CreatedAt: img.UploadedAt}
}

// volumePut is what a volume's ETag stands for.
func volumePut(s volume.CustomState) api.StorageVolumePut {
	return api.StorageVolumePut{Config: orEmpty(s.Config), Description: s.Description}
}

// inPool checks the pool, and the type of volumes, that a request is about. Errors:
// NotFound, Unsupported.
func inPool(r *http.Request) error {
	if name := r.PathValue("name"); name != "default" {
		return noPool(name)
	}
	switch t := r.PathValue("type"); t {
	case "", customVolume, containerVolume, imageVolume, "virtual-machine":
		return nil
	default:
		return kiln.Errorf(kiln.NotFound, "%q is no type of storage volumes; kiln has %s, %s and %s", t, customVolume,
			containerVolume, imageVolume)
	}
}

func noPool(name string) error {
	return kiln.Errorf(kiln.NotFound, "no storage pool %q; kiln has the one called \"default\"", name)
}

// onlyCustom is inPool for what can be done with custom volumes only, by a client that may
// use those of the project. Errors: NotFound, Denied, Unsupported.
func onlyCustom(r *http.Request) error {
	if err := inPool(r); err != nil {
		return err
	}
	switch r.PathValue("type") {
	case containerVolume:
		return kiln.Errorf(kiln.Unsupported, "the storage volume of an instance is changed by the verbs for the instance: "+
			"kiln config set, kiln snapshot, kiln copy, kiln rename, kiln delete; nothing of it can be set here")
	case imageVolume:
		return kiln.Errorf(kiln.Unsupported, "the storage volume of an image is what the image is unpacked to; see: "+
			"kiln image edit, kiln image delete")
	case "virtual-machine":
		return kiln.Errorf(kiln.Unsupported, "kiln has no virtual machines, and no storage volumes of any")
	}
	return mayUseVolumes(r)
}

// mayUseVolumes refuses the custom volumes of the default project to who may only use
// another one that has them as well. The error is Denied.
func mayUseVolumes(r *http.Request) error {
	in, err := project.One(r.Context(), project.Volumes)
	if err == nil && !callerOf(r).mayUse(in) {
		err = kiln.Errorf(kiln.Denied, "not authorized: the storage volumes of project %q are those of the %s project, "+
			"which this client may not use", project.Name(r.Context()), in)
	}
	return err
}

func (s *Server) getVolumes(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := inPool(r); err != nil {
		return nil, err
	}
	var volumes []api.StorageVolume
	only := r.PathValue("type")
	if only == "" || only == containerVolume {
		all, err := s.d.Instances(r.Context())
		if err != nil {
			return nil, err
		}
		snapshots, err := s.d.AllSnapshots(r.Context(), "")
		if err != nil {
			return nil, err
		}
		for _, i := range all {
			volumes = append(volumes, wireInstanceVolume(i))
			for _, snap := range snapshots.Refs(db.Name{Project: i.Project, Name: i.Name}) {
				o := wireInstanceVolume(i)
				o.Name, o.CreatedAt, o.UsedBy = i.Name+"/"+snap.Name, snap.CreatedAt, []string{}
				volumes = append(volumes, o)
			}
		}
	}
	if only == "" || only == imageVolume {
		all, err := s.d.ImageVolumes(r.Context())
		if err != nil {
			return nil, err
		}
		for _, img := range all {
			volumes = append(volumes, wireImageVolume(img))
		}
	}
	if only == "" || only == customVolume {
		all, err := s.d.Volumes(r.Context())
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			if to := callerOf(r); to.mayUse(v.In) {
				snapshots, err := s.d.SnapshotsOf(v)
				if err != nil && v.Damage == "" { // which is no reason to show none of the others
					v.Damage = err.Error()
				}
				volumes = append(volumes, wireVolume(v, to))
				for _, snap := range snapshots {
					volumes = append(volumes, asVolume(snap))
				}
			}
		}
	}
	return list(r, volumes, func(v api.StorageVolume) string {
		name, snap, ok := strings.Cut(v.Name, "/")
		path := poolVolumes + v.Type + "/" + segment(name)
		if ok {
			path += "/snapshots/" + segment(snap)
		}
		return inURL(path, v.Project)
	})
}

func (s *Server) postVolumes(w http.ResponseWriter, r *http.Request) (any, error) {
	if isFile(r) {
		return s.postVolumeFile(w, r)
	}
	var post api.StorageVolumesPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	switch {
	case post.Type != "" && post.Type != customVolume:
		return nil, kiln.Errorf(kiln.Invalid, "a storage volume of type %q comes with an instance or an image; make one of "+
			"type custom", post.Type)
	case post.ContentType != "" && post.ContentType != "filesystem":
		return nil, kiln.Errorf(kiln.Unsupported, "storage volumes with the content %q are not supported; kiln has "+
			"filesystem", post.ContentType)
	case post.Source.Type == "copy":
		return s.copyVolume(r, post)
	case post.Source.Type != "" && post.Source.Type != "none", post.Source.Name != "":
		return nil, kiln.Errorf(kiln.Unsupported, "a storage volume can't be made of a source of type %q; kiln has copy, of "+
			"a volume of the same server", post.Source.Type)
	}
	err := s.d.CreateVolume(r.Context(), post.Name, volume.CustomState{Description: post.Description, Config: post.Config})
	return created(inURL(customVolumes+segment(post.Name), project.Name(r.Context()))), err
}

// copyVolume makes a volume of another one, which the caller may use as well.
func (s *Server) copyVolume(r *http.Request, post api.StorageVolumesPost) (any, error) {
	from := post.Source
	name, snap, _ := strings.Cut(from.Name, "/")
	switch {
	case from.Pool != "" && from.Pool != "default":
		return nil, noPool(from.Pool)
	case from.Refresh:
		return nil, kiln.Errorf(kiln.Unsupported, "--refresh is not supported for storage volumes; copy it under "+
			"another name")
	case from.Mode != "" && from.Mode != "pull":
		return nil, kiln.Errorf(kiln.Unsupported, "mode %q is not supported for storage volumes", from.Mode)
	}
	if from.Project != "" {
		if !callerOf(r).mayUse(from.Project) {
			return nil, noProject(from.Project)
		}
		in, err := s.d.In(r.Context(), from.Project)
		if err == nil {
			err = mayUseVolumes(r.WithContext(in))
		}
		if err != nil {
			return nil, err
		}
	}
	return s.d.CopyVolume(r.Context(), post.Name, volume.CustomState{Description: post.Description, Config: post.Config},
		daemon.VolumeCopy{From: name, Snapshot: snap, Project: from.Project, Only: from.VolumeOnly})
}

func (s *Server) getVolume(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := inPool(r); err != nil {
		return nil, err
	}
	name := r.PathValue("volume")
	switch r.PathValue("type") {
	case containerVolume:
		i, err := s.d.Instance(r.Context(), name)
		return wireInstanceVolume(i), err
	case imageVolume:
		all, err := s.d.ImageVolumes(r.Context())
		for _, img := range all {
			if img.Fingerprint.String() == name {
				return wireImageVolume(img), nil
			}
		}
		if err == nil {
			err = kiln.Errorf(kiln.NotFound, "no image %q has a storage volume; it gets one when an instance is made of "+
				"it", name)
		}
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	v, err := s.d.Volume(r.Context(), name)
	return tagged{wireVolume(v, callerOf(r)), volumePut(v.CustomState)}, err
}

func (s *Server) putVolume(w http.ResponseWriter, r *http.Request) (any, error) {
	var put api.StorageVolumePut
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	if put.Restore != "" {
		return nil, s.d.RestoreVolume(r.Context(), r.PathValue("volume"), put.Restore,
			func(v volume.CustomState) error { return checkETag(r, volumePut(v)) })
	}
	return nil, s.changeVolume(r, func(api.StorageVolumePut) api.StorageVolumePut { return put })
}

func (s *Server) patchVolume(w http.ResponseWriter, r *http.Request) (any, error) {
	var change struct {
		Description *string
		Config      map[string]string
	}
	if err := readJSON(r, &change); err != nil {
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	return nil, s.changeVolume(r, func(p api.StorageVolumePut) api.StorageVolumePut {
		set(&p.Description, change.Description)
		p.Config = merged(p.Config, change.Config)
		return p
	})
}

func (s *Server) changeVolume(r *http.Request, change func(api.StorageVolumePut) api.StorageVolumePut) error {
	return s.d.UpdateVolume(r.Context(), r.PathValue("volume"), func(v volume.CustomState) (volume.CustomState, error) {
		if err := checkETag(r, volumePut(v)); err != nil {
			return v, err
		}
		put := change(volumePut(v))
		return volume.CustomState{Description: put.Description, Config: put.Config}, nil
	})
}

func (s *Server) postVolume(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.StorageVolumePost
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	if here := project.Name(r.Context()); to.Migration || to.Pool != "" && to.Pool != "default" ||
		to.Project != "" && to.Project != here {
		return nil, kiln.Errorf(kiln.Unsupported, "moving storage volumes elsewhere is not supported by this version of kiln")
	}
	err := s.d.RenameVolume(r.Context(), r.PathValue("volume"), to.Name)
	if err == nil && to.Pool != "" { // where clients expect to wait
		return s.d.DoneWith(r.Context(), "Moving storage volume", "storage_volumes", customVolumes+segment(to.Name)), nil
	}
	return created(inURL(customVolumes+segment(to.Name), project.Name(r.Context()))), err
}

func (s *Server) deleteVolume(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	return nil, s.d.DeleteVolume(r.Context(), r.PathValue("volume"))
}

func (s *Server) getVolumeState(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := inPool(r); err != nil {
		return nil, err
	}
	var out api.StorageVolumeState
	if r.PathValue("type") == containerVolume {
		st, err := s.d.InstanceState(r.Context(), r.PathValue("volume"))
		out.Usage.Used = uint64(st.DiskUsage)
		return out, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	n, err := s.d.VolumeUsage(r.Context(), r.PathValue("volume"))
	out.Usage.Used = uint64(n)
	return out, err
}
