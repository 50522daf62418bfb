package client

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// Bounds of what another server answers, counted after decompression. A megabyte
// of gzip can be a gigabyte of JSON, and three bytes of JSON, "{},", become a
// struct of several hundred in memory: so bytes, objects and values are counted.
// The local daemon is not bounded.
const (
	maxAnswer  = 64 << 20 // bytes
	maxObjects = 1 << 18  // a list of 30,000 images has as many
	maxValues  = 1 << 22
	answerTime = 5 * time.Minute // from the header to the end
)

// A bounded reads an answer and fails when it is larger than an answer can be.
type bounded struct {
	io.Reader
	where                  string
	bytes, objects, values int64 // that may still come
}

func newBounded(r io.Reader, where string) *bounded {
	return &bounded{r, where, maxAnswer, maxObjects, maxValues}
}

// Read implements io.Reader. The error is TooLarge.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.bytes -= int64(n)
	b.objects -= int64(bytes.Count(p[:n], []byte{'{'}))
	b.values -= int64(bytes.Count(p[:n], []byte{','}))
	switch {
	case b.bytes < 0:
		return 0, kiln.Errorf(kiln.TooLarge, "%s answers with more than %s of JSON, which is not read; ask it for one thing "+
			"by its name instead of for a list", b.where, kiln.FormatSize(maxAnswer))
	case b.objects < 0 || b.values < 0:
		return 0, kiln.Errorf(kiln.TooLarge, "%s answers with more than %d objects or %d values, which are not read; ask it "+
			"for one thing by its name instead of for a list", b.where, maxObjects, maxValues)
	}
	return n, err
}

// envelope decodes an answer; one that tells an error becomes that. The error is
// Network, or TooLarge, for an answer that isn't one.
func (c *Client) envelope(resp *http.Response) (api.Response, error) {
	var a api.Response
	body := io.Reader(resp.Body)
	if !c.local {
		body = newBounded(resp.Body, c.where)
		end := time.AfterFunc(answerTime, func() { resp.Body.Close() }) // Read fails then
		defer end.Stop()
	}
	if err := json.NewDecoder(body).Decode(&a); err != nil {
		kind := kiln.KindOf(err)
		if kind == kiln.Internal {
			kind = kiln.Network
		}
		return a, kiln.Errorf(kind, "the answer %q can't be understood: %w", resp.Status, err)
	}
	if a.Type == "error" {
		return a, apiError(kiln.Kind(resp.Header.Get(api.KindHeader)), a.ErrorCode, a.Error)
	}
	return a, nil
}
