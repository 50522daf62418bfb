package box

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// matching turns a path of apparmor.d(5) into a regular expression.
func matching(path string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.NewReplacer("**", ".*", "*", "[^/]*", "?", "[^/]", "{", "(?:", "}", ")",
		",", "|", ".", `\.`).Replace(path) + "$")
}

// denied says which accesses to a path rules deny, of "rwklx".
func denied(rules, path string) string {
	var all string
	for line := range strings.Lines(rules) {
		f := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), ","))
		if len(f) == 3 && f[0] == "deny" && strings.HasPrefix(f[1], "/") && matching(f[1]).MatchString(path) {
			all += f[2]
		}
	}
	return all
}

// TestProfileRules asks what a container may write of the host's settings: what is its own.
func TestProfileRules(t *testing.T) {
	alone, stacked := profileRules(false, true, true), profileRules(true, false, false)
	for path, want := range map[string]string{
		"/etc/passwd": "", "/proc/1/oom_score_adj": "", "/proc/self/attr/exec": "", "/dev/null": "",
		"/proc/sys/net/ipv4/ip_forward": "", "/proc/sys/kernel/hostname": "", "/proc/sys/kernel/domainname": "",
		"/proc/sys/kernel/shmmax": "", "/proc/sys/kernel/shm_rmid_forced": "", "/proc/sys/kernel/sem": "",
		"/proc/sys/kernel/msgmnb": "",
		"/proc/sys/kernel/panic":  "wklx", "/proc/sys/kernel/core_pattern": "wklx", "/proc/sys/kernel/modprobe": "wklx",
		"/proc/sys/kernel/hostname2": "wklx", "/proc/sys/kernel/host": "wklx", "/proc/sys/kernel/hostname/x": "wklx",
		"/proc/sys/kernel/sched_domain/cpu0": "wklx", "/proc/sys/kernel/shm/x": "wklx", "/proc/sys/kernel/dmesg_restrict": "wklx",
		"/proc/sys/kernel/random/uuid": "wklx", "/proc/sys/vm/drop_caches": "wklx", "/proc/sys/fs/binfmt_misc/register": "wklx",
		"/proc/sys/fs/inotify/max_user_watches": "wklx", "/proc/sys/netx/y": "wklx", "/proc/sys/user/max_user_namespaces": "wklx",
		"/proc/kcore": "rwklx", "/proc/sysrq-trigger": "rwklx", "/proc/acpi/wakeup": "rwklx", "/proc/bus/pci/00/1f.0": "wklx",
		"/sys/fs/cgroup/a/cgroup.procs": "", "/sys/class/net/eth0/mtu": "", "/sys/devices/virtual/net/eth0/mtu": "",
		"/sys/fs/cgroups/a": "wklx", "/sys/fs/bpf/x": "wklx", "/sys/fs/fuse/connections/1/abort": "wklx",
		"/sys/class/block/sda/x": "wklx", "/sys/devices/system/cpu/cpu1/online": "wklx", "/sys/power/state": "wklx",
		"/sys/devices/virtual/block/loop0/ro": "wklx", "/sys/module/x/parameters/y": "wklx",
	} {
		for _, rules := range []string{alone, stacked} {
			if got := denied(rules, path); got != want {
				t.Errorf("%s: %q, not %q", path, got, want)
			}
		}
	}
	for path, want := range map[string][2]string{
		"/sys/kernel/security/apparmor/.replace": {"", "rwklxwklx"}, "/sys/kernel/security/lsm": {"wklx", "rwklxwklx"},
		"/sys/kernel/mm/ksm/run": {"wklx", "rwklxwklx"}, "/dev/.lxc/proc/sysrq-trigger": {"", "rw"},
		"/sys/firmware/efi/efivars/x": {"rwklxwklx", "rwklxwklx"},
	} {
		if got := [2]string{denied(alone, path), denied(stacked, path)}; got != want {
			t.Errorf("%s: %q, not %q", path, got, want)
		}
	}
}

// TestProfilesParse has AppArmor's parser compile them.
func TestProfilesParse(t *testing.T) {
	for _, spaces := range []bool{false, true} {
		p := newProfiles(t.TempDir(), spaces, true)
		file := filepath.Join(t.TempDir(), "profiles")
		if err := os.WriteFile(file, []byte(p.text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(apparmorParser, "--skip-kernel-load", "--skip-cache", "--policy-features",
			"/etc/apparmor.d/abi/3.0", file).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		out, err = exec.Command(apparmorParser, "--names", file).Output()
		if names := strings.Fields(string(out)); err != nil || len(names) != 2 || names[0] != p.name[false] ||
			names[1] != p.name[true] {
			t.Errorf("%v: %s; %v", err, out, p.name)
		}
	}
	if a, b := newProfiles("", true, true), newProfiles("", true, true); a.text != b.text {
		t.Error("not the same the second time")
	}
	if a, b := newProfiles("", true, true), newProfiles("", false, true); a.name[false] == b.name[false] {
		t.Error("other rules have the same name")
	}
}

// TestProfilesFail has a kernel without AppArmor, whose parser fails: containers start as before,
// and the failure can be told.
func TestProfilesFail(t *testing.T) {
	p := newProfiles(filepath.Join(t.TempDir(), "made"), false, false)
	if err := p.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "load AppArmor profiles of ") {
		t.Error(err)
	}
	if p.Failure() == nil || p.Name(t.Context(), true) != "" {
		t.Errorf("%v, %q", p.Failure(), p.Name(t.Context(), true))
	}
	p = nil
	if err := p.Load(t.Context()); err != nil || p.Failure() != nil || p.Name(t.Context(), false) != "" {
		t.Error(err)
	}
}

// TestProfileOf asks which containers have a profile of kiln's.
func TestProfileOf(t *testing.T) {
	ids := []IDMap{{0, firstID, 65536}}
	for want, s := range map[string]Spec{
		"p":  {Profile: "p", IDMap: ids},
		"q":  {Profile: "q", IDMap: ids, Config: []string{"# lxc.apparmor.raw", "lxc.environment=lxc.apparmor.raw"}},
		"":   {IDMap: ids},
		" ":  {Profile: "p"}, // privileged
		"  ": {Profile: "p", IDMap: ids, Config: []string{" lxc.apparmor.raw = deny /x r,"}},
	} {
		got, err := apparmorLabel(s)
		if err != nil || got != strings.TrimSpace(want) {
			t.Errorf("%+v: %q, %v", s, got, err)
		}
	}
	var c config
	c.apparmor(Spec{IDMap: ids}, "p//&:x:")
	if c.String() != "lxc.apparmor.profile = p//&:x:\n" {
		t.Errorf("%q", c.String())
	}
}
