package box

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// AppArmor's files of the namespace that this process is in.
const (
	apparmorDir    = "/sys/kernel/security/apparmor"
	loadedDir      = apparmorDir + "/policy/profiles"
	policySpaceDir = apparmorDir + "/policy/namespaces"
)

// profileTime is how long AppArmor's parser may take for kiln's profiles: on a usual machine
// it is a second, and an emulated one is a hundred times slower.
const profileTime = 3 * time.Minute

// Profiles are the AppArmor profiles of all unprivileged containers, which are loaded into the
// kernel once, and not made for each container at each start. The name of one has a hash of
// its rules: daemons of two versions have two, and whatever runs keeps the one it began with.
type Profiles struct {
	dir  string // of the file that they are loaded from, and of what the parser keeps of it
	text string
	name map[bool]string // by Spec.Nesting

	mu   sync.Mutex // held while they are loaded
	last error      // what went wrong then
}

// NewProfiles gives the profiles for this kernel, of which nothing is loaded yet; nil: there is
// no AppArmor. The directory is made, and may be lost.
func NewProfiles(dir string) *Profiles {
	if !apparmorOn() {
		return nil
	}
	return newProfiles(dir, ownSpaces(), exists(apparmorDir+"/features/network/af_unix"))
}

func newProfiles(dir string, spaces, sockets bool) *Profiles {
	p := &Profiles{dir: dir, name: map[bool]string{}}
	var text strings.Builder
	for _, nesting := range []bool{false, true} {
		rules := profileRules(nesting, spaces, sockets)
		sum := sha256.Sum256([]byte(rules))
		p.name[nesting] = fmt.Sprintf("kiln-container-%x", sum[:4])
		if nesting {
			p.name[nesting] = fmt.Sprintf("kiln-container-nesting-%x", sum[:4])
		}
		// A path may be of something that the container doesn't see, or not any more.
		fmt.Fprintf(&text, "profile %s flags=(attach_disconnected,mediate_deleted) {\n%s}\n", p.name[nesting], rules)
	}
	p.text = text.String()
	return p
}

// Load loads the profiles, unless the kernel has them.
func (p *Profiles) Load(ctx context.Context) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.load(ctx)
}

// Name gives the profile for a container, which is loaded; "": there is none, and liblxc has
// to make one. It waits for one that is being loaded.
func (p *Profiles) Name(ctx context.Context, nesting bool) string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Whoever tidies AppArmor up removes what is in no file of its own.
	if !p.loaded() && (p.last != nil || p.load(ctx) != nil) {
		return ""
	}
	return p.name[nesting]
}

// Failure says why liblxc makes a profile for each container; nil: it needn't.
func (p *Profiles) Failure() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *Profiles) load(ctx context.Context) error {
	if p.loaded() {
		p.last = nil
		return nil
	}
	p.last = p.parse(ctx)
	return p.last
}

// loaded looks for the profiles among the kernel's, whose directories have the name and a
// number.
func (p *Profiles) loaded() bool {
	for _, name := range p.name {
		if found, err := disk.Glob(loadedDir, name+".*"); err != nil || len(found) == 0 {
			return false
		}
	}
	return true
}

// parse compiles and loads the profiles. The parser keeps what it has compiled for as long as
// the file is the same and the kernel has the same features.
func (p *Profiles) parse(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, profileTime, kiln.Errorf(kiln.Timeout,
		"%s did not end within %v", apparmorParser, profileTime))
	defer cancel()
	file := filepath.Join(p.dir, "profiles")
	if has, err := disk.ReadFile(file); err != nil || string(has) != p.text {
		if err := errors.Join(disk.MkdirAll(p.dir, 0o700), disk.WriteBytes(file, 0o600, []byte(p.text))); err != nil {
			return fmt.Errorf("write AppArmor profiles: %w", err)
		}
	}
	var said bounded
	for _, args := range [][]string{
		{"--replace", "--write-cache", "--cache-loc", filepath.Join(p.dir, "compiled"), file},
		{"--replace", "--skip-cache", file}, // whatever is kept is of another file
	} {
		said = bounded{}
		cmd := exec.CommandContext(ctx, apparmorParser, args...)
		cmd.Stdout, cmd.Stderr = &said, &said
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return kiln.Errorf(kiln.Unsupported, "load AppArmor profiles of %s: %w: %s", file, err, said.text())
		}
		if p.loaded() {
			return nil
		}
	}
	return kiln.Errorf(kiln.Unsupported, "load AppArmor profiles of %s: the kernel doesn't show them in %s: %s", file,
		loadedDir, said.text())
}

// bounded keeps the beginning of what a program says.
type bounded struct{ b []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.b = append(b.b, p[:min(len(p), 2048-len(b.b))]...)
	return len(p), nil
}

