package daemon

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/format/formattest"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestDevicesOfWhatIsMade deletes what the devices of a new instance name while its image
// comes: that is refused, until nobody has it.
func TestDevicesOfWhatIsMade(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	if err := d.SetSettings(ctx, map[string]string{allowHTTP: "true"}, false); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateVolume(ctx, "data", volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	if err := d.db.CreateNetwork(ctx, db.Network{Name: "nv", Config: map[string]string{"ipv4.address": "none",
		"ipv6.address": "none"}}); err != nil {
		t.Fatal(err)
	}
	r := serveStream(t, HostArch(), formattest.Unified(t))
	behind, err := url.Parse(r.Server)
	if err != nil {
		t.Fatal(err)
	}
	var deleted sync.Once
	proxy := httputil.NewSingleHostReverseProxy(behind)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		deleted.Do(func() {
			for what, err := range map[string]error{"volume": d.DeleteVolume(ctx, "data"), "network": d.DeleteNetwork(ctx, "nv")} {
				if kiln.KindOf(err) != kiln.Conflict {
					t.Errorf("the %s is deleted: %v", what, err)
				}
			}
		})
		proxy.ServeHTTP(w, req)
	}))
	defer s.Close()
	r.Server = s.URL
	devices := map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"},
		"data": {"type": "disk", "pool": "default", "source": "data", "path": "/data"},
		"v":    {"type": "nic", "network": "nv", "name": "eth7"}}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c1", Source: Source{Type: "image", Remote: r, Alias: "bb"},
		Config: instance.Config{Devices: devices}})
	wait(t, o, err)
	o, err = d.DeleteInstance(ctx, "c1")
	wait(t, o, err)
	if err := d.DeleteVolume(ctx, "data"); err != nil {
		t.Error(err)
	}
	if err := d.DeleteNetwork(ctx, "nv"); err != nil {
		t.Error(err)
	}
}
