package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/blob"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/disk"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestRecoverSound has a sound database in which one instance is missing, and the row of
// an image is damaged: these come back, and what other rows there are stays as they say,
// whatever records say of it. What an instance stands on its files know best.
func TestRecoverSound(t *testing.T) {
	dir, before := populated(t)
	rows, err := db.Open(t.Context(), filepath.Join(dir, databaseFile))
	if err != nil {
		t.Fatal(err)
	}
	img := before.Images[0]
	img.Properties = map[string]string{"row": "says"}
	const other = "the row's"
	if err := errors.Join(rows.DeleteInstance(t.Context(), "a"),
		rows.EditProfile(t.Context(), "web", func(p *db.Profile) error { p.Description = other; return nil }),
		rows.EditNetwork(t.Context(), "lab", func(n *db.Network) error { n.Description = other; return nil }),
		rows.Tx(t.Context(), func(tx *db.Tx) error { return tx.UpdateImage(t.Context(), img) }),
		rows.Close()); err != nil {
		t.Fatal(err)
	}
	damaged := before.Images[1].Fingerprint.String()
	execute(t, dir, "UPDATE images SET properties = "+noJSON+" WHERE fingerprint = '"+damaged+"'")
	pool := unswept(t, dir)
	uuid := before.Instances[0].Options[instance.UUIDKey]
	r, err := instance.Recorded(pool, uuid)
	if err != nil || len(r.Snapshots) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	base := r.Instance.Base
	r.Instance.Base, r.Snapshots[0].Base = kiln.Fingerprint{1}, kiln.Fingerprint{1}
	b, err := r.Encode()
	if err := errors.Join(err, pool.SetNote(uuid, b), pool.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || !slices.Equal(got.Instances, []string{"a"}) || len(got.Snapshots) != 2 || got.Backup != "" ||
		!slices.Equal(got.Images, []string{damaged}) ||
		len(got.Profiles)+len(got.Networks)+len(got.Left)+len(got.Remarks)+len(got.Gone) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if rows, err = db.Open(t.Context(), filepath.Join(dir, databaseFile)); err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	i, err := rows.Instance(t.Context(), "a")
	s, serr := rows.Snapshots(t.Context(), "a")
	p, perr := rows.Profile(t.Context(), "web")
	n, nerr := rows.Network(t.Context(), "lab")
	images, ierr := rows.Images(t.Context(), db.ImageQuery{Fingerprint: img.Fingerprint})
	if err := errors.Join(err, serr, perr, nerr, ierr); err != nil || len(s) != 2 || len(images) != 1 {
		t.Fatal(err, len(s), len(images))
	}
	if base.IsZero() || i.Base != base || s[0].Base != base || s[1].Base != base {
		t.Errorf("the base is %s; of a row %s, of its snapshots %s and %s", base, i.Base, s[0].Base, s[1].Base)
	}
	if p.Description != other || n.Description != other || !maps.Equal(images[0].Properties, img.Properties) {
		t.Errorf("%+v, %+v, %+v", p, n, images[0])
	}
}

// unswept is the pool of a daemon that doesn't run.
func unswept(t *testing.T, dir string) *volume.Pool {
	t.Helper()
	p, err := volume.OpenFor(filepath.Join(dir, "volumes"), func() (volumes, snapshots []string, err error) {
		return nil, nil, errors.New("nothing is swept")
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// lateCancel is a context that is cancelled when it is asked for the n-th time.
type lateCancel struct {
	context.Context
	left   atomic.Int32
	cancel func()
}

func (c *lateCancel) Done() <-chan struct{} {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return c.Context.Done()
}

// TestRecoverGivesUp has a recovery that is cancelled, or has no room for a row: that is
// nothing that is wrong with the volume, which is not put away for it.
func TestRecoverGivesUp(t *testing.T) {
	dir, before := populated(t)
	pool := unswept(t, dir)
	defer pool.Close()
	uuid := before.Instances[0].Options[instance.UUIDKey]
	r, err := instance.Recorded(pool, uuid)
	if err != nil {
		t.Fatal(err)
	}
	r.Snapshots = nil
	small := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "kiln-test", small).CombinedOutput(); err != nil {
		t.Fatalf("mount needs root: %s", out)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	rows := map[string]*db.DB{small: nil, dir: nil}
	for at := range rows {
		d, err := db.Open(t.Context(), filepath.Join(at, "rows"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		rows[at] = d
	}
	attempt := func(ctx context.Context, at string, r instance.Record) error {
		t.Helper()
		v := &recoverer{Daemon: &Daemon{cfg: Config{Dir: dir}, db: rows[at], pool: pool}}
		err := v.recoverInstance(ctx, uuid, map[string]instance.Record{uuid: r}, nil)
		if _, gerr := pool.Get(uuid); gerr != nil || len(v.r.Left) > 0 {
			t.Fatalf("%v: left are %q, %v", err, v.r.Left, gerr)
		}
		return err
	}
	large := r
	large.Instance.Description = strings.Repeat("x", 2<<20)
	if err := attempt(t.Context(), small, large); !errors.Is(err, kiln.NoSpace) {
		t.Errorf("without room: %v", err)
	}
	for n := int32(1); ; n++ {
		ctx, cancel := context.WithCancel(project.InAll(t.Context()))
		late := &lateCancel{Context: ctx, cancel: cancel}
		late.left.Store(n)
		err := attempt(late, dir, r)
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) && kiln.KindOf(err) != kiln.Cancelled || n > 1000 {
			t.Fatalf("cancelled at %d: %v", n, err)
		}
	}
}

// TestRecoverStrayFiles has an image that was put away, and files that are none: those
// stay for good. Many files aren't tried with one another.
func TestRecoverStrayFiles(t *testing.T) {
	for _, many := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "kiln")
		d := open(t, dir)
		image := formattest.Tiny(t, "1")
		wait(t, importFiles(t, d, ImportSpec{}, image), nil)
		count := 3
		if many {
			count = 17
		}
		for n := range count {
			if _, err := d.blobs.Put(strings.NewReader(fmt.Sprint("stray ", n)), kiln.Fingerprint{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		blobs, err := blob.Open(filepath.Join(dir, "blobs"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := blobs.Sweep(func(kiln.Fingerprint) bool { return false }); err != nil {
			t.Fatal(err)
		}
		loseDatabase(t, dir)
		r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil || len(r.Left) != count || !slices.Equal(r.Images,
			[]string{kiln.Fingerprint(sha256.Sum256(image)).String()}) {
			t.Errorf("of %d: %+v, %v", count, r, err)
		}
		if strings.Contains(strings.Join(r.Remarks, "\n"), "there are too many files") != many {
			t.Errorf("of %d: %q", count, r.Remarks)
		}
		lost, err := ListLost(t.Context(), dir)
		if err != nil || len(lost) != count {
			t.Errorf("%+v, %v", lost, err)
		}
		for _, l := range lost {
			if l.Kind != "file" || !l.GoesAt.IsZero() {
				t.Errorf("%+v", l)
			}
		}
	}
}

// TestRecoverPart has a record of an image of whose two files one is there: that makes no
// image, and stays.
func TestRecoverPart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kiln")
	d := open(t, dir)
	meta, rootfs := formattest.Split(t)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("split")}, meta, rootfs), nil)
	if err := errors.Join(d.blobs.Delete(sha256.Sum256(rootfs)), d.Close()); err != nil {
		t.Fatal(err)
	}
	loseDatabase(t, dir)
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(r.Images)+len(r.Aliases) > 0 || len(r.Left) != 1 || len(r.Remarks) != 1 ||
		!strings.Contains(r.Remarks[0], "not all of its files are there") {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestAsideOrder: the log of a database goes after it, since alone it would be taken for
// that of the next.
func TestAsideOrder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, databaseFile)
	for _, part := range []string{"", "-wal", "-shm"} {
		if err := os.WriteFile(path+part, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	stop := disk.Record(func(s disk.Step) {
		if s.Kind == disk.Renamed {
			order = append(order, s.Path)
		}
	})
	defer stop()
	if err := setDatabaseAside(dir); err != nil {
		t.Fatal(err)
	}
	if len(order) != 3 || !strings.HasSuffix(order[2], "-wal") {
		t.Errorf("%q", order)
	}
}

// TestRecoverUnrecorded has a copy of the database, records of most that is in it, and two
// volumes of one name in lost/: what has no record stays by its row, and the newest files are
// those that come back.
func TestRecoverUnrecorded(t *testing.T) {
	dir, before := populated(t)
	copied := filepath.Join(dir, backupsDir, "kiln-99990101.db")
	var uuid string
	for _, i := range before.Instances {
		if i.Name == "c" {
			uuid = i.Options[instance.UUIDKey]
		}
	}
	path := filepath.Join(dir, databaseFile)
	if err := errors.Join(os.MkdirAll(filepath.Dir(copied), 0o700), db.Copy(t.Context(), path, copied),
		os.Remove(filepath.Join(dir, "volumes/notes", uuid+".json")), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	pool := unswept(t, dir)
	mark := filepath.Join(dir, "volumes/volumes", uuid, "mark")
	for _, text := range []string{"older", "newer"} {
		if err := errors.Join(os.WriteFile(mark, []byte(text), 0o600), pool.Lose(uuid)); err != nil {
			t.Fatal(err)
		}
		if text == "older" { // and it is made anew
			if _, err := pool.Empty(t.Context(), uuid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Recover(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || !slices.Equal(r.Instances, []string{"a"}) || len(r.Left) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if b, err := os.ReadFile(mark); err != nil || string(b) != "newer" {
		t.Errorf("%q, %v", b, err)
	}
	d := open(t, dir)
	defer end(t, d)
	i, err := d.Instance(t.Context(), "c")
	if err != nil || i.Options[instance.UUIDKey] != uuid || i.Description != "of b" {
		t.Errorf("%+v, %v", i, err)
	}
}
