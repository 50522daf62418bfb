package archive

import (
	"context"
	"errors"
	"io"
	"os"
)

// Pack writes a directory as a tar stream, as Packer does.
func Pack(ctx context.Context, dir string, w io.Writer) error {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	p := NewPacker(w)
	return errors.Join(p.AddTree(ctx, root, "."), p.Close())
}
