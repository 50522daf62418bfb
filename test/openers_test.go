package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// openers are the functions of package os that wait for somebody at the other end of a named
// pipe, as whoever damages a disk may leave in the place of a file or a directory.
var openers = regexp.MustCompile(`^(os\.(Open|OpenFile|OpenRoot|ReadFile)|unix\.(Open|Openat|Openat2))\(`)

// waitless are the flags, and constants that have them, with which nobody waits.
var waitless = regexp.MustCompile(`\bO_(NONBLOCK|PATH|DIRECTORY|EXCL)\b|\bopen(Dir)?Flags\b`)

// openedOtherwise are the calls that don't go through package disk, by file, and why.
var openedOtherwise = map[string]string{
	"archive/pack.go":         "a directory that the caller has just made, or has open",
	"archive/vcdiff.go":       "a file that the caller has made for a program",
	"box/cgroup.go":           "files of cgroups, and a lock in /run",
	"box/counters.go":         "files of cgroups, and of /proc",
	"box/tree.go":             "files of the kernel: mountinfo",
	"daemon/daemon.go":        "the data directory itself, once it was made",
	"daemon/environment.go":   "files of the host's system",
	"db/db.go":                "a copy that SQLite has just made",
	"disk/disktest/":          "a test",
	"disk/open.go":            "what the others go through",
	"format/unpack.go":        "files that a fetch has made or the user named; they are checked to be files",
	"hardware/hardware.go":    "files of the kernel below /sys",
	"instance/idmap.go":       "/etc/subuid and /etc/subgid",
	"instance/logs.go":        "O_EXCL: a new file",
	"network/besidelegacy.go": "files of the kernel below /proc",
	"network/bridge.go":       "files of the kernel below /proc",
	"place/config.go":         "the client's own configuration",
	"remote/file.go":          "what the user named; a pipe may be meant",
	"volume/copy.go":          "O_NONBLOCK, and O_EXCL for what is new",
	"volume/image.go":         "O_EXCL: a new file; and /proc",
	"volume/mount.go":         "devices and files of the kernel, which is only told to open what package disk could",
	"volume/pack.go":          "O_DIRECTORY or O_NONBLOCK",
	"volume/resolve.go":       "O_NONBLOCK",
	"volume/pool.go":          "a probe in a directory that was just made",
	"rootfd/rootfd.go":        "what its callers say",
	"volume/volumetest/":      "a test",
	"format/formattest/":      "a test",
	"cli/":                    "the client: what the user named",
	"files/":                  "the helper within a container: nothing of the data directory",
}

// TestOpenersOfData has what the daemon keeps opened by package disk, which doesn't wait
// for anybody.
func TestOpenersOfData(t *testing.T) {
	used := map[string]bool{}
	err := filepath.WalkDir("../internal", func(path string, e os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(path), "../internal/")
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			at := set.Position(call.Pos())
			shown := string(text[at.Offset:set.Position(call.End()).Offset])
			if !openers.MatchString(shown) || strings.HasPrefix(shown, "unix.") && waitless.MatchString(shown) ||
				strings.Contains(shown, `"/proc`) || strings.Contains(shown, `"/sys/`) ||
				strings.Contains(shown, "(proc + ") || strings.Contains(shown, "os.DevNull") {
				return true
			}
			for except := range openedOtherwise {
				if name == except || strings.HasSuffix(except, "/") && strings.HasPrefix(name, except) {
					used[except] = true
					return true
				}
			}
			t.Errorf("%s:%d: %s waits if a named pipe is there; open it with package disk, or say here why not",
				name, at.Line, shown)
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for except := range openedOtherwise {
		if !used[except] {
			t.Errorf("%s opens nothing any more that has to be named here", except)
		}
	}
}
