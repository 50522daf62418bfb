package files

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// handlers answer the questions of SFTP. They run in the helper.
type handlers struct{ *work }

// A file is one that is open. It says when it is being read or written.
type file struct {
	*os.File
	w      *work
	append bool
}

// ReadAt implements io.ReaderAt.
func (f file) ReadAt(b []byte, off int64) (int, error) {
	defer f.w.begin("read " + f.Name())()
	return f.File.ReadAt(b, off)
}

// WriteAt implements io.WriterAt.
func (f file) WriteAt(b []byte, off int64) (int, error) {
	defer f.w.begin("write " + f.Name())()
	if f.append {
		return f.File.Write(b)
	}
	return f.File.WriteAt(b, off)
}

// Fileread implements sftp.FileReader.
func (h handlers) Fileread(r *sftp.Request) (io.ReaderAt, error) { return h.OpenFile(r) }

// Filewrite implements sftp.FileWriter.
func (h handlers) Filewrite(r *sftp.Request) (io.WriterAt, error) { return h.OpenFile(r) }

// What is new has these modes until the client sets others: the library doesn't tell
// which ones it would like to begin with.
const (
	newFileMode = 0o644
	newDirMode  = 0o755
)

// OpenFile implements sftp.OpenFileWriter. It opens files only: a device or a named pipe
// has no end, and the other end of it may never come.
func (h handlers) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) {
	defer h.begin("open " + r.Filepath)()
	want := r.Pflags()
	flags := unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	switch {
	case want.Read && want.Write:
		flags |= unix.O_RDWR
	case want.Write, want.Append:
		flags |= unix.O_WRONLY
	}
	if want.Creat {
		flags |= unix.O_CREAT
	}
	if want.Creat && want.Excl {
		flags |= unix.O_EXCL
	}
	if want.Append {
		flags |= unix.O_APPEND
	}
	fd, err := openFile(r.Filepath, flags, newFileMode)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), r.Filepath)
	if want.Trunc && (want.Write || want.Append) {
		err = f.Truncate(0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file{f, h.work, want.Append}, nil
}

// openFile opens what is a file. Nothing of it has changed if it is something else.
func openFile(path string, flags int, mode uint32) (fd int, err error) {
	for {
		if fd, err = unix.Open(path, flags, mode); err != unix.EINTR {
			break
		}
	}
	var st unix.Stat_t
	if err != nil {
		// The kernel doesn't even open a device that the container may not use.
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return -1, errSpecial
		}
		return -1, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return fd, nil
	case unix.S_IFDIR:
		return -1, errors.Join(unix.EISDIR, unix.Close(fd))
	}
	return -1, errors.Join(errSpecial, unix.Close(fd))
}

var errSpecial = errors.New("it is a device, a pipe or a socket, which has no content to transfer")

// Filecmd implements sftp.FileCmder.
func (h handlers) Filecmd(r *sftp.Request) error {
	defer h.begin(r.Method + " " + r.Filepath)()
	switch r.Method {
	case "Setstat":
		return setstat(r)
	case "Rename":
		return unix.Renameat2(unix.AT_FDCWD, r.Filepath, unix.AT_FDCWD, r.Target, unix.RENAME_NOREPLACE)
	case "Rmdir":
		return unix.Rmdir(r.Filepath)
	case "Remove":
		return unix.Unlink(r.Filepath)
	case "Mkdir":
		return unix.Mkdir(r.Filepath, newDirMode)
	case "Link":
		return unix.Link(r.Filepath, r.Target)
	case "Symlink":
		return unix.Symlink(r.Filepath, r.Target)
	}
	return sftp.ErrSSHFxOpUnsupported
}

// setstat sets what it is told to. The owner comes first: setting that takes bits of the
// mode away.
func setstat(r *sftp.Request) error {
	want, a := r.AttrFlags(), r.Attributes()
	if a == nil {
		return unix.EBADMSG
	}
	if want.Size {
		// Of files only: others wait for somebody at their other end.
		fd, err := openFile(r.Filepath, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Ftruncate(fd, int64(a.Size))
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	if want.UidGid {
		if err := unix.Chown(r.Filepath, int(a.UID), int(a.GID)); err != nil {
			return err
		}
	}
	if want.Permissions {
		if err := unix.Chmod(r.Filepath, a.Mode&0o7777); err != nil {
			return err
		}
	}
	if want.Acmodtime {
		return os.Chtimes(r.Filepath, time.Unix(int64(a.Atime), 0), time.Unix(int64(a.Mtime), 0))
	}
	return nil
}

// PosixRename implements sftp.PosixRenameFileCmder: it replaces what is there.
func (h handlers) PosixRename(r *sftp.Request) error {
	defer h.begin("rename " + r.Filepath)()
	return unix.Rename(r.Filepath, r.Target)
}

// StatVFS implements sftp.StatVFSFileCmder.
func (h handlers) StatVFS(r *sftp.Request) (*sftp.StatVFS, error) {
	defer h.begin("statfs " + r.Filepath)()
	var st unix.Statfs_t
	if err := unix.Statfs(r.Filepath, &st); err != nil {
		return nil, err
	}
	return &sftp.StatVFS{Bsize: uint64(st.Bsize), Frsize: uint64(st.Frsize), Blocks: st.Blocks, Bfree: st.Bfree,
		Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree, Favail: st.Ffree, Flag: uint64(st.Flags),
		Namemax: uint64(st.Namelen)}, nil
}

// Filelist implements sftp.FileLister.
func (h handlers) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	defer h.begin(r.Method + " " + r.Filepath)()
	if r.Method == "Stat" {
		fi, err := os.Stat(r.Filepath)
		return one{fi}, err
	}
	flags := unix.O_DIRECTORY | unix.O_NONBLOCK
	d, err := os.OpenFile(r.Filepath, os.O_RDONLY|flags, 0)
	if err != nil {
		return nil, err
	}
	return &directory{dir: d, w: h.work}, nil
}

// Lstat implements sftp.LstatFileLister.
func (h handlers) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	defer h.begin("stat " + r.Filepath)()
	fi, err := os.Lstat(r.Filepath)
	return one{fi}, err
}

// Readlink implements sftp.ReadlinkFileLister.
func (h handlers) Readlink(path string) (string, error) {
	defer h.begin("readlink " + path)()
	return os.Readlink(path)
}

// one is a list of one file.
type one struct{ fi fs.FileInfo }

// ListAt implements sftp.ListerAt.
func (o one) ListAt(list []fs.FileInfo, _ int64) (int, error) {
	list[0] = o.fi
	return 1, io.EOF
}

// directory is one that is read piece by piece: it may be larger than memory.
type directory struct {
	w *work

	mu  sync.Mutex
	dir *os.File
}

// ListAt implements sftp.ListerAt. The library asks for one piece after the other.
func (d *directory) ListAt(list []fs.FileInfo, _ int64) (int, error) {
	defer d.w.begin("list " + d.dir.Name())()
	d.mu.Lock()
	defer d.mu.Unlock()
	found, err := d.dir.Readdir(len(list))
	return copy(list, found), err
}

// Close implements io.Closer.
func (d *directory) Close() error { return d.dir.Close() }
