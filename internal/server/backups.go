package server

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/backup"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/project"
)

// backupsOf gives the backups that a request is about: those of an instance, or of a custom
// storage volume. Errors: NotFound, Denied, Unsupported.
func (s *Server) backupsOf(r *http.Request) (daemon.Backups, error) {
	if !ofVolume(r) {
		return s.d.InstanceBackups(r.Context(), r.PathValue("name"))
	}
	if err := onlyCustom(r); err != nil {
		return daemon.Backups{}, err
	}
	return s.d.VolumeBackups(r.Context(), r.PathValue("volume"))
}

// ofVolume reports whether a request is about the backups of a storage volume.
func ofVolume(r *http.Request) bool { return r.PathValue("volume") != "" }

func wireBackup(b backup.Stored) api.InstanceBackup {
	return api.InstanceBackup{Name: b.Name, CreatedAt: b.CreatedAt, ExpiresAt: b.ExpiresAt, InstanceOnly: b.Only,
		ContainerOnly: b.Only, Size: b.Size}
}

func wireVolumeBackup(b backup.Stored) api.StorageVolumeBackup {
	return api.StorageVolumeBackup{Name: b.Name, CreatedAt: b.CreatedAt, ExpiresAt: b.ExpiresAt, VolumeOnly: b.Only,
		Size: b.Size}
}

// wired gives each of a list on the wire.
func wired[A, B any](all []A, wire func(A) B) []B {
	out := []B{}
	for _, a := range all {
		out = append(out, wire(a))
	}
	return out
}

func (s *Server) getBackups(w http.ResponseWriter, r *http.Request) (any, error) {
	of, err := s.backupsOf(r)
	if err != nil {
		return nil, err
	}
	all, err := of.List()
	if err != nil {
		return nil, err
	}
	at := func(path, name string) string {
		return inURL(path+"/backups/"+segment(name), project.Name(r.Context()))
	}
	if ofVolume(r) {
		return list(r, wired(all, wireVolumeBackup), func(b api.StorageVolumeBackup) string {
			return at(customVolumes+segment(r.PathValue("volume")), b.Name)
		})
	}
	return list(r, wired(all, wireBackup), func(b api.InstanceBackup) string {
		return at("/1.0/instances/"+r.PathValue("name"), b.Name)
	})
}

func (s *Server) postBackups(w http.ResponseWriter, r *http.Request) (any, error) {
	var post struct {
		api.InstanceBackupsPost
		VolumeOnly bool `json:"volume_only"` // of a volume, where an instance has instance_only
	}
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	of, err := s.backupsOf(r)
	if err != nil {
		return nil, err
	}
	if post.OptimizedStorage {
		return nil, kiln.Errorf(kiln.Unsupported, "a backup in the format of the storage driver is not supported: kiln's "+
			"pool has none that another server could read; leave --optimized-storage out")
	}
	n := daemon.NewBackup{Name: post.Name, Only: post.InstanceOnly || post.ContainerOnly || post.VolumeOnly,
		Compression: post.CompressionAlgorithm}
	if !unset(post.ExpiresAt) {
		n.ExpiresAt = post.ExpiresAt
	}
	return of.Create(r.Context(), n)
}

func (s *Server) getBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	of, err := s.backupsOf(r)
	if err != nil {
		return nil, err
	}
	b, err := of.Get(r.PathValue("backup"))
	if ofVolume(r) {
		return wireVolumeBackup(b), err
	}
	return wireBackup(b), err
}

func (s *Server) postBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	var to api.Rename
	if err := readJSON(r, &to); err != nil {
		return nil, err
	}
	of, err := s.backupsOf(r)
	if err != nil {
		return nil, err
	}
	return of.Rename(r.Context(), r.PathValue("backup"), to.Name)
}

func (s *Server) deleteBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	of, err := s.backupsOf(r)
	if err != nil {
		return nil, err
	}
	return of.Delete(r.Context(), r.PathValue("backup"))
}

// exportBackup sends the tarball, or the pieces of it that are asked for.
func (s *Server) exportBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	of, err := s.backupsOf(r)
	if err != nil {
		return nil, err
	}
	f, err := of.Open(r.Context(), r.PathValue("backup"))
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
	return received(w, r, func(body io.Reader) *op.Operation { return s.d.RestoreBackup(r.Context(), spec, body) })
}

// postVolumeFile makes a custom storage volume of the backup that is the body of a request.
func (s *Server) postVolumeFile(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := volumeFile(r); err != nil {
		return nil, drained(w, r, err)
	}
	return received(w, r, func(body io.Reader) *op.Operation {
		return s.d.ImportVolume(r.Context(), header(r, "name"), body)
	})
}

// volumeFile says whether a request can bring the backup of a volume. Errors: NotFound,
// Denied, Unsupported.
func volumeFile(r *http.Request) error {
	if err := onlyCustom(r); err != nil {
		return err
	}
	if t := header(r, "type"); t != "" && t != "backup" {
		return kiln.Errorf(kiln.Unsupported, "a storage volume can't be made of a file of type %.100q; kiln takes backups, "+
			"as kiln storage volume export writes them", t)
	}
	return nil
}

// received has an operation read the body of a request.
func received(w http.ResponseWriter, r *http.Request, read func(io.Reader) *op.Operation) (any, error) {
	unhurried(w, r)
	o := read(r.Body)
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
