package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/kiln-containers/kiln"
)

// Compressions are the names that Compress takes.
var Compressions = []string{"none", "gzip", "zstd", "xz", "bzip2", "lz4", "squashfs"}

// CheckCompression says whether Compress takes a name. It is never part of a
// command line. The error is Invalid.
func CheckCompression(name string) error {
	if !slices.Contains(Compressions, name) {
		return kiln.Errorf(kiln.Invalid, "Invalid compression algorithm %q: it is one of %s", name,
			strings.Join(Compressions, ", "))
	}
	return nil
}

// Compress gives a writer that writes to w what is written to it, compressed: the
// same bytes always become the same. "squashfs" takes a tar and needs a directory
// for a file as large as the result. Close finishes; w is not closed. A writer
// that is not closed is let go of by the end of ctx. Errors: Invalid, Unsupported
// when a program is missing.
func Compress(ctx context.Context, w io.Writer, name, dir string) (io.WriteCloser, error) {
	if err := CheckCompression(name); err != nil {
		return nil, err
	}
	switch name {
	case "gzip":
		return gzip.NewWriter(w), nil // without a name or a time
	case "zstd":
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(2))
	case "lz4":
		return lz4.NewWriter(w), nil
	case "xz":
		// +0: in blocks also when there is one processor, for the same bytes.
		return compressWith(ctx, w, nil, "xz-utils", "xz", "--compress", "--stdout", "--threads=+0")
	case "bzip2":
		return compressWith(ctx, w, nil, "bzip2", "bzip2", "--compress", "--stdout")
	case "squashfs":
		return squashfsWriter(ctx, w, dir)
	}
	return plain{w}, nil
}

// plain doesn't compress.
type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// program is one that compresses.
type program struct {
	io.WriteCloser
	cmd    *exec.Cmd
	stderr bytes.Buffer
	after  func() error // once the program has succeeded
	ctxErr func() error
}

// compressWith starts a program; pkg is where people find it.
func compressWith(ctx context.Context, w io.Writer, after func() error, pkg, name string,
	args ...string) (io.WriteCloser, error) {
	p := &program{cmd: exec.CommandContext(ctx, name, args...), after: after, ctxErr: ctx.Err}
	p.cmd.Stdout, p.cmd.Stderr = w, &p.stderr
	in, err := p.cmd.StdinPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, kiln.Errorf(kiln.Unsupported, "compress with %s: %w; install the package %s", name, err, pkg)
	}
	p.WriteCloser = in
	return p, nil
}

// Close waits for the program's end.
func (p *program) Close() error {
	err := errors.Join(p.WriteCloser.Close(), p.cmd.Wait(), p.ctxErr())
	if err != nil {
		return fmt.Errorf("%s: %w %s", filepath.Base(p.cmd.Path), err, strings.TrimSpace(p.stderr.String()))
	}
	if p.after != nil {
		return p.after()
	}
	return nil
}

// squashfsWriter makes a squashfs of a tar in a file, since its beginning is written
// last, and copies it then.
func squashfsWriter(ctx context.Context, w io.Writer, dir string) (io.WriteCloser, error) {
	temp, err := os.MkdirTemp(dir, "squashfs-")
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = os.RemoveAll(temp) })
	file := filepath.Join(temp, "image")
	copyOut := func() error {
		defer os.RemoveAll(temp)
		defer stop()
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
	z, err := compressWith(ctx, io.Discard, copyOut, "squashfs-tools-ng", "tar2sqfs", "--quiet", "--no-skip",
		"--compressor", "zstd", file)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(temp))
	}
	return z, nil
}
