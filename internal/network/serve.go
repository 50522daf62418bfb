package network

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/sibling"
)

// Program is the name that this binary is run with as netd.
const Program = "kiln-netd"

// networkEx ends the names of the files that netd is told by: each network has one.
const networkEx = ".json"

// A Directory is where the daemon writes down what netd is to serve. It outlives both.
type Directory struct {
	Path    string
	Version string // of this program; a netd of another one is replaced
}

// netd is nobody and has two capabilities: it reads what hostile containers send.
func (d Directory) netd() sibling.Sibling {
	return sibling.Sibling{Program: Program, Short: "netd", Path: d.Path, Version: d.Version,
		Capabilities: []uintptr{unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE},
		Env:          []string{"GOMEMLIMIT=32MiB", "GOGC=50"}}
}

// Set has netd serve a network from now on, or what has changed of it. It returns when
// that is written down, and a netd runs.
func (d Directory) Set(n Network) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return d.netd().Write(n.Name+networkEx, b)
}

// Remove has netd serve a network no more.
func (d Directory) Remove(name string) error { return d.netd().Remove(name + networkEx) }

// Networks gives those that netd is to serve. What can't be read is left out.
func (d Directory) Networks() []Network {
	root, err := disk.OpenRoot(d.Path)
	if err != nil {
		return nil
	}
	defer root.Close()
	return readNetworks(root)
}

func readNetworks(dir *os.Root) []Network {
	var list []Network
	names, _ := fs.Glob(dir.FS(), "*"+networkEx) // the pattern is well-formed
	for _, name := range names {
		var n Network
		if b, err := disk.ReadFileIn(dir, name); err == nil && json.Unmarshal(b, &n) == nil {
			list = append(list, n)
		}
	}
	return list
}

// Ensure has a netd of this version run, and tells it to look again.
func (d Directory) Ensure() error { return d.netd().Ensure() }

// Running reports whether there is a netd.
func (d Directory) Running() bool { return d.netd().Running() }

// Stop ends the netd, if there is one.
func (d Directory) Stop() error { return d.netd().Stop() }

// Watch sees to it that netd runs as long as there is something to serve, until ctx ends.
func (d Directory) Watch(ctx context.Context, warn func(error)) {
	d.netd().Watch(ctx, func() bool { return len(d.Networks()) > 0 }, warn)
}
