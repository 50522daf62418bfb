package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// lines reads the events of a file, all of which are whole.
func lines(t *testing.T, path string) (list []Event) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		t.Errorf("%s ends in the middle of a line: %q", path, b[max(0, len(b)-100):])
	}
	for line := range bytes.Lines(b) {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Errorf("%s: %v: %q", path, err, line)
		}
		list = append(list, e)
	}
	return list
}

func end(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestLog adds events to a record, ends it, and goes on with it after a crash of the host that
// left half a line.
func TestLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := Open(dir, Options{})
	uid := uint32(1000)
	l.Add(Event{Action: "a", Result: OK, Reason: "with \x1b[1m\nanother line",
		Who: &Who{Method: Unix, Name: "root", UID: &uid, Trusted: true}, Context: map[string]any{"path": "/x"}})
	end(t, l)
	l.Add(Event{Action: "too late"})
	path := filepath.Join(dir, Name)
	for p, mode := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		if fi, err := os.Stat(p); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", p, fi.Mode(), err)
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"action":"ha`)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		t.Fatal(err)
	}
	l = Open(dir, Options{})
	l.Add(Event{Action: "b"})
	end(t, l)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`"action":"a"`, `{"action":"ha`, `"action":"b"`}
	got := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	for i, w := range want {
		if len(got) != len(want) || !strings.Contains(got[i], w) {
			t.Fatalf("%q", got)
		}
	}
	var e Event
	if err := json.Unmarshal([]byte(got[0]), &e); err != nil || e.Who.Name != "root" || *e.Who.UID != 1000 ||
		e.Context["path"] != "/x" || time.Since(e.Time) > time.Hour {
		t.Errorf("%+v %v", e, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi.Mode(), err)
	}
}

// TestSync has events come without a pause: what is older than a second is on the disk all the
// same, also of a record that somebody has moved away, and all of it once the record is closed.
func TestSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), Name)
		synced := 0
		defer disk.Record(func(s disk.Step) {
			if s.Kind == disk.SyncedFile && s.Path == path {
				synced++
			}
		})()
		l := Open(filepath.Dir(path), Options{})
		for range 40 {
			l.Add(Event{Action: "a", Result: OK})
			time.Sleep(syncTime / 4)
		}
		synctest.Wait()
		if synced < 7 || synced > 11 {
			t.Errorf("synced %d times in 10 seconds", synced)
		}
		time.Sleep(2 * syncTime)
		synctest.Wait()
		before := synced
		l.Add(Event{Action: "b", Result: OK})
		synctest.Wait()
		if err := os.Rename(path, path+".moved"); err != nil {
			t.Fatal(err)
		}
		l.Add(Event{Action: "c", Result: OK})
		synctest.Wait()
		if synced != before+1 {
			t.Errorf("what was moved away was synced %d times", synced-before)
		}
		if got := lines(t, path); len(got) != 1 || got[0].Action != "c" {
			t.Errorf("the new record has %v", got)
		}
		end(t, l)
		if synced != before+2 {
			t.Errorf("synced %d times in the end", synced-before-1)
		}
	})
}

// TestRotation: files have a bound, and so has their number. What is there is the newest, in
// order; a file that somebody took away is begun anew.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	l := Open(dir, Options{Size: 2000, Files: 3})
	for n := range 200 {
		l.Add(Event{Action: fmt.Sprint("n", n)})
	}
	end(t, l)
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	next := 199
	for n := range 3 {
		path := l.path(n)
		if fi, err := os.Stat(path); err != nil || fi.Size() > 2000 || n > 0 && fi.Size() < 1800 {
			t.Errorf("%s: %d bytes, %v", path, fi.Size(), err)
		}
		list := lines(t, path)
		for i := range list {
			if e := list[len(list)-1-i]; e.Action != fmt.Sprint("n", next) {
				t.Fatalf("%s has %s, not n%d", path, e.Action, next)
			}
			next--
		}
	}
	l = Open(dir, Options{})
	l.Add(Event{Action: "one"})
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if b, _ := os.ReadFile(l.path(0)); strings.Contains(string(b), "one") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing is written")
		}
	}
	if err := os.Rename(l.path(0), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	l.Add(Event{Action: "two"})
	end(t, l)
	if list := lines(t, l.path(0)); len(list) != 1 || list[0].Action != "two" {
		t.Errorf("%+v", list)
	}
}

