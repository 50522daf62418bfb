package format

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
)

// A Change says how a file differs between two trees.
type Change string

// The changes a file can have.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"  // its content or its type
	Attrs   Change = "metadata" // its owner, mode or attributes alone
)

// A FileDiff is a file that two trees don't have in common.
type FileDiff struct {
	Path          string
	Change        Change
	Before, After int64 // bytes
}

// A PackageDiff is a package that two trees don't have in common.
type PackageDiff struct{ Name, Before, After string }

// A Summary is what is compared of a tree. The times of files are not.
type Summary struct {
	files    []fileSummary     // in the order of their paths
	packages map[string]string // version by name
	listed   int64             // bytes of the lists they are from
}

// fileSummary is small: there may be a million.
type fileSummary struct {
	path    string
	size    int64
	content digest // of a file; of the target of a link
	attrs   digest
}

// digest is the first half of a SHA-256.
type digest [sha256.Size / 2]byte

// mostFiles bounds the files that are told of.
const mostFiles = 256 << 10

// Summarise reads an image to its end.
func Summarise(ctx context.Context, s kiln.Stream, lim archive.Limits) (*Summary, error) {
	sum := &Summary{packages: map[string]string{}}
	err := Unpack(ctx, s, lim, summariser{sum}, discarded{})
	// Of a path that came again the last counts.
	slices.Reverse(sum.files)
	slices.SortStableFunc(sum.files, func(a, b fileSummary) int { return strings.Compare(a.path, b.path) })
	sum.files = slices.CompactFunc(sum.files, func(a, b fileSummary) bool { return a.path == b.path })
	return sum, err
}

// Diff compares two trees, by path and by name. The error is TooLarge when they have hardly
// anything in common, and many files.
func Diff(before, after *Summary) ([]FileDiff, []PackageDiff, error) {
	var files []FileDiff
	old, now := before.files, after.files
	for len(old) > 0 || len(now) > 0 {
		var a, b fileSummary
		had := len(old) > 0 && (len(now) == 0 || old[0].path <= now[0].path)
		has := len(now) > 0 && (len(old) == 0 || now[0].path <= old[0].path)
		if had {
			a, old = old[0], old[1:]
		}
		if has {
			b, now = now[0], now[1:]
		}
		d := FileDiff{Path: cmp.Or(a.path, b.path), Before: a.size, After: b.size}
		switch {
		case !had:
			d.Change = Added
		case !has:
			d.Change = Removed
		case a.content != b.content:
			d.Change = Changed
		case a.attrs != b.attrs:
			d.Change = Attrs
		default:
			continue
		}
		if len(files) == mostFiles {
			return nil, nil, kiln.Errorf(kiln.TooLarge, "the images differ in more than %d files; export and compare them "+
				"elsewhere", mostFiles)
		}
		files = append(files, d)
	}
	var packages []PackageDiff
	for _, name := range keysOf(before.packages, after.packages) {
		if a, b := before.packages[name], after.packages[name]; a != b {
			packages = append(packages, PackageDiff{name, a, b})
		}
	}
	return files, packages, nil
}

// keysOf gives the keys of both maps, sorted.
func keysOf[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// discarded takes the metadata of an image, of which nothing is compared.
type discarded struct{}

// Add is archive.TreeWriter's.
func (discarded) Add(*archive.Entry, io.Reader) error { return nil }

// Close is archive.TreeWriter's.
func (discarded) Close() error { return nil }

// summariser takes the root filesystem.
type summariser struct{ *Summary }

// maxDatabase bounds the lists of package managers, in bytes.
const maxDatabase = 64 << 20

// Add is archive.TreeWriter's.
func (s summariser) Add(e *archive.Entry, r io.Reader) error {
	f := fileSummary{path: e.Path, size: e.Size, attrs: attrsOf(e)}
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%s\x00%d\x00%d\x00", e.Type, e.Link, e.Major, e.Minor)
	if e.Type == archive.Regular {
		in := io.TeeReader(r, h)
		switch e.Path {
		case "var/lib/dpkg/status", "lib/apk/db/installed", "usr/lib/apk/db/installed":
			if s.listed += e.Size; s.listed > maxDatabase {
				return kiln.Errorf(kiln.TooLarge, "the lists of packages have more than %s (at %q)", kiln.FormatSize(maxDatabase),
					e.Path)
			}
			if err := s.readPackages(in); err != nil {
				return err
			}
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
	}
	f.content = digest(h.Sum(nil)[:len(f.content)])
	s.files = append(s.files, f)
	return nil
}

// Close is archive.TreeWriter's.
func (summariser) Close() error { return nil }

// readPackages reads the lists of dpkg and apk: blocks of lines, in which a package
// has its name and its version.
func (s summariser) readPackages(r io.Reader) error {
	name, version, installed := "", "", true
	end := func() {
		if name != "" && installed {
			s.packages[name] = version
		}
		name, version, installed = "", "", true
	}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "":
			end()
		case "Package", "P":
			name = value
		case "Version", "V":
			version = value
		case "Status":
			installed = strings.HasSuffix(value, " installed")
		}
		if err != nil {
			end()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func attrsOf(e *archive.Entry) digest {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%o %d %d", e.Mode, e.UID, e.GID)
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		fmt.Fprintf(&b, " %q=%q", k, e.Xattrs[k])
	}
	sum := sha256.Sum256(b.Bytes())
	return digest(sum[:len(digest{})])
}
