package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
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

// lxdVolumeIndex is what LXD 5.0.2 says of a volume that an instance had.
const lxdVolumeIndex = `name: data
backend: dir
pool: default
snapshots:
- s0
optimized: false
optimized_header: false
type: custom
config:
  volume:
    config:
      user.x: "y"
      volatile.idmap.last: '[{"Isuid":true,"Isgid":true,"Hostid":100000,"Nsid":0,"Maprange":65536}]'
      volatile.idmap.next: '[]'
    description: text
    name: data
    type: custom
    used_by: []
    location: none
    content_type: filesystem
    project: default
    created_at: 2026-11-28T02:56:51.477489254Z
  volume_snapshots:
  - description: old
    expires_at: 2099-01-01T00:00:00Z
    name: s0
    config: {}
    content_type: filesystem
    created_at: 2026-11-28T02:56:50.477489254Z
`

// volumeTrees keeps what comes of the backup of a volume.
type volumeTrees struct {
	trees
	v backup.Volume
}

func (t *volumeTrees) Begin(v backup.Volume) error { t.v = v; return nil }

func readVolume(ctx context.Context, b []byte) (*volumeTrees, error) {
	got := &volumeTrees{trees: trees{entries: map[string]archive.Entry{}}}
	err := backup.ReadVolume(ctx, bytes.NewReader(b), archive.Limits{Bytes: 1 << 20, Entries: 1000}, got)
	return got, err
}

func TestReadsVolumesOfLXD(t *testing.T) {
	got, err := readVolume(t.Context(), pack(t,
		entry{name: "backup/index.yaml", content: lxdVolumeIndex},
		entry{name: "backup/volume-snapshots/s0/", uid: 3},
		entry{name: "backup/volume-snapshots/s0/rootfs", uid: 4},
		entry{name: "backup/volume/", uid: 100000, gid: 100000},
		entry{name: "backup/volume/metadata.yaml", uid: 100005, gid: 100006,
			pax: map[string]string{"SCHILY.xattr.system.posix_acl_access": acl(100007, 100008)}},
		entry{name: "backup/volume/link", typ: tar.TypeLink, link: "backup/volume/metadata.yaml"},
		entry{name: "backup/volume/gone", typ: tar.TypeChar, uid: 100000},
	))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{":.", ":gone", ":link", ":metadata.yaml", "s0:.", "s0:rootfs"}
	if keys := slices.Sorted(maps.Keys(got.entries)); !slices.Equal(keys, want) {
		t.Errorf("entries\n%q, want\n%q", keys, want)
	}
	for name, owner := range map[string][2]uint32{":.": {0, 0}, ":metadata.yaml": {5, 6}, ":gone": {0, 65534},
		"s0:.": {3, 0}, "s0:rootfs": {4, 0}} {
		if e := got.entries[name]; [2]uint32{e.UID, e.GID} != owner {
			t.Errorf("%q is owned by %d:%d, want %v", name, e.UID, e.GID, owner)
		}
	}
	if e := got.entries[":metadata.yaml"]; e.Xattrs["system.posix_acl_access"] != acl(7, 8) {
		t.Errorf("extended attributes %q", e.Xattrs)
	}
	if e := got.entries[":link"]; e.Link != "metadata.yaml" {
		t.Errorf("link to %q", e.Link)
	}
	v := got.v
	if v.Name != "data" || v.Description != "text" || !maps.Equal(v.Config, map[string]string{"user.x": "y"}) ||
		len(v.Snapshots) != 1 || v.Snapshots[0].Name != "s0" || v.Snapshots[0].Description != "old" ||
		v.Snapshots[0].ExpiresAt.Year() != 2099 || v.Snapshots[0].CreatedAt.IsZero() {
		t.Errorf("volume %+v", v)
	}
}

const smallVolume = "name: data\ntype: custom\nconfig: {volume: {name: data}}\n"

// soundVolume are the entries of the small backup of a volume, by what is in it.
func soundVolume(text string) []entry {
	return []entry{{name: "backup/index.yaml", content: text}, {name: "backup/volume/"},
		{name: "backup/volume/f", content: "x"}}
}