func (b *bounded) text() string { return strings.Join(strings.Fields(string(b.b)), " ") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// ownSpaces reports whether a container gets a namespace of AppArmor of its own, for profiles of
// programs in it. The kernel must have those, and this process not be in one.
func ownSpaces() bool {
	return strings.HasPrefix(readString(apparmorDir+"/features/domain/stack"), "yes") &&
		strings.HasPrefix(readString(apparmorDir+"/features/namespaces/profile"), "yes") &&
		!strings.HasPrefix(readString(apparmorDir+"/.ns_stacked"), "yes")
}

// policySpace is the namespace of a container. What starts AppArmor in one looks for that
// beginning of the name.
func policySpace(id string) string { return "lxc-kiln-" + id }

// confine gives the label of a container's processes: a profile, and with it whatever they load
// into their own namespace.
func confine(id, profile string) (label string, err error) {
	if !ownSpaces() {
		return profile, nil
	}
	if err := os.Mkdir(filepath.Join(policySpaceDir, policySpace(id)), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make a namespace of AppArmor: %w", err)
	}
	return profile + "//&:" + policySpace(id) + ":", nil
}

// release removes what confine made.
func release(id string) { _ = os.Remove(filepath.Join(policySpaceDir, policySpace(id))) }

// profileRules are what an unprivileged container may do, in the language of apparmor.d(5). The
// user namespace keeps it from the host; these rules are for what the kernel gets wrong there.
func profileRules(nesting, spaces, sockets bool) string {
	rules := []string{
		"capability", "dbus", "file", "network", // as its user namespace, mounts and interfaces allow
		"mount", "umount", "pivot_root", // in a user namespace the kernel knows what is safe
		"deny mount options=(ro, remount) -> /", "deny mount options=(ro, remount, silent) -> /",
		// The host may signal and trace it. All containers have this profile: what keeps them
		// from each other are process and user namespaces.
		"signal (receive)", "signal peer=@{profile_name}",
		"ptrace (readby, tracedby)", "ptrace peer=@{profile_name}",
		"deny /proc/{kcore,sysrq-trigger,acpi/**} rwklx", "deny /proc/bus/** wklx",
		"deny /sys/firmware/efi/efivars/** rwklx", "deny /sys/kernel/debug/{,**} rwklx",
	}
	if sockets {
		rules = append(rules, "unix (receive)", "unix peer=(label=@{profile_name})")
	}
	rules = append(rules, nothingBut("/proc/sys/", "kernel/domainname", "kernel/hostname", "kernel/msg*", "kernel/sem*",
		"kernel/shm*", "net/**")...)
	inSys := []string{"class/net/**", "devices/virtual/net/**", "fs/cgroup/**"}
	if spaces {
		inSys = append(inSys, "kernel/security/apparmor/**")
		rules = append(rules, `change_profile -> ":lxc-kiln-*:*"`, `change_profile -> ":lxc-kiln-*://*"`)
	} else {
		rules = append(rules, "deny /sys/k* rwklx", "deny /sys/k*/** rwklx")
	}
	rules = append(rules, nothingBut("/sys/", inSys...)...)
	if nesting {
		rules = append(rules, "signal", "ptrace", // of containers in it, which have other profiles
			"deny /dev/.lxc/{proc,sys}/** rw") // are there for the kernel to see
		if !spaces {
			rules = append(rules, "change_profile -> @{profile_name}")
		}
	}
	return "  " + strings.Join(rules, ",\n  ") + ",\n"
}

// nothingBut gives rules by which nothing below a directory is changed but what the patterns
// are of. One is a path below it, which may end in "*", for names that go on, or in "/**", for
// all below; none begins as another does. AppArmor has no rule for "all but these", so there is
// one for each place where a path can go another way than they.
func nothingBut(dir string, patterns ...string) []string {
	ways := map[string]string{} // by how a path begins: which characters may be next
	var rules []string
	deny := func(path string) { rules = append(rules, "deny "+dir+path+" wklx") }
	for _, p := range patterns {
		begins := strings.TrimRight(p, "*")
		for i := range len(begins) {
			if next := begins[i : i+1]; !strings.Contains(ways[begins[:i]], next) {
				ways[begins[:i]] += next
			}
		}
		switch p[len(begins):] {
		case "":
			deny(begins + "{/,?}**")
		case "*":
			deny(begins + "*/**")
		}
	}
	for _, begins := range slices.Sorted(maps.Keys(ways)) {
		another := "[^" + ways[begins] + "]**"
		if begins != "" && !strings.HasSuffix(begins, "/") {
			another = "{," + another + "}" // it ends there
		}
		deny(begins + another)
	}
	return rules
}
