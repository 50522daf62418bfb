package format

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/format/formattest"
)

func TestParseOSRelease(t *testing.T) {
	for text, want := range map[string]string{
		"ID=debian\n":                         "debian",
		"ID=debian":                           "debian",
		"  ID=\"debian\"\r\n":                 "debian",
		"ID='debian'\n":                       "debian",
		"ID=a\nID=b\n":                        "b",
		"#ID=a\n":                             "",
		"ID\nX=a\n":                           "",
		"ID=\"a \\\"b\\\" \\$c \\`d \\\\\"\n": "a \"b\" $c `d \\",
		"ID='a \\\"b'\n":                      `a \"b`,
		"ID=\"a\\nb\"\n":                      `a\nb`,
		"ID=\"a\\x00\"\n":                     `a\x00`,
		"ID=a\\ b\n":                          "a b",
		"ID=a\\\n":                            `a\`,
		"ID=\"a'b\"\n":                        "a'b",
		"ID=\"open\n":                         "open",
		"ID=\x00a\x1b[31m\xff\u200bé\n":       "a[31mé",
		"ID=a=b\n":                            "a=b",
		"ID=" + strings.Repeat("é", 300):      strings.Repeat("é", maxSystemValue/2),
	} {
		if got := parseOSRelease([]byte(text))["ID"]; got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	many := parseOSRelease([]byte("A=1\nB=2\nID=c\nVERSION_ID=4\nPRETTY_NAME=x\nVERSION_CODENAME=y\nHOME_URL=z\n"))
	want := map[string]string{"ID": "c", "VERSION_ID": "4", "PRETTY_NAME": "x", "VERSION_CODENAME": "y"}
	if d := cmp.Diff(want, many); d != "" {
		t.Error(d)
	}
}

// TestBothOSReleases has the file in both places: what is in /etc is the
// administrator's.
func TestBothOSReleases(t *testing.T) {
	etc := formattest.File{Name: "etc/os-release", Body: "ID=ours\n"}
	usr := formattest.File{Name: "usr/lib/os-release", Body: "ID=theirs\n"}
	for _, c := range []struct {
		files []formattest.File
		want  string
	}{{[]formattest.File{etc, usr}, "ours"}, {[]formattest.File{usr, etc}, "ours"}, {[]formattest.File{usr}, "theirs"}} {
		if got := inspect(t, formattest.Tar(t, c.files...)).OSRelease["ID"]; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func FuzzOSRelease(f *testing.F) {
	f.Add([]byte("ID=debian\nPRETTY_NAME=\"Debian \\\"12\\\"\"\nVERSION_ID='12'\n"))
	f.Add([]byte("ID=\x00\xff\\"))
	f.Fuzz(func(t *testing.T, b []byte) {
		values := parseOSRelease(b)
		for key, value := range values {
			if len(value) > maxSystemValue || !utf8.ValidString(value) || strings.ContainsAny(value, "\x00\x1b\n\r") {
				t.Errorf("%s: %q", key, value)
			}
		}
		// The metadata made of it can be read again.
		l, err := synthesise(Facts{Arch: "x86_64", OSRelease: values})
		if err != nil {
			t.Fatal(err)
		}
		in := tar.NewReader(bytes.NewReader(l.Synthesised))
		if _, err := in.Next(); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseMetadata(text)
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if d := cmp.Diff(l.Metadata, m); d != "" {
			t.Error(d)
		}
	})
}

// FuzzProgram reads the beginnings of programs.
func FuzzProgram(f *testing.F) {
	if b, err := os.ReadFile("/bin/busybox"); err == nil {
		f.Add(b[:64])
	}
	f.Add([]byte("\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x15")) // ppc64
	f.Add([]byte("#!/bin/sh\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		i := inspector{}
		if err := i.program("bin/sh", bytes.NewReader(b)); err != nil {
			t.Error(err)
		}
		i.finish()
		if i.Arch == "" {
			return
		}
		if arch, err := kiln.ParseArch(i.Arch); err != nil || arch != i.Arch || !bytes.HasPrefix(b, []byte("\x7fELF")) {
			t.Errorf("%q of %.20q: %q, %v", i.Arch, b, arch, err)
		}
	})
}

func TestReadPackages(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"Package: a\nVersion: 1\nStatus: install ok installed\n":      {"a": "1"},
		"Package: a\nVersion: 1\nStatus: deinstall ok config-files\n": {},
		"Package: a\nVersion: 1\n\nPackage: b\nVersion: 2":            {"a": "1", "b": "2"},
		"P:a\nV:1-r0\n\nP:b\nV:2\n\n\n":                               {"a": "1-r0", "b": "2"},
		"Version: 1\n":                                                {},
		"Package: a\n":                                                {"a": ""},
		"":                                                            {},
		"no colon\nPackage: a\nDescription: x\n Package: not\n .\nVersion: 1:2-3\n":     {"a": "1:2-3"},
		strings.Repeat("x", 1<<20) + "\nPackage: a\nVersion: 1\n":                       {"a": "1"},
		"Package: a\nVersion: 1\n\nPackage: a\nVersion: 2\nStatus: hold ok installed\n": {"a": "2"},
	} {
		sum := &Summary{packages: map[string]string{}}
		if err := (summariser{sum}).readPackages(strings.NewReader(text)); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(want, sum.packages); d != "" {
			t.Errorf("%.60q: %s", text, d)
		}
	}
}

func FuzzPackages(f *testing.F) {
	f.Add([]byte("Package: a\nVersion: 1\nStatus: install ok installed\n\nPackage: b\n"))
	f.Add([]byte("P:a\nV:1-r0\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := &Summary{packages: map[string]string{}}
		if err := (summariser{sum}).readPackages(bytes.NewReader(b)); err != nil {
			t.Error(err)
		}
		for name, version := range sum.packages {
			if name == "" || strings.Contains(name+version, "\n") || !bytes.Contains(b, []byte(name)) {
				t.Errorf("%q %q", name, version)
			}
		}
	})
}

// TestManyLists has the list of packages again and again.
func TestManyLists(t *testing.T) {
	sum := summariser{&Summary{packages: map[string]string{}}}
	e := &archive.Entry{Path: "var/lib/dpkg/status", Type: archive.Regular, Size: maxDatabase / 2}
	for n := range 3 {
		err := sum.Add(e, strings.NewReader("Package: a\n"))
		if n < 2 && err != nil || n == 2 && !errors.Is(err, kiln.TooLarge) {
			t.Errorf("list %d: %v", n, err)
		}
	}
}
