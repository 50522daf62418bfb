package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// TestRebootsMeanwhile has an instance reboot just when something is done with it: that works,
// or says so. To stand still for a moment it is waited for.
func TestRebootsMeanwhile(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	for verb, f := range map[string]func(int) error{
		"exec": func(int) error {
			p, err := d.Exec(ctx, "c1", box.ExecSpec{Command: []string{"true"}})
			if err == nil {
				_, _ = p.Wait()
				err = p.Close()
			}
			return err
		},
		"pause": func(int) error {
			if err := d.instances.Freeze(ctx, "c1"); err != nil {
				return err
			}
			err := d.instances.Thaw(ctx, "c1")
			if err != nil && strings.Contains(err.Error(), "is not paused") {
				return nil // it had begun to reboot, and what came then isn't paused
			}
			return err
		},
		"files": func(int) error {
			c, err := d.instances.OpenFiles(ctx, "c1")
			if err == nil {
				err = c.Close()
			}
			return err
		},
		"hold": func(int) error {
			resume, err := d.instances.HoldAll(ctx, []db.Name{{Project: project.Default, Name: "c1"}}, false)
			if err == nil {
				err = resume()
			}
			return err
		},
		"limits": func(n int) error {
			_, err := d.UpdateInstance(ctx, "c1", func(i instance.Instance) (instance.Config, error) {
				i.Options["limits.memory"] = []string{"100MiB", "200MiB"}[n%2]
				return i.Config, nil
			})
			return err
		},
	} {
		launch(t, d, "c1", "bb")
		failed := 0
		for n := range 8 { // one that reboots more often in a row is given up
			l, err := d.InstanceState(ctx, "c1")
			if err != nil {
				t.Fatal(err)
			}
			if code, out := run(t, d, "c1", "(sleep 0.0"+string(rune('0'+n))+"; reboot -f) >/dev/null 2>&1 & exit 0"); code != 0 {
				t.Fatal(out)
			}
			for begun, again := 0, false; begun < 200 && !again; begun++ {
				if err := f(begun); err != nil {
					failed++
					if !errors.Is(err, kiln.Conflict) || !strings.Contains(err.Error(), "try again") || verb == "hold" {
						t.Errorf("%s: %v", verb, err)
					}
				}
				now, err := d.InstanceState(ctx, "c1")
				again = err == nil && now.PID != 0 && now.PID != l.PID
			}
			eventually(t, func() bool {
				p, err := d.Exec(ctx, "c1", box.ExecSpec{Command: []string{"true"}})
				if err != nil {
					return false
				}
				_, _ = p.Wait()
				return p.Close() == nil
			})
		}
		t.Logf("%s: %d failed", verb, failed)
		if err := d.instances.Stop(ctx, "c1", 0, true); err != nil {
			t.Fatal(err)
		}
		o, err := d.DeleteInstance(ctx, "c1")
		wait(t, o, err)
	}
}
