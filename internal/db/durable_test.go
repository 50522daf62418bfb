package db

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// TestBackupOrder makes sure that a copy is on the disk before it has its name, and the
// name before Backup returns.
func TestBackupOrder(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	path := filepath.Join(t.TempDir(), "copy")
	var steps []disk.Step
	defer disk.Record(func(s disk.Step) { steps = append(steps, s) })()
	if err := d.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 3 || steps[0].Kind != disk.SyncedFile || !strings.HasPrefix(steps[0].Path, path) ||
		steps[1] != (disk.Step{Kind: disk.Renamed, Path: path}) ||
		steps[2] != (disk.Step{Kind: disk.SyncedDir, Path: filepath.Dir(path)}) {
		t.Errorf("%v", steps)
	}
}

// TestSynchronous asks the connections how they write: only FULL has what was committed
// on the disk in WAL mode.
func TestSynchronous(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"} {
		var got string
		if err := d.write.QueryRow(`PRAGMA ` + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v", pragma, got, err)
		}
	}
	if _, err := d.read.Exec(`DELETE FROM config`); err == nil {
		t.Error("the readers can write")
	}
}

// TestNextVersion opens a database whose tables are one version newer than what is known.
func TestNextVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	var newest int64
	if err := d.write.QueryRow(`SELECT max(version_id) FROM goose_db_version`).Scan(&newest); err != nil {
		t.Fatal(err)
	}
	if _, err := d.write.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, true)`,
		newest+1); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err := Open(t.Context(), path); !errors.Is(err, kiln.Unsupported) {
		if err == nil {
			d.Close()
		}
		t.Errorf("%v", err)
	}
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Exec(`DELETE FROM goose_db_version WHERE version_id > ?`, newest); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// TestHistoryBound moves an alias more often than is remembered: the newest moves are.
func TestHistoryBound(t *testing.T) {
	const moves = maxHistory + 10
	d := withImages(t, moves)
	list, err := d.Images(t.Context(), ImageQuery{})
	if err != nil || len(list) != moves {
		t.Fatal(len(list), err)
	}
	for _, name := range []string{"web", "other"} {
		for n, img := range list {
			if name == "other" && n == 2 {
				break
			}
			if err := d.Tx(t.Context(), func(tx *Tx) error {
				return tx.SetAlias(t.Context(), kiln.Alias{Name: name, Target: img.Fingerprint})
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	history, err := d.History(t.Context(), "web")
	if err != nil || len(history) != 50 {
		t.Fatalf("%d versions, %v", len(history), err)
	}
	for n, v := range history {
		if v.Fingerprint != list[moves-1-n].Fingerprint {
			t.Errorf("version %d is %s", n, v.Fingerprint.Short())
		}
	}
	if history, err := d.History(t.Context(), "other"); err != nil || len(history) != 2 {
		t.Errorf("another alias has %d versions, %v", len(history), err)
	}
}

// TestWithSome: what containers can have done as often as they like takes half of what is
// reserved on a full disk; all of it is for what must go on.
func TestWithSome(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	held := func() int64 { return fileSize(path + "-reserve") }
	all := held()
	full := func() error { return kiln.Errorf(kiln.NoSpace, "the disk is full") }
	if err := d.WithSome(full); !errors.Is(err, kiln.NoSpace) || held() >= all || held() < reserved/2-reserved/8 {
		t.Errorf("%d bytes are left of %d: %v", held(), all, err)
	}
	if err := d.WithReserve(full); !errors.Is(err, kiln.NoSpace) || held() != 0 {
		t.Errorf("%d bytes are left in the end: %v", held(), err)
	}
}
