package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/backup"
)

// lxdIndex is what LXD 5.0.2 says of an instance that ran, and of a snapshot of before.
const lxdIndex = `name: c1
backend: dir
pool: fast
snapshots:
- s0
optimized: false
optimized_header: false
type: container
config:
  container:
    architecture: x86_64
    config:
      image.release: "1"
      volatile.apply_template: create
      volatile.base_image: 869da1e99008b880e45b732b758d8467261924cd4d773f280486a703a6b5d9d0
      volatile.eth0.hwaddr: 00:16:3e:00:00:01
      volatile.last_state.idmap: '[{"Isuid":true,"Isgid":false,"Hostid":100000,"Nsid":0,"Maprange":65536},{"Isuid":false,"Isgid":true,"Hostid":200000,"Nsid":0,"Maprange":65536}]'
    devices:
      root: {path: /, pool: fast, type: disk}
    ephemeral: false
    profiles:
    - default
    stateful: false
    description: ""
    created_at: 2026-11-28T02:56:51.477489254Z
    name: c1
    status: Stopped
    status_code: 102
    last_used_at: 1970-01-01T00:00:00Z
    location: none
    type: container
    project: default
  snapshots:
  - expires_at: 0001-01-01T00:00:00Z
    architecture: x86_64
    config:
      volatile.last_state.idmap: '[]'
    created_at: 2026-11-28T02:56:51.671108941Z
    devices: {}
    name: s0
    profiles:
    - default
  pool:
    name: fast
    driver: dir
  volume:
    name: c1
    type: container
`

// trees keeps what comes of a backup.
type trees struct {
	t       kiln.Transfer
	entries map[string]archive.Entry // "s0:bin/sh", "s0 meta:metadata.yaml"
	closed  int
}

func (t *trees) Begin(of kiln.Transfer) error { t.t = of; return nil }
func (t *trees) Root(snapshot string) (archive.TreeWriter, error) {
	return &tree{t, snapshot + ":"}, nil
}
func (t *trees) Meta(snapshot string) (archive.TreeWriter, error) {
	return &tree{t, snapshot + " meta:"}, nil
}

type tree struct {
	*trees
	name string
}

func (t *tree) Add(e *archive.Entry, r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	t.entries[t.name+e.Path] = *e
	return nil
}

func (t *tree) Close() error { t.closed++; return nil }

// entry is one of a tar.
type entry struct {
	name, link, content string
	typ                 byte
	uid, gid            int
	major, minor        int64
	pax                 map[string]string
}

func pack(t testing.TB, list ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		if e.typ == 0 {
			e.typ = tar.TypeReg
		}
		if strings.HasSuffix(e.name, "/") {
			e.typ = tar.TypeDir
		}
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Size: int64(len(e.content)), Mode: 0o755,
			Uid: e.uid, Gid: e.gid, Devmajor: e.major, Devminor: e.minor, PAXRecords: e.pax}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(ctx context.Context, b []byte) (*trees, int, error) {
	got := &trees{entries: map[string]archive.Entry{}}
	left, err := backup.Read(ctx, bytes.NewReader(b), archive.Limits{Bytes: 1 << 20, Entries: 1000}, got)
	return got, left, err
}

// TestTreeWithoutRoot refuses a directory that has no root directory in it: an instance would be
// empty. One with device nodes that can't be kept says how many.
func TestTreeWithoutRoot(t *testing.T) {
	for left, list := range map[int][]archive.Entry{
		0: {{Path: ".", Type: archive.Dir}, {Path: "metadata.yaml", Type: archive.Regular}},
		2: {{Path: ".", Type: archive.Dir}, {Path: "rootfs", Type: archive.Dir}, {Path: "rootfs/a", Type: archive.CharDevice},
			{Path: "rootfs/b", Type: archive.CharDevice}},
	} {
		got := &trees{entries: map[string]archive.Entry{}}
		n, err := backup.ReadTree("", "", got, func(fn archive.Found) error {
			for _, e := range list {
				if err := fn(&e, strings.NewReader("")); err != nil {
					return err
				}
			}
			return nil
		})
		if n != left || left == 0 && (!errors.Is(err, kiln.Invalid) || !strings.Contains(err.Error(), "no root directory")) ||
			left > 0 && err != nil {
			t.Errorf("%d nodes are left out: %v", n, err)
		}
	}
}

