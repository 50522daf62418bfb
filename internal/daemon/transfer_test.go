package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
)

// shareOf shares an instance and gives its secret and the token's ID.
func shareOf(t *testing.T, d *Daemon, name string) (word, token string) {
	t.Helper()
	o, err := d.ShareInstance(t.Context(), name, false)
	s := wait(t, o, err)
	return s.Metadata["secret"].(string), s.Metadata["token"].(string)
}

// carried gives the parts of an instance that is shared, each changed by a function.
func carried(d *Daemon, word, name string, change func(id string, b []byte) []byte) func(context.Context,
	string) (io.ReadCloser, error) {
	return func(ctx context.Context, id string) (io.ReadCloser, error) {
		write, err := d.TransferPart(word, name, id)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		if err := write(ctx, &b); err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(change(id, b.Bytes()))), nil
	}
}

// countFiles counts what a daemon has of instances.
func countFiles(t *testing.T, d *Daemon) int {
	t.Helper()
	n := 0
	for _, sub := range []string{"layers", "volumes", "snapshots"} {
		list, err := os.ReadDir(filepath.Join(d.cfg.Dir, "volumes", sub))
		if err != nil {
			t.Fatal(err)
		}
		n += len(list)
	}
	return n
}

// two gives daemons of which the first has an instance c1 that runs, with a snapshot.
func two(t *testing.T) (from, to *Daemon, word string) {
	t.Helper()
	from, to = fresh(t), fresh(t)
	img := formattest.Unified(t)
	wait(t, importFiles(t, from, ImportSpec{Aliases: aliases("bb")}, img), nil)
	wait(t, importFiles(t, to, ImportSpec{Aliases: aliases("bb")}, img), nil)
	launch(t, from, "c1", "bb")
	run(t, from, "c1", "echo one > /root/x")
	snapshot(t, from, "c1", "s0")
	run(t, from, "c1", "echo two > /root/x; head -c 300000 /dev/urandom > /root/y; rm /etc/os-release")
	word, _ = shareOf(t, from, "c1")
	run(t, from, "c1", "echo three > /root/x")
	return from, to, word
}

// TestTransfer copies an instance that runs as it was when it was shared, and with
// what was asked for.
func TestTransfer(t *testing.T) {
	from, to, word := two(t)
	tr, err := from.Transfer(word, "c1")
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	same := func(_ string, b []byte) []byte {
		// Nobody clears the image away meanwhile.
		if gone, err := to.clear(t.Context(), tr.Base, func(kiln.Image) bool { return true }); gone || err != nil {
			t.Errorf("cleared away: %v, %v", gone, err)
		}
		// Who deletes it leaves its tree to the instance that arrives.
		once.Do(func() { wait(t, to.DeleteImage(t.Context(), tr.Base), nil) })
		return b
	}
	spec := CreateSpec{Name: "c2", Start: true, Config: instance.Config{Options: map[string]string{"user.x": "1"}}}
	wait(t, to.ReceiveInstance(t.Context(), spec, tr, carried(from, word, "c1", same)), nil)
	if _, out := run(t, to, "c2", "cat /root/x /etc/hostname; ls /etc/os-release"); !strings.HasPrefix(out, "two\nc2\n") ||
		!strings.Contains(out, "No such file") {
		t.Errorf("%q", out)
	}
	c, err := to.Instance(t.Context(), "c2")
	if err != nil || c.Options["user.x"] != "1" || c.Status != instance.Running ||
		c.Options["volatile.base_image"] != tr.Base.String() {
		t.Errorf("%+v, %v", c, err)
	}
	if list, err := to.Snapshots(t.Context(), "c2"); len(list) != 1 || list[0].Name != "s0" || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	restore(t, to, "c2", "s0")
	if _, out := run(t, to, "c2", "cat /root/x /etc/hostname"); out != "one\nc2\n" {
		t.Errorf("%q", out)
	}
	// It was started while the files came that it was to be given.
	files := to.instances.NewFiles()
	defer files.Close()
	if err := to.instances.Refresh(t.Context(), "c2", "", files, nil); !errors.Is(err, kiln.Conflict) {
		t.Errorf("one that runs is given other files: %v", err)
	}
}

