package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/network"
)

// TestUnknownGoesOn has containers run that the database doesn't know, one of them without a
// record: they and all that is theirs are left as they are, and followed to their ends. Nobody
// else gets what they have of this host, and a shutdown ends them.
func TestUnknownGoesOn(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "kiln"), t.Context()
	d := open(t, dir)
	wait(t, importFiles(t, d, ImportSpec{Aliases: aliases("bb")}, formattest.Unified(t)), nil)
	old := filepath.Join(t.TempDir(), "old.db")
	if err := d.db.Backup(ctx, old); err != nil {
		t.Fatal(err)
	}
	uuids, ids, leases := map[string]string{}, map[string]string{}, map[string]db.Lease{}
	for _, name := range []string{"known", "bare"} {
		if err := isolated(t, d, name, map[string]string{"host_name": "host" + name}); err != nil {
			t.Fatal(err)
		}
		if err := d.instances.CreateSnapshot(ctx, name, instance.NewSnapshot{Name: "s0"}); err != nil {
			t.Fatal(err)
		}
		i, err := d.Instance(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		uuids[name], ids[name] = i.Options[instance.UUIDKey], i.Options["volatile.idmap.base"]
		leases[name] = leaseOf(t, d, name)
		t.Cleanup(func() {
			for _, pid := range box.Processes(uuids[name]) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
	}
	run(t, d, "known", "(while [ ! -e /root/go ]; do sleep 0.1; done; rm /root/go; reboot -f) >/dev/null 2>&1 </dev/null &")
	in := filepath.Join(dir, "boxes", uuids["known"])
	if err := errors.Join(d.Close(), os.Remove(filepath.Join(dir, "volumes/notes", uuids["bare"]+".json")),
		restored(t, dir, old)); err != nil {
		t.Fatal(err)
	}

	d = open(t, dir)
	unknown := d.instances.Unknown()
	if len(unknown) != 2 || !strings.Contains(unknown[0], uuids["bare"]) || unknown[1] != "known" {
		t.Fatalf("%q", unknown)
	}
	if all, err := d.pool.Snapshots(); err != nil || len(all) != 2 {
		t.Errorf("snapshots: %q, %v", all, err)
	}
	warned := func() string {
		list, err := d.Warnings(ctx, "")
		if err != nil || len(list) != 1 || list[0].Type != instanceUnknown {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0].Message
	}
	if text := warned(); !strings.Contains(text, "known: running") || !strings.Contains(text, uuids["bare"]) {
		t.Error(text)
	}
	if text := askGuest(t, filepath.Join(in, "guest/sock")); !strings.Contains(text, "local-hostname: known") {
		t.Errorf("it is told of itself: %s", text)
	}
	if err := isolated(t, d, "fresh", nil); err != nil {
		t.Fatal(err)
	}
	fresh, err := d.Instance(ctx, "fresh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"known", "bare"} {
		has := leases[name]
		if fresh.Options["volatile.idmap.base"] == ids[name] || ids[name] == "" || !has.IPv4.IsValid() ||
			leaseOf(t, d, "fresh").IPv4 == has.IPv4 {
			t.Errorf("%s has the ids from %s and %s; fresh has %+v and %+v", name, ids[name], has.IPv4, fresh.Options,
				leaseOf(t, d, "fresh"))
		}
		for key, v := range map[string]string{"ipv4.address": has.IPv4.String(), "host_name": "host" + name} {
			err := isolated(t, d, "no", map[string]string{key: v})
			if !errors.Is(err, kiln.Conflict) {
				t.Errorf("with the %s of %s: %v", key, name, err)
			}
			o, err := d.DeleteInstance(ctx, "no") // it was made, and isn't started
			wait(t, o, err)
		}
		if !slices.ContainsFunc(d.networks.served.Networks()[0].Hosts, func(h network.Host) bool {
			return h.MAC == has.MAC && h.IPv4 == has.IPv4
		}) {
			t.Errorf("%s is served no address any more", name)
		}
	}
	first, pid, err := box.Peek(in)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/root/go", pid), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { // that it rebooted is noticed
		next, now, err := box.Peek(in)
		if err != nil || now == pid {
			return false
		}
		b, err := os.ReadFile(filepath.Join(in, "box.json"))
		return err == nil && next.Close() == nil && strings.Contains(string(b), fmt.Sprint(now))
	})
	for _, pid := range box.Processes(uuids["bare"]) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	eventually(t, func() bool { return slices.Equal(d.instances.Unknown(), []string{"known"}) })
	eventually(t, func() bool { return !strings.Contains(warned(), uuids["bare"]) })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	r, err := Recover(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil || !slices.Equal(r.Instances, []string{"known", "recovered-" + uuids["bare"][:8]}) &&
		!slices.Equal(r.Instances, []string{"recovered-" + uuids["bare"][:8], "known"}) ||
		!slices.Equal(r.Snapshots, []string{"known/s0"}) {
		t.Fatalf("%+v, %v", r, err)
	}
	d = open(t, dir)
	if code, out := run(t, d, "known", "echo alive"); code != 0 || out != "alive\n" || len(d.instances.Unknown()) > 0 {
		t.Errorf("%d %q, %q", code, out, d.instances.Unknown())
	}
	eventually(t, func() bool { return leaseOf(t, d, "known") == leases["known"] })
	if err := errors.Join(d.Close(), restored(t, dir, old)); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	defer end(t, d)
	if unknown := d.instances.Unknown(); !slices.Equal(unknown, []string{"fresh", "known"}) {
		t.Errorf("%q", unknown)
	}
	if err := d.Shutdown(ctx); err != nil || len(d.instances.Unknown()) > 0 || len(box.Processes(uuids["known"])) > 0 {
		t.Errorf("after a shutdown: %q, %v", d.instances.Unknown(), err)
	}
}

// isolated launches an instance with ids of its own and an interface with some keys.
func isolated(t *testing.T, d *Daemon, name string, keys map[string]string) error {
	t.Helper()
	nic := map[string]string{"type": "nic", "network": defaultNetwork}
	maps.Copy(nic, keys)
	o, err := d.CreateInstance(t.Context(), CreateSpec{Name: name, Start: true, Source: Source{Type: "image", Alias: "bb"},
		Config: instance.Config{Options: map[string]string{"security.idmap.isolated": "true"},
			Profiles: []string{defaultProfile}, Devices: map[string]map[string]string{"eth0": nic}}})
	if err != nil {
		return err
	}
	return o.Wait(t.Context()).Err
}

// leaseOf gives the addresses that the first interface of an instance has by its row.
func leaseOf(t *testing.T, d *Daemon, name string) (found db.Lease) {
	t.Helper()
	list, err := d.db.Leases(t.Context(), defaultNetwork)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if l.Instance == name {
			found = l
		}
	}
	return found
}

// restored puts a copy of the database in the place of a daemon's that has ended.
func restored(t *testing.T, dir, from string) error {
	t.Helper()
	_, err := RestoreDatabase(t.Context(), dir, from)
	return err
}

// askGuest gives what an instance is told of itself on a socket.
func askGuest(t *testing.T, socket string) string {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	resp, err := c.Get("http://x/1.0/meta-data")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
