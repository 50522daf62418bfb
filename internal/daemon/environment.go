package daemon

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/volume"
)

// An Environment describes the host and the software.
type Environment struct {
	Kernel, KernelVersion, HostArch string
	Architectures                   []string // canonical, best first
	OSName, OSVersion               string
	Hostname                        string
	Version                         string // of kiln
	RuntimeVersion                  string // of liblxc
}

// HostArch gives the canonical architecture of the running kernel.
func HostArch() string {
	arch, err := kiln.ParseArch(uname().machine)
	if err != nil {
		return uname().machine
	}
	return arch
}

type utsname struct{ sysname, nodename, release, machine string }

func uname() utsname {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return utsname{}
	}
	return utsname{
		unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Nodename[:]),
		unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]),
	}
}

// Environment describes this host.
func (d *Daemon) Environment() Environment {
	u := uname()
	e := Environment{
		Kernel: u.sysname, KernelVersion: u.release, HostArch: HostArch(), Architectures: kiln.RunsOn(HostArch()),
		Hostname: u.nodename, Version: d.cfg.Version, RuntimeVersion: box.Version(),
	}
	e.OSName, e.OSVersion = osRelease("/etc/os-release")
	return e
}

// osRelease reads NAME and VERSION_ID of os-release(5); what is absent is "".
func osRelease(path string) (name, version string) {
	f, err := os.Open(path)
	if err != nil {
		return "", ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		switch key {
		case "NAME":
			name = value
		case "VERSION_ID":
			version = value
		}
	}
	return name, version
}

// PoolUsage tells the bytes and inodes of the file system that instances are on.
func (d *Daemon) PoolUsage() (unix.Statfs_t, error) {
	var st unix.Statfs_t
	err := unix.Statfs(filepath.Join(d.cfg.Dir, "volumes"), &st)
	return st, err
}

// ImageUsage is what one image costs, in bytes.
type ImageUsage struct {
	Image   kiln.Image // zero but for the fingerprint when only instances have it
	InStore bool
	Stored  int64    // its files
	Shared  int64    // of them, in files that other images have too
	Tree    int64    // its unpacked tree
	Common  int64    // of that, with the trees of other images
	Kind    string   // of the tree
	UsedBy  []string // names of instances
}

// StoreUsage is what images cost together, in bytes.
type StoreUsage struct {
	Images []ImageUsage
	Stored int64 // all blobs, each counted once
	Shared int64 // saved by images that have a file in common
	Trees  int64
	Free   int64
}

// ImageUsage tells what the images cost and what is left.
func (d *Daemon) ImageUsage(ctx context.Context) (StoreUsage, error) {
	stored, err := d.Images.Usage(ctx)
	if err != nil {
		return StoreUsage{}, err
	}
	trees, err := d.pool.Images()
	if err != nil {
		return StoreUsage{}, err
	}
	instances, err := d.instances.List(ctx)
	if err != nil {
		return StoreUsage{}, err
	}
	byImage := map[kiln.Fingerprint]volume.ImageInfo{}
	u := StoreUsage{Stored: stored.Stored, Shared: stored.Shared, Free: stored.Free}
	for _, t := range trees {
		byImage[t.Fingerprint] = t
		u.Trees += t.Bytes
	}
	users := map[kiln.Fingerprint][]string{}
	for _, i := range instances {
		users[i.Base] = append(users[i.Base], i.Name)
	}
	for _, s := range stored.Images {
		t := byImage[s.Image.Fingerprint]
		delete(byImage, s.Image.Fingerprint)
		u.Images = append(u.Images, ImageUsage{
			Image: s.Image, InStore: true, Stored: s.Stored, Shared: s.Shared,
			Tree: t.Bytes, Common: t.Shared, Kind: t.Kind, UsedBy: users[s.Image.Fingerprint],
		})
	}
	for fp, t := range byImage {
		u.Images = append(u.Images, ImageUsage{Image: kiln.Image{Fingerprint: fp}, Tree: t.Bytes, Common: t.Shared,
			Kind: t.Kind, UsedBy: users[fp]})
	}
	return u, nil
}
