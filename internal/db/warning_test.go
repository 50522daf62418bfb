package db

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

func TestWarnings(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln.db"))
	ctx := t.Context()
	fp := kiln.Fingerprint{1}
	for _, err := range []error{
		d.CreateInstance(ctx, Instance{Name: "c1", Type: "container"}),
		d.CreateNetwork(ctx, Network{Name: "n1"}),
		d.Tx(ctx, func(tx *Tx) error { return tx.CreateImage(ctx, kiln.Image{Fingerprint: fp}) }),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	about := map[string]Subject{"instance": {Instance: Name{project.Default, "c1"}}, "network": {Network: "n1"},
		"image": {Image: Image{project.Default, fp}}, "daemon": {}}
	// see gives the warnings in words, by what they are about.
	see := func() map[string]string {
		t.Helper()
		list, err := d.Warnings(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		for _, w := range list {
			for what, s := range about {
				if s == w.About {
					seen[what] = fmt.Sprintf("%s %s %d %s%s", w.Type, w.Status, w.Count, w.Message, w.Damage)
				}
			}
		}
		if len(seen) != len(list) {
			t.Errorf("%d warnings about %v", len(list), seen)
		}
		return seen
	}
	is := func(want map[string]string) {
		t.Helper()
		if got := see(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	for _, message := range []string{"once", "twice"} {
		for what, s := range about {
			if err := d.Warn(ctx, "failure", s, message); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	is(map[string]string{"instance": "failure new 2 twice", "network": "failure new 2 twice", "image": "failure new 2 twice",
		"daemon": "failure new 2 twice"})

	list, _ := d.Warnings(ctx)
	for _, w := range list { // one that is acknowledged isn't new when it comes again
		if w.About == about["image"] {
			if err := d.EditWarning(ctx, w.ID, func(Warning) (string, error) { return WarningAcknowledged, nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := d.Version()
	for _, err := range []error{
		d.ResolveWarning(ctx, "another", about["daemon"]), // there is none
		d.ResolveWarning(ctx, "failure", Subject{Network: "n1", Instance: about["instance"].Instance}),
	} {
		if err != nil || d.Version() != before {
			t.Errorf("%v, or something was written", err)
		}
	}
	for _, err := range []error{
		d.Warn(ctx, "failure", about["image"], "again"),
		d.ResolveWarning(ctx, "failure", about["network"]),
		d.ResolveWarning(ctx, "failure", about["daemon"]), d.Warn(ctx, "failure", about["daemon"], "again"),
		d.RenameInstance(ctx, "c1", "web"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	about["instance"] = Subject{Instance: Name{project.Default, "web"}}
	is(map[string]string{"instance": "failure new 2 twice", "network": "failure resolved 2 twice",
		"image": "failure acknowledged 3 again", "daemon": "failure new 3 again"})

	if err := d.DropWarnings(ctx, time.Now().Add(-time.Minute)); err != nil || len(see()) != 4 {
		t.Errorf("%v, left %v", err, see())
	}
	for _, err := range []error{d.DropWarnings(ctx, time.Now().Add(time.Minute)), d.DeleteInstance(ctx, "web")} {
		if err != nil {
			t.Error(err)
		}
	}
	is(map[string]string{"image": "failure acknowledged 3 again", "daemon": "failure new 3 again"})
	for what, err := range map[string]error{"Warn": d.Warn(ctx, "failure", about["instance"], "x"),
		"ResolveWarning": d.ResolveWarning(ctx, "failure", about["instance"]),
		"EditWarning":    d.EditWarning(ctx, "none", nil), "DeleteWarning": d.DeleteWarning(ctx, "none")} {
		if kiln.KindOf(err) != kiln.NotFound {
			t.Errorf("%s of what is gone: %v", what, err)
		}
	}
	if _, err := d.write.ExecContext(ctx, `UPDATE warnings SET count = 'many' WHERE image_id IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	list, err := d.Warnings(ctx)
	if err != nil || len(list) != 2 || list[0].Damage+list[1].Damage == "" {
		t.Errorf("damaged: %+v, %v", list, err)
	}
	for _, w := range list {
		if err := d.DeleteWarning(ctx, w.ID); err != nil {
			t.Error(err)
		}
	}
	is(map[string]string{})
}
