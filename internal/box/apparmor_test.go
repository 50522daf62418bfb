package box

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPrograms looks at what the monitor of a container can call: AppArmor's parser alone,
// also where no AppArmor is.
func TestPrograms(t *testing.T) {
	b := start(t, spec(t, busybox(t, "")))
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", b.monitor.PID))
	dir, ok := strings.CutPrefix(strings.TrimRight(string(env), "\x00"), "PATH=")
	if err != nil || !ok {
		t.Fatalf("%q, %v", env, err)
	}
	programs, err := os.ReadDir(dir)
	if err != nil || len(programs) != 1 || programs[0].Name() != "apparmor_parser" {
		t.Errorf("%v, %v", programs, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "apparmor_parser")); err != nil || to != apparmorParser {
		t.Errorf("%q, %v", to, err)
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
