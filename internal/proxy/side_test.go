package proxy

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOwnSocket makes sure that only the socket that was made gets another owner: not what
// an instance has mounted over it, nor what was somebody else's.
func TestOwnSocket(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"mine", "others"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	parent, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(parent) })
	ids := idMap{uid: [][3]uint32{{0, 1000000, 65536}}, gid: [][3]uint32{{0, 1000000, 65536}}}
	own := func(want bool) {
		t.Helper()
		err := ownSocket(parent, "mine", ids, 1000007, 1000007, 0o666)
		if (err == nil) != want {
			t.Errorf("%v", err)
		}
		for _, name := range []string{"mine", "others"} {
			var st unix.Stat_t
			if err := unix.Fstatat(parent, name, &st, 0); err != nil || (st.Uid == 1000007) != (want && name == "mine") {
				t.Errorf("%s: owner %d, %v", name, st.Uid, err)
			}
		}
	}
	own(false) // the host's
	if err := os.Chown(dir+"/mine", 1000000, 1000000); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(dir+"/others", 1000001, 1000001),
		unix.Mount(dir+"/others", dir+"/mine", "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	own(false)
	if err := unix.Unmount(dir+"/mine", unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	own(true)
}

// TestIDMap has ids at the ends of ranges: what is beyond them is nobody's.
func TestIDMap(t *testing.T) {
	m := idMap{uid: [][3]uint32{{0, 1000000, 10}, {10, 5, 1}, {4294967290, 7, 4}}, gid: [][3]uint32{{0, 2000000, 10}}}
	for id, want := range map[uint32]int{0: 1000000, 9: 1000009, 10: 5, 11: -1, 4294967289: -1, 4294967293: 10,
		4294967294: -1} {
		got, err := mapped(m.uid, id)
		if (err == nil) != (want >= 0) || err == nil && got != want {
			t.Errorf("%d: %d, %v", id, got, err)
		}
	}
	if got, err := mapped(nil, 42); err != nil || got != 42 { // the host's
		t.Errorf("%d, %v", got, err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for owner, want := range map[[2]int]bool{{1000000, 2000000}: true, {1000009, 2000009}: true, {5, 2000000}: true,
		{1000010, 2000000}: false, {999999, 2000000}: false, {1000000, 2000010}: false, {6, 2000000}: false} {
		if err := file.Chown(owner[0], owner[1]); err != nil {
			t.Fatal(err)
		}
		if got := m.has(int(file.Fd())); got != want {
			t.Errorf("owner %v: %v", owner, got)
		}
	}
	if !(idMap{}).has(int(file.Fd())) {
		t.Error("the host's has all")
	}
}
