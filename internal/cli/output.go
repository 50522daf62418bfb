package cli

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
	"golang.org/x/term"
)

type flag = pflag.Flag

// A column of a list, with the letter that asks for it. Of value, list and bytes one is set.
type column[T any] struct {
	letter rune
	title  string
	value  func(T) string
	list   func(T) []string // several values, one to a line
	bytes  func(T) int64    // a size: exact for programs, in units for people; less than 0: there is none
	width  int              // the most that is shown of a value, in characters; 0: all
}

// col is a column with one value.
func col[T any](letter rune, title string, value func(T) string) column[T] {
	return column[T]{letter: letter, title: title, value: value}
}

// colList is a column with several values, one to a line.
func colList[T any](letter rune, title string, list func(T) []string) column[T] {
	return column[T]{letter: letter, title: title, list: list}
}

// colBytes is a column with a size in bytes.
func colBytes[T any](letter rune, title string, bytes func(T) int64) column[T] {
	return column[T]{letter: letter, title: title, bytes: bytes}
}

// cell gives the value of a column: as it is, or for people, safe to show.
func (c column[T]) cell(o T, exact bool) string {
	values := []string{}
	switch {
	case c.list != nil:
		values = c.list(o)
	case c.bytes == nil:
		values = append(values, c.value(o))
	case c.bytes(o) < 0:
	case exact:
		values = append(values, strconv.FormatInt(c.bytes(o), 10))
	default:
		values = append(values, size(c.bytes(o)))
	}
	if !exact {
		values = slices.Clone(values)
		for i, v := range values {
			v = printable(v)
			if c.width > 0 {
				v = cut(v, c.width)
			}
			values[i] = v
		}
	}
	return strings.Join(values, "\n")
}

// A choice is a flag that has one of a few values. The part after a comma, if
// options are allowed, is one of those.
type choice struct {
	value   string
	of      []string
	options []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return "string" }

// Set is pflag's: it refuses what is none of the values.
func (c *choice) Set(s string) error {
	value, option, has := strings.Cut(s, ",")
	switch {
	case len(c.options) == 0:
		value, has = s, false
	case has && !slices.Contains(c.options, option):
		return fmt.Errorf("unknown option %q; it is %s", option, alternatives(c.options))
	}
	if !slices.Contains(c.of, value) {
		return fmt.Errorf("it is %s", alternatives(c.of))
	}
	c.value = s
	return nil
}

// alternatives lists words: "a, b or c".
func alternatives(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// choiceFlag adds a flag that has one of a few values, which shells complete.
func choiceFlag(c *cobra.Command, name, letter, preset, help string, of ...string) *string {
	v := &choice{value: preset, of: of}
	return addChoice(c, v, name, letter, help)
}

func addChoice(c *cobra.Command, v *choice, name, letter, help string) *string {
	if help != "" {
		help += ": "
	}
	c.Flags().VarP(v, name, letter, help+alternatives(v.of))
	_ = c.RegisterFlagCompletionFunc(name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return v.of, cobra.ShellCompDirectiveNoFileComp
	})
	return &v.value
}

// formatFlag adds --format for a list.
func formatFlag(c *cobra.Command) *string {
	v := &choice{value: "table", of: []string{"table", "csv", "json", "yaml", "compact"},
		options: []string{"header", "noheader"}}
	f := addChoice(c, v, "format", "f", "")
	c.Flags().Lookup("format").Usage += `; with ",header" or ",noheader"`
	return f
}

// objectFlag adds --format for one object, which people read as text.
func objectFlag(c *cobra.Command) *string {
	return choiceFlag(c, "format", "f", "text", "", "text", "json", "yaml")
}

// addListFormats lets a command that reports line by line write a list, too.
func addListFormats(c *cobra.Command) {
	v, ok := c.Flags().Lookup("format").Value.(*choice)
	if ok {
		v.of = append(v.of, "table", "csv", "compact")
		c.Flags().Lookup("format").Usage = alternatives(v.of)
	}
}

