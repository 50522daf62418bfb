package instance

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

// elsewhere is a set whose instances can't run on this host, and are said so of.
func elsewhere(t *testing.T, options map[string]map[string]string) *Set {
	t.Helper()
	s, _, p := set(t)
	for name, o := range options {
		create(t, s, p, name, Config{Options: o})
	}
	s.host = "riscv64"
	return s
}

// TestAutostartOrder tells from the errors of starts which instances are started with the
// daemon, and in which order.
func TestAutostartOrder(t *testing.T) {
	s := elsewhere(t, map[string]map[string]string{
		"a-low":  {"boot.autostart": "true", "boot.autostart.priority": "1"},
		"b-high": {"boot.autostart": "true", "boot.autostart.priority": "10"},
		"c-none": {"boot.autostart": "true"},
		"d-ran":  {}, "e-ran-not-again": {"boot.autostart": "false", "boot.autostart.priority": "20"},
		"f-stopped": {}, "g-restart": {"boot.autostart": "false", "boot.autostart.priority": "5"},
	})
	for name, key := range map[string]string{"d-ran": powerKey, "e-ran-not-again": powerKey, "g-restart": restartKey} {
		if err := s.edit(t.Context(), name, func(r *db.Instance) { r.Config[key] = "RUNNING" }); err != nil {
			t.Fatal(err)
		}
	}
	var got, failed []string
	s.Failed = func(what Unasked, i Instance, err error) {
		if what == StartWithDaemon && err != nil {
			failed = append(failed, i.Name)
		}
	}
	for line := range strings.Lines(s.Autostart(t.Context()).Error()) {
		_, rest, _ := strings.Cut(line, `start instance "`)
		name, _, _ := strings.Cut(rest, `"`)
		got = append(got, name)
	}
	if want := "b-high g-restart a-low c-none d-ran"; strings.Join(got, " ") != want || !slices.Equal(failed, got) {
		t.Errorf("%q, failed %q, want %q", got, failed, want)
	}
}

