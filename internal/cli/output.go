package cli

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"go.yaml.in/yaml/v4"

	"github.com/kiln-containers/kiln"
)

type flag = pflag.Flag

// A column of a list, with the letter that asks for it.
type column[T any] struct {
	letter rune
	title  string
	value  func(T) string
}

// formatFlag adds --format, and says what it can be.
func formatFlag(c *cobra.Command) *string {
	f := c.Flags().StringP("format", "f", "table", "table, csv, json, yaml or compact; with \",noheader\" or \",header\"")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "csv", "json", "yaml", "compact"},
		cobra.ShellCompDirectiveNoFileComp))
	return f
}

// choose picks columns by their letters; commas between are allowed.
func choose[T any](all []column[T], letters string) ([]column[T], error) {
	var chosen []column[T]
	for _, r := range letters {
		if r == ',' {
			continue
		}
		i := slices.IndexFunc(all, func(c column[T]) bool { return c.letter == r })
		if i < 0 {
			return nil, usageError{fmt.Errorf("Unknown column shorthand char '%c' in '%s'", r, letters)}
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// show writes a list in a format. Data go to w and nothing else does.
func show[T any](w io.Writer, format string, columns []column[T], list []T) error {
	format, options, _ := strings.Cut(format, ",")
	header := format != "csv"
	switch options {
	case "":
	case "header":
		header = true
	case "noheader":
		header = false
	default:
		return usageError{fmt.Errorf("unknown format option %q; it is header or noheader", options)}
	}
	switch format {
	case "json":
		if list == nil {
			list = []T{}
		}
		return json.NewEncoder(w).Encode(list)
	case "yaml":
		return writeYAML(w, list)
	case "csv", "table", "compact":
	default:
		return usageError{fmt.Errorf("unknown format %q; it is table, csv, json, yaml or compact", format)}
	}
	var titles []string
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	var rows [][]string
	for _, o := range list {
		var row []string
		for _, c := range columns {
			row = append(row, c.value(o))
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, compareRows)
	if format == "csv" {
		out := csv.NewWriter(w)
		if header {
			rows = append([][]string{titles}, rows...)
		}
		return out.WriteAll(rows)
	}
	writeTable(w, format == "compact", header, titles, rows)
	return nil
}

// compareRows sorts by the first cell, empty ones last.
func compareRows(a, b []string) int {
	if len(a) == 0 || a[0] == b[0] {
		return 0
	}
	if (a[0] == "") != (b[0] == "") {
		if a[0] == "" {
			return 1
		}
		return -1
	}
	return natural(a[0], b[0])
}

// natural compares texts with the numbers in them as numbers: c2 before c10.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, resta := leadingNumber(a)
		y, restb := leadingNumber(b)
		switch {
		case x != "" && y != "":
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = resta, restb
		case a[0] != b[0]:
			return int(a[0]) - int(b[0])
		default:
			a, b = a[1:], b[1:]
		}
	}
	return len(a) - len(b)
}

func leadingNumber(s string) (digits, rest string) {
	rest = strings.TrimLeft(s, "0123456789")
	return s[:len(s)-len(rest)], rest
}

func writeTable(w io.Writer, compact, header bool, titles []string, rows [][]string) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleDefault
	style.Format.Header = text.FormatDefault
	style.Options.SeparateRows = !compact
	if compact {
		style.Options = table.OptionsNoBordersAndSeparators
		style.Box.PaddingLeft, style.Box.PaddingRight = " ", " "
	}
	t.SetStyle(style)
	toRow := func(cells []string) table.Row {
		var r table.Row
		for _, c := range cells {
			r = append(r, c)
		}
		return r
	}
	if header {
		t.AppendHeader(toRow(titles))
	}
	var center []table.ColumnConfig
	for i := range titles {
		center = append(center, table.ColumnConfig{Number: i + 1, AlignHeader: text.AlignCenter})
	}
	t.SetColumnConfigs(center)
	for _, r := range rows {
		t.AppendRow(toRow(r))
	}
	t.Render()
}

func writeYAML(w io.Writer, v any) error {
	b, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// size writes bytes as lxc does: in units of 1048576 that it calls MB.
func size(n int64) string { return fmt.Sprintf("%.2fMB", float64(n)/1024/1024) }

// day writes a time as lists have it.
func day(t time.Time) string { return t.UTC().Format("Jan 2, 2006 at 3:04pm (MST)") }

// minute writes a time as descriptions have it.
func minute(t time.Time) string {
	if t.Unix() <= 0 {
		return "never"
	}
	return t.UTC().Format("2006/01/02 15:04 MST")
}

// progress shows how far a transfer is: a bar on a terminal, else a line at its
// beginning. size is -1 if unknown.
func (a *app) progress(what string, size int64) (wrap func(io.Reader) io.Reader, done func()) {
	same := func(r io.Reader) io.Reader { return r }
	if a.quiet {
		return same, func() {}
	}
	if !terminal(a.Err) || os.Getenv("TERM") == "dumb" {
		if size > 0 {
			fmt.Fprintf(a.Err, "%s (%s)\n", what, kiln.FormatSize(size))
		} else {
			fmt.Fprintln(a.Err, what)
		}
		return same, func() {}
	}
	p := mpb.New(mpb.WithOutput(a.Err), mpb.WithWidth(40))
	bar := p.AddBar(max(size, 0), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(what+" "), decor.CountersKiloByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1000(0), "% .1f"), decor.Name(" ETA "),
			decor.AverageETA(decor.ET_STYLE_GO)))
	wrap = func(r io.Reader) io.Reader { return bar.ProxyReader(r) }
	return wrap, func() {
		bar.Abort(true)
		p.Wait()
	}
}
