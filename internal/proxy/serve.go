package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/sibling"
)

// Program is the name that this binary is run with as proxyd.
const Program = "kiln-proxyd"

// The files of the directory that proxyd is told by, and answers in. Each proxy has one of
// each.
const (
	proxyEx  = ".json"
	statusEx = ".status"
)

// A Proxy is a device of a container that runs.
type Proxy struct {
	Instance string // its UUID
	Name     string // of the device
	Box      string // the directory of its box
	Network  string // with NAT: the one that does it; connect has the instance's address then
	Device
	Serial string // of this setting, that the status is of
}

// file names a proxy's files, whatever its device is called.
func file(instance, name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s.%x", instance, sum[:8])
}

// A Directory is where the daemon writes down which proxies there are. It outlives both.
type Directory struct {
	Path    string
	Version string // of this program; a proxyd of another one is replaced
}

// proxyd is nobody. It enters networks of containers, looks up paths in them, and makes
// sockets for others; it reads nothing of what it carries.
func (d Directory) proxyd() sibling.Sibling {
	return sibling.Sibling{Program: Program, Short: "proxyd", Path: d.Path, Version: d.Version,
		Capabilities: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_SETUID, unix.CAP_SETGID,
			unix.CAP_DAC_OVERRIDE, unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_NET_BIND_SERVICE, unix.CAP_KILL},
		Env: []string{"GOMEMLIMIT=64MiB", "GOGC=50"}}
}

// openTime is how long proxyd may take to listen.
const openTime = 20 * time.Second

// Open has proxyd carry connections from now on. It returns when it listens. On errors it
// doesn't: Conflict when an address is in use, or can't be listened at.
func (d Directory) Open(ctx context.Context, p Proxy) error {
	p.Serial = rand.Text()
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	name := file(p.Instance, p.Name)
	if err := d.proxyd().Write(name+proxyEx, b); err != nil {
		return errors.Join(err, d.Close(p.Instance, p.Name)) // it may be written, and proxyd not start
	}
	if p.NAT {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, kiln.Errorf(kiln.Timeout, "%s did not listen within %v; see %s",
		Program, openTime, filepath.Join(d.Path, "proxyd.log")))
	defer cancel()
	err = d.await(ctx, name, p.Serial)
	if err != nil {
		err = errors.Join(err, d.Close(p.Instance, p.Name))
	}
	return err
}

func (d Directory) await(ctx context.Context, name, serial string) error {
	for {
		var st status
		b, err := disk.ReadFile(filepath.Join(d.Path, name+statusEx))
		if err == nil && json.Unmarshal(b, &st) == nil && st.Serial == serial {
			if st.Error != "" {
				return kiln.Errorf(kiln.Conflict, "%s", st.Error)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Close has proxyd carry the connections of a device no more. One that isn't there is as
// good.
func (d Directory) Close(instance, name string) error {
	err := d.proxyd().Remove(file(instance, name) + proxyEx)
	serr := os.Remove(filepath.Join(d.Path, file(instance, name)+statusEx))
	if errors.Is(serr, fs.ErrNotExist) {
		serr = nil
	}
	return errors.Join(err, serr)
}

// Proxies gives those that there are. What can't be read is left out.
func (d Directory) Proxies() []Proxy {
	root, err := disk.OpenRoot(d.Path)
	if err != nil {
		return nil
	}
	defer root.Close()
	var list []Proxy
	for _, p := range readProxies(root) {
		list = append(list, p)
	}
	return list
}

// readProxies gives the proxies of a directory, by the names of their files.
func readProxies(dir *os.Root) map[string]Proxy {
	list := map[string]Proxy{}
	names, _ := fs.Glob(dir.FS(), "*"+proxyEx) // the pattern is well-formed
	for _, name := range names {
		var p Proxy
		if b, err := disk.ReadFileIn(dir, name); err == nil && json.Unmarshal(b, &p) == nil {
			list[strings.TrimSuffix(name, proxyEx)] = p
		}
	}
	return list
}

// carried reports whether proxyd has something to do.
func (d Directory) carried() bool {
	for _, p := range d.Proxies() {
		if !p.NAT {
			return true
		}
	}
	return false
}

// Ensure has a proxyd of this version run, if there is something to carry.
func (d Directory) Ensure() error {
	if !d.carried() {
		return d.Stop()
	}
	return d.proxyd().Ensure()
}

// Stop ends the proxyd, if there is one.
func (d Directory) Stop() error { return d.proxyd().Stop() }

// Watch sees to it that proxyd runs as long as there is something to carry, until ctx ends.
func (d Directory) Watch(ctx context.Context, warn func(error)) {
	d.proxyd().Watch(ctx, d.carried, warn)
}

// status is what proxyd answers.
type status struct{ Serial, Error string }
