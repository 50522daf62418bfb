package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/kiln-containers/kiln"
)

// DeviceProgram is the name that this binary is run with for one device alone.
const DeviceProgram = "kiln-proxy"

// looksInside reports whether a device has a path in its instance. Who looks that up may wait
// in the kernel, where not even SIGKILL ends it, for a file system that the instance serves
// itself: such a device has a process of its own.
func (p Proxy) looksInside() bool {
	a := p.Connect
	if p.Inside {
		a = p.Listen
	}
	return a.Protocol == "unix" && a.Path[0] != '@'
}

// lookTime is how long the process of a device may take to listen. It is less than who
// waits for the device has.
const lookTime = openTime / 2

// word is what the process of a device says: once, when it listens or can't.
type word struct {
	Error string
	Busy  bool
}

// carryApart is carryHere in a process of its own, which has the rights of this one. gone is
// closed when that is gone, which may be when the container is.
func carryApart(ctx context.Context, p Proxy, listens func()) (gone <-chan struct{}, err error) {
	none := make(chan struct{})
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{DeviceProgram}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		close(none)
		return none, err
	}
	defer in.Close()
	out, tell, err := os.Pipe()
	if err != nil {
		close(none)
		return none, err
	}
	defer out.Close()
	cmd.Stdout = tell
	err = cmd.Start()
	tell.Close()
	if err != nil {
		close(none)
		return none, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // whatever it ends with, the next look begins another
		close(ended)
	}()
	defer func() { // it is asked to end, and then made to
		in.Close()
		select {
		case <-ended:
		case <-time.After(leaveTime):
			_ = cmd.Process.Kill()
		}
	}()
	if err := json.NewEncoder(in).Encode(p); err != nil {
		return ended, err
	}
	_ = out.SetReadDeadline(time.Now().Add(lookTime))
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var w word
	err = json.NewDecoder(out).Decode(&w)
	switch {
	case ctx.Err() != nil:
		return ended, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = cmd.Process.Kill()
		return ended, kiln.Errorf(kiln.Timeout, "the file system of the path in the instance did not answer within %v",
			lookTime)
	case err != nil:
		return ended, kiln.Errorf(kiln.Internal, "the process of the device died; see proxyd.log")
	case w.Busy:
		return ended, kiln.Errorf(kiln.Busy, "%s", w.Error)
	case w.Error != "":
		return ended, errors.New(w.Error)
	}
	listens()
	select {
	case <-ctx.Done():
	case <-ended:
	}
	return ended, nil
}

// DeviceMain is the process of one device. What it reads first is the proxy, and the end of
// that is its own.
func DeviceMain() error {
	syscall.Umask(0o177) // as of proxyd
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	in := json.NewDecoder(os.Stdin)
	var p Proxy
	if err := in.Decode(&p); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
		time.Sleep(leaveTime)
		os.Exit(1)
	}()
	say := func(w word) { _ = json.NewEncoder(os.Stdout).Encode(w) } // who doesn't hear it has gone
	if err := carryHere(ctx, p, func() { say(word{}) }); err != nil {
		say(word{Error: err.Error(), Busy: errors.Is(err, kiln.Busy)})
	}
	return nil
}