// acl is an access ACL with a user and a group that are named.
func acl(user, group uint32) string {
	b := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag uint16
		id  uint32
	}{{1, ^uint32(0)}, {2, user}, {4, ^uint32(0)}, {8, group}, {16, ^uint32(0)}, {32, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, 4)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

func capability(root uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 0x03000001)
	b = append(b, make([]byte, 16)...)
	return string(binary.LittleEndian.AppendUint32(b, root))
}

func TestReadsWhatLXDWrites(t *testing.T) {
	got, left, err := read(t.Context(), pack(t,
		entry{name: "backup/index.yaml", content: lxdIndex},
		entry{name: "backup/snapshots/s0/"},
		entry{name: "backup/snapshots/s0/metadata.yaml", content: "x"},
		entry{name: "backup/snapshots/s0/rootfs/"},
		entry{name: "backup/snapshots/s0/rootfs/file", uid: 5, gid: 6},
		entry{name: "backup/container/"},
		entry{name: "backup/container/backup.yaml", content: "x"},
		entry{name: "backup/container/metadata.yaml", content: "x"},
		entry{name: "backup/container/rootfs/", uid: 100000, gid: 200000},
		entry{name: "backup/container/rootfs/file", uid: 100005, gid: 200006, pax: map[string]string{
			"SCHILY.xattr.system.posix_acl_access": acl(100007, 200008), "SCHILY.xattr.security.capability": capability(100000),
			"SCHILY.xattr.trusted.overlay.opaque": "y"}},
		entry{name: "backup/container/rootfs/other", uid: 0, gid: 0,
			pax: map[string]string{"SCHILY.xattr.security.capability": capability(100009)}},
		entry{name: "backup/container/rootfs/link", typ: tar.TypeLink, link: "backup/container/rootfs/file"},
		entry{name: "backup/container/rootfs/null", typ: tar.TypeChar, major: 1, minor: 3},
		entry{name: "backup/container/rootfs/gone", typ: tar.TypeChar},
		entry{name: "backup/container/templates/"},
		entry{name: "backup/container/templates/hosts", content: "x"},
	))
	if err != nil {
		t.Fatal(err)
	}
	if left != 1 {
		t.Errorf("%d nodes 0:0 were left out, want 1", left)
	}
	want := []string{" meta:metadata.yaml", " meta:templates/hosts", ":.", ":file", ":link", ":null", ":other",
		"s0 meta:metadata.yaml", "s0:.", "s0:file"}
	if keys := slices.Sorted(maps.Keys(got.entries)); !slices.Equal(keys, want) {
		t.Errorf("entries\n%q, want\n%q", keys, want)
	}
	for name, owner := range map[string][2]uint32{":.": {0, 0}, ":file": {5, 6}, ":other": {65534, 65534}, "s0:file": {5, 6}} {
		if e := got.entries[name]; [2]uint32{e.UID, e.GID} != owner {
			t.Errorf("%q is owned by %d:%d, want %v", name, e.UID, e.GID, owner)
		}
	}
	x := got.entries[":file"].Xattrs
	if len(x) != 2 || x["system.posix_acl_access"] != acl(7, 8) || len(x["security.capability"]) != 20 ||
		x["security.capability"][3] != 2 {
		t.Errorf("extended attributes %q", x)
	}
	if x := got.entries[":other"].Xattrs["security.capability"]; x != capability(9) {
		t.Errorf("capabilities of another root: %q", x)
	}
	if e := got.entries[":link"]; e.Link != "file" {
		t.Errorf("link to %q", e.Link)
	}
	tr := got.t
	if tr.Name != "c1" || tr.Trigger != "create" || tr.Base.Short() != "869da1e99008" || !tr.LastUsedAt.IsZero() ||
		!maps.Equal(tr.Config, map[string]string{"image.release": "1", "volatile.eth0.hwaddr": "00:16:3e:00:00:01"}) || tr.Devices["root"]["pool"] != "default" {
		t.Errorf("instance %+v", tr)
	}
	if len(tr.Snapshots) != 1 || tr.Snapshots[0].Name != "s0" || len(tr.Snapshots[0].Config) != 0 {
		t.Errorf("snapshots %+v", tr.Snapshots)
	}
}

