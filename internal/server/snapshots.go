package server

import (
	"bufio"
	"cmp"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
)

func wireSnapshot(s instance.Snapshot) api.InstanceSnapshot {
	return api.InstanceSnapshot{
		Architecture: s.Architecture, Config: orEmpty(s.Options), CreatedAt: s.CreatedAt,
		Description: described(s.Description, s.Damage),
		Devices:     orEmpty(s.Devices),
		Ephemeral:   s.Ephemeral, ExpandedConfig: orEmpty(s.ExpandedConfig), ExpandedDevices: orEmpty(s.ExpandedDevices),
		ExpiresAt:  s.ExpiresAt, // in the zone it was given in
		LastUsedAt: lastUsed(s.LastUsedAt), Name: s.Name, Profiles: orNone(s.Profiles), Size: s.Size,
	}
}

func (s *Server) getSnapshots(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	i, err := s.d.Instance(r.Context(), name)
	if err != nil {
		return nil, err
	}
	all, err := s.d.AllSnapshots(r.Context(), name)
	if err != nil {
		return nil, err
	}
	if recursion(r) > 0 {
		return long(func(w *bufio.Writer) error {
			list := array{w: w}
			err := snapshotsOf(r, all, i)(func(s api.InstanceSnapshot) error { return list.add(s) })
			return cmp.Or(err, list.end())
		}), nil
	}
	urls := []string{}
	for _, snap := range all.Refs(db.Name{Project: i.Project, Name: i.Name}) {
		urls = append(urls, inURL("/1.0/instances/"+name+"/snapshots/"+segment(snap.Name), snap.Project))
	}
	return urls, nil
}

func (s *Server) postSnapshots(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.InstanceSnapshotsPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if post.Stateful {
		return nil, kiln.Errorf(kiln.Unsupported, "stateful snapshots are not supported: kiln keeps the files of an "+
			"instance, not its memory; leave --stateful out")
	}
	return s.d.CreateSnapshot(r.Context(), r.PathValue("name"), instance.NewSnapshot{Name: post.Name,
		ExpiresAt: post.ExpiresAt})
}

// snapshotState is what the ETag of a snapshot stands for.
func snapshotState(expiresAt time.Time) any {
	return api.InstanceSnapshotPut{ExpiresAt: expiresAt.UTC()}
}

func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	snap, err := s.d.Snapshot(r.Context(), r.PathValue("name"), r.PathValue("snap"))
	if err != nil {
		return nil, err
	}
	return tagged{wireSnapshot(snap), snapshotState(snap.ExpiresAt)}, nil
}

func (s *Server) putSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	var put struct {
		ExpiresAt *time.Time `json:"expires_at"`
	}
	if err := readJSON(r, &put); err != nil {
		return nil, err
	}
	return s.d.SetSnapshotExpiry(r.Context(), r.PathValue("name"), r.PathValue("snap"),
		func(at time.Time) (time.Time, error) {
			if err := checkETag(r, snapshotState(at)); err != nil {
				return at, err
			}
			switch {
			case put.ExpiresAt != nil:
				at = *put.ExpiresAt
			case r.Method == http.MethodPut:
				at = time.Time{} // what is left out is unset
			}
			return at, nil
		})
}

func (s *Server) postSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.InstancePost
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	if to.Migration {
		return s.sendInstance(r, r.PathValue("name")+"/"+r.PathValue("snap"), to)
	}
	return s.d.RenameSnapshot(r.Context(), r.PathValue("name"), r.PathValue("snap"), to.Name)
}

func (s *Server) deleteSnapshot(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.d.DeleteSnapshot(r.Context(), r.PathValue("name"), r.PathValue("snap"))
}
