package daemon

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
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