// TestPlanOfArrival: a copy is as the other instance was, but for what was asked for, and for what only
// the other host knows.
func TestPlanOfArrival(t *testing.T) {
	of := kiln.Transfer{InstanceState: kiln.InstanceState{Description: "theirs", Ephemeral: true, Profiles: []string{"p"},
		Config:  map[string]string{"user.a": "1", "user.b": "1", "volatile.uuid": "x"},
		Devices: map[string]map[string]string{"d": {"type": "none"}}}, Snapshots: []kiln.InstanceState{{}}}
	n := (&arrival{Transfer: of, spec: CreateSpec{Config: instance.Config{Options: map[string]string{"user.b": "2"}}}}).plan()
	if n.Description != "theirs" || !n.Ephemeral || !slices.Equal(n.Profiles, of.Profiles) || len(n.Devices) != 1 ||
		!maps.Equal(n.Options, map[string]string{"user.a": "1", "user.b": "2"}) {
		t.Errorf("%+v", n)
	}
	of.Ephemeral = false
	mine := instance.Config{Description: "mine", Ephemeral: true, Profiles: []string{"q"},
		Devices: map[string]map[string]string{}}
	n = (&arrival{Transfer: of, spec: CreateSpec{Config: mine}}).plan()
	if n.Description != "mine" || !n.Ephemeral || !slices.Equal(n.Profiles, mine.Profiles) || len(n.Devices) > 0 ||
		!slices.Equal(of.Snapshots[0].Profiles, mine.Profiles) {
		t.Errorf("%+v, the snapshot has %q", n, of.Snapshots[0].Profiles)
	}
}

// TestTransferFails in every way, and leaves nothing.
func TestTransferFails(t *testing.T) {
	from, to, word := two(t)
	tr, err := from.Transfer(word, "c1")
	if err != nil {
		t.Fatal(err)
	}
	same := func(_ string, b []byte) []byte { return b }
	last := tr.Parts[len(tr.Parts)-1].ID
	at := func(id string, f func([]byte) []byte) func(string, []byte) []byte {
		return func(got string, b []byte) []byte {
			if got == id {
				return f(b)
			}
			return b
		}
	}
	for what, f := range map[string]struct {
		spec   CreateSpec
		change func(*kiln.Transfer)
		bytes  func(string, []byte) []byte
		kind   kiln.Kind
	}{
		"cut":            {bytes: at(last, func(b []byte) []byte { return b[:len(b)/2] }), kind: kiln.Integrity},
		"cut at the end": {bytes: at(last, func(b []byte) []byte { return b[:len(b)-2] }), kind: kiln.Integrity},
		"damaged":        {bytes: at(last, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), kind: kiln.Integrity},
		"no zstd":        {bytes: at(last, func([]byte) []byte { return []byte("nonsense") }), kind: kiln.Integrity},
		"nothing":        {bytes: at(last, func([]byte) []byte { return nil }), kind: kiln.Integrity},
		"another part": {change: func(t *kiln.Transfer) { t.Parts = append(t.Parts, kiln.Part{ID: "x"}) },
			kind: kiln.NotFound},
		"a layer too few": {change: func(t *kiln.Transfer) { t.Parts = t.Parts[:len(t.Parts)-1] }, kind: kiln.Invalid},
		"too large": {change: func(t *kiln.Transfer) { t.Parts = append(t.Parts, kiln.Part{ID: "x", Size: 1 << 60}) },
			kind: kiln.NoSpace},
		"another machine": {change: func(t *kiln.Transfer) { t.Architecture = "s390x" }, kind: kiln.Unsupported},
		"no image":        {change: func(t *kiln.Transfer) { t.Base = kiln.Fingerprint{1} }, kind: kiln.NotFound},
		"no profile":      {change: func(t *kiln.Transfer) { t.Profiles = []string{"none"} }, kind: kiln.NotFound},
		"snapshot's": {change: func(t *kiln.Transfer) { t.Snapshots[0].Profiles = []string{"none"} },
			kind: kiln.NotFound},
		"snapshot's name": {change: func(t *kiln.Transfer) { t.Snapshots[0].Name = "../x" }, kind: kiln.Invalid},
		"snapshots' names": {change: func(t *kiln.Transfer) { t.Snapshots = append(t.Snapshots, t.Snapshots[0]) },
			kind: kiln.Invalid},
		"unknown option": {change: func(t *kiln.Transfer) { t.Config = map[string]string{"unknown": "1"} },
			kind: kiln.Invalid},
		"bad device": {change: func(t *kiln.Transfer) {
			t.Snapshots[0].Devices = map[string]map[string]string{"x": {"type": "disk", "path": "../x", "source": ""}}
		}, kind: kiln.Invalid},
		"no root disk": {spec: CreateSpec{Config: instance.Config{Profiles: []string{}}}, kind: kiln.Invalid},
		"no name":      {spec: CreateSpec{Name: "-"}, kind: kiln.Invalid},
	} {
		t.Run(what, func(t *testing.T) {
			mine := tr
			mine.Snapshots = append([]kiln.InstanceState{}, tr.Snapshots...)
			mine.Parts = append([]kiln.Part{}, tr.Parts...)
			if f.change != nil {
				f.change(&mine)
			}
			if f.bytes == nil {
				f.bytes = same
			}
			if f.spec.Name == "" {
				f.spec.Name = "c2"
			}
			o := to.ReceiveInstance(t.Context(), f.spec, mine, carried(from, word, "c1", f.bytes))
			if err := o.Wait(t.Context()).Err; !errors.Is(err, f.kind) {
				t.Errorf("%v (%s)", err, kiln.KindOf(err))
			}
			if list, err := to.Instances(t.Context()); len(list) > 0 || err != nil || countFiles(t, to) > 0 {
				t.Errorf("left: %v, %v, %d files", list, err, countFiles(t, to))
			}
		})
	}
}

