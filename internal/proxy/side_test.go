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
