package cli

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kiln-containers/kiln"
)

// printable makes a text of a server safe to show: control characters, which can
// change what the terminal shows elsewhere, and invisible ones, which can turn the
// direction of writing, are written as in Go: \x1b, \u202e, \n.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// printableAll is printable for what goes into a format.
func printableAll(args []any) []any {
	out := make([]any, len(args))
	for i, v := range args {
		switch v := v.(type) {
		case string:
			out[i] = printable(v)
		case error:
			out[i] = printable(v.Error())
		case fmt.Stringer:
			out[i] = printable(v.String())
		default:
			out[i] = v
		}
	}
	return out
}

// print writes a text for people, whatever is in the values.
func (a *app) print(format string, args ...any) {
	fmt.Fprintf(a.Out, format+"\n", printableAll(args)...)
}

// say tells a person what happened.
func (a *app) say(format string, args ...any) {
	if !a.quiet {
		a.print(format, args...)
	}
}

// remark tells a person something that isn't an answer.
func (a *app) remark(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Err, format+"\n", printableAll(args)...)
	}
}

// data is where bytes of a server go that are the answer: exactly as they are, but
// for a terminal.
func (a *app) data() io.Writer {
	if terminal(a.Out) {
		return &safeWriter{w: a.Out}
	}
	return a.Out
}

// value writes one value: exactly as it is, but for a terminal.
func (a *app) value(v string) error {
	_, err := io.WriteString(a.data(), v+"\n")
	return err
}

// colours are the sequences that only change how text looks.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// A safeWriter writes text to a terminal. Lines stay lines and colours are left out;
// everything else that isn't printable is escaped.
type safeWriter struct {
	w    io.Writer
	rest []byte // of a line that isn't complete
}

// maxLine is how much of a line is kept back, in bytes.
const maxLine = 64 << 10

func (s *safeWriter) Write(b []byte) (int, error) {
	s.rest = append(s.rest, b...)
	end := bytes.LastIndexByte(s.rest, '\n') + 1
	if end == 0 && len(s.rest) > maxLine {
		end = len(s.rest)
	}
	var out strings.Builder
	for line := range bytes.Lines(s.rest[:end]) {
		text, ended := bytes.CutSuffix(line, []byte("\n"))
		text = colours.ReplaceAll(bytes.TrimSuffix(text, []byte("\r")), nil)
		for i, part := range strings.Split(string(text), "\t") {
			if i > 0 {
				out.WriteByte('\t')
			}
			out.WriteString(printable(part))
		}
		if ended {
			out.WriteByte('\n')
		}
	}
	s.rest = bytes.Clone(s.rest[end:])
	_, err := io.WriteString(s.w, out.String())
	return len(b), err
}

// flush writes what is left of the last line.
func flush(w io.Writer) {
	if s, ok := w.(*safeWriter); ok && len(s.rest) > 0 {
		_, _ = s.Write([]byte("\n"))
	}
}

// count is a number of things: "1 image", "2 images".
func count(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// yesNo is how tables write a bool.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// size writes an amount of bytes, in units of 1000 (kB, MB, GB). It is the one way
// in which the command line writes sizes for people.
func size(n int64) string { return kiln.FormatSize(n) }

// short is the part of a fingerprint that is shown: 12 digits.
func short(fingerprint string) string { return fingerprint[:min(12, len(fingerprint))] }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
