package server

import (
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/volume"
)

func wireVolumeSnapshot(s volume.CustomSnapshot) api.StorageVolumeSnapshot {
	out := api.StorageVolumeSnapshot{StorageVolumeSnapshotPut: volumeSnapshotPut(s), Name: s.Name,
		Config: orEmpty(s.Config), ContentType: "filesystem", CreatedAt: s.CreatedAt}
	out.Description = described(s.Description, s.Damage)
	return out
}

// asVolume is a snapshot as it is in lists of volumes.
func asVolume(s volume.CustomSnapshot) api.StorageVolume {
	out := api.StorageVolume{StorageVolumePut: volumePut(s.CustomState), Name: s.Of.Name + "/" + s.Name,
		Type: customVolume, ContentType: "filesystem", UsedBy: []string{}, Location: "none", Project: s.Of.In,
		CreatedAt: s.CreatedAt}
	out.Description = described(s.Description, s.Damage)
	return out
}

// volumeSnapshotPut is what the ETag of a snapshot stands for.
func volumeSnapshotPut(s volume.CustomSnapshot) api.StorageVolumeSnapshotPut {
	put := api.StorageVolumeSnapshotPut{Description: s.Description}
	if !s.ExpiresAt.IsZero() {
		put.ExpiresAt = &s.ExpiresAt
	}
	return put
}

// getVolumeSnapshots lists the snapshots of a volume. Those of instances are changed where
// instances are.
func (s *Server) getVolumeSnapshots(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := inPool(r); err != nil {
		return nil, err
	}
	name, kind := r.PathValue("volume"), r.PathValue("type")
	list, urls := []api.StorageVolumeSnapshot{}, []string{}
	add := func(o api.StorageVolumeSnapshot, in string) {
		urls = append(urls, inURL(poolVolumes+kind+"/"+segment(name)+"/snapshots/"+segment(o.Name), in))
		o.Name = name + "/" + o.Name // as LXD has it
		list = append(list, o)
	}
	switch kind {
	case containerVolume:
		all, err := s.d.Snapshots(r.Context(), name)
		if err != nil {
			return nil, err
		}
		for _, snap := range all {
			o := api.StorageVolumeSnapshot{Name: snap.Name, Config: map[string]string{}, ContentType: "filesystem",
				CreatedAt: snap.CreatedAt}
			if !snap.ExpiresAt.IsZero() {
				o.ExpiresAt = &snap.ExpiresAt
			}
			add(o, snap.Project)
		}
	case customVolume:
		if err := mayUseVolumes(r); err != nil {
			return nil, err
		}
		all, err := s.d.VolumeSnapshots(r.Context(), name)
		if err != nil {
			return nil, err
		}
		for _, snap := range all {
			add(wireVolumeSnapshot(snap), snap.Of.In)
		}
	default:
		if _, err := s.getVolume(w, r); err != nil {
			return nil, err
		}
	}
	if recursion(r) == 0 {
		return urls, nil
	}
	return list, nil
}

func (s *Server) postVolumeSnapshots(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.StorageVolumeSnapshotsPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	return s.d.CreateVolumeSnapshot(r.Context(), r.PathValue("volume"), daemon.NewVolumeSnapshot{Name: post.Name,
		ExpiresAt: post.ExpiresAt})
}

func (s *Server) getVolumeSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	snap, err := s.d.VolumeSnapshot(r.Context(), r.PathValue("volume"), r.PathValue("snap"))
	if err != nil {
		return nil, err
	}
	return tagged{wireVolumeSnapshot(snap), volumeSnapshotPut(snap)}, nil
}

func (s *Server) putVolumeSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	var put struct {
		Description *string
		ExpiresAt   *time.Time `json:"expires_at"`
	}
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	return nil, s.d.UpdateVolumeSnapshot(r.Context(), r.PathValue("volume"), r.PathValue("snap"),
		func(snap *volume.CustomSnapshot) error {
			if err := checkETag(r, volumeSnapshotPut(*snap)); err != nil {
				return err
			}
			if r.Method == http.MethodPut { // what is left out is unset
				snap.Description, snap.ExpiresAt = "", time.Time{}
			}
			set(&snap.Description, put.Description)
			set(&snap.ExpiresAt, put.ExpiresAt)
			return nil
		})
}

func (s *Server) postVolumeSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.StorageVolumePost
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	if to.Migration {
		return nil, kiln.Errorf(kiln.Unsupported, "moving snapshots between servers is not supported by this version of kiln")
	}
	name, snap := r.PathValue("volume"), r.PathValue("snap")
	if err := s.d.RenameVolumeSnapshot(r.Context(), name, snap, to.Name); err != nil {
		return nil, err
	}
	return s.d.DoneWith(r.Context(), "Renaming snapshot of storage volume", "storage_volume_snapshots",
		customVolumes+segment(name)+"/snapshots/"+segment(to.Name)), nil
}

func (s *Server) deleteVolumeSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := onlyCustom(r); err != nil {
		return nil, err
	}
	name, snap := r.PathValue("volume"), r.PathValue("snap")
	if err := s.d.DeleteVolumeSnapshot(r.Context(), name, snap); err != nil {
		return nil, err
	}
	return s.d.DoneWith(r.Context(), "Deleting snapshot of storage volume", "storage_volume_snapshots",
		customVolumes+segment(name)+"/snapshots/"+segment(snap)), nil
}
