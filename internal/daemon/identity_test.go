package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
)

// TestDamagedIdentity: a daemon whose certificates are damaged starts without the network,
// says which file it is, and leaves the files as they are.
func TestDamagedIdentity(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"server.crt": func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"server.key": func(path string) error { return os.Truncate(path, 0) },
		"server.ca":  func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"ca.crl":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "kiln")
			if err := open(t, dir).Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name)
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			var log bytes.Buffer
			d, err := Open(t.Context(), Config{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil)), Version: "test"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}()
			listened := false
			listen := func(list []string) error { listened = listened || len(list) > 0; return nil }
			if err := d.Listen(t.Context(), "127.0.0.1:0", listen); err != nil || listened {
				t.Errorf("it listens: %v, %v", listened, err)
			}
			err = d.SetSettings(context.Background(), map[string]string{httpsAddress: "127.0.0.1:1"}, false)
			if !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), path) {
				t.Errorf("core.https_address: %v", err)
			}
			err = d.SetSettings(context.Background(), map[string]string{httpsAddress: ""}, false)
			if err := errors.Join(err, d.listenOn("")); err != nil || listened {
				t.Errorf("without core.https_address it listens: %v, %v", listened, err)
			}
			if list := d.Problems(); len(list) != 1 || !strings.Contains(list[0], path) ||
				!strings.Contains(log.String(), path) {
				t.Errorf("%q\n%s", list, &log)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}
