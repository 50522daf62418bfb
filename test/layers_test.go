// Package test holds what is checked of the project as a whole.
package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kiln-containers/kiln"

// ladder says how high each package stands: it imports only what stands lower.
var ladder = map[string]int{
	".":                          0,
	"api":                        1,
	"internal/archive":           1,
	"internal/audit":             2,
	"internal/backup":            2,
	"internal/blob":              2,
	"internal/blob/blobtest":     2,
	"internal/db":                2,
	"internal/event":             1,
	"internal/filter":            1,
	"internal/foreign":           1,
	"internal/op":                2,
	"internal/option":            1,
	"internal/metrics":           1,
	"internal/project":           1,
	"internal/migrate":           1,
	"internal/rsync":             1,
	"internal/web":               1,
	"internal/yamlerr":           0,
	"internal/thread":            1,
	"internal/network/netspace":  1,
	"internal/sibling":           2,
	"internal/proxy":             3,
	"internal/rootfd":            0,
	"internal/disk":              1,
	"internal/disk/disktest":     1,
	"internal/trust":             2,
	"internal/grant":             3,
	"internal/fetch":             1,
	"internal/delta":             1,
	"internal/archive/erofs":     2, // a writer for archive's trees
	"client":                     2,
	"internal/template":          2,
	"internal/box":               2,
	"internal/format":            2,
	"internal/network":           3,
	"internal/network/nettest":   4,
	"internal/format/formattest": 4,
	"internal/simplestreams":     2,
	"internal/signing":           1,
	"internal/openpgp":           1,
	"internal/volume":            3,
	"internal/volume/volumetest": 4,
	"internal/remote":            3,
	"internal/files":             3,
	"internal/hardware":          2,
	"internal/guestapi":          3,
	"internal/store":             3,
	"internal/instance":          4,
	"internal/place":             4,
	"internal/daemon":            5,
	"internal/server":            6,
	"internal/cli":               6,
	"cmd/kiln":                   7,
	"test/bench":                 7,
	"test/docs":                  7,
	"test/machine":               7,
	"test/faults":                8,
	"test/soak":                  8,
	"test":                       8,
}

// TestLayers keeps imports pointing down, and every package described. It parses
// files itself: a test that asks the go command is cached as passing after another
// package has changed.
func TestLayers(t *testing.T) {
	root := ".."
	described := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (strings.HasPrefix(e.Name(), ".") && e.Name() != ".." || e.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		rung, ok := ladder[rel]
		if !ok {
			t.Errorf("package %s is not on the ladder", rel)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		described[rel] = described[rel] || f.Doc != nil
		if strings.HasSuffix(path, "_test.go") {
			return nil // tests may use fixtures from above
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			sub, ours := strings.CutPrefix(name, module)
			if !ours {
				continue
			}
			to := strings.TrimPrefix(sub, "/")
			if to == "" {
				to = "."
			}
			if below, ok := ladder[to]; !ok || below >= rung {
				t.Errorf("%s imports %s, which doesn't stand lower", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range ladder {
		if !described[name] {
			t.Errorf("package %s has no comment that says what it does", name)
		}
	}
}

// TestArchitectureIsComplete keeps the map true.
func TestArchitectureIsComplete(t *testing.T) {
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range ladder {
		if name != "." && !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("ARCHITECTURE.md doesn't mention `%s`", name)
		}
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(line)
		if len(f) == 2 && strings.Contains(f[0], ".") && strings.Contains(f[0], "/") &&
			!strings.Contains(string(text), f[0]) {
			t.Errorf("ARCHITECTURE.md gives no reason for the dependency %s", f[0])
		}
	}
}
