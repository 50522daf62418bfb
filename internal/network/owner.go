package network

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/vishvananda/netlink"

	"github.com/kiln-containers/kiln/internal/disk"
)

// ownerFile has the mark of a daemon's interfaces, and where the directory was when that
// was written: the mark moves with the directory, and a copy of it needs another.
const ownerFile = "owner"

// ownerSpare ends the name of a second file with the same, beside the directory: without a
// mark nobody knows whose the bridges are that are up.
const ownerSpare = ".owner"

// Owner gives what marks the interfaces of this host as those of the daemon that has the
// directory, wherever that is moved. Interfaces with a former mark get the new one. With
// an error it gives a mark to go on with.
func (d Directory) Owner(former string) (string, error) {
	here, err := filepath.Abs(d.Path)
	if err != nil {
		return former, err
	}
	mark, was := readOwner(here)
	if mark != "" && was == here {
		return mark, writeOwner(here, mark)
	}
	fresh := mark == "" || copied(mark, was, here)
	if fresh {
		mark = uuid.NewString()
	}
	err = errors.Join(disk.MkdirAll(here, 0o755), os.Chmod(here, 0o755))
	if err == nil {
		err = writeOwner(here, mark)
	}
	if !fresh {
		return mark, err
	}
	if err != nil {
		return former, err
	}
	return mark, adopt(former, mark)
}

// ownerFiles are those of a directory with its mark.
func ownerFiles(dir string) []string {
	return []string{filepath.Join(dir, ownerFile), dir + ownerSpare}
}

// readOwner gives a mark and where it was written; "": none can be read.
func readOwner(dir string) (mark, was string) {
	for _, file := range ownerFiles(dir) {
		b, err := disk.ReadFile(file)
		mark, was, ok := strings.Cut(strings.TrimSuffix(string(b), "\n"), " ")
		if err == nil && ok && uuid.Validate(mark) == nil {
			return mark, was
		}
	}
	return "", ""
}

// writeOwner writes the mark of a directory where it isn't written.
func writeOwner(dir, mark string) error {
	text := []byte(mark + " " + dir + "\n")
	var errs []error
	for _, file := range ownerFiles(dir) {
		if b, err := disk.ReadFile(file); err == nil && bytes.Equal(b, text) {
			continue
		}
		errs = append(errs, disk.WriteBytes(file, 0o600, text))
	}
	return errors.Join(errs...)
}

// copied reports whether the directory where a mark was written has it still, and is
// another one than that which it was found in.
func copied(mark, was, here string) bool {
	a, err := os.Stat(was)
	b, herr := os.Stat(here)
	if err != nil || herr != nil || os.SameFile(a, b) {
		return false
	}
	original, _ := readOwner(was)
	return original == mark
}

// adopt marks the interfaces anew that have a former mark.
func adopt(former, mark string) error {
	links, err := netlink.LinkList()
	for _, l := range links {
		if name, ok := strings.CutPrefix(l.Attrs().Alias, Network{}.label(former)); ok && CheckName(name) == nil {
			err = errors.Join(err, netlink.LinkSetAlias(l, Network{Name: name}.label(mark)))
		}
	}
	if err != nil {
		return fmt.Errorf("mark the interfaces of networks anew: %w", err)
	}
	return nil
}
