package cli

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/place"
	"github.com/kiln-containers/kiln/internal/trust"
)

// isURL reports whether a word names an image on the web, not a file.
func isURL(word string) bool {
	return strings.HasPrefix(word, "https://") || strings.HasPrefix(word, "http://")
}

// webTrust is what the user says of the server of a URL: its certificate, the CA of that, as a
// file, and the key that the image must be signed with. "": nothing.
type webTrust struct{ fingerprint, ca, key string }

// importURL has a server fetch the image that a URL tells of. That server knows nothing
// of the certificates that this client trusts, so it is told: the one that has the
// fingerprint, or was signed by the CA, that is given, else what is known of a remote at
// the same address. It gives the fingerprint.
func (a *app) importURL(ctx context.Context, at place.Place, url string, img kiln.Image, trusted webTrust) (fp string,
	err error) {
	if !strings.HasPrefix(url, "https://") && (trusted.fingerprint != "" || trusted.ca != "") {
		return "", usageError{errors.New("--fingerprint and --ca are about a certificate, and there is none at http://")}
	}
	src := api.ImagesPostSource{Type: "url", Mode: "pull", Protocol: kiln.ProtocolDirect, URL: url}
	config, err := a.Config()
	if err != nil {
		return "", err
	}
	known, err := config.ReachURL(url)
	if err != nil {
		return "", err
	}
	src.ImageKey = known.ImageKey
	if trusted.key != "" {
		key, err := place.PublicKey(trusted.key)
		if err != nil {
			return "", err
		}
		src.ImageKey = key.String()
	}
	switch {
	case trusted.fingerprint != "":
		pin, err := pinned(ctx, url, trusted.fingerprint)
		if err != nil {
			return "", err
		}
		src.Certificate = pin
	case trusted.ca != "":
		ca, err := os.ReadFile(trusted.ca)
		if err != nil {
			return "", err
		}
		src.CA = string(ca)
	default:
		src.Certificate, src.CA, src.Proxy = known.Certificate, known.CA, known.Proxy
	}
	post := api.ImagesPost{
		ImagePut: api.ImagePut{Public: img.Public, Properties: img.Properties}, Aliases: wireAliases(img.Aliases),
		Source: &src, MoveAliases: true,
	}
	op, err := a.watch(ctx, at, client.Request{Method: http.MethodPost, Path: "/1.0/images", Body: post})
	if err != nil {
		return "", err
	}
	fp, _ = op.Metadata["fingerprint"].(string)
	a.say("Image imported with fingerprint: %s", fp)
	return fp, nil
}

// pinned gives the certificate of the server at a URL, which must have a fingerprint.
// The error is Denied if it has another.
func pinned(ctx context.Context, url, fingerprint string) (string, error) {
	shown, _, err := look(ctx, &place.Remote{Addr: url})
	if err != nil {
		return "", err
	}
	return trust.PEM(shown), expected(url, shown, fingerprint)
}
