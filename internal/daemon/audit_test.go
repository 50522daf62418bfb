package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/event"
)

// nextSecurity gives the next event of the record.
func nextSecurity(t *testing.T, l *event.Listener) audit.Event {
	t.Helper()
	select {
	case e := <-l.Events():
		return e.Metadata.(audit.Event)
	case <-time.After(time.Minute):
		t.Fatal("no more in the record")
	}
	return audit.Event{}
}

// TestAuditOfSignatures: the record has which image of which server was refused, for whom, and
// by which key; and which keys images are pinned to.
func TestAuditOfSignatures(t *testing.T) {
	d := withHTTP(t)
	key := newKey(t)
	s := newShelf(t, key.Key())
	fp := s.put(t, "1")
	l := d.Events.Listen(SecurityEvents)
	defer l.Close()
	who := &audit.Who{Method: audit.TLS, Name: "alice", Trusted: true}
	ctx := audit.WithWho(t.Context(), who)
	spec := PullSpec{Remote: s.remote, Name: "bb", IsAlias: true, ImportSpec: ImportSpec{Aliases: aliases("bb"), Public: true}}
	refused := func(how, image string) {
		t.Helper()
		e := nextSecurity(t, l)
		if e.Action != signatureRefused || e.Result != audit.Refused || e.Source != s.remote.Server || e.Project != "default" ||
			e.Context["image"] != image || e.Context["key"] != key.Key().ID() || e.Reason == "" || e.Who.Name != "alice" {
			t.Errorf("%s: %+v", how, e)
		}
	}
	o, err := d.PullImage(ctx, spec)
	if err := pulled(t, o, err); kiln.KindOf(err) != kiln.Integrity {
		t.Fatal(err)
	}
	refused("pull", "bb")
	if _, err := d.cachedImage(ctx, nil, Source{Type: "image", Alias: "bb", Remote: s.remote}); kiln.KindOf(err) != kiln.Integrity {
		t.Fatal(err)
	}
	refused("launch", "bb")
	mirror := Mirror{Name: "m", Remote: s.remote}
	if err := d.startMirror(ctx, mirror).Wait(t.Context()).Err; kiln.KindOf(err) != kiln.Integrity {
		t.Fatal(err)
	}
	refused("mirror", "bb")
	refused("mirror", "bb/"+HostArch())

	s.signature = sign(t, key, fp, "bb")
	o, err = d.PullImage(ctx, spec)
	if err := pulled(t, o, err); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for range 2 {
		e := nextSecurity(t, l)
		if got[e.Action] = true; e.Source != imageURL(fp) || e.Who == nil || e.Who.Name != "alice" {
			t.Errorf("%+v", e)
		}
	}
	if !got[imageKeyPinned] || !got[imagePublic] {
		t.Errorf("%v", got)
	}
	if err := d.SetSettings(ctx, map[string]string{requireSignature: "always"}, false); err != nil {
		t.Fatal(err)
	}
	spec.Remote.ImageKey = ""
	o, err = d.PullImage(ctx, spec)
	if err := pulled(t, o, err); kiln.KindOf(err) != kiln.Integrity {
		t.Fatal(err)
	}
	if e := nextSecurity(t, l); e.Action != signatureRefused || e.Context["key"] != nil {
		t.Errorf("%+v", e)
	}
}

// TestAuditFails: that the record can't be written is a warning, which ends when it can be, and
// nobody else has to know.
func TestAuditFails(t *testing.T) {
	d := fresh(t)
	ctx := audit.WithWho(t.Context(), &audit.Who{Method: audit.Unix, Trusted: true})
	until := func(status string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			d.Audit(audit.Event{Action: "test"})
			list, err := d.Warnings(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(list, func(w Warning) bool { return w.Type == auditFailed && w.Status == status }) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("no warning is %s: %+v", status, list)
			}
		}
	}
	dir := filepath.Join(d.cfg.Dir, auditDir)
	for {
		if _, err := os.Stat(filepath.Join(dir, audit.Name)); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := errors.Join(os.Rename(dir, dir+".away"), os.Symlink("/nowhere", dir)); err != nil {
		t.Fatal(err)
	}
	until(db.WarningNew)
	if err := d.SetSettings(ctx, map[string]string{"user.x": "y"}, false); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	until(db.WarningResolved)
}
