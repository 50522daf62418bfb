package client_test

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/client"
)

// unreadable is a file that can be opened, but not read.
type unreadable struct{ err error }

func (u unreadable) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: "image.tar", Err: u.err}
}

// TestUnreadableBody sends files that can't be read to a daemon that answers: the error is
// about the file. Without a daemon it is about the socket.
func TestUnreadableBody(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
		func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	for _, want := range []error{fs.ErrPermission, fs.ErrNotExist, fs.ErrInvalid} {
		r := client.Request{Method: http.MethodPost, Path: "/1.0/images", Body: unreadable{want}}
		_, _, err := client.Unix(socket).Do(t.Context(), r, nil)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "image.tar") || strings.Contains(err.Error(), "daemon") ||
			kiln.KindOf(err) == kiln.Network || kiln.KindOf(err) == kiln.Denied {
			t.Errorf("%v: %v", want, err)
		}
	}
	_, _, err = client.Unix(filepath.Join(t.TempDir(), "none")).Do(t.Context(),
		client.Request{Method: http.MethodPost, Path: "/1.0/images", Body: unreadable{os.ErrPermission}}, nil)
	if !errors.Is(err, kiln.Network) || !strings.Contains(err.Error(), "no kiln daemon answers") {
		t.Errorf("no daemon: %v", err)
	}
}
