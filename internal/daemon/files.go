package daemon

import (
	"context"
	"net"

	"github.com/kiln-containers/kiln/internal/files"
)

// InstanceFiles gives the files of an instance, as its root sees them, whether it runs or
// not. The caller closes them; they are of no use after ctx ends.
// Errors: NotFound, Conflict, Busy, Integrity.
func (d *Daemon) InstanceFiles(ctx context.Context, name string) (*files.Tree, error) {
	conn, err := d.instances.OpenFiles(ctx, name)
	if err != nil {
		return nil, err
	}
	return files.NewTree(ctx, conn)
}

// InstanceSFTP gives a connection that speaks SFTP about the files of an instance. The
// errors are those of InstanceFiles.
func (d *Daemon) InstanceSFTP(ctx context.Context, name string) (net.Conn, error) {
	return d.instances.OpenFiles(ctx, name)
}

// FileTransferred tells everybody that a file of an instance was "retrieved", "pushed" or
// "deleted".
func (d *Daemon) FileTransferred(ctx context.Context, name, path, what string) {
	d.tell(ctx, "instance-file-"+what, instanceURL(name), map[string]any{"path": path})
}
