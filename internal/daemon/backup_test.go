package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln/internal/db"
)

// TestCopiesNext asks once a minute whether to copy a database that changes now and then.
func TestCopiesNext(t *testing.T) {
	var c copies
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	minute := func(version uint64) bool {
		now = now.Add(time.Minute)
		return c.next(version, now)
	}
	for n, step := range []struct {
		version uint64
		copy    bool
	}{{0, false}, {1, false}, {2, false}, {2, true}, {2, false}, {3, false}, {3, false}} {
		if got := minute(step.version); got != step.copy {
			t.Errorf("step %d: %v", n, got)
		}
	}
	count := 0
	for range 10 { // the pause after the first ends
		if minute(3) {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d copies of one change", count)
	}
	count = 0
	for n := range 130 { // never quiet
		if minute(uint64(100 + n)) {
			count++
		}
	}
	if count != 2 {
		t.Errorf("%d copies in 130 busy minutes", count)
	}
}

// TestCopiesKept makes many copies in a day: the last of them stay, and the days'.
func TestCopiesKept(t *testing.T) {
	d := &Daemon{cfg: Config{Dir: t.TempDir()}, ctx: t.Context()}
	var err error
	if d.db, err = db.Open(t.Context(), filepath.Join(d.cfg.Dir, databaseFile)); err != nil {
		t.Fatal(err)
	}
	defer d.db.Close()
	for day := range 9 {
		for _, at := range []string{"", "T000100", "T001200", "T010000"} {
			if err := d.copyDatabase(t.Context(), fmt.Sprintf("2026010%d%s", day+1, at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := backups(d.cfg.Dir)
	if err != nil || len(list) != backupsKept+timesKept || filepath.Base(list[0]) != "kiln-20260109T010000.db" ||
		filepath.Base(list[len(list)-1]) != "kiln-20260103.db" {
		t.Errorf("%q, %v", list, err)
	}
}

// TestCopiesOrder has the copy of a day that was made after another one of that day.
func TestCopiesOrder(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, backupsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		when, err := time.Parse(copyTimes, s)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	want := []string{"20260103", "20260102T190000", "20260102", "20260102T000100", "20260101T120000", "20260101"}
	for name, when := range map[string]string{"20260102": "20260102T120000", "20260102T000100": "20260102T230000",
		"20260102T190000": "20260102T190000", "20260101": "20260105T000000", "20260101T120000": "20260101T120000",
		"20260103": "20260104T000000"} {
		path := filepath.Join(dir, backupsDir, "kiln-"+name+".db")
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at(when), at(when))); err != nil {
			t.Fatal(err)
		}
	}
	list, err := backups(dir)
	for n, path := range list {
		list[n] = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "kiln-"), ".db")
	}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%v, %v", list, err)
	}
}
