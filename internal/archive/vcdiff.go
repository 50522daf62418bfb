package archive

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/kiln-containers/kiln"
)

// HasVCDIFF reports whether ApplyVCDIFF can work on this host.
func HasVCDIFF() bool {
	_, err := exec.LookPath("xdelta3")
	return err == nil
}

// ApplyVCDIFF makes a new version of the file base from a difference in the format
// of RFC 3284, while it is read. Whoever reads compares the result with a hash.
// The error is Unsupported where the program xdelta3 is missing.
func ApplyVCDIFF(ctx context.Context, base string, delta io.Reader) (io.ReadCloser, error) {
	f, err := os.Open(base)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := pipeThrough(ctx, mostMemory, delta, f, "xdelta3", "-d", "-c", "-s", inFile)
	if err != nil {
		return nil, kiln.Errorf(kiln.Unsupported, "apply a difference: %w; install the package xdelta3", err)
	}
	return readAhead(p, bufio.NewReader(strings.NewReader(""))), nil
}
