package server

import (
	"errors"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// getHistory tells which images an alias pointed to.
func (s *Server) getHistory(w http.ResponseWriter, r *http.Request) (any, error) {
	versions, err := s.d.Images.History(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	list := []api.AliasVersion{}
	for n, v := range versions {
		out := api.AliasVersion{Version: n, Fingerprint: v.Fingerprint.String(), Since: v.At}
		img, err := s.d.Images.Get(r.Context(), v.Fingerprint)
		switch {
		case err == nil:
			out.Here, out.Description, out.Size = true, img.Properties["description"], img.Size
		case !errors.Is(err, kiln.NotFound):
			return nil, err
		}
		list = append(list, out)
	}
	return list, nil
}

// getDiff tells what one image has that another hasn't.
func (s *Server) getDiff(w http.ResponseWriter, r *http.Request) (any, error) {
	before, err := s.image(r)
	if err != nil {
		return nil, err
	}
	after, err := s.d.Images.ByPrefix(r.Context(), r.PathValue("other"))
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
