package server

import (
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/daemon"
	"github.com/kiln-containers/kiln/internal/instance"
)

// publish makes an image of an instance or a snapshot.
func (s *Server) publish(r *http.Request, post api.ImagesPost, of daemon.ImportSpec) (any, error) {
	if post.Format != "" && post.Format != "unified" && post.Format != "split" {
		return nil, kiln.Errorf(kiln.Invalid, "unknown format %q; an image is unified or split", post.Format)
	}
	spec := daemon.PublishSpec{
		From: post.Source.Name, Check: post.Check, Again: post.MoveAliases,
		Pack: instance.PackOptions{
			Properties: post.Properties, Compression: post.CompressionAlgorithm, Split: post.Format == "split",
			ExpiresAt: of.ExpiresAt, Timestamp: post.Timestamp, KeepMachineID: post.KeepMachineID,
		},
		ImportSpec: of,
	}
	if len(post.Properties) == 0 {
		spec.Pack.Properties = nil // lxc sends an empty object when it was told none
	}
	spec.Properties, spec.ImportSpec.ExpiresAt = nil, time.Time{} // they are in the image
	return s.d.PublishImage(r.Context(), spec)
}