func TestRefusesWhatIsNoVolume(t *testing.T) {
	in := func(more ...entry) []entry { return append(soundVolume(smallVolume), more...) }
	for name, c := range map[string]struct {
		entries []entry
		kind    kiln.Kind
		text    string
	}{
		"sound":       {in(), "", ""},
		"an instance": {sound(smallIndex), kiln.Unsupported, "kiln import"},
		"files of an instance": {in(entry{name: "backup/container/rootfs/"}), kiln.Unsupported,
			"the backup of an instance"},
		"no index":      {[]entry{{name: "backup/"}}, kiln.Invalid, "no backup/index.yaml"},
		"no files":      {soundVolume(smallVolume)[:1], kiln.Invalid, "no files of the storage volume"},
		"nothing said":  {soundVolume("name: data\ntype: custom\n"), kiln.Invalid, "the configuration of the storage volume"},
		"null":          {soundVolume("name: data\ntype: custom\nconfig: {volume: null}\n"), kiln.Invalid, "configuration"},
		"blocks":        {soundVolume(strings.Replace(smallVolume, "{name", "{content_type: block, name", 1)), kiln.Unsupported, "block"},
		"a bucket":      {soundVolume(strings.Replace(smallVolume, "custom", "bucket", 1)), kiln.Unsupported, "bucket"},
		"optimised":     {soundVolume(smallVolume + "optimized: true\nbackend: zfs\n"), kiln.Unsupported, "zfs"},
		"elsewhere":     {in(entry{name: "backup/snapshots/s/f"}), kiln.Invalid, "belongs to no backup"},
		"a file":        {[]entry{soundVolume(smallVolume)[0], {name: "backup/volume"}}, kiln.Invalid, "doesn't come before"},
		"an image file": {[]entry{soundVolume(smallVolume)[0], {name: "backup/volume.img"}}, kiln.Invalid, "belongs to no"},
		"bad name":      {soundVolume("snapshots: [a/b]\n" + smallVolume), kiln.Invalid, "Invalid snapshot name"},
		"unsaid":        {soundVolume("snapshots: [s1]\n" + smallVolume), kiln.Invalid, `the snapshot "s1"`},
		"unnamed":       {in(entry{name: "backup/volume-snapshots/s1/"}), kiln.Invalid, `the snapshot "s1"`},
		"null snapshot": {soundVolume("snapshots: [s1]\n" + strings.Replace(smallVolume, "{volume:",
			"{volume_snapshots: [null], volume:", 1)), kiln.Invalid, `the snapshot "s1"`},
		"missing": {soundVolume("snapshots: [s1]\n" + strings.Replace(smallVolume, "{volume:",
			"{volume_snapshots: [{name: s1}], volume:", 1)), kiln.Invalid, `files of the snapshot "s1"`},
		"link across": {in(entry{name: "backup/volume-snapshots/s1/"}, entry{name: "backup/volume-snapshots/s1/l",
			typ: tar.TypeLink, link: "backup/volume/f"}), kiln.Invalid, "which is elsewhere"},
		"through a link": {in(entry{name: "backup/volume/d", typ: tar.TypeSymlink, link: "/etc"},
			entry{name: "backup/volume/d/passwd"}), kiln.Invalid, "belongs to no backup"},
		"dots": {in(entry{name: "backup/volume/../../x"}), kiln.Invalid, ".."},
		"ids": {soundVolume(strings.Replace(smallVolume, "{name", "{config: {volatile.idmap.last: '[{"+
			`"Isuid":true,"Hostid":-1,"Nsid":0,"Maprange":65536}]'}, name`, 1)), kiln.Invalid, "can't be"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readVolume(t.Context(), pack(t, c.entries...))
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

// TestKeepsVolumes writes a volume with a snapshot, and reads it.
func TestKeepsVolumes(t *testing.T) {
	from := t.TempDir()
	for _, name := range []string{"own", "snap"} {
		if err := os.Mkdir(filepath.Join(from, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(from, "own", "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(file, "user.mine", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1e9, 0).UTC()
	v := backup.Volume{Name: "data", Description: "d", Config: map[string]string{"user.a": "true"}, CreatedAt: at,
		Snapshots: []backup.Volume{{Name: "s", CreatedAt: at.Add(-1), ExpiresAt: at.Add(1)}, {Name: "t", CreatedAt: at}}}
	var b bytes.Buffer
	err := backup.WriteVolume(t.Context(), &b, nil, v, func(_ context.Context, snap string) (tr backup.Tree, err error) {
		dir := "own"
		if snap != "" {
			dir = "snap"
		}
		tr.Dir, err = os.Open(filepath.Join(from, dir))
		return tr, err
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := readVolume(t.Context(), b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if g := got.v; g.Name != v.Name || g.Description != v.Description || !maps.Equal(g.Config, v.Config) ||
		!g.CreatedAt.Equal(at) || len(g.Snapshots) != 2 || !g.Snapshots[0].ExpiresAt.Equal(at.Add(1)) ||
		!g.Snapshots[1].ExpiresAt.IsZero() {
		t.Errorf("volume %+v, want %+v", g, v)
	}
	want := []string{":.", ":file", "s:.", "t:."}
	if keys := slices.Sorted(maps.Keys(got.entries)); !slices.Equal(keys, want) {
		t.Errorf("entries %q, want %q", keys, want)
	}
	if x := got.entries[":file"].Xattrs["user.mine"]; x != "x" {
		t.Errorf("extended attribute %q", x)
	}
	// LXD takes no snapshot without a time that it expires at.
	if n := strings.Count(b.String(), "expires_at: "); n != 2 {
		t.Errorf("%d snapshots say when they expire", n)
	}
}

// FuzzVolumeIndex is about what the index of a volume says.
func FuzzVolumeIndex(f *testing.F) {
	f.Add(smallVolume)
	f.Add(lxdVolumeIndex)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := readVolume(t.Context(), pack(t, soundVolume(text)...))
		if err != nil && kiln.KindOf(err) == kiln.Internal {
			t.Errorf("an error without a kind: %v", err)
		}
		if err != nil {
			return
		}
		for _, s := range got.v.Snapshots {
			if kiln.CheckSnapshotName(s.Name) != nil {
				t.Errorf("a snapshot %q", s.Name)
			}
		}
	})
}
