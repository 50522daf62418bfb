package box

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/thread"
)

// mountTime is how long a change of the mounts of a container may take: a path of its
// may lead through a file system that the container serves itself, and doesn't.
const mountTime = 10 * time.Second

// Attach mounts something in the container while it runs. The id names the mount until
// the container ends or reboots. Errors: NotFound and Unsupported for the source,
// Conflict when something in the container is in the way, or it doesn't run, Timeout.
func (b *Box) Attach(ctx context.Context, m Mount) (id uint64, err error) {
	t, err := m.open(ctx)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	answer, err := b.changeMounts(ctx, t.File, "attach", mountsDir, t.kind, m.Target)
	if err != nil {
		return 0, err // it says where
	}
	if _, err := fmt.Sscanf(answer, "mount %d", &id); err != nil {
		return 0, kiln.Errorf(kiln.Internal, "%s: the helper said %q", m.what(), answer)
	}
	return id, nil
}

// Detach unmounts what Attach or, with id 0, Start mounted for a name. One that the
// container has unmounted itself is as good. busy: processes of the container still have
// something of it open. tidy: what is left is an empty file that nobody needs, and goes.
// Errors: Conflict when something else is mounted over it, Timeout.
func (b *Box) Detach(ctx context.Context, name string, id uint64, tidy bool) (busy bool, err error) {
	number, below := -1, 0 // below: how many others came to the same place before
	for i, s := range b.state.Mounts {
		if s.Name == name {
			number = i
		}
	}
	if number >= 0 {
		for _, s := range b.state.Mounts[:number] {
			if s.Target == b.state.Mounts[number].Target {
				below++
			}
		}
	}
	var path string
	started := id == 0 && number >= 0
	err = eachMount(fmt.Sprintf("/proc/%d/mountinfo", b.InitPID()), func(m mountLine) bool {
		at := started && m.point == b.state.Mounts[number].Target
		if at && below > 0 {
			below--
			return true
		}
		if at || id != 0 && m.id == id {
			id, path = m.id, m.point
		}
		return path == ""
	})
	if err != nil {
		return false, kiln.Errorf(kiln.Conflict, "%s: the container ended or rebooted meanwhile", name)
	}
	if number >= 0 {
		if err := b.unstage(number); err != nil {
			return false, fmt.Errorf("%s: take it from the next start: %w", name, err)
		}
	}
	if path == "" {
		return false, nil
	}
	left := "0"
	if tidy {
		left = "1"
	}
	answer, err := b.changeMounts(ctx, nil, "detach", strconv.FormatUint(id, 10), path, left)
	if err != nil {
		return false, kiln.Errorf(kiln.KindOf(err), "%s: %w", name, err)
	}
	return answer == "busy", nil
}

// unstage unmounts what the monitor would mount again after a reboot.
func (b *Box) unstage(number int) error {
	b.mu.Lock()
	if b.monitor == nil {
		b.mu.Unlock()
		return nil
	}
	m, err := b.monitor.dup()
	b.mu.Unlock()
	if err != nil {
		return err
	}
	defer m.Close()
	return thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(m.fd, unix.CLONE_NEWNS); err != nil {
			return err
		}
		err := unix.Unmount(filepath.Join(mountsDir, strconv.Itoa(number)), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) {
			return nil // it isn't mounted any more
		}
		return err
	})
}

// changeMounts has kiln-mount do something in the container, and gives its answer.
func (b *Box) changeMounts(ctx context.Context, t *os.File, what string, words ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, mountTime, kiln.Errorf(kiln.Timeout, "the container's file systems "+
		"didn't answer within %v", mountTime))
	defer cancel()
	init, mapped, err := b.InitProcess()
	if err != nil {
		return "", err
	}
	defer init.Close()
	files := []*os.File{init}
	if t != nil {
		files = append(files, t)
	}
	ids := "0"
	if mapped {
		ids = "1"
	}
	h, err := runHelper(ctx, "kiln-mount", nil, files, append([]string{what, ids}, words...)...)
	if err != nil {
		return "", err
	}
	answer, err := h.line(ctx)
	if ctx.Err() != nil {
		go h.Close() // it may wait in the kernel for the container
		return "", err
	}
	if err := errors.Join(err, h.Close()); err != nil {
		return "", err
	}
	text, failed := strings.CutPrefix(answer, "error ")
	if !failed {
		return answer, nil
	}
	number, text, _ := strings.Cut(text, " ")
	code, _ := strconv.Atoi(number)
	return "", kiln.Errorf(mountKind(unix.Errno(code)), "%s", text)
}

// mountKind is the kind of an error of the kernel that kiln-mount met.
func mountKind(code unix.Errno) kiln.Kind {
	switch {
	case code == unix.ESRCH, code == unix.EBUSY, code == unix.ENOTDIR, code == unix.EISDIR, code == unix.ELOOP,
		code == unix.EROFS, errors.Is(code, fs.ErrNotExist),
		errors.Is(code, fs.ErrPermission):
		return kiln.Conflict
	case code == unix.ENOSPC, code == unix.EDQUOT:
		return kiln.NoSpace
	case code == unix.ENAMETOOLONG:
		return kiln.Invalid
	}
	return kiln.Internal
}