// sound are the entries of a small backup, by what is in it.
func sound(text string) []entry {
	return []entry{{name: "backup/index.yaml", content: text}, {name: "backup/container/rootfs/"},
		{name: "backup/container/rootfs/f", content: "x"}}
}

const smallIndex = "name: c1\ntype: container\nconfig: {container: {name: c1, architecture: x86_64}}\n"

func TestRefusesWhatIsNoBackup(t *testing.T) {
	in := func(more ...entry) []entry { return append(sound(smallIndex), more...) }
	for name, c := range map[string]struct {
		entries []entry
		kind    kiln.Kind
		text    string
	}{
		"sound":     {in(), "", ""},
		"nothing":   {[]entry{{name: "backup/"}}, kiln.Invalid, "no backup/index.yaml"},
		"an image":  {[]entry{{name: "metadata.yaml"}, {name: "rootfs/"}}, kiln.Invalid, "kiln image import"},
		"elsewhere": {in(entry{name: "etc/passwd"}), kiln.Invalid, "belongs to no backup"},
		"volume":    {[]entry{{name: "backup/volume/"}}, kiln.Unsupported, "storage volume"},
		"machine":   {sound(strings.Replace(smallIndex, "container", "virtual-machine", 1)), kiln.Unsupported, "virtual machine"},
		"optimised": {sound(smallIndex + "optimized: true\nbackend: zfs\n"), kiln.Unsupported, "zfs"},
		"old":       {sound("name: c1\n"), kiln.Unsupported, "LXD before"},
		"not YAML":  {sound("\t{"), kiln.Invalid, "can't be read"},
		"two":       {sound(smallIndex + "---\nname: c2\n"), kiln.Invalid, "more than one"},
		"behind":    {slices.Concat(sound("")[1:], sound(smallIndex)[:1]), kiln.Invalid, "comes before backup/index.yaml"},
		"again":     {in(entry{name: "backup/index.yaml", content: smallIndex}), kiln.Invalid, "twice"},
		"a link":    {[]entry{{name: "backup/index.yaml", typ: tar.TypeSymlink, link: "/etc/passwd"}}, kiln.Invalid, "no file"},
		"no files":  {sound(smallIndex)[:1], kiln.Invalid, "no files of the instance"},
		"no root": {[]entry{{name: "backup/index.yaml", content: smallIndex}, {name: "backup/container/metadata.yaml"}},
			kiln.Invalid, "no root directory"},
		"root later": {[]entry{{name: "backup/index.yaml", content: smallIndex}, {name: "backup/container/rootfs/f"}},
			kiln.Invalid, "doesn't come before"},
		"root is a file": {[]entry{{name: "backup/index.yaml", content: smallIndex}, {name: "backup/container/rootfs"}},
			kiln.Invalid, "doesn't come before"},
		"unnamed snapshot": {in(entry{name: "backup/snapshots/s1/rootfs/"}), kiln.Invalid, `the snapshot "s1"`},
		"bad name":         {in(entry{name: "backup/snapshots/-s/rootfs/"}), kiln.Invalid, "hyphen"},
		"missing snapshot": {sound("snapshots: [s1]\n" +
			strings.Replace(smallIndex, "config: {", "config: {snapshots: [{name: s1, architecture: x86_64}], ", 1)),
			kiln.Invalid, `files of the snapshot "s1"`},
		"unsaid snapshot": {sound("snapshots: [s1]\n" + smallIndex), kiln.Invalid, `configuration of the snapshot "s1"`},
		"in turns": {in(entry{name: "backup/snapshots/s1/rootfs/"}, entry{name: "backup/container/rootfs/g"}),
			kiln.Invalid, "one after another"},
		"link across": {in(entry{name: "backup/snapshots/s1/rootfs/"}, entry{name: "backup/snapshots/s1/rootfs/l",
			typ: tar.TypeLink, link: "backup/container/rootfs/f"}), kiln.Invalid, "which is elsewhere"},
		"link to the index": {in(entry{name: "backup/container/rootfs/l", typ: tar.TypeLink, link: "backup/index.yaml"}),
			kiln.Invalid, "which is elsewhere"},
		"through a link": {in(entry{name: "backup/container/rootfs/d", typ: tar.TypeSymlink, link: "/etc"},
			entry{name: "backup/container/rootfs/d/passwd"}), kiln.Invalid, "belongs to no backup"},
		"dots": {in(entry{name: "backup/container/rootfs/../../x"}), kiln.Invalid, ".."},
		"metadata": {in(entry{name: "backup/container/metadata.yaml", typ: tar.TypeSymlink, link: "/etc/passwd"}),
			kiln.Invalid, "no file"},
		"template": {in(entry{name: "backup/container/templates/t", typ: tar.TypeSymlink, link: "/etc/passwd"}),
			kiln.Invalid, "no file"},
		"many ids": {sound(strings.Replace(smallIndex, "name: c1, arch", "name: c1, config: {volatile.last_state.idmap: '["+
			strings.TrimSuffix(strings.Repeat("null,", 1001), ",")+
			"]'}, arch", 1)), kiln.Invalid, "more than 1000 ranges"},
		"ids": {sound(strings.Replace(smallIndex, "name: c1, arch", "name: c1, config: {volatile.last_state.idmap: '[{"+
			`"Isuid":true,"Hostid":4294967000,"Nsid":0,"Maprange":65536}]'}, arch`, 1)), kiln.Invalid, "can't be"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(t.Context(), pack(t, c.entries...))
			if c.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if kiln.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s error %v; want %s, with %q", kiln.KindOf(err), err, c.kind, c.text)
			}
		})
	}
}

