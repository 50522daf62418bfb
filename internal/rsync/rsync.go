// Package rsync runs the program rsync for a copy of files between this server and another,
// at either end. What the other one sends is hostile, so the process sees nothing of the host
// but programs and the files that are copied, see confine.c: the sender is root of the
// instance, with no right but to read; the receiver is nobody, and keeps owners, types and
// attributes beside the files (--fake-super), for whoever checks them and makes a tree of it.
//
// The package doesn't know what carries the bytes, nor what the files are.
package rsync

import "C" // confine.c: its constructor runs in every binary that has this package

import (
	"bytes"
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
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
)

// Options are what both ends have to agree upon.
type Options struct{ Xattrs, Delete, Compress, Links bool }

// args are the arguments that the peers use for these; the protocol of rsync is understood
// by both ends only if they have the same.
func (o Options) args(first ...string) []string {
	a := append(first, "--devices", "--numeric-ids", "--partial", "--sparse")
	if o.Xattrs {
		a = append(a, "--xattrs", noSELinux)
	}
	if o.Delete {
		a = append(a, "--delete")
	}
	if o.Compress {
		a = append(a, "--compress", "--compress-level=2")
	}
	if o.Links {
		a = append(a, "--hard-links")
	}
	return a
}

// noSELinux is a filter that the peers have; noFake keeps what users say from being taken for
// what the receiver has written beside the files. What was written again in the second of a
// snapshot, with as many bytes, has changed.
const (
	noSELinux       = "--filter=-x security.selinux"
	noFake          = "--filter=-x user.rsync.*"
	toTheNanosecond = "--modify-window=-1"
)

// Find says where rsync is. The error is Unsupported.
func Find() (string, error) {
	path, err := exec.LookPath("rsync")
	if err != nil {
		return "", kiln.Errorf(kiln.Unsupported, "the program rsync isn't on this host, by which instances are copied from "+
			"and to LXD and Incus; install the package rsync")
	}
	return path, nil
}

// A Stream is the way to the other end. CloseWrite tells that all is sent; Read gives io.EOF
// when the other end has told that.
type Stream interface {
	io.ReadWriter
	CloseWrite() error
}

// Files are what is sent: a directory that has one called rootfs, and a mount for that, which
// isn't attached anywhere. IDs is the user namespace that maps the ids of both, of which the
// sender is root.
type Files struct{ Dir, Tree, IDs *os.File }

// toPeer is the remote shell of the sender: what it reads and writes is the other server's,
// by the descriptors FROM and TO of confine.c. It ends when the other server has said all.
const toPeer = `sh -c "exec 9<&0; cat <&9 >&8 & exec cat <&7 8>&- 9<&-"`

// Bounds are asked again and again while files are copied: an error ends the copy, and is its
// error.
type Bounds struct {
	// Room says whether there is room for more files; nil: there is.
	Room func() error
	// Memory counts what the processes take more than before, in bytes, or less: what the other
	// end says makes them take some hundred bytes for each file of a directory. nil: nobody does.
	Memory func(more int64) error
}

// Send sends files, and returns when the other end has them. temp is a directory for an
// empty one. Errors: Unsupported without rsync, Network, and the stream's.
func Send(ctx context.Context, s Stream, f Files, temp string, o Options, b Bounds) error {
	dir, err := private(f.Dir, f.IDs, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer dir.Close()
	p, err := newProcess(temp, "send", append(o.args("-ar"), "--blocking-io", "/files/", "peer:/files", "-e", toPeer)...)
	if err != nil {
		return err
	}
	in, out, err := p.pipes()
	if err != nil {
		return err
	}
	p.cmd.ExtraFiles = []*os.File{dir, f.Tree, f.IDs, nil, in, out}
	return p.run(ctx, s, b, in, out)
}

// private gives a directory as a mount that isn't attached anywhere.
func private(dir, ids *os.File, attr uint64) (*os.File, error) {
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("clone the mount of %s: %w", dir.Name(), err)
	}
	mount := os.NewFile(uintptr(fd), dir.Name())
	a := unix.MountAttr{Attr_set: attr | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if ids != nil {
		a.Attr_set |= unix.MOUNT_ATTR_IDMAP
		a.Userns_fd = uint64(ids.Fd())
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &a); err != nil {
		return nil, errors.Join(fmt.Errorf("change the mount of %s: %w", dir.Name(), err), mount.Close())
	}
	return mount, nil
}

// checkEvery is how often it is asked whether a copy may go on.
const checkEvery = 250 * time.Millisecond

// Receive takes files into a directory that belongs to Nobody; what is there is brought up to
// date. Errors: as of Send.
func Receive(ctx context.Context, s Stream, dir *os.File, temp string, o Options, b Bounds) error {
	mount, err := private(dir, nil, 0)
	if err != nil {
		return err
	}
	defer mount.Close()
	args := o.args("--server", "-logDtpre.iLsfx")
	p, err := newProcess(temp, "receive", append(args, "--fake-super", noFake, toTheNanosecond, ".", "/files/")...)
	if err != nil {
		return err
	}
	in, out, err := p.pipes()
	if err != nil {
		return err
	}
	p.cmd.Stdin, p.cmd.Stdout = in, out
	p.cmd.ExtraFiles = []*os.File{mount}
	return p.run(ctx, s, b, in, out)
}

// Nobody is who the receiver is.
const Nobody = 65534

// A process is rsync on its way.
type process struct {
	cmd      *exec.Cmd
	place    string
	stderr   clipped
	from, to *os.File // what it reads and writes, our ends
}

func newProcess(temp, how string, args ...string) (*process, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	place, err := os.MkdirTemp(temp, "new-")
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command("/proc/self/exe"), place: place}
	p.cmd.Args = append([]string{"kiln-rsync", place, how, path}, args...)
	p.cmd.Env = []string{}
	p.cmd.Dir = "/"
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	return p, nil
}

