package disk

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// written is no later than any time at which this program can run.
var written = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// ClockSet reports whether a time can be what a clock said that was set: many a host starts
// with one in 1970, until it has asked a server. How long ago something was that has another
// time isn't known.
func ClockSet(t time.Time) bool { return !t.Before(written) }

// LongAgo reports whether something was longer ago than a while. Whether it was at a time
// when the clock wasn't set isn't known: unknown asks for it to get the time that is now.
func LongAgo(t time.Time, while time.Duration) (long, unknown bool) {
	if now := time.Now(); ClockSet(now) {
		return ClockSet(t) && now.Sub(t) > while, !ClockSet(t)
	}
	return false, false
}

// Stale reports whether a file was changed longer ago than a while. The while begins now for
// one that was at a time when the clock wasn't set. One that isn't there isn't stale.
func Stale(path string, while time.Duration) (bool, error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	long, unknown := LongAgo(fi.ModTime(), while)
	if !unknown {
		return long, nil
	}
	now := time.Now()
	return false, os.Chtimes(path, now, now)
}
