package server

import (
	"net/http"
	"strings"

	"github.com/kiln-containers/kiln"
)

// maxRanges bounds the parts of a file that one request may ask for. Each part is
// answered with a header of its own, and may overlap the others.
const maxRanges = 16

// bounds refuses, before any work is done, requests with too many ranges, and those
// that a browser sends from a page of another site. Errors: Invalid, Denied.
func bounds(r *http.Request) error {
	if n := strings.Count(strings.Join(r.Header["Range"], ","), ",") + 1; n > maxRanges {
		return kiln.Errorf(kiln.Invalid, "the request asks for %d ranges; ask for %d at most", n, maxRanges)
	}
	if r.TLS == nil {
		return nil // no browser opens the unix socket
	}
	// Browsers say so of what a page of another site asks for, with the certificate that
	// the user has for this one.
	if strings.HasPrefix(r.URL.Path, "/1.0") && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return kiln.Errorf(kiln.Denied, "not authorized: requests from pages of other sites are refused (Sec-Fetch-Site)")
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return kiln.Errorf(kiln.Denied, "not authorized: %w", err)
	}
	return nil
}
