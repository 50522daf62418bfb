package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/kiln-containers/kiln/api"
)

// writer is an app that writes into a buffer.
func writer() (*app, *bytes.Buffer) {
	var b bytes.Buffer
	return &app{Streams: Streams{Out: &b, Err: &b}}, &b
}

func TestShow(t *testing.T) {
	columns := []column[string]{col('a', "NAME", func(s string) string { return s }),
		col('b', "LENGTH", func(s string) string { return fmt.Sprint(len(s)) })}
	for format, want := range map[string]string{
		"csv":              "c2,2\nc10,3\n\"x,y\",3\n,0\n",
		"csv,header":       "NAME,LENGTH\nc2,2\nc10,3\n\"x,y\",3\n,0\n",
		"json":             "[\"x,y\",\"\",\"c10\",\"c2\"]\n",
		"compact,noheader": " c2   2 \n c10  3 \n x,y  3 \n      0 \n",
		"table,noheader": "+-----+---+\n| c2  | 2 |\n+-----+---+\n| c10 | 3 |\n+-----+---+\n| x,y | 3 |\n+-----+---+\n" +
			"|     | 0 |\n+-----+---+\n",
	} {
		a, b := writer()
		err := show(a, format, columns, []string{"x,y", "", "c10", "c2"})
		if d := cmp.Diff(strings.ReplaceAll(want, " \n", "\n"), strings.ReplaceAll(b.String(), " \n", "\n")); d != "" ||
			err != nil {
			t.Errorf("%s: %s %v", format, d, err)
		}
	}
	a, b := writer()
	if err := show[string](a, "json", columns, nil); err != nil || b.String() != "[]\n" {
		t.Error(err, b.String())
	}
}

// Sizes are exact for programs, and in units for people.
func TestSizeColumns(t *testing.T) {
	columns := []column[int64]{colBytes('s', "SIZE", func(n int64) int64 { return n })}
	for format, want := range map[string]string{
		"csv": "1999999\n0\n\n", "compact,noheader": " 2.0 MB \n 0 B    \n        \n", "json": "[1999999,0,-1]\n",
	} {
		a, b := writer()
		if err := showInOrder(a, format, columns, []int64{1999999, 0, -1}); err != nil || b.String() != want {
			t.Errorf("%s: %q, want %q, %v", format, b.String(), want, err)
		}
	}
}

// What a server says can't change what a terminal shows elsewhere.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "Füße 日本 🦀": "Füße 日本 🦀", "\x1b[31mred": `\x1b[31mred`, "a\nb": `a\nb`, "a\tb": `a\tb`,
		"\r\x7f": `\r\x7f`, "\u202etxt": `\u202etxt`, "\u2066x": `\u2066x`, "\u009b31m": `\u009b31m`, "\xff": `\xff`, "": "",
		"\uFFFD": "\uFFFD",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestHostileCells(t *testing.T) {
	type row struct{ name, description string }
	columns := []column[row]{col('n', "NAME", func(r row) string { return r.name }),
		col('d', "DESCRIPTION", func(r row) string { return r.description }),
		colList('L', "LIST", func(r row) []string { return []string{r.name, r.name} })}
	list := []row{{"\x1b]0;x\x07", "one\ntwo\u202e"}}
	for _, format := range []string{"table", "compact"} {
		a, b := writer()
		if err := show(a, format, columns, list); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(b.String(), "\x1b\x07\u202e") || !strings.Contains(b.String(), `one\ntwo\u202e`) {
			t.Errorf("%s: %q", format, b.String())
		}
	}
	a, b := writer()
	if err := show(a, "csv", columns, list); err != nil || !strings.Contains(b.String(), "one\ntwo\u202e") {
		t.Errorf("csv isn't exact: %q %v", b.String(), err)
	}
	a, b = writer()
	a.say("%s %v %s", "\x1b", errors.New("\x1b"), time.Second)
	a.remark("%s", "\x1b")
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("%q", b.String())
	}
}

