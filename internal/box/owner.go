package box

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// A fileID tells a file from others, by whatever name, until the host goes down: a copy
// has another one, what was moved has the same.
type fileID struct{ Device, Inode uint64 }

// idOf identifies a file; the zero value when there is none.
func idOf(path string) fileID {
	fi, err := os.Stat(path)
	if err != nil {
		return fileID{}
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{st.Dev, st.Ino}
}

// foreign reports whether the container that a box's directory seems to be of runs from
// another one, of which this is a copy: by its record or, without, by the log that its
// monitor writes.
func foreign(dir string, record []byte) bool {
	var s state
	if json.Unmarshal(record, &s) == nil && s.ID != "" {
		return s.Dir != fileID{} && s.Dir != idOf(dir)
	}
	monitors := members(monitorCgroup, filepath.Base(dir))
	for _, pid := range monitors {
		fds := "/proc/" + strconv.Itoa(pid) + "/fd"
		entries, err := os.ReadDir(fds)
		if err != nil {
			continue
		}
		for _, e := range entries {
			for _, log := range []string{consoleFile, logFile} {
				if id := idOf(filepath.Join(fds, e.Name())); id == idOf(filepath.Join(dir, log)) && id != (fileID{}) {
					return false
				}
			}
		}
	}
	return len(monitors) > 0
}
