package template

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// try renders one template in a process of its own.
func try(ctx context.Context, source string) (string, error) {
	p, err := start(ctx)
	if err != nil {
		return "", err
	}
	defer p.Close()
	text, err := p.render(ctx, job{Source: []byte(source), Instance: guest})
	return string(text), err
}

// endless works for ever without writing anything.
var endless = strings.Repeat(`{% for a in "0123456789012345678901234567890123456789" %}`,
	12) + strings.Repeat(`{% endfor %}`, 12)

// hostile are templates that end a program that runs them itself, or read what
// they shouldn't.
var hostile = map[string]struct {
	source string
	kind   kiln.Kind
}{
	"include":             {`{% include "/etc/hostname" %}`, kiln.Invalid},
	"include, elsewhere":  {`{% if 1 %}{%- include trigger -%}{% endif %}`, kiln.Invalid},
	"include, if there":   {`{% include "/etc/hostname" if_exists %}`, kiln.Invalid},
	"ssi":                 {`{% ssi "/etc/hostname" %}`, kiln.Invalid},
	"ssi, parsed":         {`{% ssi "/etc/hostname" parsed %}`, kiln.Invalid},
	"import":              {`{% import "/etc/hostname" x %}`, kiln.Invalid},
	"extends":             {`{% extends "/etc/hostname" %}`, kiln.Invalid},
	"panic":               {`{% for a in "cba" sorted %}{{ a }}{% endfor %}`, kiln.Invalid},
	"much output":         {`{% for a in "` + strings.Repeat("x", 2000) + `" %}` + strings.Repeat("y", 1000) + `{% endfor %}`, kiln.TooLarge},
	"output without end":  {strings.Replace(endless, "{% endfor %}", "y{% endfor %}", 1), kiln.TooLarge},
	"one large value":     {`{{ "x"|ljust:100000000000 }}`, kiln.TooLarge},
	"words without end":   {`{% lorem 1000000000 w %}`, kiln.TooLarge},
	"recursion":           {`{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}`, kiln.TooLarge},
	"recursion in parser": {`{{ ` + strings.Repeat("(", MaxSource-10) + ` }}`, kiln.TooLarge},
	"doubling":            {`{% set a="xxxxxxxxxxxxxxxx" %}` + strings.Repeat(`{% set a=a|add:a %}`, 40), kiln.TooLarge},
	"buffered output": {`{% filter upper %}` + strings.Replace(endless, "{% endfor %}",
		strings.Repeat("y", 1000)+"{% endfor %}", 1) + `{% endfilter %}`, kiln.TooLarge},
}

func TestHostile(t *testing.T) {
	for name, c := range hostile {
		t.Run(name, func(t *testing.T) {
			text, err := try(t.Context(), c.source)
			if kiln.KindOf(err) != c.kind || text != "" {
				t.Errorf("%.100q, %v", text, err)
			}
			if err != nil && (!strings.HasPrefix(err.Error(), "Failed to render template: ") || len(err.Error()) > 500) {
				t.Errorf("says %.500q", err)
			}
		})
	}
}

// TestTime bounds templates that do nothing for ever, and leaves no process.
func TestTime(t *testing.T) {
	before := children(t)
	short, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errTooLong)
	defer cancel()
	if _, err := try(short, endless); !errors.Is(err, kiln.Timeout) ||
		!strings.Contains(err.Error(), "takes longer than") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(100*time.Millisecond, cancel).Stop()
	if _, err := try(ctx, endless); kiln.KindOf(err) != kiln.Cancelled {
		t.Error(err)
	}
	if _, err := try(ctx, "x"); kiln.KindOf(err) != kiln.Cancelled {
		t.Errorf("cancelled before the start: %v", err)
	}
	if after := children(t); after != before {
		t.Errorf("processes: %q, and then %q", before, after)
	}
}

