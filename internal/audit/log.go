package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kiln-containers/kiln/internal/disk"
)

// Options say how a record is kept.
type Options struct {
	Size  int64 // most bytes of a file; 0: 16 MiB
	Files int   // how many there are at most; 0: 8

	Tell func(Event) // hears of each event that is written, or would be; it may not block
	// Failed hears why events can't be written, again each minute, and nil once they can.
	Failed func(error)
}

const (
	defaultSize  = 16 << 20
	defaultFiles = 8
)

// mostQueued bounds the events that wait for the disk: more are counted, and lost.
const mostQueued = 4096

// syncTime is how long what is written may be lost in a crash of the host, and toldTime how
// often a failure is told.
const (
	syncTime = time.Second
	toldTime = time.Minute
)

// closeTime is how long the end of a Log waits for a disk that doesn't answer.
const closeTime = 3 * time.Second

// Name is what the newest file of a record is called in its directory. The older ones are
// audit.1.jsonl and so on.
const Name = "audit.jsonl"

// lostAction is that of an event which says how many others couldn't be written.
const lostAction = "events-lost"

// Actions are those that say something of the record itself.
func Actions() []string { return []string{leftOut, lostAction} }

// A Log is a record on its disk: files of JSON, a line for each event, of which the oldest
// go. What is in the way of writing never concerns who adds an event.
type Log struct {
	dir  string
	o    Options
	wake chan struct{} // has one in it if there is something to do
	done chan struct{}

	mu     sync.Mutex
	queue  []Event
	lost   int // events that aren't in the files, since the last line that says so
	bounds bounds
	timer  *time.Timer // closes the minute in which something was left out; nil: nothing was
	closed bool

	// Of the one that writes.
	file    *os.File // nil: none is open
	size    int64    // of it, in whole lines
	dirty   bool     // it has something that may not be on the disk
	failing bool
	told    time.Time
}

// Open goes on with the record in a directory, or begins one.
func Open(dir string, o Options) *Log {
	if o.Size == 0 {
		o.Size = defaultSize
	}
	if o.Files == 0 {
		o.Files = defaultFiles
	}
	l := &Log{dir: dir, o: o, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go l.run()
	return l
}

// Add adds an event, whose time is now. It waits for nothing.
func (l *Log) Add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	e.Time = time.Now().UTC()
	e = bounded(e)
	if l.bounds.over(e.Time) {
		l.endMinute(e.Time)
	}
	if l.bounds.allow(e) {
		l.add(e)
		return
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(l.bounds.began.Add(window).Sub(e.Time), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if now := time.Now().UTC(); l.bounds.over(now) && !l.closed {
				l.endMinute(now)
			}
		})
	}
}

// endMinute adds what was left out of the last minute. The lock is held.
func (l *Log) endMinute(now time.Time) {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	for _, e := range l.bounds.take(now) {
		l.add(e)
	}
}

// add queues an event. The lock is held.
func (l *Log) add(e Event) {
	if l.o.Tell != nil {
		l.o.Tell(e)
	}
	if len(l.queue) >= mostQueued {
		l.lost++
		return
	}
	l.queue = append(l.queue, e)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Close writes what is left, if the disk takes it.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.endMinute(time.Now().UTC())
		l.closed = true
		close(l.wake)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
		return nil
	case <-time.After(closeTime):
		return fmt.Errorf("%s: the disk didn't answer in time", l.dir)
	}
}

// run writes what is added, until the end.
func (l *Log) run() {
	defer close(l.done)
	var due <-chan time.Time // of what was written first since the last sync
	for open := true; open; {
		select {
		case _, open = <-l.wake:
			if l.writeQueued(); l.dirty && due == nil {
				due = time.After(syncTime)
			}
		case <-due:
			due = nil
			l.outcome(l.sync())
		}
	}
	l.outcome(l.sync())
	l.closeFile()
}

