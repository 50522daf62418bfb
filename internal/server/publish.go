package server

import (
	"net/http"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/instance"
)

// publish makes an image of an instance or a snapshot.
func (s *Server) publish(r *http.Request, post api.ImagesPost) (any, error) {
	if post.Format != "" && post.Format != "unified" {
		return nil, kiln.Errorf(kiln.Unsupported, "images of format %q are not made by this version of kiln; leave --format out", post.Format)
	}
	spec := daemon.PublishSpec{
		From: post.Source.Name,
		Pack: instance.PackOptions{Properties: post.Properties, Compression: post.CompressionAlgorithm},
		ImportSpec: daemon.ImportSpec{
			Filename: post.Filename, Public: post.Public, AutoUpdate: post.AutoUpdate, Profiles: post.Profiles,
			MoveAliases: isTrue(r.Header.Get("X-Kiln-Move-Aliases")), Reuse: isTrue(r.Header.Get("X-Kiln-Reuse")),
		},
	}
	if len(post.Properties) == 0 {
		spec.Pack.Properties = nil // lxc sends an empty object when it was told none
	}
	if !unset(post.ExpiresAt) {
		spec.Pack.ExpiresAt = post.ExpiresAt
	}
	for _, a := range post.Aliases {
		spec.Aliases = append(spec.Aliases, kiln.Alias{Name: a.Name, Description: a.Description})
	}
	return s.d.PublishImage(r.Context(), spec)
}