// object writes one object in a format for programs, if that is wanted.
func (a *app) object(format string, v any) (done bool, err error) {
	switch format {
	case "json":
		return true, json.NewEncoder(a.data()).Encode(v)
	case "yaml":
		return true, a.yaml(v)
	}
	return false, nil
}

// choose picks columns: by letters, with or without commas between, and by keys, as
// in "n,user.role:ROLE:12". custom gives the value of a key; nil: there are none.
func choose[T any](all []column[T], wanted string, custom func(kind, key string) func(T) string) ([]column[T], error) {
	var chosen []column[T]
	for word := range strings.SplitSeq(wanted, ",") {
		if strings.ContainsAny(word, ".:") && custom != nil {
			c, err := customColumn(word, custom)
			if err != nil {
				return nil, err
			}
			chosen = append(chosen, c)
			continue
		}
		for _, r := range word {
			i := slices.IndexFunc(all, func(c column[T]) bool { return c.letter == r })
			if i < 0 {
				return nil, usageError{fmt.Errorf("Unknown column shorthand char '%c' in '%s'", r, wanted)}
			}
			chosen = append(chosen, all[i])
		}
	}
	return chosen, nil
}

// columnsFlag adds --columns, and says what they are. keys is what is said of columns
// that aren't letters.
func columnsFlag[T any](c *cobra.Command, preset string, all []column[T], keys string) *string {
	var list []string
	for _, col := range all {
		list = append(list, string(col.letter)+" "+strings.ToLower(col.title))
	}
	return c.Flags().StringP("columns", "c", preset, "columns: "+strings.Join(list, ", ")+keys)
}

// listFlags adds --columns and --format for a list that has no columns but its own. What it
// gives shows a list with those that were chosen, by the first of them.
func listFlags[T any](a *app, c *cobra.Command, preset string, all []column[T]) func(list []T) error {
	form, letters := formatFlag(c), columnsFlag(c, preset, all, "")
	return func(list []T) error {
		wanted := *letters
		if project := slices.IndexFunc(all, func(c column[T]) bool { return c.title == "PROJECT" }); project >= 0 &&
			a.AllProjects && !c.Flags().Changed("columns") {
			wanted = string(all[project].letter) + wanted
		}
		columns, err := choose(all, wanted, nil)
		if err != nil {
			return err
		}
		return show(a, *form, columns, list)
	}
}

// customColumn reads [config:|devices:|properties:]KEY[:TITLE[:WIDTH]].
func customColumn[T any](word string, custom func(kind, key string) func(T) string) (column[T], error) {
	parts, kind := strings.Split(word, ":"), ""
	if len(parts) > 1 && slices.Contains([]string{"config", "devices", "properties"}, parts[0]) {
		kind, parts = parts[0], parts[1:]
	}
	c := column[T]{title: strings.ToUpper(parts[0])}
	if len(parts) > 1 && parts[1] != "" {
		c.title = parts[1]
	}
	if len(parts) == 3 {
		n, err := strconv.Atoi(parts[2])
		if err != nil || n < 1 {
			return c, usageError{fmt.Errorf("column %q: %q is not a width in characters", word, parts[2])}
		}
		c.width = n
	}
	if c.value = custom(kind, parts[0]); c.value == nil || len(parts) > 3 || parts[0] == "" {
		return c, usageError{fmt.Errorf("%q is not a column: a column is a letter, or KEY[:TITLE[:WIDTH]]", word)}
	}
	return c, nil
}

// show writes a list in a format, by the first column. For programs the values are exact;
// for people they are safe to show.
func show[T any](a *app, format string, columns []column[T], list []T) error {
	return write(a, format, columns, list, compareRows)
}

// showInOrder is show for a list that has an order.
func showInOrder[T any](a *app, format string, columns []column[T], list []T) error {
	return write(a, format, columns, list, func(_, _ []string) int { return 0 })
}

