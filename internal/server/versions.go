package server

import (
	"net/http"

	"github.com/kiln-containers/kiln/api"
)

// getHistory tells which images an alias pointed to.
func (s *Server) getHistory(w http.ResponseWriter, r *http.Request) (any, error) {
	versions, err := s.d.Images.History(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	list := []api.AliasVersion{}
	n := 0
	for _, v := range versions {
		out := api.AliasVersion{Version: n, Fingerprint: v.Fingerprint.String(), Since: v.At, Here: v.Here, Size: v.Size,
			Description: v.Properties["description"]}
		if !v.RolledBackAt.IsZero() {
			out.Version, out.RolledBackAt = -1, v.RolledBackAt
		} else {
			n++
		}
		list = append(list, out)
	}
	return list, nil
}

// getNewer tells which images of instances have a version that took their place: by the
// fingerprint of each, that of the other.
func (s *Server) getNewer(w http.ResponseWriter, r *http.Request) (any, error) {
	newer, err := s.d.NewerImages(r.Context())
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for base, now := range newer {
		out[base.String()] = now.String()
	}
	return out, nil
}

// rollBackAlias points an alias to an image it pointed to before.
func (s *Server) rollBackAlias(w http.ResponseWriter, r *http.Request) (any, error) {
	post := api.AliasRollback{Versions: 1}
	if err := readJSON(r, &post); err != nil {
		return nil, err
	}
	from, to, err := s.d.RollBackAlias(r.Context(), r.PathValue("name"), post.Versions)
	return api.AliasRollback{Versions: post.Versions, From: from.Fingerprint.String(), To: to.Fingerprint.String(),
		AutoUpdate: to.AutoUpdate}, err
}

// getDiff tells what one image has that another hasn't.
func (s *Server) getDiff(w http.ResponseWriter, r *http.Request) (any, error) {
	before, err := s.usableImage(r)
	if err != nil {
		return nil, err
	}
	after, err := s.d.Images.ByPrefix(r.Context(), r.PathValue("other"))
	if err == nil {
		err = after.Whole()
	}
	if err != nil {
		return nil, err
	}
	diff, err := s.d.DiffImages(r.Context(), before, after)
	if err != nil {
		return nil, err
	}
	out := api.ImageDiff{Files: []api.FileDiff{}, Packages: []api.PackageDiff{}}
	for _, f := range diff.Files {
		out.Files = append(out.Files, api.FileDiff{Path: f.Path, Change: string(f.Change), Before: f.Before, After: f.After})
	}
	for _, p := range diff.Packages {
		out.Packages = append(out.Packages, api.PackageDiff{Name: p.Name, Before: p.Before, After: p.After})
	}
	return out, nil
}
