package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestMistakes has each mistake named with what was probably meant, as a mistake of the
// user's, and nothing suggested that is something else.
func TestMistakes(t *testing.T) {
	s := newSession(t)
	fp := s.image("1", "--alias one")
	s.ok("init one c1")
	gone := filepath.Join(s.dir, "gone")
	s.fails("config device add c1 d disk path=/mnt source="+gone, 2, `Device "d"`, gone, "optional=true")
	if out := s.ok("config device list c1"); out != "" {
		t.Errorf("it has the device all the same: %q", out)
	}
	s.ok("config device add c1 d disk path=/mnt optional=true source=" + gone)
	s.fails("config device set c1 d optional=false", 2, `Device "d"`)
	s.fails("config device add c1 r1 disk", 2, "path= is missing")
	s.fails("config device add c1 r1 disk path=/x source=/tmp size=1GiB", 1, `"size" is not supported`)
	s.fails("init one c2 -d root,size=1GiB", 1, `Device "root"`, `"size" is not supported`)
	s.ok("init one c2 -d root,pool=default")
	s.says("config device show c2", "path: /", "type: disk")
	s.ok("delete c2")
	s.fails("config device set c1 root size=1GiB", 3, "comes from a profile", "kiln config device override")
	s.fails("config device override c1 root size=1GiB", 1, `"size" is not supported`)
	s.fails("config device override c1 rot", 3, `did you mean "root"?`)
	s.ok("config device override c1 root pool=default")
	s.says("config device get c1 root path", "/\n")
	s.fails("config device override c1 root", 4, "own already")
	s.ok("config device remove c1 root")
	s.fails("config set c1 snapshots.pattern=a/b", 2, "snapshots.pattern")
	s.fails("config set c1 snapshots.pattern '{{ nope'", 2, "snapshots.pattern")
	s.ok("config set c1 snapshots.pattern '{{ creation_date|date:\"2006-01-02\" }}'")
	s.fails("image alias create local::x one", 2, "begins with a colon")
	s.image("7", "--alias default")
	for _, verb := range []string{"image delete ''", "image delete local:", "image info ''", "image show local:",
		"image set-property '' a b", "image unset-property local: a", "image export local:", "image alias delete ''",
		"image alias rename '' x", "image history ''", "image refresh ''",
		"delete ''", "delete local:", "info ''", "start ''", "stop local:", "restart ''", "pause ''", "rename '' x", "rebuild '' one",
		"restore '' x", "snapshot ''", "publish '' --alias x", "copy '' x", "move '' x", "exec '' -- true", "console ''",
		"config show ''", "config set '' user.a b", "config device list ''", "config metadata show ''",
		"config template list ''", "profile delete ''", "profile show ''", "profile rename '' x", "network delete ''",
		"network show ''", "file delete ''", "config trust remove ''", "operation delete ''", "export ''"} {
		if _, err, code := s.run(verb); code == 0 || strings.Contains(err, "understood") || strings.Contains(err, "possible on") {
			t.Errorf("%s: exit %d, %s", verb, code, err)
		}
	}
	s.ok("image info default")
	s.fails("profile device remove default root", 4, "c1", "kiln config device override c1")
	s.ok("profile device list default")
	s.ok("info c1")
	s.fails("config set foo.bar 1", 2, "foo.bar", "name the instance")
	s.fails("image info one@2", 3, `no image "one@2"`, "kiln image history one")
	s.fails("image history one@0", 2, `"one@0" is a version`, "kiln image history one\n")
	s.fails("image rollback one@0", 2, `"one@0" is a version`)
	s.fails("init nosuch c9", 3, `no image "nosuch"; see: kiln image list`)
	s.fails("info nosuch", 3, `no instance "nosuch"; see: kiln list`)
	s.fails("image set-property one '' y", 2, "a property has no name")
	s.fails("image import "+filepath.Join(s.dir, "1.tar")+" =foo", 2, "a property has no name")
	s.fails("init one c9 -p default -p default", 2, `profile "default" is given twice`)
	s.fails("profile add c1 default", 4, `instance "c1" has the profile "default" already`)
	s.fails("profile assign c1 default,default", 2, `profile "default" is given twice`)
	s.stdin = "devices: x"
	s.fails("config edit c1", 2, "expected here: line 1")
	s.fails("launch one e1 --ephemeral", 2, "it is ephemeral, so it was deleted")
	if out := s.ok("list -f csv -c n"); out != "c1\n" {
		t.Errorf("an ephemeral instance that didn't start is there: %q", out)
	}
	s.fails("init one@2 c9", 3, `no image "one@2"`, "kiln image history one")
	s.ok("profile create web --description sites user.a=1")
	s.says("profile show web", "description: sites", `user.a: "1"`)
	s.stdin = "description: from YAML\nconfig: {user.a: '1', user.b: '1'}"
	s.ok("profile create both user.b=2")
	s.says("profile show both", "description: from YAML", `user.a: "1"`, `user.b: "2"`)
	s.fails("profile create more nokey", 2, "key=value")
	s.fails("profile list more", 2, `"more" names no server`)
	s.fails("stop --all c1", 2, `"c1" names no server`)
	s.ok("profile add c1 web")
	s.fails("profile delete web", 4, "in use by: c1;", "kiln profile remove <instance> web")
	s.ok("profile remove c1 web")
	if _, err, code := s.run("profile device add web d disk path=/mnt source=" + gone); code != 0 || err == "" {
		t.Errorf("a profile for another host: exit %d, warned %q", code, err)
	}
	s.fails("init one c2 -p wbe", 3, `did you mean "web"?`, "kiln profile list")
	s.fails("config get c1 limits.memry", 3, `did you mean "limits.memory"?`)
	s.says("config get c1 limits.memory", "\n")
	s.fails("config get core.https_adress", 3, `did you mean "core.https_address"?`)
	s.fails("config set core.https_adress x", 2, `did you mean "core.https_address"?`)
	if _, err, code := s.run("init one c2 -c limits.foo=1"); code != 2 ||
		err != "kiln: Unknown configuration key: \"limits.foo\"\n" {
		t.Errorf("exit %d, %q", code, err)
	}
	s.fails("config set c1 limits.memory=200XB", 2, "200XB")
	s.fails("config set images.keep_versions=three", 2, "three")
	if out, _, code := s.run("launch one bad_name!"); code != 2 || out != "" {
		t.Errorf("exit %d, said %q", code, out)
	}
	s.fails("snapshot c1 s1 --expires 2020-01-01", 2, "is past")
	s.ok("snapshot c1 s1 --reuse --expires 30d")
	s.fails("snapshot c1 s1 --reuse --stateful", 1, "stateful")
	s.says("snapshot list c1 -f csv -c n", "s1\n") // which is there, since nothing took its place
	s.ok("snapshot c1 s1 --reuse --no-expiry")
	s.says("snapshot list c1 -f csv -c nE", "s1,never\n")
	s.says("config show c1/s1", "name: s1")
	s.fails("config show c1/s2", 3, `has no snapshot "s2"`)
	for _, verb := range []string{"info c1/s1", "start c1/s1", "config set c1/s1 user.a=1"} {
		s.fails(verb, 2, `"c1/s1" is a snapshot`, "kiln snapshot")
	}
	s.ok("snapshot delete c1 s1")
	s.fails("publish c1 --expire 2020-01-01", 2, "is past")
	s.fails("list nosrv:", 3, `no remote "nosrv"`, "kiln remote list")
	s.fails("snapshot creat c1", 3, `no instance "creat"`, "kiln snapshot create")
	s.fails("image copy b:dt b: --alias dt2", 2, "kiln image alias create b:dt2 dt")
	s.fails("image copy one local: --alias uno", 2, "kiln image alias create uno one")
	s.ok("image alias create uno one")
	s.ok("project create other")
	s.fails("image copy one local: --target-project other --auto-update", 2, "leave --auto-update out")
	s.fails("image copy one local: --target-project othre", 3, "othre")
	s.fails("image copy one local: --target-project default", 2, "--target-project")
	s.fails("copy c1 --target-project other -p nosuch", 3, "nosuch", "kiln profile list --project other")
	s.ok("image copy one local: --target-project other --alias there")
	s.says("image list --project other -f csv -c L", "there\n")
	s.ok("image copy there local: --project other --target-project default --alias here")
	s.says("image list here -f csv -c L", "here")
	s.ok("image alias delete here")
	s.ok("image delete there --project other")
	s.ok("project switch other")
	s.says("remote list -f csv", "local (current),unix://,kiln,file access,NO,YES,NO\n")
	s.says("project get-current", "other\n")
	s.fails("remote remove local", 2, "static")
	s.fails("remote rename local x", 2, "static")
	s.ok("project switch default")
	s.ok("project delete other")
	s.fails("shell c1", 1, "kiln exec")
	s.fails("stop c1 --console", 1, "kiln console")
	s.fails("storage volume copy default/a default/b --refresh --mode pull", 1, "a name that is free")
	s.fails("storage volume copy default/a default/b --mode push", 3, "no storage volume")
	s.fails("profile device remove default nosuch", 3, `"default" has no device "nosuch"; see: kiln profile device show default`)
	s.fails("config device add c1 d none", 4, "already exists; see: kiln config device show c1")
	s.fails("storage create p1 zfs size=5GiB", 1, "one storage pool", "kiln storage volume")
	s.fails("storage delete --help", 1, "one storage pool")
	s.fails("storage creat p1", 2, "unknown command")
	s.fails("storage volum list default", 2, `did you mean "volume"?`)
	s.fails("network acl rule add a ingress", 1, "no network ACLs", "security.ipv4_filtering")
	s.fails("network lod-balancer list", 2, "unknown command")
	for path, text := range absentCommands() {
		s.fails(strings.TrimPrefix(path, "kiln ")+" list", 1, text)
	}
	s.fails("export c1 "+gone+"/x.tar", 3, "there is no directory "+gone)
	s.fails("export c1 "+gone+"/", 3, "there is no directory "+gone)
	s.fails("export c1 "+filepath.Join(s.dir, "1.tar", "x"), 2, "is no directory")
	s.ok("storage volume create default v1")
	s.fails("storage volume export default v1 "+gone+"/x.tar", 3, "there is no directory "+gone)
	s.fails("storage volume import default "+s.dir, 2, "is a directory and no backup", "kiln file push -r")
	s.fails("import "+s.dir, 2, "is a directory and no backup", "kiln image import")
	s.ok("export c1 " + filepath.Join(s.dir, "c1.tar"))
	s.ok("storage volume export default v1 " + filepath.Join(s.dir, "v1.tar"))
	s.fails("image import "+filepath.Join(s.dir, "c1.tar"), 2, "a backup of an instance", "kiln import FILE")
	s.fails("image import "+filepath.Join(s.dir, "v1.tar"), 2, "a backup of a storage volume", "kiln storage volume import")
	_, said, code := s.run("export c1 - --compression lzo")
	if code != 2 || !strings.Contains(said, "a backup is a tarball") || strings.Contains(said, "squashfs") {
		t.Errorf("a compression that there isn't: exit %d, %s", code, said)
	}
	s.fails("export c1 - --compression squashfs", 2, "a backup is a tarball")
	s.fails("query /1.0/images/"+fp+"/export", 2, "isn't JSON", "--raw")
	s.ok("project create small -c limits.instances=1 -c features.images=false")
	s.ok("init one i1 --project small")
	s.fails("init one i2 --project small", 2, "may have 1 instances")
	s.fails("image export one "+filepath.Join(s.dir, "x", "y"), 3, "there is no directory "+filepath.Join(s.dir, "x"))
	t.Setenv("KILN_SOCKET", filepath.Join(s.dir, "nothing"))
	s.fails("waitready --timeout 1 -q", 9, "isn't ready after 1 s", "no kiln daemon answers")
}

