package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/store"
)

// TestHeal has a file damaged, or lost, whose image came from a server that tells lies, or has
// another image by now, and then the truth; or that a mirror has.
func TestHeal(t *testing.T) {
	for name, how := range map[string]struct {
		mirror bool
		damage func(t *testing.T, path string)
		lie    func(good []byte) []byte // nil: the server has nothing to say
	}{
		"lost":       {false, func(t *testing.T, path string) { must(t, os.Remove(path)) }, nil},
		"other":      {false, flipped, func([]byte) []byte { return formattest.Tiny(t, "other") }},
		"short":      {false, flipped, func(b []byte) []byte { return b[:len(b)-512] }},
		"long":       {false, flipped, func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 1<<20)...) }},
		"one bit":    {false, flipped, func(b []byte) []byte { c := bytes.Clone(b); c[600] ^= 4; return c }},
		"mirror":     {true, flipped, func(b []byte) []byte { c := bytes.Clone(b); c[600] ^= 4; return c }},
		"is a dir":   {false, func(t *testing.T, path string) { must(t, os.Remove(path), os.Mkdir(path, 0o700)) }, nil},
		"cut short":  {false, func(t *testing.T, path string) { must(t, os.Chmod(path, 0o600), os.Truncate(path, 9)) }, nil},
		"much added": {false, func(t *testing.T, path string) { must(t, os.Chmod(path, 0o600), os.Truncate(path, 9<<20)) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			good := formattest.Tiny(t, "healed")
			fp := kiln.Fingerprint(sha256.Sum256(good))
			u := &upstream{bytes: map[string][]byte{}}
			u.add(fp, good, true, "app")
			r := u.serve(t)
			if how.mirror {
				wait(t, importFiles(t, d, ImportSpec{}, good), nil)
				o, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: r, PullThrough: true})
				wait(t, o, err)
			} else {
				o, err := d.PullImage(t.Context(), PullSpec{Remote: r, Name: "app", IsAlias: true})
				wait(t, o, err)
			}
			before, err := d.Images.Get(t.Context(), fp)
			must(t, err)
			path := d.blobs.Path(fp)
			how.damage(t, path)
			bad, _ := os.ReadFile(path)
			delete(u.bytes, fp.String())
			if how.lie != nil {
				u.bytes[fp.String()] = how.lie(good)
			}
			s, err := scrubNow(t, d)
			if !errors.Is(err, kiln.Integrity) || len(s.Found) != 1 || s.Found[0].Repaired != "" ||
				!strings.Contains(s.Found[0].Problem, r.Server) {
				t.Fatalf("%+v, %v", s, err)
			}
			if now, err := os.ReadFile(path); bad != nil && !bytes.Equal(now, bad) {
				t.Errorf("it was changed: %v", err)
			}
			if left, err := d.blobs.Odd(); err != nil || len(left) > 0 {
				t.Errorf("put away: %v, %v", left, err)
			}
			u.bytes[fp.String()] = good
			s, err = scrubNow(t, d)
			if err != nil || len(s.Found) != 1 || !strings.Contains(s.Found[0].Repaired, r.Server) {
				t.Fatalf("%+v, %v", s, err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
				t.Errorf("%d bytes, %v", len(now), err)
			}
			after, err := d.Images.Get(t.Context(), fp)
			must(t, err)
			before.LastUsedAt = after.LastUsedAt
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the image is another: %s", diff)
			}
			if left, err := d.blobs.Odd(); err != nil || len(left) > 1 || bad != nil && len(left) != 1 {
				t.Errorf("put away: %v, %v", left, err)
			}
			kinds := map[string]string{}
			list, err := d.Warnings(t.Context(), "default")
			must(t, err)
			for _, w := range list {
				kinds[w.Type] = w.Status
			}
			if kinds[imageDamaged] != db.WarningResolved || kinds[imageRepaired] != db.WarningNew {
				t.Errorf("%v", kinds)
			}
			if s, err := scrubNow(t, d); err != nil || len(s.Found) > 0 {
				t.Errorf("%+v, %v", s, err)
			}
			lost, err := ListLost(t.Context(), d.cfg.Dir)
			must(t, err)
			for _, l := range lost {
				if _, err := DropLost(t.Context(), d.cfg.Dir, l.Name); err != nil || !strings.Contains(l.About, "damaged") {
					t.Errorf("%+v, %v", l, err)
				}
			}
		})
	}
}

