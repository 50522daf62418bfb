package server

import (
	"errors"
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/project"
)

func aliasEntry(a kiln.Alias) api.ImageAliasesEntry {
	return api.ImageAliasesEntry{Name: a.Name, Description: described(a.Description, a.Damage),
		Target: a.Target.String(), Type: "container"}
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
	return list(r, entries, func(a api.ImageAliasesEntry) string {
		return inURL("/1.0/images/aliases/"+segment(a.Name), project.Name(r.Context()))
	})
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

// alias finds the alias of a request. To an untrusted client, one of a private image might
// as well not be there.
func (s *Server) alias(r *http.Request) (kiln.Alias, error) {
	ctx, name := r.Context(), r.PathValue("name")
	find := s.d.Images.PublicAlias
	if callerOf(r).trusted {
		find = s.d.Images.Alias
	}
	a, err := find(ctx, name)
	if !errors.Is(err, kiln.NotFound) || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return a, err
	}
	img, perr := s.d.PullThrough(ctx, name, asker(r))
	if errors.Is(perr, kiln.NotFound) {
		return a, err
	}
	return kiln.Alias{Name: name, Target: img.Fingerprint}, perr
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
	var img kiln.Image
	if target != "" {
		var err error
		if img, err = s.d.Images.ByPrefix(r.Context(), target); err != nil {
			return err
		}
	}
	return s.d.UpdateAlias(r.Context(), r.PathValue("name"), func(a *kiln.Alias) error {
		if err := checkETag(r, aliasEntry(*a)); err != nil {
			return err
		}
		set(&a.Description, description)
		if target != "" {
			a.Target = img.Fingerprint
		}
		return nil
	})
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
