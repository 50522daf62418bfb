package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// volumeFiles is how many files a storage volume of TestKillVolumes has.
const volumeFiles = 400

// writeGeneration has every file of a storage volume say the same.
func writeGeneration(t *testing.T, dir, text string) {
	t.Helper()
	for i := range volumeFiles {
		sub := filepath.Join(dir, fmt.Sprint(i%20))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// generation is what every file of a storage volume says.
func generation(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(files) != volumeFiles {
		return "", fmt.Errorf("%s has %d files (%v)", dir, len(files), err)
	}
	first := ""
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if first == "" {
			first = string(b)
		}
		if string(b) != first {
			return "", fmt.Errorf("%s says %q, and another file %q", f, b, first)
		}
	}
	return first, nil
}

// TestKillVolumes kills a daemon in the middle of all that is done with storage volumes and
// their snapshots: what the next one lists is whole, and of one moment.
func TestKillVolumes(t *testing.T) {
	t.Parallel()
	const rounds = 18
	h := newHost(t)
	custom := filepath.Join(h.Dir, "volumes/custom/default")
	h.ok("storage", "volume", "create", "default", "data")
	files := filepath.Join(custom, "data/files")
	writeGeneration(t, files, "first")
	h.ok("storage", "volume", "snapshot", "default", "data", "first")
	verbs := [][]string{
		{"snapshot", "default", "data", "next", "--reuse"},
		{"restore", "default", "data", "first"},
		{"copy", "default/data", "default/copied"},
		{"rename", "default", "copied", "moved"},
		{"delete", "default", "moved"},
		{"delete", "default", "data/next"},
	}
	longest := make([]time.Duration, len(verbs)) // that one takes which isn't interrupted
	for round := range rounds {
		verb := verbs[round%len(verbs)]
		if round >= len(verbs) {
			writeGeneration(t, files, fmt.Sprint("round", round))
		}
		began := time.Now()
		var done sync.WaitGroup
		done.Go(func() { h.kiln(append([]string{"storage", "volume"}, verb...)...) })
		if round < len(verbs) {
			done.Wait()
			longest[round] = time.Since(began)
		} else {
			time.Sleep(time.Duration(rand.Int64N(int64(longest[round%len(verbs)]) + 1)))
		}
		h.End(os.Kill)
		done.Wait()
		h.start()
		if out := h.ok("storage", "volume", "list", "default", "-f", "csv").Out; strings.Contains(out, "damaged") {
			t.Errorf("round %d, %s: %s", round, verb[0], out)
		}
		dirs, err := filepath.Glob(filepath.Join(custom, "*"))
		if err != nil {
			t.Fatal(err)
		}
		snapshots, err := filepath.Glob(filepath.Join(custom, "*/snapshots/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range append(dirs, snapshots...) {
			said, err := generation(filepath.Join(dir, "files"))
			if err != nil {
				t.Errorf("round %d, %s: %v", round, verb[0], err)
			}
			if filepath.Base(dir) == "first" && said != "first" {
				t.Errorf("round %d, %s: %s says %q", round, verb[0], dir, said)
			}
		}
		if _, err := os.Stat(files); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := os.ReadDir(filepath.Join(h.Dir, "volumes/tmp"))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v are left over", left)
		}
	}
}
