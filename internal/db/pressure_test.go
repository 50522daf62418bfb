package db

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// TestDeleteUnderPressure deletes on file systems that are full, and where somebody takes
// at once whatever becomes free: each deletion is written down, also by the next daemon, and
// nothing of the database is mapped, where a write without room would be a SIGBUS.
func TestDeleteUnderPressure(t *testing.T) {
	for _, kind := range []string{"btrfs", "xfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, "320M", "mkfs."+kind, "-q")
			path := filepath.Join(dir, "db")
			d := open(t, path)
			const images = 40
			fp := func(n int) kiln.Fingerprint { return kiln.Fingerprint{byte(n), 1} }
			for n := range images {
				if err := d.Tx(t.Context(), func(tx *Tx) error {
					return tx.CreateImage(t.Context(), kiln.Image{Fingerprint: fp(n)})
				}); err != nil {
					t.Fatal(err)
				}
			}
			remove := func(n int) {
				t.Helper()
				if err := d.Tx(Freeing(t.Context()), func(tx *Tx) error {
					return tx.DeleteImage(t.Context(), fp(n))
				}); err != nil {
					t.Fatalf("deletion %d: %v", n, err)
				}
			}
			held := fileSize(path + "-reserve")
			stop, full := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { press(t, dir, stop, full) })
			end := sync.OnceFunc(func() { close(stop); wg.Wait() })
			defer end()
			<-full
			for n := range images / 2 {
				remove(n)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			d = open(t, path)
			for n := images / 2; n < images; n++ {
				remove(n)
			}
			if _, err := os.Stat(path + "-shm"); err == nil {
				t.Error("the index of the log is a file")
			}
			end()
			list, err := filepath.Glob(filepath.Join(dir, "fill*"))
			for _, f := range list {
				err = errors.Join(err, os.Remove(f))
			}
			if err := disk.SyncSystem(dir); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(err, setConfig(t.Context(), d, map[string]string{"a": "b"})); err != nil {
				t.Fatal(err)
			}
			if now := fileSize(path + "-reserve"); now != held || held == 0 {
				t.Errorf("with room again %d bytes are kept, of %d", now, held)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// mounted makes a file system of a size and mounts it at a directory.
func mounted(t *testing.T, size string, mkfs ...string) (dir string) {
	t.Helper()
	dir, img := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{{"truncate", "-s", size, img}, append(mkfs, img), {"mount", "-o", "loop", img, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err, unix.Unmount(dir, unix.MNT_DETACH))
		}
	})
	return dir
}

// TestEmptyFiles deletes where somebody has made empty files until there was no room for
// more: not for bytes, but for what the file system keeps about files.
func TestEmptyFiles(t *testing.T) {
	for kind, mkfs := range map[string][]string{"btrfs": {"mkfs.btrfs", "-q"}, "ext4": {"mkfs.ext4", "-q", "-N", "128"}} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, "128M", mkfs...)
			path, fill := filepath.Join(dir, "db"), filepath.Join(dir, "fill")
			small := func() int {
				list, err := os.ReadDir(path + "-reserve.d")
				if err != nil {
					t.Fatal(err)
				}
				return len(list)
			}
			d := open(t, path)
			const images = 4
			fp := func(n int) kiln.Fingerprint { return kiln.Fingerprint{byte(n), 1} }
			for n := range images {
				if err := d.Tx(t.Context(), func(tx *Tx) error {
					return tx.CreateImage(t.Context(), kiln.Image{Fingerprint: fp(n)})
				}); err != nil {
					t.Fatal(err)
				}
			}
			held := small()
			if err := errors.Join(os.Mkdir(fill, 0o700), disk.SyncSystem(dir)); err != nil {
				t.Fatal(err)
			}
			full := func() {
				name := strings.Repeat("n", 200)
				for n, failed := 0, 0; failed < 1; n++ {
					f, err := os.Create(filepath.Join(fill, name+strconv.Itoa(n)))
					switch {
					case err == nil:
						f.Close()
					case errors.Is(err, unix.ENOSPC):
						failed++
						n--
					default:
						t.Fatal(err)
					}
				}
			}
			made := 0
			for n := range images {
				full()
				// As a daemon that starts makes its socket, and who deletes a volume moves it away.
				if err := d.WithReserve(func() error {
					made++
					name := filepath.Join(dir, strconv.Itoa(made))
					return errors.Join(os.Mkdir(name, 0o700), os.Rename(name, name+".old"))
				}); err != nil {
					t.Fatalf("directory %d, %d small files of %d are left: %v", n, small(), held, err)
				}
				if err := d.Tx(Freeing(t.Context()), func(tx *Tx) error {
					return tx.DeleteImage(t.Context(), fp(n))
				}); err != nil {
					t.Fatalf("deletion %d: %v", n, err)
				}
				if n != 1 {
					continue
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				if err := Check(t.Context(), path); err != nil { // with what is only in the log
					t.Error(err)
				}
				if _, err := os.Stat(path + "-shm"); err == nil {
					t.Error("the index of the log is a file")
				}
				d = open(t, path)
			}
			if err := errors.Join(d.Close(), os.RemoveAll(fill), disk.SyncSystem(dir)); err != nil {
				t.Fatal(err)
			}
			d = open(t, path)
			if now := small(); now != held || held == 0 {
				t.Errorf("with room again there are %d small files, of %d", now, held)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// press fills a directory, says when it is full, and takes what is freed after that.
func press(t *testing.T, dir string, stop, full chan struct{}) {
	b := make([]byte, 1<<20)
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		f, err := os.Create(filepath.Join(dir, "fill"+strconv.Itoa(n%1000)))
		if err == nil {
			for err == nil {
				_, err = f.Write(b)
			}
			f.Close()
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Error(err)
			if full != nil {
				close(full)
			}
			return
		}
		if len(b) > 4<<10 {
			b = b[:len(b)/2]
		} else if full != nil {
			close(full)
			full = nil
		}
	}
}