// TestAutostartLooksAgain has an instance not start with the daemon any more while those before
// it are started, and another one held by other work until the others were.
func TestAutostartLooksAgain(t *testing.T) {
	on := map[string]string{"boot.autostart": "true"}
	s := elsewhere(t, map[string]map[string]string{"a": {"boot.autostart": "true", "boot.autostart.priority": "5"}, "b": on,
		"c": {"boot.autostart": "true", "boot.autostart.priority": "3"}, "d": on})
	s.unaskedWait = time.Millisecond
	_, unlock, err := s.lock(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	s.Failed = func(_ Unasked, i Instance, err error) {
		if err == nil {
			got = append(got, i.Name)
		} else {
			got = append(got, i.Name+" "+string(kiln.KindOf(err)))
		}
		switch i.Name {
		case "a":
			if err := s.edit(t.Context(), "b", func(r *db.Instance) { r.Config["boot.autostart"] = "false" }); err != nil {
				t.Error(err)
			}
		case "d":
			unlock()
		}
	}
	_ = s.Autostart(t.Context())
	if want := "a not supported, c busy, b, d not supported, c not supported"; strings.Join(got, ", ") != want {
		t.Errorf("%q, not %q", got, want)
	}
}

// TestStopHasABound has other work go on with an instance that is to be stopped, and times
// that nobody can mean.
func TestStopHasABound(t *testing.T) {
	s, _, p := set(t)
	create(t, s, p, "a", Config{})
	_, unlock, err := s.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for _, force := range []bool{false, true} {
		err := s.Stop(t.Context(), "a", time.Millisecond, force)
		if kiln.KindOf(err) != kiln.Timeout || !strings.Contains(err.Error(), "did not stop within 1ms") {
			t.Errorf("force %v: %v", force, err)
		}
	}
	for timeout, most := range map[time.Duration]time.Duration{-1: StopTimeout, 0: StopTimeout, time.Second: time.Second,
		1 << 62: MostStop} {
		ctx, cancel := stopTime(t.Context(), "a", timeout)
		end, _ := ctx.Deadline()
		cancel()
		if left := time.Until(end); left > most {
			t.Errorf("%v: %v", timeout, left)
		}
	}
}

// TestAutostartDelay waits after each instance, also one that can't be started.
func TestAutostartDelay(t *testing.T) {
	s := elsewhere(t, map[string]map[string]string{
		"a": {"boot.autostart": "true", "boot.autostart.delay": "1"},
		"b": {"boot.autostart": "true"},
	})
	begin := time.Now()
	err := s.Autostart(t.Context())
	if took := time.Since(begin); took < time.Second || err == nil || strings.Count(err.Error(), "start instance") != 2 {
		t.Errorf("after %v: %v", took, err)
	}
}

// TestRestartGivesUp restarts what can't be started any more: it isn't tried again by the
// next daemon.
func TestRestartGivesUp(t *testing.T) {
	s := elsewhere(t, map[string]map[string]string{"c1": {}, "c2": {}})
	for name, again := range map[string]func() error{
		"c1": func() error {
			return s.finishRestart(t.Context(), Instance{Name: "c1", Config: Config{Options: map[string]string{restartKey: "clean"}}})
		},
		"c2": func() error { return s.startAgain(t.Context(), "c2") },
	} {
		if err := s.planRestart(t.Context(), name, false); err != nil {
			t.Fatal(err)
		}
		if i, err := s.Get(t.Context(), name); err != nil || i.Options[restartKey] != "clean" {
			t.Fatal(i.Options, err)
		}
		if err := again(); kiln.KindOf(err) != kiln.Unsupported {
			t.Errorf("%s: %v", name, err)
		}
		if i, err := s.Get(t.Context(), name); err != nil || i.Options[restartKey] != "" {
			t.Errorf("%s: %q is left, %v", name, i.Options[restartKey], err)
		}
	}
}

// TestAllowances has shares of processors at their bounds.
func TestAllowances(t *testing.T) {
	for v, want := range map[string][2]int64{
		"1ms/1ms": {1000, 1000}, "25ms/1000ms": {25_000, 1_000_000}, "200ms/100ms": {200_000, 100_000},
		"1%": {1000, 100_000}, "250%": {250_000, 100_000},
		"25ms/0ms": {}, "25ms/1001ms": {}, "0ms/100ms": {}, "0%": {}, "-1%": {}, "25/100": {}, "25ms": {},
		"99999999999999999999ms/100ms": {}, "100ms/99999999999999999999ms": {},
	} {
		quota, period, err := parseAllowance(v)
		if (err == nil) != (want != [2]int64{}) || err == nil && [2]int64{quota, period} != want {
			t.Errorf("%s: %d, %d, %v", v, quota, period, err)
		}
	}
}

// TestProcessorLists has lists of processors that a kernel takes, and others.
func TestProcessorLists(t *testing.T) {
	for v, ok := range map[string]bool{"0-3": true, "5-5": true, "0,2-3,7": true, "0,0": true, "5-2": false,
		"0,5-2": false, "0-3,7-6": false, "0-": false, "-3": false, "0-99999999999999999999": false, ",": false} {
		if _, err := parseCPUs(v); (err == nil) != ok {
			t.Errorf("%s: %v", v, err)
		}
	}
}

// TestSuspendFails has a shutdown of the host that doesn't succeed: what starts by itself does
// again, and it is said how to go on.
func TestSuspendFails(t *testing.T) {
	s := elsewhere(t, map[string]map[string]string{"a": nil})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Suspend(gone)
	if kiln.KindOf(err) != kiln.Cancelled || !strings.Contains(err.Error(), "try again: kiln shutdown") || s.suspended.Load() {
		t.Errorf("%v; suspended: %v", err, s.suspended.Load())
	}
	if err := s.Suspend(t.Context()); err != nil || !s.suspended.Load() {
		t.Errorf("%v; suspended: %v", err, s.suspended.Load())
	}
}

// TestSuspend stops instances because the host goes down, which have ended by themselves
// just then: only those that can be started again are to be.
func TestSuspend(t *testing.T) {
	s, _, p := set(t)
	create(t, s, p, "kept", Config{})
	create(t, s, p, "ephemeral", Config{Ephemeral: true})
	for name, want := range map[string]string{"kept": "RUNNING", "ephemeral": ""} {
		i, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.suspend(t.Context(), i); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if i, err := s.Get(t.Context(), name); err != nil || i.Options[powerKey] != want {
			t.Errorf("%s: %q, %v", name, i.Options[powerKey], err)
		}
	}
}