// TestHintsElsewhere has what helps with a thing on another server, or in another project,
// said as it has to be typed.
func TestHintsElsewhere(t *testing.T) {
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("image copy one b: --mode relay --copy-aliases")
	s.ok("init b:one b:c1")
	s.ok("project create small -c features.images=false")
	s.ok("init one c1 --project small")
	for words, want := range map[string]string{
		"info b:nosuch": "see: kiln list b:\n", "info nosuch": "see: kiln list\n",
		"info nosuch --project small":          "see: kiln list --project small\n",
		"exec b:c1 -- true":                    "start it with: kiln start b:c1\n", // the server says it
		"exec c1 --project small -- true":      "start it with: kiln start --project small c1\n",
		"storage volume show b:default x":      "see: kiln storage volume list b:default\n",
		"export b:c1/s0":                       "kiln copy b:c1/s0 b:NEW\n",
		"storage volume export b:default v/s0": "kiln storage volume copy b:default/v/s0 b:default/NEW\n",
		"network explain b:c1":                 "cure: kiln start b:c1\n",
		"profile show b:nosuch":                "see: kiln profile list b:\n",
		"image info b:nosuch":                  "see: kiln image list b:\n",
		"snapshot show b:c1 nosuch":            "see: kiln snapshot list b:c1\n",
	} {
		if _, err, code := s.run(words); code == 0 || !strings.Contains(err, want) {
			t.Errorf("%s: exit %d, %q, want %q", words, code, err, want)
		}
	}
	s.ok("remote switch b") // whose name goes without saying then
	if _, err, _ := s.run("exec c1 -- true"); !strings.Contains(err, "kiln start c1\n") {
		t.Error(err)
	}
	if _, err, _ := s.run("info nosuch --force-local"); !strings.Contains(err, "kiln list local:\n") {
		t.Error(err)
	}
}

