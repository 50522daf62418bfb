package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// Who interrupts a command reads one line, whatever it was doing, and the exit code is
// that of a cancelled one.
func TestInterrupt(t *testing.T) {
	dir, err := os.MkdirTemp("", "kiln-cli-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan struct{}, 8)
	go func() { // a daemon that never answers
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				asked <- struct{}{}
			}
			defer c.Close()
		}
	}()
	image := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(image, formattest.Tiny(t, "1"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KILN_SOCKET", filepath.Join(dir, "s"))
	t.Setenv("KILN_CONF", dir)
	for _, words := range []string{"image import " + image, "list", "launch x c1", "exec c1 -- true", "image info x",
		"config set c1 user.a=1", "image edit x", "waitready", "publish c1", "query /1.0"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		var out, errs bytes.Buffer
		code := make(chan int)
		go func() {
			code <- Main(ctx, strings.Fields(words), Streams{In: strings.NewReader(""), Out: &out, Err: &errs}, Deps{})
		}()
		<-asked
		cancel(os.ErrProcessDone) // with a cause of its own, as a signal has
		if got := <-code; got != 9 || !strings.HasSuffix(errs.String(), "kiln: interrupted\n") ||
			strings.Count(errs.String(), "kiln: ") != 1 {
			t.Errorf("%s: exit %d, %q", words, got, errs.String())
		}
	}
}
