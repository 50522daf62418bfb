package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInstanceVerbs(t *testing.T) {
	s := newSession(t)
	fp := s.image("1", "--alias one")
	s.says("init one c1 -c user.role=db -c limits.cpu=1 --description 'the database'", "Creating c1")
	s.says("init one", "Creating the instance", "Instance name is: ")
	s.fails("init one b:", 1, "isn't listening on the network", "kiln image copy")
	s.ok("image copy one b: --mode relay --copy-aliases")
	s.ok("init b:one b: --no-profiles -d root,type=disk,path=/,pool=default")
	s.fails("init one c1", 4, "c1")
	s.fails("init one -x", 2)
	s.fails("init one c2 -c a", 2, "not of the form key=value")
	s.fails("init one c2 -p nothing", 3, "nothing")
	s.fails("init nothing c2", 3, `no image "nothing"`)
	s.fails("init one a b", 2, `unexpected argument "b"`)
	s.fails("init one c2 -t huge", 1, "c2-m4")
	s.ok("init one typed -t c2-m4 -c limits.cpu=1")
	s.says("config get typed limits.memory", "4096MiB\n")
	s.says("config get typed limits.cpu", "1\n")

	s.says("list c1 -f csv", "c1,STOPPED,,,CONTAINER,0\n")
	s.says("list c1 -f csv -c n,user.role:ROLE,devices:root.path,dF", "c1,db,/,the database,"+fp+"\n")
	s.says("list c1 -c nsacdDeflLmNopPu", "BASE IMAGE", fp[:12])
	s.says("list user.role=db -f csv -c n", "c1\n")
	s.says("list status=stopped c1 -f csv -c n", "c1\n")
	s.says("list user.role=web -f csv -c n", "")
	s.says("ls b: -f csv -c s", "STOPPED\n")
	s.says("list c1 -f json", `"name":"c1"`)
	s.fails("list -c X", 2)
	s.fails("list nothing:", 3, `no remote "nothing"`)

	s.says("info c1", "Name: c1", "Status: STOPPED", "Description: the database", "Base image: "+fp)
	s.says("info c1 -f yaml", "name: c1", "state:")
	s.says("info c1 -f json", `"name":"c1"`)
	s.says("info", "api_version")
	s.says("info b: -f json", `"api_version"`)
	s.fails("info c9", 3, `no instance "c9"; did you mean "c1"?`)
	s.fails("console c1", 4, "not running")
	s.fails("console c1 --type vga", 1, "no graphical console")
	s.fails("console c1 --type x", 2, "console or vga")
	s.says("console c1 --show-log", "")
	s.fails("console c9 --show-log", 3, "did you mean")
	s.fails("start c9", 3, "did you mean")
	s.fails("start", 2, "missing argument: <instance>")
	s.fails("stop c1", 4, "already stopped")
	s.fails("exec c1 -- true", 4, "not running")
	s.fails("exec c9 -- true", 3, `no instance "c9"`)

	// Names.
	s.ok("rename c1 c3")
	s.fails("rename c3 b:c4", 2, "kiln move c3 b:c4")
	s.ok("copy c3 c4")
	s.fails("copy c3 b: --mode pull", 1, "kiln copy --mode relay")
	s.fails("move c3 b:c4 --mode pull", 1, "kiln move --mode relay")
	s.ok("copy c3 c5 --instance-only -c user.role=web --no-profiles -d root,type=disk,path=/,pool=default -e")
	s.says("config get c5 user.role", "web\n")
	s.fails("copy c3 c4", 4, "c4")
	s.fails("copy c9 c8", 3, `no instance "c9"`)
	s.fails("copy c3 c8 --refresh", 1, "not supported")
	s.fails("copy c3 c8 --mode x", 2, "auto, pull, push or relay")
	s.ok("copy c3 c7 --stateless --storage default")
	s.ok("delete c7")
	s.ok("init one c7 --storage default")
	s.fails("init one c8 --storage fast", 3, "fast")
	s.ok("delete c7")
	s.ok("move c4 c6")
	s.fails("move c6 c7 -c a=b", 2, "moving to another server")
	s.ok("copy c6 b:c6 --mode relay")
	s.ok("copy b:c6 back --mode relay") // no remote: the default one
	s.says("list back -f csv -c n", "back\n")
	s.ok("move b:c6 gone --mode relay")
	s.says("list b: c6 -f csv", "")
	s.ok("delete c3 c5 gone back")
	s.fails("delete c6 nothing", 3, `no instance "nothing"`, "nothing was deleted")
	s.ok("delete c6")
	s.fails("info c6", 3)
}

