package daemon

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/migrate"
	"github.com/kiln-containers/kiln/internal/op"
	"github.com/kiln-containers/kiln/internal/rsync"
)

// TestArrivalOf judges headers: what is named has to be told of, and what only the other host
// knows doesn't come along.
func TestArrivalOf(t *testing.T) {
	spec := CreateSpec{Name: "c", Source: Source{Type: "migration"}}
	h := migrate.Header{FS: migrate.RSYNC, Snapshots: []migrate.Snapshot{{Name: "s",
		Config: map[string]string{"volatile.uuid": "x", "user.a": "b"}}}}
	if _, _, err := arrivalOf(spec, h); !errors.Is(err, kiln.Invalid) {
		t.Error("a snapshot without a name:", err)
	}
	h.Names = []string{"s"}
	a, _, err := arrivalOf(spec, h)
	if err != nil {
		t.Fatal(err)
	}
	if c := a.Snapshots[0].Config; len(c) != 1 || c["user.a"] != "b" {
		t.Errorf("the snapshot has %v", c)
	}
	for missing, f := range map[string]*migrate.Features{
		"all": nil, "xattrs": {Delete: true, Bidirectional: true}, "delete": {Xattrs: true, Bidirectional: true},
		"bidirectional": {Xattrs: true, Delete: true}} {
		if _, err := agreed(f); !errors.Is(err, kiln.Unsupported) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

// TestMissingSnapshots: of a copy that is brought up to date, what isn't the source's is
// dropped, also another snapshot of the same name, unless only the instance comes.
func TestMissingSnapshots(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c", Source: Source{Type: "none"}})
	wait(t, o, err)
	a := &arrival{spec: CreateSpec{Name: "c"}}
	for _, name := range []string{"mine", "other", "same"} {
		snapshot(t, d, "c", name)
		s, err := d.instances.Snapshot(ctx, "c", name)
		if err != nil {
			t.Fatal(err)
		}
		switch at := s.CreatedAt; name {
		case "other":
			a.Snapshots = append(a.Snapshots, kiln.InstanceState{Name: name, CreatedAt: at.Add(-time.Hour)})
		case "same":
			a.Snapshots = append(a.Snapshots, kiln.InstanceState{Name: name, CreatedAt: at})
		}
	}
	a.Snapshots = append(a.Snapshots, kiln.InstanceState{Name: "new", CreatedAt: time.Now()})
	drop, err := d.missingSnapshots(ctx, a)
	var names []string
	for _, s := range drop {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"mine", "other"}) {
		t.Errorf("%v are dropped, %v", drop, err)
	}
	if len(a.Snapshots) != 2 || a.Snapshots[0].Name != "other" || a.Snapshots[1].Name != "new" {
		t.Errorf("%+v come", a.Snapshots)
	}
	a.spec.Source.Only = true
	if drop, err := d.missingSnapshots(ctx, a); len(drop) > 0 || len(a.Snapshots) > 0 || err != nil {
		t.Errorf("of the instance only: %q are dropped, and %+v come, %v", drop, a.Snapshots, err)
	}
}

// TestAnswer asks another server for the snapshots that are to come, and for no more than it can.
func TestAnswer(t *testing.T) {
	h := migrate.Header{Processes: migrate.JustFiles, Names: []string{"a", "b"},
		Snapshots: []migrate.Snapshot{{Name: "a"}, {Name: "b"}}}
	a := &arrival{Transfer: kiln.Transfer{Snapshots: []kiln.InstanceState{{Name: "b"}}}}
	a.spec.Source.Refresh = true
	for _, o := range []rsync.Options{{}, {Compress: true}, {Links: true}} {
		got := answerTo(h, a, o)
		want := copied
		want.Compress, want.Links = o.Compress, o.Links
		if got.Features == nil || *got.Features != want || !got.Refresh || got.Processes != h.Processes ||
			!slices.Equal(got.Names, []string{"b"}) || len(got.Snapshots) != 1 || got.Snapshots[0].Name != "b" {
			t.Errorf("%+v: %+v, %+v", o, got, got.Features)
		}
	}
	if !copied.Compress || !copied.Links {
		t.Error("what this server has is changed")
	}
}

// TestMigrationTurn refuses one migration too many at once, and lets the other server know.
func TestMigrationTurn(t *testing.T) {
	told := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		_, b, _ := c.Read(r.Context())
		told <- string(b)
		_, _, _ = c.Read(r.Context())
	}))
	t.Cleanup(s.Close)
	c, _, err := websocket.Dial(t.Context(), s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	full := make(chan struct{}, 1)
	full <- struct{}{}
	dropped := false
	m := &Migration{ctx: t.Context(), turns: []chan struct{}{full}, drop: func() { dropped = true },
		run: func(context.Context, *op.Operation, *migrate.Peer) error { return nil }}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = m.Run(ctx, nil, func(context.Context) (*migrate.Peer, error) {
		return &migrate.Peer{Control: c, Files: c, Silence: time.Minute}, nil
	})
	if !errors.Is(err, kiln.Busy) || ctx.Err() != nil || !dropped || len(full) != 1 {
		t.Errorf("%v, %v, dropped %v", err, ctx.Err(), dropped)
	}
	if said := <-told; !strings.Contains(said, "as many as may at once") {
		t.Errorf("the other server is told %q", said)
	}
}