func write[T any](a *app, format string, columns []column[T], list []T, compare func(a, b []string) int) error {
	format, options, _ := strings.Cut(format, ",")
	header := format != "csv" && options != "noheader" || options == "header"
	if list == nil {
		list = []T{}
	}
	if done, err := a.object(format, list); done {
		return err
	}
	exact := format == "csv"
	var titles []string
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	var rows [][]string
	for _, o := range list {
		var row []string
		for _, c := range columns {
			row = append(row, c.cell(o, exact))
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, compare)
	if exact {
		out := csv.NewWriter(a.data())
		if header {
			rows = append([][]string{titles}, rows...)
		}
		return out.WriteAll(rows)
	}
	a.table(format == "compact", header, titles, rows)
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

// table writes rows for people. On a terminal that is too narrow for them, the widest
// columns are cut.
func (a *app) table(compact, header bool, titles []string, rows [][]string) {
	t := table.NewWriter()
	t.SetOutputMirror(a.Out)
	style := table.StyleDefault
	style.Format.Header = text.FormatDefault
	style.Options.SeparateRows = !compact
	if compact {
		style.Options = table.OptionsNoBordersAndSeparators
		style.Box.PaddingLeft, style.Box.PaddingRight = " ", " "
	}
	t.SetStyle(style)
	if !header {
		titles = make([]string, len(titles))
	}
	var columns []table.ColumnConfig
	for i, w := range fitColumns(widths(titles, rows), a.width()-1, compact) {
		columns = append(columns, table.ColumnConfig{Number: i + 1, AlignHeader: text.AlignCenter, WidthMax: w,
			WidthMaxEnforcer: cut})
	}
	t.SetColumnConfigs(columns)
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
	for _, r := range rows {
		t.AppendRow(toRow(r))
	}
	t.Render()
}

// width is how wide the terminal is that is written to, in characters; 0 if it is
// none.
func (a *app) width() int {
	f, ok := a.Out.(*os.File)
	if !ok || !terminal(f) {
		return 0
	}
	w, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return w
}

// widths gives the width of the widest line in each column.
func widths(titles []string, rows [][]string) []int {
	all := make([]int, len(titles))
	for _, r := range append([][]string{titles}, rows...) {
		for i, cell := range r {
			all[i] = max(all[i], text.LongestLineLen(cell))
		}
	}
	return all
}

// leastColumn is as narrow as a column may become, in characters.
const leastColumn = 4

// fitColumns makes the widest columns of a table narrower until it fits into a
// terminal, as far as that goes. limit is in characters; nothing fits into less than
// one, so that is no limit.
func fitColumns(all []int, limit int, compact bool) []int {
	all = slices.Clone(all)
	frame := 3*len(all) + 1 // a rule and two spaces for each, and the last rule
	if compact {
		frame = 2 * len(all)
	}
	for limit > 0 {
		sum := frame
		for _, w := range all {
			sum += w
		}
		if sum <= limit || len(all) == 0 || slices.Max(all) <= leastColumn {
			break
		}
		all[slices.Index(all, slices.Max(all))]--
	}
	return all
}

// cut shortens each line of a text to a width.
func cut(s string, width int) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if text.StringWidth(l) > width {
			lines[i] = text.Trim(l, width-1) + "…"
		}
	}
	return strings.Join(lines, "\n")
}

// yaml writes an object as YAML.
func (a *app) yaml(v any) error {
	b, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	_, err = a.data().Write(b)
	return err
}

// day writes a time as lists have it.
func day(t time.Time) string { return t.UTC().Format("Jan 2, 2006 at 3:04pm (MST)") }

// minute writes a time as descriptions have it.
func minute(t time.Time) string {
	if t.Unix() <= 0 {
		return "never"
	}
	return t.UTC().Format("2006/01/02 15:04 MST")
}
