package template

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// world is an instance's two directories.
type world struct {
	t            testing.TB
	dir          string
	meta, rootfs *os.Root
}

func newWorld(t testing.TB) world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("files of all owners are made: that takes root")
	}
	dir := t.TempDir()
	for _, d := range []string{"meta/templates", "rootfs/etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := world{t: t, dir: dir}
	var err1, err2 error
	w.meta, err1 = os.OpenRoot(filepath.Join(dir, "meta"))
	w.rootfs, err2 = os.OpenRoot(filepath.Join(dir, "rootfs"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.meta.Close(); w.rootfs.Close() })
	return w
}

// do fails the test when something couldn't be prepared.
func (w world) do(errs ...error) {
	w.t.Helper()
	if err := errors.Join(errs...); err != nil {
		w.t.Fatal(err)
	}
}

func (w world) template(name, text string) {
	w.t.Helper()
	w.do(w.meta.WriteFile("templates/"+name, []byte(text), 0o644))
}

var guest = Instance{
	Name: "c1", Type: "container", Architecture: "x86_64",
	Config:  map[string]string{"user.foo": "bar\r\n", "image.os": "busybox"},
	Devices: map[string]map[string]string{"root": {"path": "/"}},
}

func (w world) render(trigger string, entries map[string]Entry) error {
	return Render(w.t.Context(), guest, trigger, w.meta, w.rootfs, entries)
}

func (w world) read(name string) string {
	w.t.Helper()
	b, err := w.rootfs.ReadFile(name)
	if err != nil {
		w.t.Error(err)
	}
	return string(b)
}

func (w world) exists(name string) bool {
	_, err := w.rootfs.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// stat gives the owner, group and mode of a file.
func (w world) stat(name string) (owner [2]uint32, mode uint32) {
	w.t.Helper()
	fi, err := w.rootfs.Lstat(name)
	w.do(err)
	st := fi.Sys().(*syscall.Stat_t)
	return [2]uint32{st.Uid, st.Gid}, st.Mode & 0o7777
}

func TestContext(t *testing.T) {
	for source, want := range map[string]string{
		"name={{ container.name }} arch={{ instance.architecture }} priv={{ container.privileged }} eph={{ " +
			"container.ephemeral }} itype={{ instance.type }}": "name=c1 arch=x86_64 priv=false eph=false itype=container",
		`{{ config_get("user.foo", "dflt") }}`:                    "bar",
		`{{ config_get("user.none", "dflt") }}`:                   "dflt",
		`{{ config_get("user.none", 7) }}`:                        "7",
		`{{ config_get("user.none", properties.default) }}`:       "from the template",
		`{{ config.image.os }}`:                                   "", // keys have dots
		`{{ config_get("image.os","") }}`:                         "busybox",
		`{{ trigger }} {{ path }}`:                                "create /etc/x",
		`{{ devices.root.path }}`:                                 "/",
		"{{ container.name }}\n":                                  "c1\n",
		"{{ container.name }}":                                    "c1",
		"":                                                        "",
		`{{ "<&>" }}`:                                             "<&>",
		"\xff\x00binary":                                          "\xff\x00binary",
		`{% if container.name == "c1" %}yes{% endif %}`:           "yes",
		`{% for k, v in properties %}{{ k }}={{ v }}{% endfor %}`: "default=from the template",
		`{# nothing #}{% verbatim %}{{ x }}{% endverbatim %}`:     "{{ x }}",
		`{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m("1") }}`:     "<1>",
		`{{ properties.default|upper|truncatechars:7 }}`:          "FROM...",
	} {
		w := newWorld(t)
		w.template("x.tpl", source)
		err := w.render("create",
			map[string]Entry{"/etc/x": {When: []string{"create"}, Template: "x.tpl",
				Properties: map[string]string{"default": "from the template"}}})
		if got := w.read("etc/x"); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", source, got, err, want)
		}
	}
}

func TestNoProperties(t *testing.T) {
	w := newWorld(t)
	w.template("x.tpl", `<{{ properties.default }}>`)
	if err := w.render("start", map[string]Entry{"/etc/x": {When: []string{"start"}, Template: "x.tpl"}}); err != nil ||
		w.read("etc/x") != "<>" {
		t.Errorf("%q, %v", w.read("etc/x"), err)
	}
}