// TestOneOfSeveralMissing has verbs about several things do nothing to any when one is
// wrong.
func TestOneOfSeveralMissing(t *testing.T) {
	s := newSession(t)
	fp := s.image("1", "--alias one --alias two")
	for _, setup := range []string{"init one c1", "init one c2", "snapshot c1 s1", "snapshot c1 s2", "profile create p1",
		"profile create p2", "project create j1", "storage volume create default v1", "storage volume snapshot default v1 s1",
		"file create c1/d/f -p", "key generate k1", "network create n1"} {
		s.ok(setup)
	}
	s.ok("key export k1 " + filepath.Join(s.dir, "k1.pub"))
	s.ok("key import " + filepath.Join(s.dir, "k1.pub") + " k2")
	for words, still := range map[string]string{
		"delete c1 gone": "info c1", "delete c1/s1 c1/gone": "snapshot show c1 s1", "snapshot delete c1 s1 gone s2": "snapshot show c1 s1",
		"snapshot delete c1/s1 c1/gone": "snapshot show c1 s1", "profile delete p1 gone p2": "profile show p1",
		"image alias delete one gone": "image alias show one", "image delete " + fp + " gone": "image info one",
		"project delete j1 gone": "project show j1", "storage volume delete default v1 gone": "storage volume show default v1",
		"storage volume delete default v1/s1 v1/gone": "storage volume show default v1/s1",
		"file delete c1/d/f c1/d/gone":                "file pull c1/d/f -", "file delete c1/d/f gone/x": "file pull c1/d/f -",
		"key delete k2 gone": "key show k2", "network delete n1 gone": "network show n1",
	} {
		s.fails(words, 3, "gone", "; nothing was deleted")
		if _, err, code := s.run(still); code != 0 {
			t.Errorf("%s deleted some of it: %s", words, err)
		}
	}
	s.fails("key delete k2 k1", 2, "--force", "nothing was deleted")
	s.fails("key delete k2 ../k1", 2, "can't name a key", "nothing was deleted")
	s.ok("key show k2")
	s.ok("profile delete p1 p2 p1") // once each
	s.ok("snapshot delete c1 s1 s2")
	s.ok("file delete c1/d/f c1/d")
	s.ok("image alias delete one two")
	s.ok("storage volume delete default v1/s1 v1")
	s.ok("delete c1 c2")
}

