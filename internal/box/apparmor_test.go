package box

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPrograms looks at what the monitor of a container finds: the programs of the host, such as
// AppArmor's parser and what hooks call, but those that map ids.
func TestPrograms(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", b.monitor.PID))
	path, ok := strings.CutPrefix(strings.TrimRight(string(env), "\x00"), "PATH=")
	if err != nil || !ok {
		t.Fatalf("%q, %v", env, err)
	}
	t.Setenv("PATH", path)
	for program, want := range map[string]bool{"newuidmap": false, "newgidmap": false, "mount": true} {
		at, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(at)
		if err != nil || (fi.Mode()&fs.ModeSetuid != 0) != want {
			t.Errorf("%s: %s, %v", program, at, err)
		}
	}
	if dirs := filepath.SplitList(path); !slices.Contains(dirs, filepath.Dir(apparmorParser)) {
		t.Errorf("no directory of %s: %s", apparmorParser, path)
	}
}

// TestReason: what is said of a start that fails names something.
func TestReason(t *testing.T) {
	b := &Box{dir: t.TempDir()}
	const utils = "lxc a 2026 ERROR    utils - ../src/lxc/utils.c:run_command_internal:1608 - Failed to exec command\n"
	const parser = "lxc a 2026 ERROR    apparmor - ../src/lxc/lsm/apparmor.c:run_apparmor_parser:916 - Failed to run " +
		"apparmor_parser on \"x\": \n"
	for log, want := range map[string]string{
		"":             "",
		utils:          ": Failed to exec command",
		utils + parser: ": Failed to run apparmor_parser on \"x\"",
		parser + utils: ": Failed to run apparmor_parser on \"x\"",
	} {
		if err := os.WriteFile(filepath.Join(b.dir, logFile), []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := b.reason(0); got != want {
			t.Errorf("%q: %q", log, got)
		}
	}
}