// TestFullDisk: nobody who adds hears of a disk that is full. It is told, and how many events
// were lost is in the record as soon as there is room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, 4<<20-8<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []error
	l := Open(filepath.Join(dir, "a"), Options{Failed: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}})
	failures := func(n int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			has := len(told)
			mu.Unlock()
			if has >= n {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("told: %v", told)
			}
		}
	}
	const added = 1000 // have no room beside the file, and have it without
	for range added {
		l.Add(Event{Action: "before", Reason: strings.Repeat("x", 500)})
	}
	failures(1)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	l.Add(Event{Action: "after"})
	failures(2)
	end(t, l)
	if kiln.KindOf(told[0]) != kiln.NoSpace || told[1] != nil {
		t.Errorf("told: %v", told)
	}
	written, lost, after := 0, 0, false
	for _, e := range lines(t, l.path(0)) {
		if e.Action == lostAction {
			lost += int(e.Context["count"].(float64))
		} else {
			written++
		}
		after = after || e.Action == "after"
	}
	if written+lost != added+1 || lost == 0 || !after {
		t.Errorf("%d events were added, %d are there, %d are said to be lost; the one after that is there: %v", added+1,
			written, lost, after)
	}
}

// TestFlood: whoever isn't trusted, at one address or at many, has a small part of the record,
// and so has a restricted client. What is left out is counted. Others have all of theirs.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := map[string]int{}
		var mu sync.Mutex
		l := Open(t.TempDir(), Options{Tell: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			told[e.Action]++
		}})
		refuse := func(address string) {
			l.Add(Event{Action: "login-refused", Result: Refused, Who: &Who{Method: TLS, Address: address}})
		}
		for i := range 5000 {
			refuse(fmt.Sprintf("192.0.2.1:%d", 1024+i))
			refuse(fmt.Sprintf("[2001:db8::%x]:1024", i)) // one network
		}
		const known = 3 * mostKnown
		for i := range known {
			refuse(fmt.Sprintf("10.%d.%d.%d:1024", i>>16, i>>8&255, i&255))
			l.Add(Event{Action: "exec", Result: OK, Who: &Who{Method: TLS, Certificate: "ab", Trusted: true, Restricted: true}})
			l.Add(Event{Action: "admin", Result: OK, Who: &Who{Method: TLS, Certificate: "cd", Trusted: true}})
		}
		time.Sleep(2 * window) // by itself, without another event
		synctest.Wait()
		refuse("192.0.2.1:9")
		end(t, l)
		mu.Lock()
		defer mu.Unlock()
		if told["login-refused"] != mostOfUntrusted+1 || told["exec"] != mostOfRestricted || told["admin"] != known {
			t.Errorf("%v", told)
		}
		left := map[string]int{}
		for _, e := range lines(t, l.path(0)) {
			if e.Action == leftOut {
				k, _ := keyOf(e)
				left[k.who] += int(e.Context["count"].(float64))
			}
		}
		sum := 0
		for _, n := range left {
			sum += n
		}
		if left["address 192.0.2.1"] != 5000-mostOfAddress || left["address 2001:db8::/64"] != 5000-mostOfAddress ||
			left["client ab"] != known-mostOfRestricted || len(left) > mostCounts+1 ||
			sum != 10000+2*known-mostOfUntrusted-mostOfRestricted {
			t.Errorf("left out: %v", left)
		}
	})
}

// TestNothingHides: whoever has used up what may be written of what it was refused, still has what
// it does in the record; and what is kept is there whatever it did before, if it went well.
func TestNothingHides(t *testing.T) {
	l := Open(t.TempDir(), Options{})
	outside, restricted := &Who{Method: TLS, Address: "192.0.2.1:9"}, &Who{Method: TLS, Certificate: "ab", Trusted: true,
		Restricted: true}
	for range 2 * mostOfRestricted {
		l.Add(Event{Action: "login-refused", Result: Refused, Who: outside})
		l.Add(Event{Action: "certificate-created", Result: Failed, Who: outside, Kept: true})
		l.Add(Event{Action: "request-refused", Result: Refused, Who: restricted})
		l.Add(Event{Action: "exec", Result: Failed, Who: restricted})
	}
	l.Add(Event{Action: "image-made-public", Result: OK, Who: outside})
	l.Add(Event{Action: "exec", Result: Begun, Who: restricted})
	for range 2 * mostOfUntrusted {
		l.Add(Event{Action: "certificate-created", Result: OK, Who: outside, Kept: true})
	}
	end(t, l)
	got := map[string]int{}
	for _, e := range lines(t, l.path(0)) {
		got[fmt.Sprint(e.Action, " ", e.Result)]++
	}
	if got["image-made-public ok"] != 1 || got["exec begun"] != 1 || got["certificate-created ok"] != 2*mostOfUntrusted {
		t.Errorf("what was done: %v", got)
	}
	if got["login-refused refused"]+got["certificate-created failed"] != mostOfAddress ||
		got["request-refused refused"]+got["exec failed"] != mostOfRestricted {
		t.Errorf("what wasn't: %v", got)
	}
}

// TestBounded: nobody's words make a line long.
func TestBounded(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	e := bounded(Event{Reason: long, Source: long, Who: &Who{Name: long}, Context: map[string]any{"path": long,
		"command": []string{long, long, long, long, long, long}, "keys": make([]string, 1<<20)}})
	b, err := json.Marshal(e)
	if err != nil || len(b) > 16<<10 || !strings.Contains(string(b), "…") {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
