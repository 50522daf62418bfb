package instance

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

func TestParseSchedule(t *testing.T) {
	for v, ok := range map[string]bool{
		"": true, "0 3 * * *": true, "*/15 0-6 1,15 * mon-fri": true, "@hourly": true, "@daily, @weekly": true,
		"@startup,@never": true,
		"@midnight":       true, "* * * *": false, "* * * * * *": false, "60 * * * *": false, "@every5": false,
		"@daily 0 3 * * *": false,
		"daily":            false, "0 0 30 2 *": false,
	} {
		err := CheckOptions(map[string]string{"snapshots.schedule": v})
		if (err == nil) != ok || err != nil && !errors.Is(err, kiln.Invalid) {
			t.Errorf("%q: %v", v, err)
		}
	}
	if s, err := parseSchedule("@daily,@startup"); !s.atStart || len(s.crons) != 1 || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestDue(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.ParseInLocation(time.DateTime, s, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		schedule, from, to string
		want               bool
	}{
		{"0 3 * * *", "2024-05-01 02:59:00", "2024-05-01 03:00:00", true},
		{"0 3 * * *", "2024-05-01 02:59:01", "2024-05-01 03:00:01", true},
		{"0 3 * * *", "2024-05-01 03:00:01", "2024-05-01 03:01:01", false},
		{"0 3 * * *", "2024-05-01 02:58:00", "2024-05-01 02:59:00", false},
		{"0 3 * * *", "2024-05-01 02:00:00", "2024-05-01 09:00:00", true},  // the host slept
		{"0 3 * * *", "2024-05-01 03:01:00", "2024-05-01 03:00:00", false}, // the clock was set
		{"*/10 * * * *", "2024-05-01 02:59:30", "2024-05-01 03:00:30", true},
		{"*/10 * * * *", "2024-05-01 03:00:30", "2024-05-01 03:01:30", false},
		{"@weekly", "2024-05-04 23:59:30", "2024-05-05 00:00:30", true}, // a Sunday
		{"@weekly", "2024-05-05 23:59:30", "2024-05-06 00:00:30", false},
		{"@monthly,@hourly", "2024-05-05 22:59:30", "2024-05-05 23:00:30", true},
		{"0 0 13 * 5", "2024-06-13 23:59:30", "2024-06-14 00:00:30", true}, // a Friday, as cron has it
		{"0 0 13 * 5", "2024-06-12 23:59:30", "2024-06-13 00:00:30", true}, // the 13th
		{"0 0 13 * 5", "2024-06-11 23:59:30", "2024-06-12 00:00:30", false},
		{"@startup", "2024-01-01 00:00:00", "2025-01-01 00:00:00", false},
		{"", "2024-01-01 00:00:00", "2025-01-01 00:00:00", false},
	} {
		s, err := parseSchedule(c.schedule)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.due(at(c.from), at(c.to)); got != c.want || err != nil {
			t.Errorf("%q from %s to %s: %v, %v", c.schedule, c.from, c.to, got, err)
		}
	}
}

func TestNextName(t *testing.T) {
	for _, c := range []struct {
		pattern string
		taken   []string
		want    string
	}{
		{"snap%d", nil, "snap0"},
		{"snap%d", []string{"snap0", "snap9", "other", "snap"}, "snap10"},
		{"%d.x", []string{"3.x", "7-x"}, "4.x"},
		{"fixed", nil, "fixed"},
		{"fixed", []string{"fixed"}, "fixed-0"},
		{"fixed", []string{"fixed", "fixed-0"}, "fixed-1"},
		{"a.b%d", []string{"aXb5"}, "a.b0"},
	} {
		if got := nextName(c.pattern, c.taken); got != c.want {
			t.Errorf("%q of %v: %q, not %q", c.pattern, c.taken, got, c.want)
		}
	}
	for v, ok := range map[string]bool{"auto%d": true, "x": true, "%d-%d": false, "a b%d": false,
		"{{ creation_date }}": false, `{{ creation_date|date:"2006" }}`: true, "a/b": false} {
		if err := checkPattern(v); (err == nil) != ok {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// TestExpiryPutOff puts the expiry of a snapshot off while those before it are deleted.
func TestExpiryPutOff(t *testing.T) {
	s, _, p := set(t)
	ctx := t.Context()
	create(t, s, p, "a", Config{})
	at := time.Now().Add(-time.Minute)
	for _, name := range []string{"s0", "s1", "s2"} {
		if err := s.CreateSnapshot(ctx, "a", NewSnapshot{Name: name, ExpiresAt: &at}); err != nil {
			t.Fatal(err)
		}
	}
	to := map[string]time.Time{"s1": {}, "s2": time.Now().Add(time.Hour)}
	s.notify = func(_ context.Context, c Change) {
		if c.Action != "snapshot-deleted" {
			return
		}
		for name, at := range to {
			if name != c.Snapshot {
				change := func(time.Time) (time.Time, error) { return at, nil }
				if err := s.SetSnapshotExpiry(ctx, "a", name, change); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if _, err := s.ExpireSnapshots(ctx, time.Now()); err != nil {
		t.Error(err)
	}
	list, err := s.Snapshots(ctx, "a")
	if len(list) != 2 || list[0].Name != "s1" || list[1].Name != "s2" || err != nil {
		t.Errorf("%d are left, %v", len(list), err)
	}
}

// TestHeldIsLate has other work go on with one instance: the others have their snapshots made
// and deleted, and it has later what it missed, once.
func TestHeldIsLate(t *testing.T) {
	s, _, p := set(t)
	s.unaskedWait = time.Millisecond
	ctx := t.Context()
	opts := Config{Options: map[string]string{"snapshots.schedule": "@hourly", "snapshots.schedule.stopped": "true"}}
	create(t, s, p, "a", opts)
	create(t, s, p, "b", opts)
	old := time.Now().Add(-time.Minute)
	for _, name := range []string{"a", "b"} {
		if err := s.CreateSnapshot(ctx, name, NewSnapshot{Name: "old", ExpiresAt: &old}); err != nil {
			t.Fatal(err)
		}
	}
	var failed []string
	s.Failed = func(_ Unasked, i Instance, err error) { failed = append(failed, i.Name+" "+string(kiln.KindOf(err))) }
	from := time.Date(2024, 5, 1, 11, 59, 30, 0, time.Local)
	minute := func(want string) {
		t.Helper()
		err := s.SnapshotDue(ctx, from, from.Add(time.Minute))
		from = from.Add(time.Minute)
		if _, err := s.ExpireSnapshots(ctx, time.Now()); err != nil {
			t.Error(err)
		}
		got := ""
		if err != nil {
			got = string(kiln.KindOf(err))
		}
		for _, name := range []string{"a", "b"} {
			list, err := s.Snapshots(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			for _, snap := range list {
				got += " " + name + "/" + snap.Name
			}
		}
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	_, unlock, err := s.lock(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	minute("busy a/old b/snap0")
	minute("busy a/old b/snap0")
	unlock()
	minute(" a/snap0 b/snap0")
	minute(" a/snap0 b/snap0")
	if want := []string{"a busy", "a busy"}; !slices.Equal(failed, want) {
		t.Errorf("failed: %q", failed)
	}

	// What is turned off while it waits for its turn isn't made.
	i, err := s.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.edit(ctx, "a", func(r *db.Instance) { delete(r.Config, "snapshots.schedule") }); err != nil {
		t.Fatal(err)
	}
	due := func(now Instance) (bool, error) { return scheduled(now, from, from.Add(time.Hour), false) }
	if is, err := due(i); !is || err != nil {
		t.Error(is, err)
	}
	if err := s.autoSnapshot(ctx, ctx, i, due); err != nil {
		t.Error(err)
	}
	minute(" a/snap0 b/snap0")
}

// FuzzSchedule gives whatever users may write where expressions of cron are expected:
// it is refused, or it can be asked when it is due, in bounded time.
func FuzzSchedule(f *testing.F) {
	for _, v := range []string{"", "* * * * *", "0 3 * * *", "@daily, @startup", "@never", "*/5 1-3,7 1 JAN-MAR mon",
		"0 0 31 2 *", "0 0 29 2 *", "61 * * * *", "*/0 * * * *", "1-99999999999 * * * *", "@hourly,", "0 0 L * 5L",
		"0 0 1W * 5#3", "? ? ? ? ?"} {
		f.Add(v)
	}
	from := time.Date(2024, 2, 29, 23, 59, 30, 0, time.UTC)
	f.Fuzz(func(t *testing.T, v string) {
		if checkSchedule(v) != nil {
			return
		}
		s, err := parseSchedule(v)
		if err != nil {
			t.Fatalf("%q passes the check: %v", v, err)
		}
		if due, err := s.due(from, from); due && err == nil && len(s.crons) > 0 {
			t.Errorf("%q is due in no time", v)
		}
		if _, err := s.due(from, from.Add(time.Minute)); err != nil {
			t.Errorf("%q passes the check: %v", v, err)
		}
	})
}
