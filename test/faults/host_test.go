package faults

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/client"
	"github.com/kiln-containers/kiln/internal/trust"
)

// A host is a machine with a daemon and a user of its own.
type host struct {
	t       *testing.T
	dir     string // of the daemon
	home    string // of the user
	address string // of the daemon on the network
	daemon  *exec.Cmd
	log     *os.File
}

// newHost starts a daemon, which ends with the test.
func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "kf-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return hostIn(t, dir)
}

// hostIn is newHost in a directory that is there.
func hostIn(t *testing.T, dir string) *host {
	t.Helper()
	h := &host{t: t, dir: dir, home: t.TempDir(), address: freeAddress(t)}
	var err error
	if h.log, err = os.Create(filepath.Join(h.home, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.end(os.Interrupt)
		h.log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(h.log.Name())
			t.Logf("the daemon in %s says:\n%s", dir, text)
		}
	})
	h.start()
	return h
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (h *host) start() {
	h.t.Helper()
	h.daemon = h.command(context.Background(), "daemon", "--dir", h.dir, "--listen", h.address)
	h.daemon.Stdout, h.daemon.Stderr = h.log, h.log
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := h.client().Get(h.t.Context(), "/1.0", nil, nil); err == nil {
			return
		}
	}
	h.t.Fatal("the daemon doesn't answer")
}

// end ends the daemon by a signal and waits for that.
func (h *host) end(s os.Signal) {
	if h.daemon == nil {
		return
	}
	_ = h.daemon.Process.Signal(s)
	_ = h.daemon.Wait()
	h.daemon = nil
}

func (h *host) restart() {
	h.t.Helper()
	h.end(os.Kill)
	h.start()
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "kiln", args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.home, "KILN_DIR=" + h.dir, "KILN_CONF=" + filepath.Join(h.home, "conf"),
		"NO_COLOR=1", "GOTRACEBACK=all",
	}
	return cmd
}

// A said is what a command said.
type said struct {
	line     string
	code     int
	out, err string
}

// kiln runs a command of the user's.
func (h *host) kiln(args ...string) said {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	cmd := h.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return said{strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// ok runs a command that succeeds, and gives what it said.
func (h *host) ok(args ...string) said {
	h.t.Helper()
	s := h.kiln(args...)
	if s.code != 0 {
		h.t.Fatalf("kiln %s: exit %d: %s", s.line, s.code, s.err)
	}
	return s
}

// fails runs a command that fails with an exit code and a text that has some words.
func (h *host) fails(code int, words []string, args ...string) said {
	h.t.Helper()
	s := h.kiln(args...)
	if s.code != code {
		h.t.Errorf("kiln %s: exit %d, not %d: %s", s.line, s.code, code, s.err)
	}
	for _, w := range words {
		if !strings.Contains(s.err, w) {
			h.t.Errorf("kiln %s: %q is not in %q", s.line, w, s.err)
		}
	}
	return s
}

// client talks to the daemon as root does.
func (h *host) client() *client.Client { return client.Unix(filepath.Join(h.dir, "unix.socket")) }

// certificate is the fingerprint of what the daemon shows.
func (h *host) certificate() string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "server.crt"))
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := trust.Parse(text)
	if err != nil {
		h.t.Fatal(err)
	}
	return trust.Fingerprint(c)
}

// knows adds another host as a remote of public images, reached by an address.
func (h *host) knows(name string, other *host, address string) {
	h.t.Helper()
	h.ok("remote", "add", name, "https://"+address, "--public", "--fingerprint", other.certificate())
}

// images are those in the store, with their files.
func (h *host) images() []api.Image {
	h.t.Helper()
	list, err := client.List[api.Image](h.t.Context(), h.client(), "/1.0/images", 1)
	if err != nil {
		h.t.Fatal(err)
	}
	for i := range list {
		if _, err := h.client().Get(h.t.Context(), "/1.0/images/"+list[i].Fingerprint, nil, &list[i]); err != nil {
			h.t.Fatal(err)
		}
	}
	return list
}

// sound checks that the store has some images, whole, and nothing else: no file
// without a row, no row without its files, nothing half-made. What is kept for
// another attempt is returned.
func (h *host) sound(want ...kiln.Fingerprint) (partial int64) {
	h.t.Helper()
	files := map[string]bool{}
	var got []string
	for _, img := range h.images() {
		got = append(got, img.Fingerprint)
		for _, f := range img.Files {
			files[f.Hash] = true
		}
		if err := h.operate("/1.0/images/"+img.Fingerprint+"/verify", struct{}{}); err != nil {
			h.t.Errorf("image %s is damaged: %v", img.Fingerprint, err)
		}
	}
	var wanted []string
	for _, fp := range want {
		wanted = append(wanted, fp.String())
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if want != nil && !slices.Equal(got, wanted) {
		h.t.Errorf("there are the images %v, not %v", got, wanted)
	}
	blobs := filepath.Join(h.dir, "blobs")
	h.settled(filepath.Join(blobs, "tmp"))
	err := filepath.WalkDir(blobs, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		switch kind, _, _ := strings.Cut(strings.TrimPrefix(path, blobs+"/"), "/"); {
		case kind == "partial":
			fi, err := e.Info()
			if err == nil {
				partial += fi.Size()
			}
			return err
		case kind == "lost" && !files[e.Name()]: // put away, and removed in a week
			return nil
		case kind != "sha256" || !files[e.Name()]:
			h.t.Errorf("%s is of no image", path)
		}
		delete(files, e.Name())
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	if len(files) > 0 {
		h.t.Errorf("images without their files: %v", files)
	}
	return partial
}

// settled waits until nobody writes any more: whoever sends an image may know
// sooner than who receives it that it breaks off.
func (h *host) settled(tmp string) {
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if list, err := os.ReadDir(tmp); err == nil && len(list) == 0 {
			return
		}
	}
}

// none is sound's word for a store without images.
func none() []kiln.Fingerprint { return []kiln.Fingerprint{} }

// holds imports an image and gives its fingerprint.
func (h *host) holds(i image, flags ...string) kiln.Fingerprint {
	h.t.Helper()
	args := []string{"image", "import"}
	for n, f := range i {
		path := filepath.Join(h.home, []string{"meta", "rootfs"}[n])
		if err := os.WriteFile(path, f, 0o600); err != nil {
			h.t.Fatal(err)
		}
		args = append(args, path)
	}
	h.ok(append(args, flags...)...)
	return i.fingerprint()
}

// operate starts an operation by a request and waits for its end.
func (h *host) operate(path string, body any) error {
	_, op, err := h.client().Do(h.t.Context(), client.Request{Method: http.MethodPost, Path: path, Body: body}, nil)
	if err != nil {
		return err
	}
	_, err = h.client().Wait(h.t.Context(), op.ID)
	return err
}
