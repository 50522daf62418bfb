package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/kiln-containers/kiln/api"
)

// progress shows how far a transfer is: a bar on a terminal, else a line at its
// beginning. total is in bytes, -1 if unknown.
func (a *app) progress(what string, total int64) (wrap func(io.Reader) io.Reader, done func()) {
	same := func(r io.Reader) io.Reader { return r }
	if a.quiet {
		return same, func() {}
	}
	if !a.animated() {
		if total > 0 {
			a.remark("%s (%s)", what, size(total))
		} else {
			a.remark("%s", what)
		}
		return same, func() {}
	}
	begun := time.Now()
	p := mpb.New(mpb.WithOutput(a.Err), mpb.WithWidth(40))
	bar := p.AddBar(max(total, 0), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(printable(what)+" "), decor.CountersKiloByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.AverageSpeed(decor.SizeB1000(0), "% .1f"),
			decor.Any(func(s decor.Statistics) string { return left(s.Current, s.Total, time.Since(begun)) })))
	wrap = func(r io.Reader) io.Reader { return bar.ProxyReader(r) }
	return wrap, func() {
		bar.Abort(true)
		p.Wait()
	}
}

// animated reports whether progress can be shown in place.
func (a *app) animated() bool { return terminal(a.Err) && os.Getenv("TERM") != "dumb" }

// left estimates how long a transfer will take yet; "" while that would be a guess:
// in the first two seconds, and before one part in a hundred is done.
func left(done, total int64, since time.Duration) string {
	if total <= 0 || done >= total || done < total/100 || done <= 0 || since < 2*time.Second {
		return ""
	}
	d := time.Duration(float64(since) * float64(total-done) / float64(done)).Round(time.Second)
	return fmt.Sprintf(" %s left", d)
}

// A reporter tells how an operation goes.
type reporter struct {
	w        io.Writer
	animated bool // in one line of a terminal; else a line for each phase
	begun    time.Time
	shown    int // characters on the terminal
	phase    string
}

// How long an operation may take before anything is said of it: on a terminal, and
// where a line would stay.
const (
	patience     = 500 * time.Millisecond
	linePatience = 2 * time.Second
)

// report tells what there is to tell of an operation at a time.
func (r *reporter) report(o api.Operation, now time.Time) {
	since := now.Sub(r.begun)
	if since < patience {
		return
	}
	text := progressText(o)
	if !r.animated {
		phase := phaseOf(text)
		if measure.MatchString(text) {
			phase = printable(o.Description) // of how far it is, nothing would be true for long
		}
		if phase == "" && r.phase == "" && since >= linePatience {
			phase = printable(o.Description)
		}
		if phase != "" && phase != r.phase {
			r.phase = phase
			fmt.Fprintln(r.w, phase)
		}
		return
	}
	if text == "" {
		text = printable(o.Description)
	}
	line := fmt.Sprintf("%s (%s)", text, since.Round(time.Second))
	fmt.Fprintf(r.w, "\r%-*s", r.shown, line)
	r.shown = max(r.shown, len([]rune(line)))
}

// clear takes away what is shown on the terminal.
func (r *reporter) clear() {
	if r.shown > 0 {
		fmt.Fprintf(r.w, "\r%s\r", strings.Repeat(" ", r.shown))
		r.shown = 0
	}
}

// progressText is what an operation says of its progress; "" if that is nothing.
func progressText(o api.Operation) string {
	for _, k := range slices.Sorted(maps.Keys(o.Metadata)) {
		if text, ok := o.Metadata[k].(string); ok && text != "" &&
			(strings.HasSuffix(k, "_progress") || k == "progress" || k == "waiting") {
			return printable(text)
		}
	}
	return ""
}

// numbers are what changes within a phase: "84%", "(180.15MB/s)", "12 MB of 20 MB".
// A word with digits in it, as the name of an instance, doesn't.
var numbers = regexp.MustCompile(`([:,]?\s+\(?|^|:)[0-9].*$`)

// measure is a text that only tells how far an operation is: "rootfs: 84% (180.15MB/s)".
var measure = regexp.MustCompile(`^\w+: [0-9]`)

// phaseOf is the part of a progress text that stays the same while numbers change. In
// the address of a server they don't.
func phaseOf(text string) string {
	if strings.Contains(text, "://") {
		return text
	}
	return strings.TrimSpace(numbers.ReplaceAllString(text, ""))
}