// TestShareEnds when its token is cancelled or the copy is made: the secret opens
// nothing, and the files are gone. Before that a deleted snapshot is still there.
func TestShareEnds(t *testing.T) {
	from, _, word := two(t)
	before := countFiles(t, from)
	o, err := from.DeleteSnapshot(t.Context(), "c1", "s0")
	wait(t, o, err)
	tr, err := from.Transfer(word, "c1")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range tr.Parts {
		write, err := from.TransferPart(word, "c1", p.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := write(t.Context(), io.Discard); err != nil {
			t.Errorf("part %s: %v", p.ID, err)
		}
	}
	opens := func(word string, fp kiln.Fingerprint) bool { _, ok := from.Shared(t.Context(), word, fp); return ok }
	if !opens(word, tr.Base) || opens("x", tr.Base) || opens(word, kiln.Fingerprint{1}) {
		t.Error("the secret doesn't open the image, or opens others")
	}
	for _, x := range [][2]string{{"", "c1"}, {"x", "c1"}, {word, "c2"}} {
		_, err1 := from.Transfer(x[0], x[1])
		_, err2 := from.TransferPart(x[0], x[1], tr.Parts[0].ID)
		if err := from.EndTransfer(x[0], x[1]); !errors.Is(err, kiln.Denied) || !errors.Is(err1, kiln.Denied) ||
			!errors.Is(err2, kiln.Denied) {
			t.Errorf("%v: %v, %v, %v", x, err, err1, err2)
		}
	}
	if _, err := from.TransferPart(word, "c1", "volume"); !errors.Is(err, kiln.NotFound) {
		t.Errorf("another part: %v", err)
	}
	other, token := shareOf(t, from, "c1")
	cancel, err := from.Ops.Get(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cancel.Cancel(), from.EndTransfer(word, "c1")); err != nil {
		t.Fatal(err)
	}
	cancel.Wait(t.Context())
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err1 := from.Transfer(word, "c1")
		_, err2 := from.Transfer(other, "c1")
		if errors.Is(err1, kiln.Denied) && errors.Is(err2, kiln.Denied) && countFiles(t, from) < before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v, %v, %d files of %d", err1, err2, countFiles(t, from), before)
		}
	}
}