func TestTriggers(t *testing.T) {
	w := newWorld(t)
	w.template("x.tpl", "{{ trigger }}")
	entries := map[string]Entry{
		"/etc/both": {When: []string{"create", "start"}, Template: "x.tpl"},
		"/etc/copy": {When: []string{"copy"}, Template: "x.tpl"},
		"/etc/none": {Template: "x.tpl"},
	}
	for trigger, want := range map[string]map[string]string{
		"create": {"etc/both": "create"}, "start": {"etc/both": "start"}, "copy": {"etc/copy": "copy"}, "rename": {},
	} {
		for _, name := range []string{"etc/both", "etc/copy"} {
			_ = w.rootfs.Remove(name)
		}
		w.do(w.render(trigger, entries))
		for _, name := range []string{"etc/both", "etc/copy", "etc/none"} {
			text, ok := want[name]
			if ok != w.exists(name) || ok && w.read(name) != text {
				t.Errorf("at %s, %s is there: %v", trigger, name, w.exists(name))
			}
		}
	}
}

// TestOrder makes a file and then what its place leads to: by path, so that it
// comes out the same every time.
func TestOrder(t *testing.T) {
	w := newWorld(t)
	w.do(w.rootfs.Symlink("a", "etc/b"), w.rootfs.Symlink("b", "etc/c"))
	w.template("x.tpl", "{{ path }}")
	e := Entry{When: []string{"start"}, Template: "x.tpl"}
	w.do(w.render("start", map[string]Entry{"/etc/c": e, "/etc/a": e, "/etc/b": e}))
	if got := w.read("etc/a"); got != "/etc/c" {
		t.Errorf("the last file made is %s", got)
	}
}

func TestNewFile(t *testing.T) {
	w := newWorld(t)
	defer syscall.Umask(syscall.Umask(0o077)) // must not matter
	w.template("x.tpl", "new")
	plain := Entry{When: []string{"start"}, Template: "x.tpl"}
	owned := plain
	owned.UID, owned.GID, owned.Mode = "12", "34", "4750"
	w.do(w.rootfs.Symlink("/etc/real", "etc/dangling"))
	w.do(w.render("start", map[string]Entry{"/etc/plain": plain, "deep/er/../er/file": owned, "/etc/dangling": plain}))
	for name, want := range map[string]struct {
		owner [2]uint32
		mode  uint32
	}{
		"etc/plain": {mode: 0o644}, "deep/er/file": {[2]uint32{12, 34}, 0o4750}, "deep": {mode: 0o755},
		"deep/er": {mode: 0o755}, "etc/real": {mode: 0o644},
	} {
		if owner, mode := w.stat(name); owner != want.owner || mode != want.mode {
			t.Errorf("%s: owner %v, mode %o", name, owner, mode)
		}
	}
}