// TestPreseedProjects sets projects up as LXD does, with profiles of their own.
func TestPreseedProjects(t *testing.T) {
	s := newSession(t)
	s.ok("project create here -c user.a=1 -c features.profiles=false")
	for text, says := range map[string]string{
		"projects: [{name: web}, {name: zones, config: {features.networks: 'true'}}]": "features.networks",
		"projects: [{name: web}, {name: a/b}]":                                        "a/b",
		"projects: [{name: web}, {config: {}}]":                                       "without a name",
		"{projects: [{name: web}], networks: [{name: n, project: web}]}":              "all projects have those of the default one",
	} {
		s.stdin = text
		if _, err, code := s.run("admin init --preseed"); code == 0 || !strings.Contains(err, says) {
			t.Errorf("%s: exit %d, %s", text, code, err)
		}
	}
	if out := s.ok("project list -f csv -c n"); out != "default (current)\nhere\n" {
		t.Errorf("a preseed that was refused made %q", out)
	}
	s.stdin = `
projects:
- name: default
  config: {features.images: "true", features.networks: "true", features.storage.buckets: "true", user.b: "2"}
- {name: here, description: known, config: {user.b: "2"}}
- {name: web, description: sites, config: {features.images: "false", limits.instances: "2"}}
profiles:
- {name: default, project: web, config: {limits.memory: 1GiB}}
- {name: small, project: web, config: {limits.cpu: "1"}}
- {name: base, config: {user.c: "3"}}
`
	s.ok("admin init --preseed")
	for words, want := range map[string]string{
		"project get default user.b": "2", "project get here user.a": "1", "project get here user.b": "2",
		"project get web limits.instances": "2", "project get web features.images": "false",
		"profile get default limits.memory --project web": "1GiB", "profile get small limits.cpu --project web": "1",
		"profile get default limits.memory": "", "profile get base user.c --project here": "3",
	} {
		if out := s.ok(words); out != want+"\n" {
			t.Errorf("%s: %q, want %q", words, out, want)
		}
	}
	dump := s.ok("admin init --dump")
	s.stdin = dump
	s.ok("admin init --preseed b:")
	s.says("project list b: -f csv -c nd", "web,sites\n", "here,known\n")
	s.stdin = dump
	s.ok("admin init --preseed")
	if again := s.ok("admin init --dump"); again != dump {
		t.Errorf("%s\nis after its own dump\n%s", dump, again)
	}
}
