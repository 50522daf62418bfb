package server

import (
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/kiln-containers/kiln/api"
)

// TestPartIsBrokenOff ends the copy of an instance while a part of it is sent: that doesn't
// read as whole.
func TestPartIsBrokenOff(t *testing.T) {
	p := start(t)
	p.empty("c")
	large := make([]byte, 24<<20)
	_, _ = rand.Read(large) // what is sent is compressed
	if r, b := p.do("POST", "/1.0/instances/c/files?path=f", string(large)); r.StatusCode != 200 {
		t.Fatalf("%s", b)
	}
	o, err := p.d.ShareInstance(t.Context(), "c", false)
	if err != nil {
		t.Fatal(err)
	}
	s := o.Wait(t.Context())
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	path, secret := "/1.0/kiln/instances/c/transfer", "?secret="+s.Metadata["secret"].(string)
	parts := get[api.InstanceTransfer](p, path+secret).Parts
	sent := int64(0)
	for _, part := range parts {
		resp, err := p.Get("http://x" + path + "/layers/" + part.ID + secret)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if part.Size < int64(len(large)) {
			continue
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if r, b := p.do("DELETE", path+secret, ""); r.StatusCode != 200 {
			t.Fatalf("%s", b)
		}
		sent, err = io.Copy(io.Discard, resp.Body)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the part reads as whole: %d bytes, %v", sent, err)
		}
	}
	if sent == 0 {
		t.Errorf("no part with the file in %v", parts)
	}
}