// TestHealPinned: a server that doesn't sign the image with the key that is pinned heals
// nothing, though it has the bytes.
func TestHealPinned(t *testing.T) {
	d := fresh(t)
	good := formattest.Tiny(t, "pinned")
	fp := kiln.Fingerprint(sha256.Sum256(good))
	u := &upstream{bytes: map[string][]byte{}}
	u.add(fp, good, true, "app")
	r := u.serve(t)
	o, err := d.PullImage(t.Context(), PullSpec{Remote: r, Name: "app", IsAlias: true})
	wait(t, o, err)
	must(t, d.Images.Update(t.Context(), fp, func(img *kiln.Image) error {
		img.Origin.ImageKey = "RWQYSOuZqbGzl/7VXqNw4h5pXlanVhln1HaESs/icS+U/Cqw/MXJOV1I"
		return nil
	}))
	flipped(t, d.blobs.Path(fp))
	if s, err := scrubNow(t, d); !errors.Is(err, kiln.Integrity) || !strings.Contains(s.Found[0].Problem, "signed") {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestHealFromHere has the bytes of a damaged file in what is put away, or as a tree that is
// mounted as it is and lies on another file system.
func TestHealFromHere(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "here")
	good, err := os.ReadFile(d.blobs.Path(fp))
	must(t, err, os.WriteFile(filepath.Join(d.cfg.Dir, "blobs/lost", fp.String()), good, 0o600))
	flipped(t, d.blobs.Path(fp))
	if s, err := scrubNow(t, d); err != nil || len(s.Found) != 1 || !strings.Contains(s.Found[0].Repaired, "put away") {
		t.Errorf("%+v, %v", s, err)
	}
	must(t, d.SetSettings(t.Context(), map[string]string{mountSquashfs: "always"}, false))
	squashfs := formattest.Squashfs(t, formattest.Tar(t, formattest.Rootfs(t, "")...))
	wait(t, importFiles(t, d, ImportSpec{}, formattest.Tar(t, formattest.Meta()...), squashfs), nil)
	launched := kiln.Fingerprint{}
	for _, img := range mustList(t, d) {
		if len(img.Files) == 2 {
			launched = img.Fingerprint
		}
	}
	must(t, d.fillImage(t.Context(), launched), d.pool.Settle(launched))
	img, err := d.Images.Get(t.Context(), launched)
	must(t, err)
	path := d.blobs.Path(img.Files[1].Hash)
	tree := filepath.Join(d.cfg.Dir, "volumes/images", launched.String(), "rootfs.squashfs")
	flipped(t, path) // and with it the tree
	if s, err := scrubNow(t, d); !errors.Is(err, kiln.Integrity) || len(s.Found) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	must(t, os.Remove(tree), os.WriteFile(tree, squashfs, 0o400))
	if s, err := scrubNow(t, d); err != nil || len(s.Found) != 1 || !strings.Contains(s.Found[0].Repaired, "tree") {
		t.Errorf("%+v, %v", s, err)
	}
}

func flipped(t *testing.T, path string) { flip(t, path, 700, 3) }

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func mustList(t *testing.T, d *Daemon) []kiln.Image {
	t.Helper()
	list, err := d.Images.List(t.Context(), store.Query{Files: true})
	must(t, err)
	return list
}

// TestHealSources: mirrors hear only of images of the default project, and servers are asked only
// as far as images may come from them.
func TestHealSources(t *testing.T) {
	d := fresh(t)
	fp := cached(t, d, "healed")
	u := &upstream{bytes: map[string][]byte{}}
	r := u.serve(t)
	o, err := d.AddMirror(t.Context(), Mirror{Name: "m", Remote: r, PullThrough: true})
	wait(t, o, err)
	img, err := d.Images.Get(t.Context(), fp)
	must(t, err)
	for project, told := range map[string]bool{"default": true, "web": false} {
		img.Project = project
		list := d.healSources(t.Context(), img.Files[0], []kiln.Image{img})
		if slices.ContainsFunc(list, func(s healSource) bool { return s.name == r.Server }) != told {
			t.Errorf("%s: %+v", project, list)
		}
	}
	must(t, d.SetSettings(t.Context(), map[string]string{requireSignature: "always"}, false))
	in, err := d.openAgain(t.Context(), nil, r, img, "", img.Files[0])
	if in != nil || !errors.Is(err, kiln.Integrity) || !strings.Contains(err.Error(), requireSignature) {
		t.Errorf("a server whose images aren't checked: %v", err)
	}
}

// TestRefreshRepairs: an image that is known to be damaged isn't up to date though its server has
// no other.
func TestRefreshRepairs(t *testing.T) {
	d := fresh(t)
	good := formattest.Tiny(t, "healed")
	fp := kiln.Fingerprint(sha256.Sum256(good))
	u := &upstream{bytes: map[string][]byte{}}
	u.add(fp, good, true, "app")
	o, err := d.PullImage(t.Context(), PullSpec{Remote: u.serve(t), Name: "app", IsAlias: true})
	wait(t, o, err)
	flipped(t, d.blobs.Path(fp))
	if err := d.Images.Verify(t.Context(), fp); !errors.Is(err, kiln.Integrity) {
		t.Fatal(err)
	}
	for _, bytes := range [][]byte{nil, good} {
		u.bytes[fp.String()] = bytes
		s := d.RefreshImage(t.Context(), fp, false).Wait(t.Context())
		img, err := d.Images.Get(t.Context(), fp)
		must(t, err)
		switch {
		case bytes == nil && (!errors.Is(s.Err, kiln.Integrity) || img.Missing == ""):
			t.Errorf("nobody has its bytes: %v, %q", s.Err, img.Missing)
		case bytes != nil && (s.Err != nil || img.Missing != "" || s.Metadata["repaired"] == nil):
			t.Errorf("%v, %q, %v", s.Err, img.Missing, s.Metadata)
		}
	}
	s := d.RefreshImage(t.Context(), fp, false).Wait(t.Context())
	if s.Err != nil || s.Metadata["repaired"] != nil || s.Metadata["refreshed"] != false {
		t.Errorf("once it is whole: %+v", s)
	}
}

// TestRefreshTellsNoOthers: an image that others have as well is repaired from their server, which
// a restricted client isn't told of, nor where files are on this host.
func TestRefreshTellsNoOthers(t *testing.T) {
	d := fresh(t)
	good := formattest.Tiny(t, "healed")
	fp := kiln.Fingerprint(sha256.Sum256(good))
	must(t, d.CreateProject(t.Context(), db.Project{Name: "own", Config: map[string]string{"features.images": "true"}}))
	own, err := d.In(t.Context(), "own")
	must(t, err)
	theirs, mine := &upstream{bytes: map[string][]byte{}}, &upstream{bytes: map[string][]byte{}}
	var servers []string
	for u, ctx := range map[*upstream]context.Context{theirs: t.Context(), mine: own} {
		u.add(fp, good, true, "app")
		r := u.serve(t)
		servers = append(servers, strings.TrimPrefix(r.Server, "https://"))
		o, err := d.PullImage(ctx, PullSpec{Remote: r, Name: "app", IsAlias: true})
		wait(t, o, err)
	}
	flipped(t, d.blobs.Path(fp))
	if err := d.Images.Verify(own, fp); !errors.Is(err, kiln.Integrity) {
		t.Fatal(err)
	}
	mine.bytes[fp.String()] = nil
	for _, bytes := range [][]byte{nil, good} {
		theirs.bytes[fp.String()] = bytes
		s := d.RefreshImage(instance.Restricted(own, "own"), fp, false).Wait(t.Context())
		if (s.Err == nil) != (bytes != nil) || bytes != nil && s.Metadata["repaired"] != elsewhere {
			t.Errorf("%v, %v", s.Err, s.Metadata)
		}
		said := fmt.Sprint(s.Err, s.Metadata)
		for _, word := range append(servers, d.cfg.Dir) {
			if strings.Contains(said, word) {
				t.Errorf("%q is told: %s", word, said)
			}
		}
	}
}
