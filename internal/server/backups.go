package server

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/project"
)

func wireBackup(b backup.Stored) api.InstanceBackup {
	return api.InstanceBackup{Name: b.Name, CreatedAt: b.CreatedAt, ExpiresAt: b.ExpiresAt, InstanceOnly: b.InstanceOnly,
		ContainerOnly: b.InstanceOnly, Size: b.Size}
}

func wireBackups(list []backup.Stored) []api.InstanceBackup {
	out := []api.InstanceBackup{}
	for _, b := range list {
		out = append(out, wireBackup(b))
	}
	return out
}

func (s *Server) getBackups(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	all, err := s.d.Backups(r.Context(), name)
	if err != nil {
		return nil, err
	}
	return list(r, wireBackups(all), func(b api.InstanceBackup) string {
		return inURL("/1.0/instances/"+name+"/backups/"+segment(b.Name), project.Name(r.Context()))
	})
}

func (s *Server) postBackups(w http.ResponseWriter, r *http.Request) (any, error) {
	var post api.InstanceBackupsPost
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	if post.OptimizedStorage {
		return nil, kiln.Errorf(kiln.Unsupported, "a backup in the format of the storage driver is not supported: kiln's "+
			"pool has none that another server could read; leave --optimized-storage out")
	}
	n := daemon.NewBackup{Name: post.Name, InstanceOnly: post.InstanceOnly || post.ContainerOnly,
		Compression: post.CompressionAlgorithm}
	if !unset(post.ExpiresAt) {
		n.ExpiresAt = post.ExpiresAt
	}
	return s.d.CreateBackup(r.Context(), r.PathValue("name"), n)
}

func (s *Server) getBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	b, err := s.d.Backup(r.Context(), r.PathValue("name"), r.PathValue("backup"))
	return wireBackup(b), err
}

func (s *Server) postBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.Rename
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	return s.d.RenameBackup(r.Context(), r.PathValue("name"), r.PathValue("backup"), to.Name)
}

func (s *Server) deleteBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.d.DeleteBackup(r.Context(), r.PathValue("name"), r.PathValue("backup"))
}

// exportBackup sends the tarball, or the pieces of it that are asked for.
func (s *Server) exportBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	name, which := r.PathValue("name"), r.PathValue("backup")
	f, err := s.d.OpenBackup(r.Context(), name, which)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", fi.ModTime(), f)
	return handled{}, nil
}

// postBackupFile makes an instance of the backup that is the body of a request.
func (s *Server) postBackupFile(w http.ResponseWriter, r *http.Request) (any, error) {
	spec, err := restoreSpec(r)
	if err != nil {
		return nil, drained(w, r, err)
	}
	streamed(r)
	// It takes its time, whoever sends it.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	o := s.d.RestoreBackup(r.Context(), spec, r.Body)
	if final := o.Snapshot(); final.Err != nil {
		_ = drained(w, r, nil)
	}
	return o, nil
}

// restoreSpec reads what the headers say of the instance. Errors: Invalid, NotFound.
func restoreSpec(r *http.Request) (daemon.CreateSpec, error) {
	var post api.InstancesPost
	if text := r.Header.Get(api.InstanceHeader); text != "" {
		if err := json.Unmarshal([]byte(text), &post); err != nil {
			return daemon.CreateSpec{}, kiln.Errorf(kiln.Invalid, "the header %s is not the JSON that is expected here: %w",
				api.InstanceHeader, err)
		}
	}
	if pool := header(r, "pool"); pool != "" && pool != "default" {
		return daemon.CreateSpec{}, kiln.Errorf(kiln.NotFound, "no storage pool %q; kiln has the one called \"default\"",
			pool)
	}
	if name := header(r, "name"); name != "" {
		post.Name = name
	}
	return daemon.CreateSpec{Name: post.Name, Config: config(post.InstancePut), Source: source(post.Source)}, nil
}
