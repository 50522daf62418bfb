package daemon

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln/internal/db"
)

func TestExamineHost(t *testing.T) {
	if f := examineControllers(func(name string) bool { return name != "memory" && name != "io" }); f.State != Weak ||
		!strings.Contains(f.Detail, "io (limits.read and limits.write of disks), memory (limits.memory)") {
		t.Errorf("%+v", f)
	}
	if f := examineControllers(func(string) bool { return true }); f.State != Good || f.Cure != "" {
		t.Errorf("%+v", f)
	}
	limits := map[string]string{"max_user_instances": "128\n", "max_user_watches": "9999999\n"}
	read := func(path string) ([]byte, error) {
		if v, ok := limits[filepath.Base(path)]; ok {
			return []byte(v), nil
		}
		return nil, fs.ErrNotExist
	}
	if f := examineLimits(read); f.State != Weak || f.Cure != "sysctl -w fs.inotify.max_user_instances=8192" {
		t.Errorf("%+v", f)
	}
	limits["max_user_instances"] = "8192"
	if f := examineLimits(read); f.State != Good {
		t.Errorf("%+v", f)
	}
	if f := examinePrograms(func(name string) (string, error) {
		if name == "rsync" {
			return "", errors.New("not found")
		}
		return "/bin/" + name, nil
	}); f.State != Weak || f.Detail != "not installed: rsync (copies to and from LXD and Incus)" {
		t.Errorf("%+v", f)
	}

	d := open(t, t.TempDir())
	t.Cleanup(func() { end(t, d) })
	for _, what := range []string{"older", "newer"} {
		d.outcome("test "+what, db.Subject{}, errors.New(what))
	}
	list, err := d.ExamineHost(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range list {
		seen[f.Check] = true
		if f.Check == "warnings" && !strings.HasSuffix(f.Detail, "the last: newer") {
			t.Errorf("%+v", f)
		}
		if f.State == Broken || f.Detail == "" || (f.Cure == "") != (f.State == Good) {
			t.Errorf("%+v", f)
		}
	}
	for _, check := range []string{"cgroups", "lxcfs", "EROFS", "limits of the kernel", "programs", "disk", "warnings"} {
		if !seen[check] {
			t.Errorf("nothing of %s", check)
		}
	}
}