func TestNoticesWhatIsCut(t *testing.T) {
	b := pack(t, sound(smallIndex)...)
	for n := 0; n < len(b)-512; n += 100 { // the last block of the end may be missing
		if _, _, err := read(t.Context(), b[:n]); err == nil {
			t.Errorf("%d of %d bytes make a backup", n, len(b))
		}
	}
}

// TestKeepsFiles packs a tree of every type of file, and unpacks it.
func TestKeepsFiles(t *testing.T) {
	from := t.TempDir()
	at := func(name string) string { return filepath.Join(from, name) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.WriteFile(at("file"), []byte("text"), 0o600))
	check(os.Chown(at("file"), 5, 6))
	check(os.Chmod(at("file"), 0o755|os.ModeSetuid))
	check(unix.Setxattr(at("file"), "user.mine", bytes.Repeat([]byte("x"), 3000), 0))
	check(unix.Setxattr(at("file"), "system.posix_acl_access", []byte(acl(7, 8)), 0))
	check(os.Link(at("file"), at("link")))
	check(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 1))))
	check(unix.Mkfifo(at("fifo"), 0o600))
	check(os.Symlink("/nowhere", at("sym")))
	check(os.WriteFile(at("sparse"), nil, 0o600))
	check(os.Truncate(at("sparse"), 64<<20))
	dir, err := os.Open(from)
	check(err)

	state := kiln.InstanceState{Name: "c1", Architecture: "x86_64", CreatedAt: time.Unix(1e9, 0).UTC(), Trigger: "create",
		Config: map[string]string{"user.a": "true"}, Devices: map[string]map[string]string{}, Profiles: []string{"p"}}
	var b bytes.Buffer
	check(backup.Write(t.Context(), &b, nil, kiln.Transfer{InstanceState: state},
		func(s kiln.InstanceState) (map[string]string, map[string]map[string]string) {
			return s.Config, s.Devices
		},
		func(context.Context, string) (backup.Tree, error) {
			return backup.Tree{Root: io.NopCloser(nil), Dir: dir,
				Meta: []backup.File{{Name: "metadata.yaml", Content: []byte("x")}}}, nil
		}))
	got := &written{trees: trees{entries: map[string]archive.Entry{}}, dir: t.TempDir()}
	left, err := backup.Read(t.Context(), &b, archive.Limits{Xattrs: 1 << 20}, got)
	check(err)
	if left != 0 || fmt.Sprint(got.t.InstanceState) != fmt.Sprint(state) {
		t.Errorf("left %d, instance\n%v, want\n%v", left, got.t.InstanceState, state)
	}
	for _, name := range []string{"file", "link", "null", "disk", "fifo", "sym", "sparse"} {
		if a, b := about(t, at(name)), about(t, filepath.Join(got.dir, name)); a != b {
			t.Errorf("%s is\n%s, want\n%s", name, b, a)
		}
	}
}