// TestTransferHostAccess has the other server say that the instance may reach the host:
// that is refused, unless the user wants it.
func TestTransferHostAccess(t *testing.T) {
	from, to, word := two(t)
	tr, err := from.Transfer(word, "c1")
	if err != nil {
		t.Fatal(err)
	}
	same := func(_ string, b []byte) []byte { return b }
	disk := map[string]map[string]string{"d": {"type": "disk", "source": "/etc", "path": "/mnt"},
		"root": {"type": "disk", "path": "/", "pool": "default"}}
	for what, change := range map[string]func(*kiln.Transfer){
		"raw.lxc":          func(t *kiln.Transfer) { t.Config = map[string]string{"raw.lxc": "lxc.hook.pre-start = /bin/id"} },
		"privileged":       func(t *kiln.Transfer) { t.Config = map[string]string{"security.privileged": "true"} },
		"disk of the host": func(t *kiln.Transfer) { t.Devices = disk },
		"a snapshot":       func(t *kiln.Transfer) { t.Snapshots[0].Devices = disk },
	} {
		mine := tr
		mine.Snapshots = append([]kiln.InstanceState{}, tr.Snapshots...)
		change(&mine)
		o := to.ReceiveInstance(t.Context(), CreateSpec{Name: "c2"}, mine, carried(from, word, "c1", same))
		if err := o.Wait(t.Context()).Err; !errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), "--host-access") {
			t.Errorf("%s: %v", what, err)
		}
		if list, err := to.Instances(t.Context()); len(list) > 0 || err != nil {
			t.Fatalf("%s: %v, %v", what, list, err)
		}
	}
	// What is said of the copy is not said of its snapshots, which can be restored.
	for what, change := range map[string]func(*kiln.InstanceState, *CreateSpec){
		"raw.lxc": func(s *kiln.InstanceState, spec *CreateSpec) {
			s.Config, spec.Options = map[string]string{"raw.lxc": "lxc.hook.pre-start = /bin/id"}, map[string]string{"raw.lxc": ""}
		},
		"privileged": func(s *kiln.InstanceState, spec *CreateSpec) {
			s.Config, spec.Options = map[string]string{"security.privileged": "1"},
				map[string]string{"security.privileged": "false"}
		},
		"disk of the host": func(s *kiln.InstanceState, spec *CreateSpec) {
			s.Devices, spec.Devices = disk, map[string]map[string]string{}
		},
	} {
		mine, spec := tr, CreateSpec{Name: "c2"}
		mine.Snapshots = append([]kiln.InstanceState{}, tr.Snapshots...)
		change(&mine.Snapshots[0], &spec)
		o := to.ReceiveInstance(t.Context(), spec, mine, carried(from, word, "c1", same))
		if err := o.Wait(t.Context()).Err; !errors.Is(err, kiln.Denied) ||
			!strings.Contains(err.Error(), "snapshot "+mine.Snapshots[0].Name) {
			t.Errorf("%s in a snapshot: %v", what, err)
		}
	}
	// A restricted client can't say --host-access, nor have what isn't asked of others.
	guest := instance.Restricted(t.Context())
	nesting := map[string]string{"security.nesting": "true"}
	for what, change := range map[string]func(*kiln.Transfer, *CreateSpec){
		"by the instance":   func(t *kiln.Transfer, _ *CreateSpec) { t.Config = map[string]string{"security.privileged": "true"} },
		"by a snapshot":     func(t *kiln.Transfer, _ *CreateSpec) { t.Snapshots[0].Devices = disk },
		"nesting":           func(t *kiln.Transfer, _ *CreateSpec) { t.Config = nesting },
		"snapshot, nesting": func(t *kiln.Transfer, _ *CreateSpec) { t.Snapshots[0].Config = nesting },
		"by the request":    func(_ *kiln.Transfer, spec *CreateSpec) { spec.Options = map[string]string{"raw.lxc": "x"} },
	} {
		mine, spec := tr, CreateSpec{Name: "c2", Source: Source{HostAccess: true}}
		mine.Snapshots = append([]kiln.InstanceState{}, tr.Snapshots...)
		change(&mine, &spec)
		o := to.ReceiveInstance(guest, spec, mine, carried(from, word, "c1", same))
		if err := o.Wait(t.Context()).Err; !errors.Is(err, kiln.Denied) || !strings.Contains(err.Error(), "restricted client") {
			t.Errorf("restricted, %s: %v", what, err)
		}
	}
	mine := tr
	mine.Config = map[string]string{"security.privileged": "true"}
	spec := CreateSpec{Name: "c2", Source: Source{HostAccess: true}}
	wait(t, to.ReceiveInstance(t.Context(), spec, mine, carried(from, word, "c1", same)), nil)
	if c, err := to.Instance(t.Context(), "c2"); err != nil || c.Options["security.privileged"] != "true" {
		t.Errorf("%+v, %v", c.Options, err)
	}
}

// TestShareEndsAmid: a part doesn't read as whole when the share has ended meanwhile.
func TestShareEndsAmid(t *testing.T) {
	d := fresh(t)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: "c", Source: Source{Type: "none"}})
	wait(t, o, err)
	word, _ := shareOf(t, d, "c")
	g, err := d.shared(word, "c")
	if err != nil {
		t.Fatal(err)
	}
	write, err := d.TransferPart(word, "c", g.Value.Parts[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.EndTransfer(word, "c"); err != nil {
		t.Fatal(err)
	}
	<-g.Value.gone
	if err := write(t.Context(), io.Discard); !errors.Is(err, kiln.Cancelled) {
		t.Error(err)
	}
}
