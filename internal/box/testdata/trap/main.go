// Command trap runs as root of a container. It lays an overlay over each directory that it is
// given, whose lower layer is a file system that it serves itself and that answers nothing any
// more once all are mounted: whoever looks anything up there waits in the kernel until the
// trap ends. Before them it is given the kernel's /dev/fuse and a directory for what it needs,
// in which the file "set" says that it is done.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
)

// The requests of linux/fuse.h that are made for mounting.
const (
	opLookup  = 1
	opGetattr = 3
	opStatfs  = 17
	opInit    = 26
	opOpendir = 27
	opReaddir = 28
	opAccess  = 34
)

func main() {
	log.SetFlags(0)
	device, dir := os.Args[1], os.Args[2]
	must(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	must(os.MkdirAll(dir, 0o755))
	must(syscall.Mount("none", dir, "tmpfs", 0, ""))
	must(os.Mkdir(dir+"/lower", 0o755))
	fd, err := syscall.Open(device, syscall.O_RDWR, 0)
	must(err)
	must(syscall.Mount("none", dir+"/lower", "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	var set atomic.Bool
	go func() {
		for _, at := range os.Args[3:] {
			layers := dir + "/" + strings.ReplaceAll(at, "/", "_")
			must(errors.Join(os.MkdirAll(at, 0o755), os.MkdirAll(layers+"/upper", 0o755), os.Mkdir(layers+"/work", 0o755)))
			must(syscall.Mount("overlay", at, "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+layers+"/upper,workdir="+
				layers+"/work"))
		}
		set.Store(true)
		must(os.WriteFile(dir+"/set", nil, 0o644))
	}()
	in := binary.LittleEndian
	for buf := make([]byte, 1<<20); ; {
		if _, err := syscall.Read(fd, buf); err == syscall.EINTR || err == syscall.ENOENT {
			continue
		} else if err != nil {
			log.Fatal(err)
		}
		if set.Load() {
			continue
		}
		out := make([]byte, 16, 128)
		copy(out[8:], buf[8:16])
		switch in.Uint32(buf[4:]) {
		case opInit:
			out = append(out, make([]byte, 64)...)
			in.PutUint32(out[16:], 7) // the version of the protocol
			in.PutUint32(out[20:], 26)
			in.PutUint32(out[36:], 1<<16)
			in.PutUint32(out[40:], 1)
		case opGetattr:
			out = append(out, make([]byte, 16+88)...)
			in.PutUint64(out[32:], 1)
			in.PutUint32(out[32+60:], syscall.S_IFDIR|0o755)
			in.PutUint32(out[32+64:], 2)
		case opStatfs:
			out = append(out, make([]byte, 80)...)
			in.PutUint32(out[16+44:], 255)
		case opOpendir, opAccess:
			out = append(out, make([]byte, 16)...)
		case opReaddir:
		case opLookup:
			in.PutUint32(out[4:], uint32(1<<32-int64(syscall.ENOENT)))
		default:
			in.PutUint32(out[4:], uint32(1<<32-int64(syscall.ENOSYS)))
		}
		in.PutUint32(out, uint32(len(out)))
		_, _ = syscall.Write(fd, out) // the kernel may not want it any more, as of FORGET
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
