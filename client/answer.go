package client

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/foreign"
)

// maxAnswer is how much another server may answer, counted after decompression: a megabyte
// of gzip can be a gigabyte of JSON. A list of 30,000 images has as many objects and lists. The
// local daemon is not bounded.
var maxAnswer = foreign.Limit{Bytes: 64 << 20, Objects: 1 << 18, Values: 1 << 22}

const answerTime = 5 * time.Minute // from the header to the end

// envelope decodes an answer; one that tells an error becomes that. The error is
// Network, or TooLarge, for an answer that isn't one.
func (c *Client) envelope(resp *http.Response) (api.Response, error) {
	var a api.Response
	body := io.Reader(resp.Body)
	if !c.local {
		body = foreign.NewReader(resp.Body, maxAnswer)
		end := time.AfterFunc(answerTime, func() { resp.Body.Close() }) // Read fails then
		defer end.Stop()
	}
	if err := json.NewDecoder(body).Decode(&a); err != nil {
		kind := kiln.KindOf(err)
		switch kind {
		case kiln.TooLarge:
			return a, kiln.Errorf(kind, "%s answers too much: %w; ask it for one thing by its name instead of for a list",
				c.where, err)
		case kiln.Internal:
			kind = kiln.Network
		}
		return a, kiln.Errorf(kind, "the answer %q can't be understood: %w", resp.Status, err)
	}
	if a.Type == "error" {
		return a, apiError(kiln.Kind(resp.Header.Get(api.KindHeader)), a.ErrorCode, c.retold(a.Error))
	}
	return a, nil
}
