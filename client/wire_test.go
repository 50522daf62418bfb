package client

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// FuzzImage reads what other servers say of images. Names are never paths.
func FuzzImage(f *testing.F) {
	fp := strings.Repeat("a", 64)
	f.Add([]byte(`{"fingerprint":"` + fp + `","aliases":[{"name":"a"}],"files":[{"role":"rootfs","name":"../x","ext":"/../y",` +
		`"size":-1,"hash":"` + fp + `"}],"replaced_by":"x"}`))
	f.Add([]byte(`{"fingerprint":"` + fp + `","files":[{"name":"..","ext":".tar.gz","size":1,"hash":"` + fp + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var w api.Image
		if json.Unmarshal(b, &w) != nil {
			return
		}
		img, err := fromWire(w)
		if err != nil {
			if kiln.KindOf(err) != kiln.Network {
				t.Errorf("%s: %v", b, err)
			}
			return
		}
		if img.Fingerprint.String() != w.Fingerprint || len(img.Files) != len(w.Files) {
			t.Errorf("%s: %+v", b, img)
		}
		for _, file := range img.Files {
			if strings.ContainsAny(file.Name+file.Ext, "/\\") || file.Name == ".." || file.Name == "" || file.Size < 0 {
				t.Errorf("%s: a file %+v", b, file)
			}
		}
	})
}
