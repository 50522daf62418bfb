package server

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// TestStreamsAfterPull makes an image public by copying it once more: the index
// has it, though no byte came.
func TestStreamsAfterPull(t *testing.T) {
	from, to := start(t), start(t)
	from.upload(formattest.Unified(t), "X-LXD-public", "true")
	to.upload(formattest.Unified(t))
	fp := strings.TrimPrefix(all(from), "/1.0/images/")
	listed := func() bool {
		_, b := to.do("GET", "/streams/v1/images.json", "")
		return strings.Contains(string(b), fp)
	}
	if listed() {
		t.Fatal("a private image is listed")
	}
	web := httptest.NewTLSServer(from.s)
	defer web.Close()
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	text, err := json.Marshal(cert)
	if err != nil {
		t.Fatal(err)
	}
	_, b := to.do("POST", "/1.0/images",
		fmt.Sprintf(`{"public": true, "source": {"type": "image", "mode": "pull", "server": %q, "fingerprint": %q, "certificate": %s}}`, web.URL, fp, text), "Content-Type", "application/json")
	var a api.Response
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	if o := get[api.Operation](to, a.Operation+"/wait"); o.Err != "" {
		t.Fatalf("%s %+v", b, o)
	}
	if !listed() {
		t.Error("an image that was made public isn't listed")
	}
}