func TestInstanceYAML(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	for yaml, want := range map[string]string{
		"confg: {}":             `unknown key "confg"; did you mean "config"?`,
		"- a":                   "not the YAML",
		"config:":               `"config" has no value`,
		"type: virtual-machine": "system containers",
		"devices: {root: {type: disk, path: /, pool: x}}": "",
	} {
		s.stdin = yaml
		code, other := map[string]int{"": 3, "system containers": 1}[want]
		if !other {
			code = 2
		}
		s.fails("init one c1", code, want)
	}
	s.says("list -f csv", "")
	s.stdin = "type: container\ndescription: from a file\nconfig: {user.a: 1}\nephemeral: true\n"
	s.ok("init one c1 -c user.b=2")
	s.says("config show c1", "description: from a file", `user.a: "1"`, `user.b: "2"`, "ephemeral: true")
}

func TestSnapshotVerbs(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("init one c1")
	s.ok("snapshot c1 s1 --no-expiry")
	s.says("snapshot c1", "Snapshot name is: ")
	s.ok("snapshot create c1 s2 --expires 30d")
	s.fails("snapshot c1 s1", 4, "s1")
	s.ok("snapshot c1 s1 --reuse")
	s.fails("snapshot c1 s3 --expires soon", 2, "--expires")
	s.ok("snapshot c1 s4 --expiry 30d") // as lxc calls it
	s.ok("delete c1/s4")
	s.fails("snapshot c1 s3 --expires 1d --no-expiry", 2)
	s.fails("snapshot c1 s3 --stateful", 1, "stateful")
	s.fails("snapshot c9", 3, `no instance "c9"`)
	s.fails("snapshot", 2, "missing argument: <instance>")
	s.says("snapshot list c1 -f csv -c nTES", "s1,2", ",never,", "s2,")
	s.fails("snapshot list c9", 3, `no instance "c9"`)
	s.fails("snapshot list c1 -c q", 2)
	s.says("snapshot show c1 s1", "name: s1")
	s.says("snapshot show c1/s1", "name: s1")
	s.fails("snapshot show c1", 2, "<instance>/<snapshot>")
	s.fails("snapshot show c1 s9", 3, "s9")
	s.ok("snapshot rename c1 s1 first")
	s.ok("rename c1/first s1")
	s.says("info c1", "Snapshots:", "s1")
	s.ok("restore c1 s1")
	s.ok("restore c1/s2")
	s.fails("restore c1 s9", 3, "s9")
	s.fails("restore c1 s1 --stateful", 1)
	s.ok("copy c1/s1 c2")
	s.fails("publish c1/s9", 3)
	s.ok("snapshot delete c1 s1 s2")
	s.fails("delete c1/s9", 3)
	s.fails("snapshot delete c1", 2, "missing argument")
}

