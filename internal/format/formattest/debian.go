package formattest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln/internal/network/netspace"
)

// CacheDir is where what is slow to make is kept between runs of tests and
// benchmarks: $KILN_TEST_CACHE, or a directory of the host's.
func CacheDir() string {
	if dir := os.Getenv("KILN_TEST_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/kiln-test"
}

// Debian gives the path of a tarball with a real system that boots systemd, and has what
// kiln needs of a host: one that is made once per CacheDir will do for all tests.
func Debian(t testing.TB) string {
	t.Helper()
	path, err := DebianTar("liblxc1", "procps", "squashfs-tools-ng", "xz-utils", "bzip2")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// DebianTar is Debian for programs that are no tests. Further packages make a
// tarball of their own.
func DebianTar(include ...string) (string, error) {
	dir := CacheDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name := strings.Join(append([]string{"debian"}, include...), "-")
	path := filepath.Join(dir, name+".tar")
	// The packages under test run side by side: one makes it, the others wait.
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, makeDebian(path, include)
}

func makeDebian(path string, include []string) error {
	suite, err := hostSuite("/etc/os-release")
	if err != nil {
		return err
	}
	packages := strings.Join(append([]string{"systemd", "systemd-sysv", "dbus"}, include...), ",")
	part := path + ".part"
	// A host may have no other sources than those in deb822's format, which mmdebstrap
	// reads itself when it is told the suite.
	args := netspace.HostArgs("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", "--include="+packages, suite,
		part)
	cmd := exec.Command(args[0], args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("mmdebstrap %s: %w\n%s", suite, err, out), os.Remove(part))
	}
	return os.Rename(part, path)
}

// hostSuite gives the code name of the host's release, os-release(5).
func hostSuite(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", fmt.Errorf("%s has no VERSION_CODENAME; tests take their system from Debian or Ubuntu packages", file)
}
