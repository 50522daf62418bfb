package box

import (
	"errors"
	"io"
	"os"

	"github.com/kiln-containers/kiln/internal/disk"
)

// maxLog is how large liblxc's log becomes, in bytes. That of the console is bounded by
// its monitor.
const maxLog = 1 << 20

// boundLog moves what a full log has to the file of its older part. The monitor of
// a container that runs goes on writing to the same file, so it is copied.
func boundLog(path string) {
	clearWay(path)
	if fileSize(path) < maxLog {
		return
	}
	// Without room for the copy the older part is lost, and the host isn't filled up.
	_ = copyLog(path, path+".1")
	_ = os.Truncate(path, 0)
}

// clearWay removes what has the name of a log and makes liblxc, which writes it, wait for
// somebody at the other end: a named pipe, or a device.
func clearWay(path string) {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() && !fi.IsDir() {
		_ = os.Remove(path) // else the start tells
	}
}

func copyLog(from, to string) error {
	in, err := disk.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := disk.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, 2*maxLog))
	return errors.Join(err, out.Close())
}