func TestConfigVerbs(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("init one c1")

	s.ok("config set c1 user.a=1 limits.cpu=1")
	s.ok("config set c1 user.b 'two words'")
	s.says("config get c1 user.b", "two words\n")
	s.says("config show c1", "user.b: two words")
	s.says("config show c1 --expanded", "pool: default")
	s.ok("config unset c1 user.b")
	s.fails("config unset c1 user.b", 3, "user.b")
	s.fails("config set c1 limits.cpu=many", 2, "limits.cpu")
	s.fails("config set c1", 2)
	s.fails("config set c9 user.a=1", 3, `did you mean "c1"?`)
	s.fails("config get c9 user.a", 3, `no instance "c9"`)

	s.ok("config set images.keep_versions 3")
	s.says("config get images.keep_versions", "3\n")
	s.ok("config set b: images.keep_versions=2")
	s.says("config show b:", `images.keep_versions: "2"`)
	s.ok("config unset images.keep_versions")
	s.fails("config set images.bogus=1", 2, "images.bogus")

	// Nothing empties a configuration by accident.
	s.ok("config set images.keep_versions 4")
	for yaml, want := range map[string]string{
		"": "there is no YAML", "confg: {}": `did you mean "config"?`, "config:": "has no value", "x": "not the YAML",
		"config: {images.bogus: 1}": "images.bogus",
	} {
		s.stdin = yaml
		s.fails("config edit", 2, want)
		s.stdin = yaml
		s.fails("config edit c1", 2)
	}
	s.says("config get images.keep_versions", "4\n")
	s.says("config get c1 user.a", "1\n")
	s.stdin = s.ok("config show")
	s.ok("config edit")
	s.stdin = "architecture: aarch64"
	s.fails("config edit c1", 2, "architecture")
	s.stdin = "config: {user.c: x}"
	s.ok("config edit c1")
	s.says("config get c1 user.c", "x\n")

	// Devices.
	s.ok("config device add c1 data disk source=/tmp path=/data")
	s.fails("config device add c1 data disk source=/tmp path=/data", 4, "data")
	s.fails("config device add c1 x disk source", 2, "key=value")
	s.says("config device list c1", "data\n")
	s.says("config device show c1", "source: /tmp")
	s.ok("config device set c1 data readonly=true")
	s.says("config device get c1 data readonly", "true\n")
	s.ok("config device unset c1 data readonly")
	s.fails("config device get c1 daat path", 3, `no device "daat"; did you mean "data"?`)
	s.ok("config device remove c1 data")
	s.fails("config device remove c1 data", 3, `"c1" has no device "data"; see: kiln config device show c1`)
	s.fails("config device list c9", 3)

	// Metadata and templates.
	s.says("config metadata show c1", "architecture: amd64")
	s.stdin = s.ok("config metadata show c1")
	s.ok("config metadata edit c1")
	s.stdin = ""
	s.fails("config metadata edit c1", 2, "there is no YAML")
	s.stdin = "hello {{ container.name }}"
	s.ok("config template create c1 motd.tpl")
	s.says("config template list c1 -f csv", "motd.tpl\n")
	s.says("config template show c1 motd.tpl", "hello {{ container.name }}")
	s.stdin = "bye"
	s.ok("config template edit c1 motd.tpl")
	s.says("config template show c1 motd.tpl", "bye")
	s.fails("config template show c1 nothing", 3)
	s.ok("config template delete c1 motd.tpl")
}

func TestProfileVerbs(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("init one c1")
	s.stdin = "description: web servers\nconfig: {user.x: y}\n"
	s.says("profile create web", "Profile web created")
	s.fails("profile create web", 4, "web")
	s.stdin = "descripton: x"
	s.fails("profile create bad", 2, `did you mean "description"?`)
	s.says("profile list -f csv", "default,", "web,web servers,0\n")
	s.says("profile show web", `user.x: "y"`, "name: web")
	s.ok("profile set web limits.cpu=1 user.z=1")
	s.says("profile get web limits.cpu", "1\n")
	s.ok("profile unset web user.z")
	s.ok("profile copy web b:web")
	s.says("profile show b:web", `user.x: "y"`)
	s.ok("profile rename b:web api")
	s.fails("profile rename b:api local:x", 2, "different servers")
	s.ok("profile device add web data disk source=/tmp path=/data")
	s.says("profile device list web", "data\n")
	s.says("profile device show web", "path: /data")
	s.ok("profile device set web data readonly=true")
	s.says("profile device get web data readonly", "true\n")
	s.ok("profile device unset web data readonly")
	s.ok("profile device remove web data")
	s.ok("profile device add web gone disk source=/nothing/here path=/data")
	s.fails("init one c8 -p default -p web", 2, `Device "gone": there is no /nothing/here on this host`)
	s.fails("info c8", 3)
	s.ok("profile device set web gone optional=true")
	s.ok("init one c8 -p default -p web")
	s.ok("delete c8")
	s.ok("profile device remove web gone")
	s.ok("profile add c1 web")
	s.fails("delete profile", 3)
	s.fails("profile delete web", 4, "web")
	s.ok("profile remove c1 web")
	s.fails("profile remove c1 web", 3, `doesn't use the profile "web"`)
	s.ok("profile assign c1 default,web")
	s.says("config show c1", "- web")
	s.ok("profile assign c1 default")
	s.fails("profile assign c1 nothing", 3, "nothing")
	for yaml, want := range map[string]string{
		"": "there is no YAML", "name: other": `"name" can't be changed`, "confg: {}": "did you mean",
	} {
		s.stdin = yaml
		s.fails("profile edit web", 2, want)
	}
	s.stdin = s.ok("profile show web")
	s.ok("profile edit web")
	s.fails("profile show wep", 3, `no profile "wep"; did you mean "web"?`)
	s.fails("profile edit wep", 3, `no profile "wep"`)
	s.fails("profile delete wep", 3, `no profile "wep"`)
	s.says("profile delete web", "Profile web deleted")
	s.fails("profile rename wep x", 3, "no profile")
}

