package server

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/op"
)

// TestBrokenUpload has a client go away in the middle of an import: nothing failed, it
// was cancelled.
func TestBrokenUpload(t *testing.T) {
	p := start(t)
	image := formattest.Unified(t)
	body := io.MultiReader(bytes.NewReader(image[:len(image)/2]), goneAway{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/1.0/images", body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(image))
	req.Header.Set("Content-Type", "application/octet-stream")
	if resp, err := p.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("half an image was taken")
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, s := range p.d.Ops.List() {
			if s.Status.Final() {
				if s.Description != "Importing image" || s.Status != op.Cancelled {
					t.Errorf("%q: %v, %v", s.Description, s.Status, s.Err)
				}
				return
			}
		}
	}
	t.Error("no operation tells of it")
}

// goneAway is the rest of what is sent by somebody who goes away.
type goneAway struct{}

func (goneAway) Read([]byte) (int, error) { return 0, errors.New("interrupted") }

// TestUploadOfNoForm says of a form without its boundary that it is none.
func TestUploadOfNoForm(t *testing.T) {
	p := start(t)
	resp, b := p.do("POST", "/1.0/images", "x", "Content-Type", "multipart/form-data")
	if resp.StatusCode != http.StatusBadRequest || !bytes.Contains(b, []byte("not a multipart form")) {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}
