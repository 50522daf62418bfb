package template

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// Bounds on what the templates of one trigger may take together.
const (
	maxTime   = 5 * time.Second
	maxMemory = 256 << 20 // bytes, on top of what the program has when it starts
	maxStack  = 32 << 20  // bytes
)

// processName is how the process that renders is called, and how it knows what
// it is for.
const processName = "kiln-template"

// init turns this program into the process that renders, when it was started as
// that. A function for main to call would be clearer, but every program with
// this package in it, tests too, would have to: one that forgot would start
// itself as it is, again and again.
func init() {
	if len(os.Args) == 1 && os.Args[0] == processName {
		err := confine()
		if err == nil {
			err = answer(os.Stdin, os.Stdout)
		}
		if !errors.Is(err, io.EOF) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// A process renders templates. Memory and stack that templates exhaust are its
// own; in the daemon they would be the end of everything.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.Closer
	jobs   *json.Encoder
	texts  *json.Decoder
	last   bytes.Buffer // what it says when it ends by itself
	cancel context.CancelFunc
}

// A result is what came of a job.
type result struct {
	Text []byte
	Kind kiln.Kind // of an error, "" if it succeeded
	Err  string
}

// errTooLong is why a context ends after maxTime.
var errTooLong = kiln.Errorf(kiln.Timeout, "Failed to render template: it takes longer than %v", maxTime)

// start runs this program once more, with an empty environment, until Close or
// the end of ctx.
func start(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{processName}
	cmd.Env = []string{"GOTRACEBACK=none"}
	cmd.Dir = "/"
	p := &process{cancel: cancel}
	cmd.Stderr = &p.last
	in, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		in.Close()
		defer cancel()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, kiln.Errorf(kiln.Internal, "start the process that renders templates: %w", err)
	}
	p.cmd, p.in, p.out, p.jobs, p.texts = cmd, in, out, json.NewEncoder(in), json.NewDecoder(out)
	return p, nil
}

// Close ends the process. It may be called again.
func (p *process) Close() {
	p.cancel()
	p.in.Close()
	p.out.Close()
	_ = p.cmd.Wait() // it was killed
}

// outOfMemory is how the runtimes of Go and of its race detector give up.
var outOfMemory = regexp.MustCompile(`out of memory|(cannot|failed to) allocate|address space|stack (overflow|exceeds)`)

// render gives what a template writes. ctx is that of start. Errors: Invalid,
// TooLarge, and why ctx ended.
func (p *process) render(ctx context.Context, j job) ([]byte, error) {
	var r result
	err := p.jobs.Encode(j)
	if err == nil {
		err = p.texts.Decode(&r)
	}
	switch {
	case err == nil && r.Kind == "":
		return r.Text, nil
	case err == nil:
		return nil, kiln.Errorf(r.Kind, "%s", r.Err)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	p.Close() // its output has ended, and so has the process
	if outOfMemory.Match(p.last.Bytes()) {
		return nil, kiln.Errorf(kiln.TooLarge, "Failed to render template: it takes more than %s of memory, or calls "+
			"itself without end", kiln.FormatSize(maxMemory))
	}
	return nil, kiln.Errorf(kiln.Internal, "the process that renders templates ended: %v: %.200q", p.cmd.ProcessState,
		p.last.String())
}

// answer renders one job after the other, until the error of reading the next.
func answer(in io.Reader, out io.Writer) error {
	jobs, results := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var j job
		if err := jobs.Decode(&j); err != nil {
			return err
		}
		text, err := execute(j)
		r := result{Text: []byte(text)}
		if err != nil {
			r = result{Kind: kiln.KindOf(err), Err: err.Error()}
		}
		if err := results.Encode(r); err != nil {
			return err
		}
	}
}

// confine bounds this process for good. The bound on the processors' time is for
// when nobody is left to end it, and well above what maxTime allows.
func confine() error {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	field, _, _ := strings.Cut(string(statm), " ")
	pages, err := strconv.ParseUint(field, 10, 64)
	if err != nil {
		return fmt.Errorf("read /proc/self/statm: %w", err)
	}
	debug.SetMaxStack(maxStack)
	seconds := uint64(10 * maxTime / time.Second)
	return errors.Join(
		setLimit(unix.RLIMIT_AS, pages*uint64(os.Getpagesize())+maxMemory),
		setLimit(unix.RLIMIT_CPU, seconds),
		setLimit(unix.RLIMIT_CORE, 0),
		setLimit(unix.RLIMIT_FSIZE, 0),
	)
}

func setLimit(what int, n uint64) error {
	return unix.Setrlimit(what, &unix.Rlimit{Cur: n, Max: n})
}