func TestExistingFile(t *testing.T) {
	w := newWorld(t)
	w.template("x.tpl", "new")
	w.do(
		w.rootfs.WriteFile("etc/existing", []byte("a longer old text"), 0o600),
		w.rootfs.Chown("etc/existing", 5, 6), w.rootfs.Chmod("etc/existing", 0o751),
		w.rootfs.WriteFile("etc/kept", []byte("old"), 0o644),
		w.rootfs.Symlink("/etc/real", "etc/absolute"), w.rootfs.WriteFile("etc/real", []byte("old"), 0o644),
		w.rootfs.Symlink("../etc/../etc/other", "etc/relative"), w.rootfs.WriteFile("etc/other", []byte("old"), 0o644),
		w.rootfs.Symlink("/etc", "dir"), w.rootfs.WriteFile("etc/through", []byte("old"), 0o644),
	)
	entry := Entry{When: []string{"start"}, Template: "x.tpl", UID: "99", Mode: "777"}
	once := Entry{When: []string{"start"}, Template: "not even there", CreateOnly: true}
	w.do(w.render("start", map[string]Entry{
		"/etc/existing": entry, "/etc/kept": once, "/etc/absolute": entry, "/etc/relative": entry, "/dir/through": entry,
	}))
	for name, want := range map[string]string{
		"etc/existing": "new", "etc/kept": "old", "etc/real": "new", "etc/other": "new", "etc/through": "new",
	} {
		if got := w.read(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if owner, mode := w.stat("etc/existing"); owner != [2]uint32{5, 6} || mode != 0o751 {
		t.Errorf("an existing file became one of %v with mode %o", owner, mode)
	}
}

// TestConfined has places that lead out of the root filesystem: from inside,
// nothing is there.
func TestConfined(t *testing.T) {
	w := newWorld(t)
	victim := filepath.Join(w.dir, "victim")
	w.do(os.WriteFile(victim, []byte("safe"), 0o644), os.Mkdir(filepath.Join(w.dir, "victims"), 0o755))
	up := strings.Repeat("../", 40)
	w.do(
		w.rootfs.Symlink(up+victim, "etc/relative"), w.rootfs.Symlink(victim, "etc/absolute"),
		w.rootfs.Symlink(filepath.Dir(victim)+"/victims", "etc/dir"), w.rootfs.Symlink("/proc/self/root"+victim, "etc/magic"),
	)
	w.template("x.tpl", "overwritten")
	e := Entry{When: []string{"start"}, Template: "x.tpl"}
	for _, target := range []string{"/etc/relative", "/etc/absolute", "/etc/dir/new", "/etc/magic", up + victim} {
		_ = w.render("start", map[string]Entry{target: e}) // whether it makes something inside or not
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "safe" {
		t.Errorf("a file outside has %q, %v", b, err)
	}
	if made, err := os.ReadDir(filepath.Join(w.dir, "victims")); err != nil || len(made) != 0 {
		t.Errorf("outside, there are %v, %v", made, err)
	}
	if got := w.read(strings.TrimPrefix(victim, "/")); got != "overwritten" {
		t.Errorf("a path with .. made %q", got)
	}
}

func TestPlacesThatAreNoFiles(t *testing.T) {
	w := newWorld(t)
	in := func(name string) string { return filepath.Join(w.dir, "rootfs/etc", name) }
	w.do(
		unix.Mkfifo(in("fifo"), 0o644), unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(in("socket"), unix.S_IFSOCK|0o666, 0), w.rootfs.Mkdir("etc/dir", 0o755),
		w.rootfs.WriteFile("etc/file", nil, 0o644),
		w.rootfs.Symlink("loop", "etc/loop"), w.rootfs.Symlink("/no/where", "etc/nowhere"),
		w.rootfs.Symlink("fifo", "etc/link"),
	)
	w.template("x.tpl", "x")
	for _, target := range []string{"/etc/fifo", "/etc/link", "/etc/null", "/etc/socket", "/etc/dir", "/etc/file/x",
		"/etc/loop", "/etc/loop/x", "/etc/nowhere", "/", "..", "", "/etc/a\nb", "/etc/a\x00b"} {
		err := w.render("start", map[string]Entry{target: {When: []string{"start"}, Template: "x.tpl"}})
		if !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", target, err)
		}
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t)
	w.template("good.tpl", "")
	w.template("bad.tpl", "{% if %}")
	w.template("function.tpl", "{{ config_get() }}")
	w.template("filter.tpl", "{{ trigger|nothing }}")
	w.template("large.tpl", strings.Repeat("x", MaxSource+1))
	w.do(
		w.meta.Symlink("/etc/passwd", "templates/link.tpl"), w.meta.Mkdir("templates/dir.tpl", 0o755),
		unix.Mkfifo(filepath.Join(w.dir, "meta/templates/fifo.tpl"), 0o644),
	)
	for _, c := range []struct {
		entry Entry
		text  string
	}{
		{Entry{Template: "bad.tpl"}, "Failed to render template"},
		{Entry{Template: "function.tpl"}, "Failed to render template"},
		{Entry{Template: "filter.tpl"}, "Failed to render template"},
		{Entry{Template: "link.tpl"}, "Template file is a symlink"},
		{Entry{Template: "none.tpl"}, "Failed to read template file"},
		{Entry{Template: "dir.tpl"}, "Failed to read template file"},
		{Entry{Template: "fifo.tpl"}, "Failed to read template file"},
		{Entry{Template: "large.tpl"}, "Failed to read template file"},
		{Entry{Template: "../metadata.yaml"}, "outside of template directory"},
		{Entry{Template: ".."}, "outside of template directory"},
		{Entry{Template: "."}, "outside of template directory"},
		{Entry{Template: ""}, "outside of template directory"},
		{Entry{Template: "good.tpl", UID: "root"}, "Bad file UID"},
		{Entry{Template: "good.tpl", GID: "-1"}, "Bad file GID"},
		{Entry{Template: "good.tpl", GID: "4294967295"}, "Bad file GID"},
		{Entry{Template: "good.tpl", Mode: "rw"}, "Bad file mode"},
		{Entry{Template: "good.tpl", Mode: "10000"}, "Bad file mode"},
	} {
		c.entry.When = []string{"start"}
		err := w.render("start", map[string]Entry{"/etc/x": c.entry})
		if !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), c.text) ||
			!strings.Contains(err.Error(), "/etc/x") {
			t.Errorf("%+v: %v", c.entry, err)
		}
		if w.exists("etc/x") {
			t.Fatalf("%+v: the file was made", c.entry)
		}
	}
}

// TestFailureLeavesFile has a template fail on a file that is there.
func TestFailureLeavesFile(t *testing.T) {
	w := newWorld(t)
	w.do(w.rootfs.WriteFile("etc/x", []byte("old"), 0o644))
	w.template("x.tpl", `some text {{ config_get() }}`)
	if err := w.render("start", map[string]Entry{"/etc/x": {When: []string{"start"}, Template: "x.tpl"}}); err == nil ||
		w.read("etc/x") != "old" {
		t.Errorf("%v, and the file has %q", err, w.read("etc/x"))
	}
}
