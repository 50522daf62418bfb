package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/api"
	"github.com/kiln-containers/kiln/internal/filter"
)

func TestExitCodes(t *testing.T) {
	for err, want := range map[error]int{
		errors.New("x"): 1, usageError{errors.New("x")}: 2, kiln.Errorf(kiln.NotFound, "x"): 3,
		kiln.Errorf(kiln.Conflict, "x"): 4, kiln.Errorf(kiln.Stale, "x"): 4, kiln.Errorf(kiln.Denied, "x"): 5,
		kiln.Errorf(kiln.Network, "x"): 6, kiln.Errorf(kiln.Busy, "x"): 6,
		kiln.Errorf(kiln.Integrity, "x"): 7, kiln.Errorf(kiln.NoSpace, "x"): 8,
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}: 5,
		kiln.Errorf(kiln.Timeout, "x"):                            9, context.Canceled: 9,
		fmt.Errorf("many: %w", errors.Join(kiln.Errorf(kiln.NotFound, "x"))): 3,
	} {
		if got := exit(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

func TestMain_usage(t *testing.T) {
	for words, want := range map[string]struct {
		code int
		text string
	}{
		"imag":                            {2, `unknown command "imag" for "kiln"; did you mean "image"?`},
		"image alias lst":                 {2, `did you mean "list"?`},
		"list --colunms n":                {2, `did you mean "columns"?`},
		"image info":                      {2, "missing argument: <image>; usage: kiln image info"},
		"list -c nz":                      {2, "Unknown column shorthand char 'z' in 'nz'"},
		"image list -f xml":               {2, "it is table, csv, json, yaml or compact"},
		"image list -f csv,x":             {2, "it is header or noheader"},
		"exec c1":                         {2, "missing argument: <command>; usage: kiln exec"},
		"launch x --vm":                   {1, "not virtual machines"},
		"image info other:x":              {3, `no remote "other"`},
		"image info loca:x":               {3, `did you mean "local"?`},
		"config set c1 a":                 {2, "not of the form key=value"},
		"exec -t -T c1 -- true":           {2, "-t and -T"},
		"query images":                    {2, "no path of the API"},
		"query -X POST /1.0/x -d {":       {2, "the data (--data) isn't JSON"},
		"monitor -f xml":                  {2, "it is yaml, json or pretty"},
		"monitor --type foo":              {2, "it is operation, lifecycle, logging or security"},
		"list outdated=banana":            {2, "outdated=true"},
		"stop c1 --timeout x":             {2, `--timeout "x" is not a whole number`},
		"shutdown --timeout -1":           {2, `--timeout -1 is not a number of seconds from 0 to 86400`},
		"waitready --timeout 86401":       {2, `--timeout 86401 is not a number of seconds from 0 to 86400`},
		"remote add x h --fingerprint ab": {2, "64 hexadecimal digits"},
		"rebuild":                         {2, "missing argument: <instance>"},
		"rebuild --outdated c1":           {2, "name no instance"},
		"image import http://x/ --ca x":   {2, "there is none at http://"},
		"network create":                  {2, "missing argument: <network>"},
		"file pull c1 .":                  {2, "write <instance>/<path>"},
		"file push x c1/y/ -z":            {2, "unknown shorthand flag"},
		"file push a b c1/y":              {2, "write \"c1/y/\""},
		"file create c1/l --type symlink": {2, "<target>"},
		"file create c1/x --mode 9":       {2, "not octal"},
		"launch x --target n1":            {1, "no clusters"},
		"launch":                          {2, "missing argument: <image>"},
		"rename c1":                       {2, "missing argument: <new-name>"},
		"run debian":                      {2, "use: kiln launch"},
		"images":                          {2, "use: kiln image list"},
		"remote switch a b":               {2, `unexpected argument "b"`},
	} {
		t.Setenv("KILN_SOCKET", "/nowhere")
		var out, err bytes.Buffer
		code := Main(t.Context(), strings.Fields(words), Streams{In: strings.NewReader(""), Out: &out, Err: &err}, Deps{})
		if code != want.code || !strings.Contains(err.String(), want.text) || !strings.HasPrefix(err.String(), "kiln: ") ||
			out.Len() > 0 {
			t.Errorf("%s: %d %q %q", words, code, out.String(), err.String())
		}
	}
}

func TestExecArgs(t *testing.T) {
	for in, want := range map[string]string{
		"exec c1 ls -l":                 "exec c1 -- ls -l",
		"exec c1 -- ls -l":              "exec c1 -- ls -l",
		"exec -t c1 ls -t":              "exec -t c1 -- ls -t",
		"exec --env A=b c1 ls":          "exec --env A=b c1 -- ls",
		"exec --user 5 c1 --cwd /x id":  "exec --user 5 c1 --cwd /x -- id",
		"-q exec c1 ls --help":          "-q exec c1 -- ls --help",
		"image list exec":               "image list exec",
		"exec c1":                       "exec c1",
		"exec":                          "exec",
		"exec --env=A=b c1 sh -c x --y": "exec --env=A=b c1 -- sh -c x --y",
	} {
		if got := strings.Join(execArgs(strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestImageFilters(t *testing.T) {
	img := api.Image{Fingerprint: "abc123", Architecture: "x86_64", Type: "container",
		Aliases: []api.ImageAlias{{Name: "debian/12"}, {Name: "stable"}}}
	img.Properties = map[string]string{"os": "Debian", "user.note": "x", "architecture": "amd64"}
	for word, want := range map[string]bool{
		"deb": true, "c12": true, "zzz": false, "os=debian": true, "os=deb": false, "os=deb.*": true,
		"architecture=amd64": true, "architecture=arm64": false,
		"type=container": true, "public=false": true, "public=yes": false, "u.n=x": true, "user.note=x": true,
		"fingerprint=abc": true, "none=x": false, "os=(": false,
	} {
		if got := imageMatches(img, word, false); got != want {
			t.Errorf("%q: %v", word, got)
		}
	}
	if imageMatches(img, "deb", true) || !imageMatches(img, "stable", true) {
		t.Error("--exact takes parts")
	}
}

func TestServerFilter(t *testing.T) {
	for words, want := range map[string]string{
		"": "", "deb": "", "os=": "", "=x": "", "os=deb.*": "", "os=a,b": "", "u.n=x": "", "os=a b": "", "os!=x": "",
		"architecture=amd64": "", "public=true": "", "type=container": "", "properties.os=x": "", "os=ä": "",
		"os=debian": "properties.os eq debian", "OS=Debian_12": "properties.OS eq Debian_12",
		"deb os=debian public=yes release=12": "properties.os eq debian and properties.release eq 12",
		strings.Repeat("a=b ", 99):            strings.TrimSuffix(strings.Repeat("properties.a eq b and ", 8), " and "),
	} {
		got := serverFilter(strings.Fields(words))
		if words == "os=a b" {
			got = serverFilter([]string{words})
		}
		if got != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
	// What the server leaves out is nothing that the client would have shown.
	properties := map[string]string{"os": "Debian", "serial": "007", "and": "or", "not": "eq"}
	for _, word := range []string{"os=debian", "os=DEBIAN", "serial=007", "and=or", "not=eq"} {
		f, err := filter.Parse(serverFilter([]string{word}))
		fits := err == nil && f.Match(func(field string) []string {
			return []string{properties[strings.TrimPrefix(field, "properties.")]}
		})
		if img := (api.Image{}); !fits || f.Empty() {
			t.Errorf("%q: the server gives %v (%v)", word, fits, err)
		} else if img.Properties = properties; !imageMatches(img, word, false) {
			t.Errorf("%q doesn't match", word)
		}
	}
}

func TestShortAlias(t *testing.T) {
	var img api.Image
	if got := shortAlias(img); got != "" {
		t.Error(got)
	}
	img.Aliases = []api.ImageAlias{{Name: "long/name"}, {Name: "w"}, {Name: "other"}}
	if got := shortAlias(img); got != "w (2 more)" {
		t.Error(got)
	}
}
