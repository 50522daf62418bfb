package template

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flosch/pongo2/v6"

	"github.com/kiln-containers/kiln"
)

// world is an instance's two directories.
type world struct {
	t            *testing.T
	dir          string
	meta, rootfs *os.Root
}

func newWorld(t *testing.T) world {
	t.Helper()
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

func (w world) template(name, text string) {
	if err := w.meta.WriteFile("templates/"+name, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w world) render(trigger string, entries map[string]Entry) error {
	return Render(w.t.Context(), Instance{
		Name: "c1", Type: "container", Architecture: "x86_64",
		Config: map[string]string{"user.foo": "bar\n", "image.os": "busybox"}, Devices: map[string]map[string]string{"root": {"path": "/"}},
	}, trigger, w.meta, w.rootfs, entries)
}

func (w world) read(name string) string {
	b, err := w.rootfs.ReadFile(name)
	if err != nil {
		w.t.Error(err)
	}
	return string(b)
}

func TestContext(t *testing.T) {
	for source, want := range map[string]string{
		"name={{ container.name }} arch={{ instance.architecture }} priv={{ container.privileged }} eph={{ container.ephemeral }} itype={{ instance.type }}": "name=c1 arch=x86_64 priv=false eph=false itype=container",
		`{{ config_get("user.foo", "dflt") }}`:              "bar",
		`{{ config_get("user.none", "dflt") }}`:             "dflt",
		`{{ config_get("user.none", properties.default) }}`: "from the template",
		`{{ trigger }} {{ path }}`:                          "create /etc/x",
		`{{ devices.root.path }}`:                           "/",
		"{{ container.name }}\n":                            "c1\n",
		`{{ "<&>" }}`:                                       "<&>",
		`{% if container.name == "c1" %}yes{% endif %}`:     "yes",
	} {
		w := newWorld(t)
		w.template("x.tpl", source)
		err := w.render("create", map[string]Entry{"/etc/x": {When: []string{"create"}, Template: "x.tpl", Properties: map[string]string{"default": "from the template"}}})
		if err != nil || w.read("etc/x") != want {
			t.Errorf("%q: %q, %v; want %q", source, w.read("etc/x"), err, want)
		}
	}
}

func TestFiles(t *testing.T) {
	w := newWorld(t)
	w.template("x.tpl", "new")
	for name, f := range map[string]func() error{
		"existing": func() error { return w.rootfs.WriteFile("etc/existing", []byte("a longer old text"), 0o751) },
		"kept":     func() error { return w.rootfs.WriteFile("etc/kept", []byte("old"), 0o644) },
		"inside":   func() error { return w.rootfs.Symlink("/etc/real", "etc/inside") },
		"outside":  func() error { return w.rootfs.Symlink("../../../../../../../../"+w.dir+"/victim", "etc/outside") },
		"fifo":     func() error { return os.Mkdir(filepath.Join(w.dir, "rootfs/etc/fifo"), 0o755) },
	} {
		if err := f(); err != nil {
			t.Fatal(name, err)
		}
	}
	entry := Entry{When: []string{"start"}, Template: "x.tpl"}
	once := entry
	once.CreateOnly = true
	owned := entry
	owned.UID, owned.GID, owned.Mode = "12", "34", "600"
	other := entry
	other.When = []string{"copy"}
	err := w.render("start", map[string]Entry{
		"/etc/existing": entry, "/etc/kept": once, "/etc/inside": entry, "/deep/er/file": owned, "/etc/other": other,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.render("start", map[string]Entry{"/etc/outside": entry}); err == nil {
		t.Error("a symlink to what isn't inside was followed")
	}
	for name, want := range map[string]string{"etc/existing": "new", "etc/kept": "old", "etc/real": "new", "deep/er/file": "new"} {
		if got := w.read(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if fi, _ := w.rootfs.Stat("etc/existing"); fi.Mode().Perm() != 0o751 {
		t.Errorf("an existing file's mode became %v", fi.Mode())
	}
	if fi, _ := w.rootfs.Stat("deep/er/file"); fi.Mode().Perm() != 0o600 {
		t.Errorf("a new file's mode is %v", fi.Mode())
	}
	if fi, _ := w.rootfs.Stat("deep"); fi.Mode().Perm() != 0o755 {
		t.Errorf("a new directory's mode is %v", fi.Mode())
	}
	if _, err := os.Stat(filepath.Join(w.dir, "victim")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a symlink led out of the root filesystem")
	}
	if _, err := w.rootfs.Stat("etc/other"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a template of another trigger was rendered")
	}
	if err := w.render("start", map[string]Entry{"/etc/fifo": entry}); err == nil {
		t.Error("a directory was written")
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t)
	w.template("bad.tpl", "{% if %}")
	if err := w.meta.Symlink("/etc/passwd", "templates/link.tpl"); err != nil {
		t.Fatal(err)
	}
	for template, text := range map[string]string{
		"bad.tpl": "Failed to render template", "link.tpl": "Template file is a symlink", "none.tpl": "Failed to read template file",
		"../metadata.yaml": "outside of template directory", "": "outside of template directory",
	} {
		err := w.render("start", map[string]Entry{"/etc/x": {When: []string{"start"}, Template: template}})
		if !errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "/etc/x") {
			t.Errorf("%q: %v", template, err)
		}
	}
}

func TestStrangersPrograms(t *testing.T) {
	for what, source := range map[string]string{
		"include": `{% include "/etc/hostname" %}`, "ssi": `{% ssi "/etc/hostname" %}`, "import": `{% import "/etc/hostname" x %}`, "extends": `{% extends "/etc/hostname" %}`,
		"much":  `{% for a in "` + strings.Repeat("x", 2000) + `" %}` + strings.Repeat("y", 1000) + `{% endfor %}`,
		"panic": `{{ boom() }}`,
	} {
		_, err := Execute(t.Context(), source, pongo2.Context{"boom": func() string { panic("boom") }})
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Execute(ctx, `{% for a in "xxx" %}{% for b in "xxx" %}y{% endfor %}{% endfor %}`, nil); err == nil {
		t.Error("cancelled: no error")
	}
}

func FuzzExecute(f *testing.F) {
	f.Add(`{% if a %}{{ a|upper }}{% endif %}{% for x in "ab" %}{{ forloop.Counter }}{% endfor %}`)
	f.Fuzz(func(t *testing.T, source string) {
		if len(source) < 200 {
			out, _ := Execute(t.Context(), source, pongo2.Context{"a": "b"})
			if len(out) > maxOutput {
				t.Errorf("%d bytes", len(out))
			}
		}
	})
}
