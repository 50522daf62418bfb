package box

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// apparmorParser loads profiles into the kernel.
const apparmorParser = "/sbin/apparmor_parser"

// apparmorOn reports whether profiles can be loaded: the kernel has AppArmor on
// and its parser is installed.
func apparmorOn() bool {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(on), "Y") {
		return false
	}
	_, err = os.Stat(apparmorParser)
	return err == nil
}

// programsDir is what liblxc has first on its PATH: there newuidmap and newgidmap are programs
// without privileges, which it doesn't call. They would want subuid(5) to give root what root may
// map anyway. The rest of PATH is for apparmor_parser, and for hooks.
const programsDir = runDir + "/programs"

const programsPath = "PATH=" + programsDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// linkPrograms makes what is in programsDir.
func linkPrograms() error {
	if err := os.MkdirAll(programsDir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		err := os.Symlink("/bin/false", filepath.Join(programsDir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