// pipes gives the ends of the process.
func (p *process) pipes() (in, out *os.File, err error) {
	in, p.to, err = os.Pipe()
	if err == nil {
		if p.from, out, err = os.Pipe(); err != nil {
			err = errors.Join(err, in.Close(), p.to.Close())
		}
	}
	if err != nil {
		err = errors.Join(err, os.Remove(p.place))
	}
	return in, out, err
}

// run runs the process between a stream and its ends.
func (p *process) run(ctx context.Context, s Stream, b Bounds, in, out *os.File) error {
	defer os.Remove(p.place)
	defer p.from.Close()
	defer p.to.Close()
	// The process ends with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	in.Close()
	out.Close()
	if err != nil {
		return fmt.Errorf("run rsync: %w", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })()
	looking.Go(func() {
		if err := b.keep(ctx, p.cmd.Process.Pid); err != nil {
			stop(err)
		}
	})
	came, sent := make(chan error, 1), make(chan error, 1)
	go func() {
		came <- receive(p.to, s)
	}()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{p.from}, make([]byte, 64<<10))
		if err != nil {
			stop(err)
		} else if err = s.CloseWrite(); err != nil {
			stop(err)
		}
		sent <- err
	}()
	werr := p.cmd.Wait()
	if code := p.cmd.ProcessState.ExitCode(); code == exitVanished {
		werr = nil
	}
	if werr != nil {
		// The other end is told nothing by an end of the stream that comes too early.
		werr = p.failed(ctx, werr)
		stop(werr)
	}
	return cmp.Or(werr, p.rest(ctx, sent), p.rest(ctx, came))
}

// keep asks whether a process and its children may go on, until ctx ends or they may not.
func (b Bounds) keep(ctx context.Context, pid int) error {
	var counted int64
	if b.Memory != nil {
		defer func() { _ = b.Memory(-counted) }() // of less there is no error
	}
	for ctx.Err() == nil {
		if b.Room != nil {
			if err := b.Room(); err != nil {
				return err
			}
		}
		if b.Memory != nil {
			more := memoryOf(pid, 0) - counted
			counted += more
			if err := b.Memory(more); err != nil {
				return err
			}
		}
		select {
		case <-time.After(checkEvery):
		case <-ctx.Done():
		}
	}
	return nil
}

// deepestChild is how far down children are counted: rsync has a child, and its shell one more.
const deepestChild = 4

// memoryOf gives the memory that a process and its children have for themselves, in bytes, as
// /proc says. What has ended has none.
func memoryOf(pid, above int) int64 {
	var sum int64
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kb); n == 1 {
			sum += kb << 10
		}
	}
	if above == deepestChild {
		return sum
	}
	b, _ = os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for word := range strings.FieldsSeq(string(b)) {
		if child, err := strconv.Atoi(word); err == nil {
			sum += memoryOf(child, above+1)
		}
	}
	return sum
}

// rest waits for the end of what one end sends.
func (p *process) rest(ctx context.Context, ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// exitVanished is the exit code for files that went while they were copied, of an instance
// that runs.
const exitVanished = 24

// receive hands on what comes, to its end, also when nobody needs the rest.
func receive(to *os.File, s Stream) error {
	buf := make([]byte, 64<<10)
	var gone bool
	for {
		n, err := s.Read(buf)
		if n > 0 && !gone {
			if _, werr := to.Write(buf[:n]); werr != nil {
				gone = true
			}
		}
		if errors.Is(err, io.EOF) {
			return to.Close()
		}
		if err != nil {
			_ = to.Close()
			return err
		}
	}
}

// failed says why rsync failed.
func (p *process) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	text := strings.TrimSpace(p.stderr.String())
	if strings.Contains(text, "No space left on device") {
		return kiln.Errorf(kiln.NoSpace, "no space left for the files: %s", text)
	}
	if text != "" {
		err = errors.New(text)
	}
	return kiln.Errorf(kiln.Network, "copy files with rsync: %w", err)
}

// clipped keeps the end of what a program says, where the reason is.
type clipped struct{ bytes.Buffer }

const maxStderr = 2048

// Write implements io.Writer.
func (c *clipped) Write(b []byte) (int, error) {
	c.Buffer.Write(b[max(0, len(b)-maxStderr):])
	if over := c.Len() - maxStderr; over > 0 {
		c.Next(over)
	}
	return len(b), nil
}
