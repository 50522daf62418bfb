package client

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
)

// FuzzImage reads what other servers say of images. Names are never paths.
func FuzzImage(f *testing.F) {
	fp := strings.Repeat("a", 64)
	f.Add([]byte(`{"fingerprint":"` + fp + `","aliases":[{"name":"a"}],"files":[{"role":"rootfs","name":"../x","ext":"/../y",` +
		`"size":-1,"hash":"` + fp + `"}],"replaced_by":"x"}`))
	for _, name := range []string{"../x", `..\\x`, "/", "", "x/"} {
		f.Add([]byte(`{"fingerprint":"` + fp + `","files":[{"name":"` + name + `","ext":"./` + name + `","size":1,"hash":"` +
			fp + `"}]}`))
	}
	f.Add([]byte(`{"fingerprint":"` + fp + `","files":[{"name":"..","ext":".tar.gz","size":1,"hash":"` + fp + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var w api.Image
		if json.Unmarshal(b, &w) != nil {
			return
		}
		img, err := Image(w)
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

// TestDownloadNames: what a server calls the files of a download is never a path.
func TestDownloadNames(t *testing.T) {
	for given, want := range map[string]string{"a.tar.xz": "a.tar.xz", "../../x": "x", `..\\..\\x`: "x", "..": "image",
		"": "image"} {
		disposition := `attachment; filename="` + given + `"`
		resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{
			"Content-Type": {"application/octet-stream"}, "Content-Disposition": {disposition}}}
		s, err := Images{Client: &Client{}}.Files(resp, kiln.Image{})
		if err != nil {
			t.Fatal(err)
		}
		if f, err := s.Next(); err != nil || f.Name != want {
			t.Errorf("%q is %q, %v", given, f.Name, err)
		}
		body := "--b\r\nContent-Disposition: form-data; name=\"metadata\"; filename=\"" + given + "\"\r\n\r\nx\r\n--b--\r\n"
		resp.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		resp.Body = io.NopCloser(strings.NewReader(body))
		if s, err = (Images{Client: &Client{}}).Files(resp, kiln.Image{}); err != nil {
			t.Fatal(err)
		}
		if f, err := s.Next(); err != nil || f.Name != want {
			t.Errorf("%q in a form is %q, %v", given, f.Name, err)
		}
	}
}

// TestAnswerEnds: a server that stops in the middle of its answer is given up in the end.
func TestAnswerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		go io.WriteString(w, `{"type":"sync","metadata":[`)
		begin := time.Now()
		time.AfterFunc(2*answerTime, func() { w.CloseWithError(errors.New("it is waited for")) })
		_, err := (&Client{where: "x"}).envelope(&http.Response{Status: "200 OK", Body: r})
		if took := time.Since(begin); !errors.Is(err, kiln.Network) || took != answerTime {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