func TestSafeWriter(t *testing.T) {
	var b bytes.Buffer
	w := &safeWriter{w: &b}
	for _, part := range []string{"a\x1b[1;32m O", "K\x1b[0m\r\nb\tc\x1b]0;", "title\x07\n\u202e", "end"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	flush(w)
	if want := "a OK\nb\tc\\x1b]0;title\\a\n\\u202eend\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	w = &safeWriter{w: &b}
	if _, err := w.Write(bytes.Repeat([]byte("x"), maxLine+1)); err != nil || b.Len() <= maxLine {
		t.Error("an endless line is kept back", err)
	}
}

func TestChoose(t *testing.T) {
	all := []column[api.InstanceFull]{col('n', "NAME", func(i api.InstanceFull) string { return i.Name }),
		col('s', "STATE", func(i api.InstanceFull) string { return i.Status })}
	i := api.InstanceFull{}
	i.Name, i.Status = "c1", "Running"
	i.ExpandedConfig = map[string]string{"user.role": "database", "image.os": "debian"}
	i.ExpandedDevices = map[string]map[string]string{"root": {"path": "/"}}
	for wanted, want := range map[string]string{
		"ns": "NAME=c1 STATE=Running", "s,n": "STATE=Running NAME=c1", "n,user.role": "NAME=c1 USER.ROLE=database",
		"user.role:ROLE,n": "ROLE=database NAME=c1", "user.role:ROLE:5": "ROLE=data…", "config:image.os::3": "IMAGE.OS=de…",
		"devices:root.path:PATH": "PATH=/", "user.none": "USER.NONE=",
		"nz": "error", "properties:x": "error", "user.x:A:b": "error", "user.x:A:0": "error", "user.x:A:1:2": "error",
		":": "error", "config:": "error",
	} {
		chosen, err := choose(all, wanted, instanceKey)
		var cells []string
		for _, c := range chosen {
			cells = append(cells, c.title+"="+c.cell(i, false))
		}
		got := strings.Join(cells, " ")
		if err != nil {
			if got = "error"; exit(err) != 2 {
				t.Error(err)
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q (%v)", wanted, got, want, err)
		}
	}
	if _, err := choose(all, "n,user.x", nil); exit(err) != 2 {
		t.Error("keys where there are none:", err)
	}
}

func TestFitColumns(t *testing.T) {
	for _, c := range []struct {
		all     []int
		limit   int
		compact bool
		want    []int
	}{
		{[]int{5, 5}, 0, false, []int{5, 5}}, {[]int{5, 5}, 80, false, []int{5, 5}},
		{[]int{10, 40, 12}, 40, false, []int{10, 10, 10}}, {[]int{10, 40}, 40, true, []int{10, 26}},
		{[]int{10, 10}, 3, false, []int{4, 4}}, {nil, 10, false, nil},
	} {
		if d := cmp.Diff(c.want, fitColumns(c.all, c.limit, c.compact)); d != "" {
			t.Errorf("%v in %d: %s", c.all, c.limit, d)
		}
	}
	if got := cut("abcdef\nab", 4); got != "abc…\nab" {
		t.Errorf("%q", got)
	}
}

func TestTimesAndSizes(t *testing.T) {
	at := time.Date(2016, 3, 30, 4, 36, 0, 0, time.UTC)
	for got, want := range map[string]string{
		day(at): "Mar 30, 2016 at 4:36am (UTC)", minute(at): "2016/03/30 04:36 UTC", minute(time.Time{}): "never",
		minute(time.Unix(0, 0)): "never", size(1029713): "1.0 MB", size(297): "297 B",
		short("abc"): "abc", short(strings.Repeat("a", 64)): "aaaaaaaaaaaa",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLeft(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		since       time.Duration
		want        string
	}{
		{1, 700e6, time.Second, ""}, {1, 700e6, time.Minute, ""}, {350e6, 700e6, time.Second, ""},
		{350e6, 700e6, 10 * time.Second, " 10s left"}, {700e6, 700e6, 10 * time.Second, ""}, {5, 0, time.Minute, ""},
		{5, -1, time.Minute, ""},
	} {
		if got := left(c.done, c.total, c.since); got != c.want {
			t.Errorf("%v: %q", c, got)
		}
	}
}

func TestReporter(t *testing.T) {
	op := func(text string) api.Operation {
		o := api.Operation{Description: "Downloading image"}
		if text != "" {
			o.Metadata = map[string]any{"download_progress": text, "other": 1}
		}
		return o
	}
	begun := time.Unix(100, 0)
	steps := []string{"", "rootfs: 1% (2.0MB/s)", "rootfs: 50% (3MB/s)", "Unpacking 7%", "Copying zz1", "Waiting for https://10.0.0.1:8443"}

	var b bytes.Buffer
	r := &reporter{w: &b, begun: begun}
	r.report(op(""), begun.Add(time.Second)) // a line would be too much of it
	for i, s := range steps {
		r.report(op(s), begun.Add(time.Duration(i+2)*time.Second))
	}
	r.clear()
	if want := "Downloading image\nUnpacking\nCopying zz1\nWaiting for https://10.0.0.1:8443\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}

	b.Reset()
	r = &reporter{w: &b, begun: begun, animated: true}
	r.report(op(""), begun.Add(time.Millisecond)) // too early
	for i, s := range steps[:3] {
		r.report(op(s), begun.Add(time.Duration(i+1)*time.Second))
	}
	r.clear()
	if want := "\rDownloading image (1s)\rrootfs: 1% (2.0MB/s) (2s)\rrootfs: 50% (3MB/s) (3s) \r"; !strings.HasPrefix(
		b.String(), want) || !strings.HasSuffix(b.String(), "\r") {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, c := range []struct{ use, args, want string }{
		{"info [<remote>:]<image>", "", "missing argument: <image>"},
		{"copy [<remote>:]<image> <remote>:", "x", "missing argument: <remote>"},
		{"copy [<remote>:]<image> <remote>:", "", "missing arguments: <image> <remote>"},
		{"rename [<remote>:]<instance>[/<snapshot>] <new-name>", "a", "missing argument: <new-name>"},
		{"list [<remote>:]", "a b", `unexpected argument "b"`},
		{"exec [<remote>:]<instance> [flags] [--] <command> [<argument>...]", "c1", "missing argument: <command>"},
	} {
		if got := wrongArguments(c.use, strings.Fields(c.args)); got != c.want {
			t.Errorf("%s with %q: %q, want %q", c.use, c.args, got, c.want)
		}
	}
}

// TestListColumns has each list with the columns that somebody wants.
func TestListColumns(t *testing.T) {
	eachCommand(newRoot(), func(c *cobra.Command) {
		if c.Name() == "list" && c.Flag("columns") == nil && c.Parent().Name() != "device" {
			t.Errorf("%s has no --columns", c.CommandPath())
		}
	})
	s := newSession(t)
	s.image("1", "--alias one")
	s.ok("init one c1")
	for _, words := range []string{"remote list -c nu", "config trust list -c nt", "config trust list-tokens -c n",
		"profile list -c nd", "project list -c nd", "network list -c nt", "network list-leases kilnbr0 -c nm",
		"network forward list kilnbr0 -c l", "operation list -c id", "mirror list -c nu", "storage list -c nD",
		"storage volume list default -c tn", "config template list c1 -c n"} {
		letters := words[strings.LastIndex(words, " ")+1:]
		if out := s.ok(words + " -f csv,header"); strings.Count(strings.SplitN(out, "\n", 2)[0], ",") != len(letters)-1 {
			t.Errorf("%s: %q", words, out)
		}
		s.fails(words+"?", 2, "Unknown column shorthand char '?'")
	}
	s.says("remote list -c nu -f csv", "local (current),unix:")
	s.says("profile list --all-projects -f csv", "default,default,")
}
