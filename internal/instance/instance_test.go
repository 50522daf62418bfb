package instance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/volume"
)

// to is a change to a configuration, whatever there is.
func to(c Config) func(Instance) (Config, error) {
	return func(Instance) (Config, error) { return c, nil }
}

func TestCheckOptions(t *testing.T) {
	for key, values := range map[string]map[string]bool{
		"limits.memory": {"512MiB": true, "2GB": true, "50%": true, "": true, "0": false, "-1": false, "101%": false,
			"lots": false},
		"limits.cpu":           {"2": true, "0-1": true, "0,3-5": true, "0": false, "a": false, "1-": false},
		"limits.cpu.allowance": {"50%": true, "25ms/100ms": true, "0%": false, "0ms/100ms": false, "1/2": false},
		"limits.processes":     {"100": true, "-1": false, "x": false},
		"security.privileged":  {"true": true, "0": true, "maybe": false},
		"user.anything":        {"x": true},
		"user.":                {"x": false},
		"user.a\nb":            {"x": false},
		"user.a":               {"x\ny": true, "x\x00y": false},
		"image.\x1b":           {"x": false},
		"environment.A":        {"x y=z": true, "x\nlxc.hook.x = y": false, "x\ry": false},

		"environment.A\nlxc.hook.x": {"y": false},
		"environment.A=B":           {"y": false},
		"environment.A B":           {"y": false},
		"raw.lxc": {"lxc.init.cmd = /bin/sh\n# x\n\nlxc.cap.drop=\nlxc.cgroup.memory.high = 1": true, "lxc.bogus = 1": false,
			"hello world": false, "init = x": false},
		"linux.kernel_modules": {"ip_tables": true},
		"limits.kernel.nofile": {"1000": true, "1000:2000": true, "1:unlimited": true, "unlimited": true, "2:1": false,
			"x": false, "-1": false, "1:2:3": false},
		"limits.kernel.nofiles":            {"1": false},
		"linux.sysctl.net.ipv4.ip_forward": {"1": true, "1\nlxc.hook.x = y": false},
		"linux.sysctl.a = b":               {"1": false},
		"linux.sysctl...":                  {"1": false},
		"limits.cpu.priority":              {"0": true, "10": true, "11": false, "x": false},
		"limits.memory.enforce":            {"soft": true, "hard": true, "firm": false},
		"boot.host_shutdown_action":        {"stop": true, "force-stop": true, "stateful-stop": false},
		"security.syscalls.deny": {"mount": true, "mount errno 1\n# why\n[x86_64]\nkexec_load": true, "": true, "\n": false,
			"mount; x": false, "2\nallowlist": true, "mount errno": false},
		"security.protection.delete": {"true": true, "x": false},
		"nonsense":                   {"x": false},
	} {
		for value, ok := range values {
			err := CheckOptions(map[string]string{key: value})
			if (err == nil) != ok || err != nil && !errors.Is(err, kiln.Invalid) {
				t.Errorf("%s=%q: %v", key, value, err)
			}
		}
	}
}

// TestForeignOptions takes what LXD's users have in their profiles, and says so, or
// refuses it as what it is.
func TestForeignOptions(t *testing.T) {
	for key, kind := range map[string]kiln.Kind{"security.syscalls.intercept.mknod": "", "limits.memory.swap.priority": "",
		"migration.stateful": "", "security.secureboot": "", "raw.idmap": kiln.Unsupported,
		"security.sev.policy.es": kiln.Unsupported, "cloud-init.ssh-keys.me": kiln.Unsupported,
		"limits.kernels": kiln.Invalid, "security.syscalls.": kiln.Invalid} {
		config := map[string]string{key: "1"}
		err := CheckOptions(config)
		if kind != "" && kiln.KindOf(err) != kind || kind == "" && err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if err != nil && !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
		if w := NoEffect(config); (len(w) == 1 && strings.Contains(w[0], key)) != (kind == "") {
			t.Errorf("%s: %q", key, w)
		}
	}
}

// TestKeys has each key once, and says of each what it does.
func TestKeys(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Keys() {
		if seen[k.Name] || k.Help == "" || k.part != nil && !strings.HasSuffix(k.Name, ".") {
			t.Errorf("%+v", k)
		}
		seen[k.Name] = true
	}
	for _, w := range atNextStart(map[string]string{"security.nesting": "true", "limits.cpu": "1"},
		map[string]string{"linux.sysctl.net.ipv4.ip_forward": "1", "limits.cpu": "2"}) {
		key, _, _ := strings.Cut(w, " ")
		if k, ok := find(Keys(), key); !ok || k.How != AtStart {
			t.Error(w)
		}
	}
}

