package files

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// What a helper says on its control socket, besides errors.
const (
	wordReady   = "ready"
	wordStalled = "stalled "
)

// controlFD is the helper's control socket.
const controlFD = 3

// init makes the helper of whatever binary was started as one, also of a test's. The
// constructor in enter.c was here before.
func init() {
	if os.Args[0] == helperName {
		os.Exit(serve(os.Args[3]))
	}
}

// serve serves each connection that comes over the control socket, until that ends.
func serve(stall string) int {
	most, err := time.ParseDuration(stall)
	if err != nil {
		return say("error %v", err)
	}
	w := &work{most: most, running: map[int]task{}}
	go w.watch()
	if say(wordReady) != 0 {
		return 1
	}
	for {
		f, err := accept()
		if err != nil || f == nil {
			return 0 // whoever started it is gone
		}
		go func() {
			h := handlers{w}
			s := sftp.NewRequestServer(f, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h},
				sftp.WithRSMaxTxPacket(packet))
			_ = s.Serve() // its end is the client's
			_ = f.Close()
		}()
	}
}

// packet is the most bytes of a file in one message.
const packet = 128 << 10

// say sends a word and gives the exit code that says whether that went well.
func say(format string, args ...any) int {
	if _, err := unix.Write(controlFD, fmt.Appendf(nil, format, args...)); err != nil {
		return 1
	}
	return 0
}

// accept receives a connection; nil at the end.
func accept() (*os.File, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(controlFD, b[:], oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil, n == 0:
			return nil, err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			return nil, err
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return nil, err
		}
		if err := unix.SetNonblock(fds[0], true); err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fds[0]), "connection"), nil
	}
}

// work is what the helper is doing: it is ended with a word if the kernel doesn't come
// back from a call. Time is counted in ticks, which don't go on while the process is
// stopped.
type work struct {
	most time.Duration

	mu      sync.Mutex
	running map[int]task
	next    int
	ticks   int
}

type task struct {
	what  string
	since int
}

// stallTicks is how many ticks are as long as a call may take.
const stallTicks = 4

// begin says that a call begins. The caller says when it is over.
func (w *work) begin(what string) (over func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	n := w.next
	w.running[n] = task{what, w.ticks}
	return func() {
		w.mu.Lock()
		delete(w.running, n)
		w.mu.Unlock()
	}
}

// watch ends the process when a call takes too long.
func (w *work) watch() {
	for {
		time.Sleep(w.most / stallTicks)
		w.mu.Lock()
		w.ticks++
		for _, t := range w.running {
			if w.ticks-t.since > stallTicks {
				_ = say("%s%.512s", wordStalled, t.what)
				os.Exit(1)
			}
		}
		w.mu.Unlock()
	}
}
