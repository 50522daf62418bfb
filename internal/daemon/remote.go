package daemon

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/remote"
)

// indexTTL is how long the index of an image server is good without asking.
const indexTTL = time.Hour

// opener makes what opens remotes, for the whole daemon.
func (d *Daemon) opener() *remote.Opener {
	u := uname()
	own := &d.cert
	if own.Leaf == nil {
		own = nil
	}
	return &remote.Opener{
		Own: own, Proxy: d.proxy, Stall: d.cfg.Stall, Version: d.cfg.Version, Architectures: kiln.RunsOn(HostArch()),
		UserAgent: fmt.Sprintf("kiln/%s (%s; %s; %s)", d.cfg.Version, u.sysname, u.machine, u.release),
		Pins:      d.db,
		Indexes:   &remote.Indexes{Dir: filepath.Join(d.cfg.Dir, "cache"), TTL: indexTTL},
		AllowHTTP: func() bool {
			v, err := d.setting(d.ctx, allowHTTP)
			return err == nil && kiln.IsTrue(v)
		},
	}
}

// proxy chooses the proxy of a request: as the settings say, else the environment.
func (d *Daemon) proxy(r *http.Request) (*url.URL, error) {
	set, err := d.db.Config(r.Context())
	if err != nil {
		return nil, err
	}
	c := httpproxy.FromEnvironment()
	if v := set[proxyHTTP]; v != "" {
		c.HTTPProxy = v
	}
	if v := set[proxyHTTPS]; v != "" {
		c.HTTPSProxy = v
	}
	if v := set[proxyIgnore]; v != "" {
		c.NoProxy = v
	}
	return c.ProxyFunc()(r.URL)
}

// basePath is where the root filesystem of an image is, for making a new version of
// it by a difference.
func (d *Daemon) basePath(ctx context.Context) func(kiln.Fingerprint) string {
	return func(fp kiln.Fingerprint) string {
		img, err := d.Images.Get(ctx, fp)
		if err != nil || len(img.Files) == 0 {
			return ""
		}
		last := img.Files[len(img.Files)-1]
		if size, err := d.blobs.Stat(last.Hash); err != nil || size != last.Size {
			return ""
		}
		return d.blobs.Path(last.Hash)
	}
}