// TestPublishedProfiles loads what the installers of MicroK8s and Juju bring.
func TestPublishedProfiles(t *testing.T) {
	modules := "ip_vs,ip_vs_rr,ip_vs_wrr,ip_vs_sh,ip_tables,ip6_tables,netlink_diag,nf_nat,overlay,br_netfilter"
	for name, config := range map[string]map[string]string{
		"microk8s": {"boot.autostart": "true", "linux.kernel_modules": modules, "security.nesting": "true",
			"security.privileged": "true", "raw.lxc": "lxc.apparmor.profile=unconfined\n" +
				"lxc.mount.auto=proc:rw sys:rw cgroup:rw\nlxc.cgroup.devices.allow=a\nlxc.cap.drop=\n"},
		"juju": {"boot.autostart": "true", "security.nesting": "true", "security.privileged": "true",
			"linux.kernel_modules": "openvswitch,nbd,ip_tables,ip6_tables", "user.network-config": "disabled",
			"raw.lxc": "lxc.apparmor.profile=unconfined\nlxc.mount.auto=proc:rw sys:rw\nlxc.cap.drop=\n"},
	} {
		if err := CheckOptions(config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckDevices(map[string]map[string]string{
		"aadisable":  {"type": "disk", "path": "/sys/module/nf_conntrack/parameters/hashsize", "source": "/sys/module/x"},
		"aadisable3": {"type": "disk", "path": "/sys/fs/bpf", "source": "/sys/fs/bpf"},
	}); err != nil {
		t.Error(err)
	}
}

func TestPolicy(t *testing.T) {
	if p := policy(map[string]string{"security.syscalls.deny_default": "true"}); p != "" {
		t.Errorf("the usual one: %q", p)
	}
	deny := policy(map[string]string{"security.syscalls.deny": "mount\nchmod errno 2"})
	if !strings.HasPrefix(deny, box.DefaultPolicy()) || !strings.HasSuffix(deny, "[all]\nmount errno 1\nchmod errno 2\n") {
		t.Errorf("more is refused: %q", deny)
	}
	if p := policy(map[string]string{"security.syscalls.deny_default": "false"}); strings.Contains(p, "kexec_load") || p == "" {
		t.Errorf("nothing is refused: %q", p)
	}
	both := map[string]string{"security.syscalls.allow": "read", "security.syscalls.deny": "write"}
	if err := checkPolicy(both); !errors.Is(err, kiln.Invalid) {
		t.Errorf("a list of each: %v", err)
	}
}

func TestCheckDevices(t *testing.T) {
	block := filepath.Join("/dev", "kiln-test-"+strconv.Itoa(os.Getpid()))
	if err := unix.Mknod(block, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(block)
	for _, c := range []struct {
		device map[string]string
		kind   kiln.Kind
	}{
		{map[string]string{"type": "disk", "path": "/", "pool": "default"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "readonly": "true"}, ""},
		{map[string]string{"type": "none"}, ""},
		{map[string]string{"type": "disk", "path": "/", "pool": "other"}, kiln.NotFound},
		{map[string]string{"type": "disk", "path": "/", "source": "/x"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "srv", "source": "/srv"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/a/../b", "source": "/srv"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "srv"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/a\nlxc.x = y"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "colour": "red"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "tmpfs:", "size": "1MiB"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "tmpfs:", "size": "some"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "size": "1MiB"}, kiln.Unsupported},
		{map[string]string{"type": "disk", "path": "/", "size": "1GiB"}, kiln.Unsupported},
		{map[string]string{"type": "disk", "path": "/", "shift": "true"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "limits.max": "1MB"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "limits.read": "500iops"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "limits.write": "0"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "limits.read": "64KiB"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "limits.read": "1"}, ""}, // kept from before
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "limits.write": "-5iops"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "tmpfs:", "limits.read": "1MB"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/", "pool": "default", "limits.read": "1MB"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "raw.mount.options": "nosuid,noatime"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "raw.mount.options": "uid=0"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "required": "false", "shift": "true"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/srv", "required": "false", "optional": "false"},
			kiln.Invalid},
		{map[string]string{"type": "nic"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0"}, ""},
		{map[string]string{"type": "nic", "network": "kilnbr0", "name": "eth0", "ipv4.address": "10.0.0.2"}, ""},
		{map[string]string{"type": "nic", "network": "kilnbr0", "parent": "br0"}, kiln.Invalid},
		{map[string]string{"type": "nic", "parent": "br0"}, kiln.Invalid},
		{map[string]string{"type": "nic", "nictype": "bridged", "parent": "br0"}, ""},
		{map[string]string{"type": "nic", "nictype": "bridged", "parent": "br0", "ipv4.address": "10.0.0.2"}, kiln.Invalid},
		{map[string]string{"type": "nic", "nictype": "macvlan", "parent": "br0", "mtu": "1400"}, ""},
		{map[string]string{"type": "nic", "nictype": "macvlan"}, kiln.Invalid},
		{map[string]string{"type": "nic", "nictype": "ipvlan", "parent": "br0"}, kiln.Unsupported},
		{map[string]string{"type": "nic", "nictype": "physical", "parent": "br0", "mtu": "1400"}, kiln.Unsupported},
		{map[string]string{"type": "nic", "nictype": "p2p", "host_name": "p0"}, ""},
		{map[string]string{"type": "nic", "nictype": "p2p", "network": "kilnbr0"}, kiln.Unsupported},
		{map[string]string{"type": "nic", "nictype": "p2p", "parent": "br0"}, kiln.Unsupported},
		{map[string]string{"type": "nic", "nictype": "ovn"}, kiln.Unsupported},
		{map[string]string{"type": "nic", "nictype": "tunnel", "parent": "br0"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "name": "e\nlxc.x = y"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "name": "lo"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "host_name": "a/b"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "hwaddr": "01:00:00:00:00:00"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "mtu": "12"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "ipv4.address": "fd42::1"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "limits.max": "1Mbit"}, ""},
		{map[string]string{"type": "nic", "network": "kilnbr0", "limits.ingress": "1MB"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "limits.max": "1Mbit", "limits.egress": "1Mbit"}, kiln.Invalid},
		{map[string]string{"type": "nic", "network": "kilnbr0", "security.ipv4_filtering": "true"}, ""},
		{map[string]string{"type": "nic", "network": "kilnbr0", "security.mac_filtering": "perhaps"}, kiln.Invalid},
		{map[string]string{"type": "nic", "nictype": "bridged", "parent": "br0", "security.ipv6_filtering": "true"},
			kiln.Invalid},
		{map[string]string{"type": "nic", "nictype": "macvlan", "parent": "br0", "limits.max": "1Mbit"}, kiln.Unsupported},
		{map[string]string{"type": "nic", "network": "kilnbr0", "colour": "red"}, kiln.Invalid},
		{map[string]string{"type": "unix-char", "source": "/dev/kvm", "uid": "5", "mode": "0660", "required": "no"}, ""},
		{map[string]string{"type": "unix-block", "path": "/dev/x", "major": "7", "minor": "1"}, ""},
		{map[string]string{"type": "unix-char"}, kiln.Invalid},
		{map[string]string{"type": "unix-char", "source": "dev/kvm"}, kiln.Invalid},
		{map[string]string{"type": "unix-char", "source": "/dev/kvm", "mode": "4755"}, kiln.Invalid},
		{map[string]string{"type": "unix-char", "source": "/dev/kvm", "major": "1"}, kiln.Invalid},
		{map[string]string{"type": "unix-char", "source": "/dev/kvm", "uid": "-1"}, kiln.Invalid},
		{map[string]string{"type": "gpu"}, ""},
		{map[string]string{"type": "gpu", "gputype": "physical", "pci": "00:02.0", "vendorid": "10de", "id": "0"}, ""},
		{map[string]string{"type": "gpu", "gputype": "mig"}, kiln.Unsupported},
		{map[string]string{"type": "gpu", "mdev": "i915"}, kiln.Unsupported},
		{map[string]string{"type": "gpu", "vendorid": "0x10de"}, kiln.Invalid},
		{map[string]string{"type": "gpu", "pci": "card0"}, kiln.Invalid},
		{map[string]string{"type": "gpu", "id": "-1"}, kiln.Invalid},
		{map[string]string{"type": "gpu", "required": "false"}, kiln.Invalid},
		{map[string]string{"type": "usb"}, ""},
		{map[string]string{"type": "usb", "vendorid": "046d", "productid": "c52b", "required": "yes", "mode": "0666"}, ""},
		{map[string]string{"type": "usb", "vendorid": "46d"}, kiln.Invalid},
		{map[string]string{"type": "usb", "mode": "4755"}, kiln.Invalid},
		{map[string]string{"type": "unix-hotplug", "vendorid": "046d", "required": "perhaps"}, kiln.Invalid},
		{map[string]string{"type": "unix-hotplug", "productid": "c52b", "gid": "20"}, ""},
		{map[string]string{"type": "unix-hotplug", "uid": "1"}, kiln.Invalid},
		{map[string]string{"type": "tpm"}, kiln.Unsupported},
		{map[string]string{"type": "zip"}, kiln.Invalid},
		{map[string]string{}, kiln.Invalid},
		{map[string]string{"type": "none", "a\nb": "c"}, kiln.Invalid},
		{map[string]string{"type": "none", "a": "b\x00c"}, kiln.Invalid},
		{map[string]string{"type": "disk", "path": "/srv", "source": "/dev/null"}, ""},
		{map[string]string{"type": "disk", "path": "/srv", "source": block}, kiln.Unsupported},
	} {
		err := CheckDevices(map[string]map[string]string{"d": c.device})
		if c.kind == "" && err != nil || c.kind != "" && (kiln.KindOf(err) != c.kind ||
			!strings.Contains(err.Error(), `"d"`)) {
			t.Errorf("%v: %v", c.device, err)
		}
	}
}

// TestPrintable: names of devices and descriptions have no control characters.
func TestPrintable(t *testing.T) {
	s, _, p := set(t)
	disk := map[string]string{"type": "disk", "path": "/", "pool": "default"}
	for _, name := range []string{"", "a\nb", "a\x00b", "\x1b[2J"} {
		if err := CheckDevices(map[string]map[string]string{name: disk}); !errors.Is(err, kiln.Invalid) {
			t.Errorf("device %q: %v", name, err)
		}
	}
	good := Config{Devices: map[string]map[string]string{"root": disk}, Description: "two\nlines"}
	create(t, s, p, "a", good)
	bad := good
	bad.Description = "a\x00b"
	if _, err := s.Update(t.Context(), "a", to(bad)); !errors.Is(err, kiln.Invalid) {
		t.Errorf("a description with NUL: %v", err)
	}
}

func TestHostIDs(t *testing.T) {
	for _, c := range []struct {
		uid, gid string
		want     *box.IDMap
	}{
		{"", "", &box.IDMap{Host: defaultFirstID, Size: defaultIDs}},
		{"other:1:2\n", "", &box.IDMap{Host: defaultFirstID, Size: defaultIDs}},
		{"user:1:2\nroot:100000:65536\n", "0:100000:65536\n", &box.IDMap{Host: 100000, Size: 65536}},
		{"root:100000:65536\n", "root:200000:65536\n", nil},
		{"root:100000:65536\n", "", nil},
		{"root:100000:1000\n", "root:100000:1000\n", nil},
		{"root:4294940000:65536\n", "root:4294940000:65536\n", nil},
		{"root:x:65536\n", "root:x:65536\n", nil},
	} {
		dir := t.TempDir()
		files := map[string]string{"u": c.uid, "g": c.gid}
		for name, text := range files {
			if text != "" {
				os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
			}
		}
		got, err := hostIDs(filepath.Join(dir, "u"), filepath.Join(dir, "g"))
		if c.want == nil {
			if !errors.Is(err, kiln.Invalid) {
				t.Errorf("%q %q: %v, %v", c.uid, c.gid, got, err)
			}
			continue
		}
		if d := cmp.Diff([]box.IDMap{*c.want}, got); d != "" || err != nil {
			t.Errorf("%q %q: %s %v", c.uid, c.gid, d, err)
		}
	}
}

func TestExpand(t *testing.T) {
	options, devices := expand(
		Config{Options: map[string]string{"a": "own"}, Devices: map[string]map[string]string{"gone": {"type": "none"},
			"mine": {"type": "disk"}}},
		[]Profile{
			{Config: map[string]string{"a": "1", "b": "1"}, Devices: map[string]map[string]string{"gone": {"type": "disk"}}},
			{Config: map[string]string{"b": "2"}},
		})
	if d := cmp.Diff(map[string]string{"a": "own", "b": "2"}, options); d != "" || len(devices) != 1 ||
		devices["mine"] == nil {
		t.Errorf("%s %v", d, devices)
	}
}

func TestKeyLock(t *testing.T) {
	var k keyLock
	var mu sync.Mutex
	inside, most := 0, 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			unlock, err := k.lock(t.Context(), "a", "the first")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			time.Sleep(time.Microsecond)
			mu.Lock()
			inside--
			mu.Unlock()
			unlock()
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d at once", most)
	}
	unlock, _ := k.lock(t.Context(), "a", "the first")
	other, err := k.lock(t.Context(), "b", "") // another name is free
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := k.lock(ctx, "a", ""); kiln.KindOf(err) != kiln.Timeout || !strings.Contains(err.Error(), "for the first:") {
		t.Errorf("%v", err)
	}
	unlock()
}

// set is an empty set of instances.
func set(t *testing.T) (*Set, *db.DB, *volume.Pool) {
	t.Helper()
	dir := t.TempDir()
	d, err := db.Open(t.Context(), filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CreateProfile(t.Context(),
		db.Profile{Name: "default",
			Devices: map[string]map[string]string{"root": {"type": "disk", "path": "/"}}}); err != nil {
		t.Fatal(err)
	}
	p, err := volume.Open(filepath.Join(dir, "pool"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), d, p, filepath.Join(dir, "boxes"), "x86_64", func(context.Context, Change) {},
		func(what string, err error) { t.Logf("%s: %v", what, err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), p.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, d, p
}

func create(t *testing.T, s *Set, p *volume.Pool, name string, c Config) {
	t.Helper()
	if c.Profiles == nil {
		c.Profiles = []string{"default"}
	}
	if _, err := p.Empty(t.Context(), "uuid-"+name); err != nil {
		t.Fatal(err)
	}
	f := s.NewFiles()
	f.UUID = "uuid-" + name
	if _, err := s.Create(t.Context(), New{Name: name, Architecture: "x86_64", Trigger: "create", Config: c}, f); err != nil {
		t.Fatal(err)
	}
}

func TestRows(t *testing.T) {
	s, _, p := set(t)
	create(t, s, p, "a", Config{Options: map[string]string{"user.x": "1", "user.empty": ""}})
	if _, _, err := s.Claim(t.Context(), "a"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("taken: %v", err)
	}
	i, err := s.Get(t.Context(), "a")
	if err != nil || i.Status != Stopped || i.Options[UUIDKey] != "uuid-a" || i.Options[TemplateKey] != "create" ||
		len(i.Options) != 3 {
		t.Errorf("%+v, %v", i, err)
	}
	_, release, err := s.Claim(t.Context(), "claimed") // by a launch that downloads its image
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"claimed", "a"} {
		if err := s.Rename(t.Context(), "a", to); !errors.Is(err, kiln.Conflict) {
			t.Errorf("renamed to %s: %v", to, err)
		}
	}
	release()
	change := i.Config
	change.Options = map[string]string{"user.y": "2"}
	if _, err := s.Update(t.Context(), "a", to(change)); err != nil {
		t.Fatal(err)
	}
	if i, _ := s.Get(t.Context(), "a"); i.Options["user.y"] != "2" || i.Options["user.x"] != "" ||
		i.Options[UUIDKey] != "uuid-a" {
		t.Errorf("%+v", i.Options)
	}
	change.Options = map[string]string{restoreKey: "s0"}
	if _, err := s.Update(t.Context(), "a", to(change)); !errors.Is(err, kiln.Invalid) {
		t.Errorf("a key that kiln keeps for itself: %v", err)
	}
	change.Options = map[string]string{UUIDKey: "other"}
	if _, err := s.Update(t.Context(), "a", to(change)); !errors.Is(err, kiln.Invalid) {
		t.Errorf("another UUID: %v", err)
	}
	if err := s.Rename(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	if i, err := s.Get(t.Context(), "b"); err != nil || i.Options[TemplateKey] != "rename" &&
		i.Options[TemplateKey] != "create" {
		t.Errorf("%+v, %v", i, err)
	}
	for _, f := range []func() error{
		func() error { return s.Start(t.Context(), "a") },
		func() error { return s.Stop(t.Context(), "a", 0, true) },
		func() error { return s.Delete(t.Context(), "a", "") },
		func() error { return s.Rename(t.Context(), "a", "c") },
		func() error { _, err := s.Logs(t.Context(), "a"); return err },
	} {
		if err := f(); !errors.Is(err, kiln.NotFound) {
			t.Errorf("what isn't there: %v", err)
		}
	}
	if err := s.Stop(t.Context(), "b", 0, true); !errors.Is(err, kiln.Conflict) {
		t.Errorf("stop what is stopped: %v", err)
	}
	if err := s.Start(t.Context(), "b"); err == nil || !strings.Contains(err.Error(), `start instance "b"`) {
		t.Errorf("an empty instance starts: %v", err)
	}
	if err := s.Delete(t.Context(), "b", ""); err != nil {
		t.Error(err)
	}
	if names, err := p.List(); len(names) != 0 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
}

// TestGarbage is what a daemon that died in the middle leaves.
func TestGarbage(t *testing.T) {
	s, d, p := set(t)
	create(t, s, p, "a", Config{})
	if _, err := p.Empty(t.Context(), "never-written-down"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "01234567-89ab-cdef-0123-456789abcdef"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.EditInstance(t.Context(), "a", func(r *db.Instance) error { r.Running = true; return nil }); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), d, p, s.dir, "x86_64", func(context.Context, Change) {},
		func(what string, err error) { t.Logf("%s: %v", what, err) })
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if names, err := p.List(); len(names) != 1 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	if left, _ := os.ReadDir(s.dir); len(left) != 0 {
		t.Errorf("%v", left)
	}
	if r, err := d.Instance(t.Context(), "a"); r.Running || err != nil {
		t.Errorf("it is said to run: %v", err)
	}
}

func TestRequirements(t *testing.T) {
	s, _, p := set(t)
	for name, config := range map[string]map[string]string{
		"cgroup":     {"image.requirements.cgroup": "v1"},
		"privileged": {"image.requirements.privileged": "false", "security.privileged": "true"},
		"nesting":    {"image.requirements.nesting": "true"},
	} {
		create(t, s, p, name, Config{Options: config})
		if err := s.Start(t.Context(), name); err == nil || !strings.Contains(err.Error(), "image of instance") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConfigurationBounds: no configuration grows without end, and none has others wait for
// ever.
func TestConfigurationBounds(t *testing.T) {
	many, devices := map[string]string{}, map[string]map[string]string{}
	for n := range mostOptions + 1 {
		many["user."+strconv.Itoa(n)] = "x"
	}
	for n := range mostDevices + 1 {
		devices[strconv.Itoa(n)] = map[string]string{"type": "none"}
	}
	for what, err := range map[string]error{
		"keys":    CheckOptions(many),
		"text":    CheckOptions(map[string]string{"user.a": strings.Repeat("x", mostText)}),
		"devices": CheckDevices(devices),
		"device": CheckDevices(map[string]map[string]string{"a": {"type": "disk", "path": "/a",
			"source": "/" + strings.Repeat("x", mostText)}}),
	} {
		if !errors.Is(err, kiln.TooLarge) {
			t.Errorf("%s: %.200v", what, err)
		}
	}
	for _, key := range holdKeys() {
		for v, ok := range map[string]bool{"3600": true, "3601": false, "2147483647": false} {
			if err := CheckOptions(map[string]string{key: v}); (err == nil) != ok {
				t.Errorf("%s=%s: %v", key, v, err)
			}
		}
	}
	if hold("2147483647") != mostHold || hold("5") != 5*time.Second {
		t.Error("what is in the database is kept longer")
	}
}

// TestUnboundWrites says of every disk whose writes are bounded that this isn't so for all.
func TestUnboundWrites(t *testing.T) {
	disk := func(key, more string) map[string]string {
		return map[string]string{"type": "disk", key: "1MiB", more: "2MiB"}
	}
	got := unboundWrites(map[string]map[string]string{"read": disk("limits.read", "size"), "write": disk("limits.write", "size"),
		"both": disk("limits.read", "limits.write"), "max": disk("limits.max", "size"),
		"nic": {"type": "nic", "limits.max": "1Mbit"}})
	want := 3
	if box.WritesAreBounded() {
		want = 0
	}
	if len(got) != want {
		t.Errorf("%d remarks, not %d: %q", len(got), want, got)
	}
}