func TestPublishVerbs(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("init one c1")
	out := s.ok("publish c1 --alias golden os=mine --public --compression none --timestamp 2030-01-31")
	fp := strings.TrimSpace(strings.TrimPrefix(out, "Instance published with fingerprint: "))
	s.says("image info golden", fp, "os: mine", "Public: yes")
	s.says("publish c1 --check golden --compression none --timestamp 2030-01-31 os=mine", "the same")
	s.fails("publish c1 --check one", 1, "kiln image diff")
	s.fails("publish c1 --expire soon", 2, "--expire")
	s.fails("publish c1 --format thirds", 2, "unified or split")
	s.fails("publish c1 a", 2, "key=value")
	s.fails("publish c1 --compression bogus", 2, "bogus")
	s.fails("publish c9", 3, `no instance "c9"`)
	s.ok("rebuild c1")
	s.ok("rebuild c1 golden")
	s.fails("rebuild golden c1", 2, "the instance comes first: kiln rebuild c1 golden")
	s.fails("rebuild c9", 3, "did you mean")
	s.fails("rebuild c1 nothing", 3, `no image "nothing"`)
}

func TestListFilters(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("init one c1 -c user.role=db")
	for filter, want := range map[string]string{
		"c": "c1\n", "c1": "c1\n", "x": "", "name=c1": "c1\n", "status=stopped": "c1\n", "state=running": "",
		"type=container": "c1\n", "architecture=amd64": "c1\n", "architecture=x86_64": "c1\n", "ephemeral=no": "c1\n",
		"ephemeral=true": "", "profiles=default": "c1\n", "user.role=db": "c1\n", "u.role=d.*": "c1\n", "user.role=x": "",
		"project=default": "c1\n", "description=": "c1\n",
	} {
		if got := s.ok("list -f csv -c n '" + filter + "'"); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	s.fails("list s=RUNNING", 2, `unknown field "s"`)
	s.fails("list statuss=RUNNING", 2, `did you mean "status"?`)
}

// TestMeantInstance gives the name of an instance to another one while a command is at work
// that asks the server more than once: the other one stays as it is.
func TestMeantInstance(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("image copy one b: --mode relay --copy-aliases")
	for _, name := range []string{"x", "z"} {
		s.ok("init b:one b:" + name + " --no-profiles -d root,type=disk,path=/,pool=default")
	}
	other := *s // for another goroutine
	swap := func() {
		other.ok("rename b:x b:old")
		other.ok("rename b:z b:x")
	}
	swapBack := func() {
		s.ok("rename b:x b:z")
		s.ok("rename b:old b:x")
	}
	const another = `"x" is another one now`
	s.stdin, s.asked = "yes\n", swap
	s.fails("delete -i b:x", 4, another)
	s.says("list b: -f csv -c n", "old\nx\n")
	swapBack()

	fifo := filepath.Join(t.TempDir(), "swaps")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		if err != nil {
			return
		}
		defer f.Close()
		swap()
	}()
	private := filepath.Join(t.TempDir(), "private")
	if err := os.WriteFile(private, []byte("private"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("file push " + fifo + " " + private + " b:x/")
	<-swapped
	s.fails("file pull b:x/private -", 3)
	swapBack()
	s.ok("delete -f b:x b:z")
}
