package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
)

func testRecord(n byte, alias string, at time.Time) Record {
	fp := kiln.Fingerprint{n}
	return Record{
		Image: kiln.Image{Project: "default", Fingerprint: fp, Type: "container", Architecture: "x86_64", Size: 3, Filename: "x",
			Properties: map[string]string{"os": "debian"}, Own: map[string]string{"os": "debian"},
			Profiles: []string{"default"}, Signature: "by somebody", Public: true, Cached: true, CreatedAt: at,
			UploadedAt: at, ReplacedBy: kiln.Fingerprint{9}, ReplacedAt: at,
			Origin: &kiln.Origin{Alias: "d", Remote: kiln.Remote{Server: "https://x", Protocol: "lxd"}},
			Files: []kiln.File{{Role: kiln.Metadata, Hash: kiln.Fingerprint{n, 1}, Size: 1, Name: "m", Ext: ".tar"},
				{Role: kiln.Rootfs, Hash: kiln.Fingerprint{n, 2}, Size: 2, Name: "r", Ext: ".squashfs"}},
			Aliases: []kiln.Alias{{Name: alias, Description: "here", Target: fp}}},
		Events: []db.Event{{Alias: alias, At: at}},
	}
}

// TestRecord writes a record and reads the same, and none that can't be one.
func TestRecord(t *testing.T) {
	want := testRecord(1, "web", time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for from, to := range map[string]string{
		`"version": 1`: `"version": 2`, `"type": "container"`: `"type": "?"`, `"role": "metadata"`: `"role": "rootfs"`,
		`"size": 1`: `"size": -1`, `"name": "web"`: `"name": ""`, `"01`: `"0x`, "}": "]",
	} {
		bad := strings.Replace(string(b), from, to, 1)
		if _, err := ParseRecord([]byte(bad)); bad == string(b) || !errors.Is(err, kiln.Integrity) &&
			!errors.Is(err, kiln.Unsupported) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// TestAdopt writes the records of images, loses the rows, and has the same rows again:
// an alias that two images claim is the one's that had it last.
func TestAdopt(t *testing.T) {
	s := open(t, t.TempDir())
	s.opts.Records = filepath.Join(t.TempDir(), "images")
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	list := []Record{testRecord(1, "web", at), testRecord(2, "web", at.Add(time.Hour)), testRecord(3, "db", at)}
	mixed := slices.Clone(list) // the order of records means nothing
	slices.Reverse(mixed)
	aliases, err := s.Adopt(t.Context(), mixed)
	if err != nil || strings.Join(aliases, " ") != "db web" {
		t.Fatal(aliases, err)
	}
	if err := s.SaveRecords(t.Context()); err != nil {
		t.Fatal(err)
	}
	var saved []Record
	for _, r := range list {
		r, err := s.Record(r.of())
		if err != nil {
			t.Fatal(err)
		}
		saved = append(saved, r)
	}
	if len(saved[0].Image.Aliases) != 0 || len(saved[1].Image.Aliases) != 1 || len(saved[0].Events) != 1 {
		t.Errorf("%+v", saved)
	}
	history, err := s.History(t.Context(), "web")
	if err != nil || len(history) != 2 || history[0].Fingerprint != list[1].Image.Fingerprint || !history[0].At.Equal(
		at.Add(time.Hour)) {
		t.Errorf("%+v, %v", history, err)
	}
	slices.Reverse(saved)
	start := time.Now()
	before, err := s.List(t.Context(), Query{Files: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Adopt(t.Context(), saved); err != nil { // in the place of the rows
		t.Fatal(err)
	}
	after, err := s.List(t.Context(), Query{Files: true})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.History(t.Context(), "web"); !cmp.Equal(again, history) || err != nil {
		t.Errorf("%+v, then %+v, %v", history, again, err)
	}
	slices.Reverse(before)
	slices.Reverse(after)
	for i := range before {
		if after[i].LastUsedAt.Before(start) { // else the cached ones would go at once
			t.Errorf("%s was used at %s", after[i].Fingerprint.Short(), after[i].LastUsedAt)
		}
		if after[i].ReplacedBy != list[i].Image.ReplacedBy {
			t.Errorf("%s was replaced by %s", after[i].Fingerprint.Short(), after[i].ReplacedBy.Short())
		}
		before[i].LastUsedAt, after[i].LastUsedAt = time.Time{}, time.Time{}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
	fp, of := list[0].Image.Fingerprint, list[0].of()
	if err := s.db.Tx(t.Context(), func(tx *db.Tx) error { return tx.DeleteImage(t.Context(), fp) }); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveRecords(t.Context(), of); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Record(of); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a deleted image: %v", err)
	}
	// That the alias was rolled back from an image which is gone is in rows only.
	if err := s.db.Tx(t.Context(), func(tx *db.Tx) error {
		return tx.AddEvent(t.Context(), fp, db.Event{Alias: "web", At: at.Add(2 * time.Hour), RolledBackAt: at.Add(3 * time.Hour)})
	}); err != nil {
		t.Fatal(err)
	}
	history, err = s.History(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Adopt(t.Context(), saved[:2]); err != nil { // of the others
		t.Fatal(err)
	}
	if again, err := s.History(t.Context(), "web"); !cmp.Equal(again, history) || err != nil || len(again) != 3 {
		t.Errorf("%+v, then %+v, %v", history, again, err)
	}
	if err := os.Rename(s.recordPath(list[1].of()), s.recordPath(of)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Record(of); !errors.Is(err, kiln.Integrity) {
		t.Errorf("of another image: %v", err)
	}
}

func FuzzParseRecord(f *testing.F) {
	b, err := testRecord(1, "web", time.Unix(0, 0).UTC()).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRecord(again); err != nil {
			t.Errorf("what was read can't be written: %v", err)
		}
	})
}