// written unpacks a root directory.
type written struct {
	trees
	dir string
}

func (w *written) Root(string) (archive.TreeWriter, error) {
	d, err := archive.NewDirWriter(w.dir, 2)
	if err == nil {
		d.Devices = true
	}
	return d, err
}

// about says all that matters of a file.
func about(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	var x []string
	for _, name := range []string{"user.mine", "system.posix_acl_access"} {
		if n, err := unix.Lgetxattr(path, name, buf); err == nil {
			x = append(x, string(buf[:n]))
		}
	}
	link, _ := os.Readlink(path)
	return fmt.Sprintf("%o %d:%d links %d, device %d, size %d, %v blocks, to %q, with %q", st.Mode, st.Uid, st.Gid, st.Nlink,
		st.Rdev, st.Size, st.Blocks > 1000, link, x)
}

// FuzzIndex is about what an index says; package archive has targets for the rest.
func FuzzIndex(f *testing.F) {
	f.Add(smallIndex)
	f.Add(lxdIndex)
	f.Fuzz(func(t *testing.T, text string) {
		got, _, err := read(t.Context(), pack(t, sound(text)...))
		if err != nil && kiln.KindOf(err) == kiln.Internal {
			t.Errorf("an error without a kind: %v", err)
		}
		if err != nil {
			return
		}
		for _, s := range got.t.Snapshots {
			if kiln.CheckSnapshotName(s.Name) != nil {
				t.Errorf("a snapshot %q", s.Name)
			}
		}
	})
}

// patient is a source that is told until when it has to have come.
type patient struct {
	io.Reader
	told []time.Time
}

func (p *patient) SetReadDeadline(at time.Time) error {
	p.told = append(p.told, at)
	return nil
}

// TestLargeIndexHasItsTime bounds how long a large index, of which there are few at a time,
// may take to come, and nothing else of an archive.
func TestLargeIndexHasItsTime(t *testing.T) {
	for padding, times := range map[int]int{0: 0, 2 << 20: 2} {
		text := smallIndex + "#" + strings.Repeat("x", padding) + "\n"
		p := &patient{Reader: bytes.NewReader(pack(t, sound(text)...))}
		if _, err := backup.Read(t.Context(), p, archive.Limits{Bytes: 8 << 20, Entries: 1000},
			&trees{entries: map[string]archive.Entry{}}); err != nil {
			t.Fatal(err)
		}
		if len(p.told) != times {
			t.Errorf("with %d bytes more: %v", padding, p.told)
		} else if times > 0 && (time.Until(p.told[0]) > time.Minute || p.told[0].IsZero() || !p.told[1].IsZero()) {
			t.Errorf("until %v, then %v", p.told[0], p.told[1])
		}
	}
}