// children lists the processes that this one has started.
func children(t *testing.T) string {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // threads end
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

// TestNoLeak renders often, well and badly, and looks for files left open.
func TestNoLeak(t *testing.T) {
	w := newWorld(t)
	w.template("good.tpl", "x")
	w.template("bad.tpl", "{% if %}")
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := open()
	for range 5 {
		w.do(w.render("start", map[string]Entry{"/etc/x": {When: []string{"start"}, Template: "good.tpl"}}))
		if err := w.render("start", map[string]Entry{"/etc/x": {When: []string{"start"}, Template: "bad.tpl"},
			"/dir": {When: []string{"start"}, Template: "good.tpl"}}); err == nil {
			t.Error("no error")
		}
	}
	if after := open(); after > before {
		t.Errorf("%d files are open, and then %d", before, after)
	}
}

// TestServe speaks with the process without one: it goes on after a bad job.
func TestServe(t *testing.T) {
	var in, out bytes.Buffer
	jobs := json.NewEncoder(&in)
	for _, source := range []string{"one", "{% if %}", "{{ instance.name }}"} {
		if err := jobs.Encode(job{Source: []byte(source), Instance: guest}); err != nil {
			t.Fatal(err)
		}
	}
	if err := answer(&in, &out); err == nil {
		t.Error("the end of the jobs is no end")
	}
	results := json.NewDecoder(&out)
	for _, want := range []result{{Text: []byte("one")}, {Kind: kiln.Invalid}, {Text: []byte("c1")}} {
		var r result
		if err := results.Decode(&r); err != nil || !bytes.Equal(r.Text, want.Text) || r.Kind != want.Kind ||
			(r.Err == "") != (r.Kind == "") {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// FuzzRender has no template harm more than the process that runs it.
func FuzzRender(f *testing.F) {
	for _, source := range []string{
		`{% if trigger %}{{ container.name|upper }}{% endif %}{% for x in "ab" %}{{ forloop.Counter }}{% endfor %}`,
		`{{ config_get("user.foo", properties.default) }}`, `{% set a = 1 + 2 * 3 %}{% with b=a %}{{ b }}{% endwith %}`,
		`{% macro f(a) %}{{ a }}{% endmacro %}{{ f("x") }}`, `{% verbatim %}{{{% endverbatim %}{# c #}`, `{{ "x"|ljust:8 }}`,
	} {
		f.Add(source)
	}
	// One process for many templates, until one is its end.
	var p *process
	f.Cleanup(func() {
		if p != nil {
			p.Close()
		}
	})
	f.Fuzz(func(t *testing.T, source string) {
		if p == nil {
			var err error
			if p, err = start(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		timer := time.AfterFunc(maxTime, p.cancel)
		text, err := p.render(context.Background(), job{Source: []byte(source), Instance: guest})
		switch kind := kiln.KindOf(err); {
		case err == nil && len(text) > maxOutput:
			t.Errorf("it wrote %d bytes", len(text))
		case err != nil && kind != kiln.Invalid && kind != kiln.TooLarge:
			t.Errorf("%s: %v", kind, err)
		case kind == kiln.TooLarge, !timer.Stop():
			p.Close()
			p = nil
		}
	})
}

func BenchmarkRender(b *testing.B) {
	w := newWorld(b)
	w.template("x.tpl", "{{ container.name }}\n")
	entries := map[string]Entry{"/etc/hostname": {When: []string{"start"}, Template: "x.tpl"}}
	for b.Loop() {
		w.do(w.render("start", entries))
	}
}

// TestBounds looks at what the kernel lets the process of templates do.
func TestBounds(t *testing.T) {
	p, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.render(t.Context(), job{Source: []byte("x"), Instance: guest}); err != nil { // it is confined by then
		t.Fatal(err)
	}
	for what, most := range map[int]uint64{unix.RLIMIT_CPU: uint64(10 * maxTime / time.Second), unix.RLIMIT_CORE: 0,
		unix.RLIMIT_FSIZE: 0, unix.RLIMIT_AS: 16 << 30} {
		var lim unix.Rlimit
		if err := unix.Prlimit(p.cmd.Process.Pid, what, nil, &lim); err != nil || lim.Cur > most || lim.Max > most {
			t.Errorf("limit %d: %d, %d, want %d; %v", what, lim.Cur, lim.Max, most, err)
		}
	}
}
