package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/format/formattest"
)

// A host is a daemon of its own process, and what talks to it.
type host struct {
	t      *testing.T
	dir    string
	daemon *exec.Cmd
}

// command is the test binary under the name of the command.
func (h *host) command(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Args[0] = "kiln"
	c.Env = append(os.Environ(), "KILN_DIR="+h.dir, "KILN_CONF="+filepath.Join(filepath.Dir(h.dir), "conf"))
	return c
}

func (h *host) start() {
	h.t.Helper()
	h.daemon = h.command("daemon")
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.kiln("waitready", "--timeout", "20")
}

func (h *host) kill() {
	_ = h.daemon.Process.Kill()
	_ = h.daemon.Wait()
}

// kiln runs a command that should succeed and gives what it says.
func (h *host) kiln(args ...string) string {
	h.t.Helper()
	var out, errs bytes.Buffer
	c := h.command(args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		h.t.Fatalf("kiln %v: %v: %s", args, err, errs.String())
	}
	return out.String()
}

// TestMoveKilled kills the daemon that an instance is copied to at any moment. The
// next one has the instance or nothing, and the copy can be made then.
func TestMoveKilled(t *testing.T) {
	dir, err := os.MkdirTemp("", "kiln-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	from, to := &host{t: t, dir: dir + "/1"}, &host{t: t, dir: dir + "/2"}
	for i, h := range []*host{from, to} {
		h.start()
		defer killAll(t, h.dir)
		defer h.kill()
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		h.kiln("config", "set", "core.https_address", "127.0.0.1:"+port)
		token := strings.TrimSpace(h.kiln("config", "trust", "add", "--name", "x"))
		from.kiln("remote", "add", string(rune('a'+i)), token)
	}
	from.kiln("image", "import", formattest.Write(t, "tiny.tar", formattest.Unified(t)), "--alias", "bb")
	from.kiln("launch", "bb", "c1")
	from.kiln("exec", "c1", "--", "sh", "-c", "for i in $(seq 300); do head -c 10000 /dev/urandom > /root/$i; done")
	from.kiln("stop", "-f", "c1")
	from.kiln("snapshot", "c1")
	there := 0
	for range 8 {
		c := from.command("copy", "a:c1", "b:c1", "--mode", []string{"pull", "relay"}[rand.IntN(2)])
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		to.kill()
		_ = c.Wait() // it fails, or the copy was made
		to.start()
		if strings.Contains(to.kiln("list", "-f", "csv", "-c", "n"), "c1") {
			there++
			if got := to.kiln("snapshot", "list", "c1", "-f", "csv", "-c", "n"); got != "snap0\n" {
				t.Errorf("its snapshots are %q", got)
			}
			to.kiln("start", "c1")
			if got := to.kiln("exec", "c1", "--", "sh", "-c", "ls /root | wc -l"); got != "300\n" {
				t.Errorf("it has %s files", got)
			}
			to.kiln("delete", "-f", "c1")
		}
		for _, sub := range []string{"layers", "volumes", "snapshots"} {
			if left, err := os.ReadDir(filepath.Join(to.dir, "volumes", sub)); len(left) > 0 || err != nil {
				t.Errorf("left in %s: %v, %v", sub, left, err)
			}
		}
	}
	from.kiln("copy", "a:c1", "b:c1")
	to.kiln("delete", "c1")
	from.kiln("delete", "c1")
	t.Logf("%d of 8 copies were made", there)
}