// writeQueued writes what there is, and, if something couldn't be written before, that.
func (l *Log) writeQueued() {
	l.mu.Lock()
	events, lost := l.queue, l.lost
	l.queue, l.lost = nil, 0
	l.mu.Unlock()
	if lost > 0 {
		events = append([]Event{{Time: time.Now().UTC(), Action: lostAction, Result: Failed,
			Context: map[string]any{"count": lost}}}, events...)
	}
	if len(events) == 0 {
		return
	}
	n, err := l.write(events)
	missed := len(events) - n
	if lost > 0 && n == 0 { // nor was it said how many were lost before
		missed += lost - 1
	}
	l.mu.Lock()
	l.lost += missed
	l.mu.Unlock()
	l.outcome(err)
}

// write writes events, and tells how many of them are in the files.
func (l *Log) write(events []Event) (n int, err error) {
	if err := l.ready(); err != nil {
		return 0, err
	}
	var lines bytes.Buffer
	in := 0 // lines
	flush := func() error {
		if _, err := l.file.Write(lines.Bytes()); err != nil {
			// No half of a line stays for the next one to go on with.
			return errors.Join(err, l.file.Truncate(l.size))
		}
		l.size += int64(lines.Len())
		n += in
		in, l.dirty = 0, true
		lines.Reset()
		return nil
	}
	for _, e := range events {
		b, err := json.Marshal(e)
		if err != nil {
			return n, err // values of the wire only
		}
		if have := l.size + int64(lines.Len()); have > 0 && have+int64(len(b))+1 > l.o.Size {
			if err := errors.Join(flush(), l.rotate()); err != nil {
				return n, err
			}
		}
		lines.Write(append(b, '\n'))
		in++
	}
	return n, flush()
}

func (l *Log) path(n int) string {
	if n == 0 {
		return filepath.Join(l.dir, Name)
	}
	return filepath.Join(l.dir, fmt.Sprintf("audit.%d.jsonl", n))
}

// ready has the newest file open: another one if somebody took that away.
func (l *Log) ready() error {
	if l.file != nil {
		fi, err := os.Lstat(l.path(0))
		if mine, merr := l.file.Stat(); err == nil && merr == nil && os.SameFile(fi, mine) {
			return nil
		}
		l.outcome(l.sync())
		l.closeFile()
	}
	if err := disk.OwnDir(l.dir, 0o700); err != nil {
		return err
	}
	f, err := disk.OpenFile(l.path(0), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.size, err = f.Seek(0, io.SeekEnd)
	if err = errors.Join(err, f.Chmod(0o600), disk.SyncDir(l.dir)); err == nil && l.size > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, l.size-1); err == nil && last[0] != '\n' { // the host crashed
			_, err = f.Write([]byte{'\n'})
			l.size++
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file = f
	return nil
}

// rotate begins a new file; the oldest goes.
func (l *Log) rotate() error {
	if err := l.sync(); err != nil {
		return err
	}
	for n := l.o.Files - 1; n > 0; n-- {
		if err := os.Rename(l.path(n-1), l.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if l.o.Files == 1 {
		if err := os.Remove(l.path(0)); err != nil {
			return err
		}
	}
	return l.ready() // which finds it gone
}

func (l *Log) sync() error {
	if l.file == nil || !l.dirty {
		return nil
	}
	l.dirty = false
	return disk.Sync(l.file)
}

func (l *Log) closeFile() {
	if l.file != nil {
		_ = l.file.Close() // it was synced, or that it couldn't be was told
		l.file = nil
	}
}

// outcome tells what is in the way of writing, or that nothing is any more.
func (l *Log) outcome(err error) {
	switch now := time.Now(); {
	case err == nil && l.failing:
		l.failing = false
	case err != nil && (!l.failing || now.Sub(l.told) >= toldTime):
		l.failing, l.told = true, now
	default:
		return
	}
	if l.o.Failed != nil {
		l.o.Failed(err)
	}
}
