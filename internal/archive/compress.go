package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/kiln-containers/kiln"
)

// Compress gives a writer that writes to w what is written to it, compressed: the
// same bytes always become the same. "squashfs" takes a tar and needs a directory
// for a file as large as the result. Close finishes; w is not closed. A writer
// that is not closed is let go of by the end of ctx. The error is Unsupported when a
// program is missing.
func Compress(ctx context.Context, w io.Writer, c Compression, dir string) (io.WriteCloser, error) {
	switch c.Name {
	case "gzip":
		if c.RSyncable {
			return compressWith(ctx, w, nil, nil, "gzip", "gzip", "--stdout", "--no-name", "--rsyncable", c.levelOr(6))
		}
		level := gzip.DefaultCompression
		if c.Level != 0 {
			level = c.Level
		}
		return gzip.NewWriterLevel(w, level) // without a name or a time
	case "zstd":
		level := zstd.SpeedDefault
		if c.Level != 0 {
			level = zstd.EncoderLevelFromZstd(c.Level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(level))
	case "lz4":
		z := lz4.NewWriter(w)
		if c.Level > 1 {
			return z, z.Apply(lz4.CompressionLevelOption(lz4.CompressionLevel(1 << (8 + c.Level - 1))))
		}
		return z, nil
	case "xz":
		args := []string{"--compress", "--stdout", c.levelOr(6), c.xzThreads()}
		if c.Extreme {
			args = append(args, "--extreme")
		}
		return compressWith(ctx, w, nil, nil, "xz-utils", "xz", args...)
	case "bzip2":
		return compressWith(ctx, w, nil, nil, "bzip2", "bzip2", "--compress", "--stdout", c.levelOr(9))
	case "squashfs":
		return squashfsWriter(ctx, w, cmp.Or(c.Compressor, "zstd"), dir)
	}
	return plain{w}, nil
}

func (c Compression) levelOr(usual int) string {
	return fmt.Sprintf("-%d", max(cmp.Or(c.Level, usual), 0))
}

// xzThreads has xz compress in blocks on as many processors as it has memory for:
// each takes some 18 times the dictionary. The blocks are the same with any number,
// thanks to the "+" also with one.
func (c Compression) xzThreads() string {
	dictionary := []int{1, 1, 2, 4, 4, 8, 8, 16, 32, 64}[max(cmp.Or(c.Level, 6), 0)] // MiB
	return fmt.Sprintf("--threads=+%d", max(1, min(runtime.NumCPU(), compressMemory>>10/2/(18*dictionary))))
}

// compressMemory is what a program that compresses may have, in KiB.
const compressMemory = 4 << 20

// plain doesn't compress.
type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// program is one that compresses.
type program struct {
	io.WriteCloser
	name   string
	cmd    *exec.Cmd
	stderr clipped
	after  func() error // once the program has succeeded
	ctxErr func() error
}

// compressWith starts a program as nobody, with bounded memory; pkg is where people
// find it. file is what it may write besides, as inFile; it may be nil.
func compressWith(ctx context.Context, w io.Writer, file *os.File, after func() error, pkg, name string,
	args ...string) (io.WriteCloser, error) {
	p := &program{after: after, ctxErr: ctx.Err, name: name}
	var err error
	var in io.WriteCloser
	l := limits{compressMemory, "0"}
	if file != nil {
		l.file = "unlimited"
	}
	if p.cmd, err = confined(ctx, l, file, name, args...); err == nil {
		p.cmd.Stdout, p.cmd.Stderr = w, &p.stderr
		in, err = p.cmd.StdinPipe()
	}
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
		return fmt.Errorf("%s: %w %s", p.name, err, strings.TrimSpace(p.stderr.String()))
	}
	if p.after != nil {
		return p.after()
	}
	return nil
}

// squashfsWriter makes a squashfs of a tar in a file, since its beginning is written
// last, and copies it then.
func squashfsWriter(ctx context.Context, w io.Writer, compressor, dir string) (io.WriteCloser, error) {
	f, err := os.CreateTemp(dir, "squashfs-")
	if err != nil {
		return nil, err
	}
	drop := func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }
	stop := context.AfterFunc(ctx, func() { _ = os.Remove(f.Name()) })
	copyOut := func() error {
		defer f.Close()
		defer os.Remove(f.Name())
		defer stop()
		_, err := io.Copy(w, f)
		return err
	}
	if os.Geteuid() == 0 {
		err = f.Chown(nobody, nobody) // who opens it again
	}
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	z, err := compressWith(ctx, io.Discard, f, copyOut, "squashfs-tools-ng", "tar2sqfs", "--quiet", "--no-skip", "--force",
		"--num-jobs", strconv.Itoa(min(runtime.NumCPU(), 8)), "--compressor", compressor, inFile)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	return z, nil
}

// CloseAfter closes a compressor that didn't get all of a tar, because of err, and gives
// the cause: that what it got isn't whole is none, unless it ended before.
func CloseAfter(err error, z io.Closer) error {
	if cerr := z.Close(); cerr != nil && errors.Is(err, syscall.EPIPE) {
		return cerr
	}
	return err
}
