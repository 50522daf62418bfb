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

// programsDir is all that liblxc has on its PATH. It looks for two programs there:
// apparmor_parser, without which nothing starts where AppArmor is on, and newuidmap, which
// would want subuid(5) to give root what root may map anyway.
const programsDir = runDir + "/programs"

// linkPrograms has liblxc find what it must.
func linkPrograms() error {
	err := os.MkdirAll(programsDir, 0o755)
	if err == nil {
		err = os.Symlink(apparmorParser, filepath.Join(programsDir, filepath.Base(apparmorParser)))
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
