package instance

import (
	"context"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/box"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/proxy"
)

// Proxies carry connections between this host and instances.
type Proxies interface {
	// Open has the connections of a device carried from now on. dir is the directory of
	// the instance's box. Errors: Conflict when it can't be listened at an address, Invalid.
	Open(ctx context.Context, i Instance, device string, d proxy.Device, dir string) error
	// Close ends that. A device that wasn't opened is as good.
	Close(ctx context.Context, i Instance, device string) error
}

// proxyDevice is a device of type "proxy". A process beside the daemon has it, which finds
// an instance that rebooted by itself.
type proxyDevice struct{}

func (proxyDevice) check(d map[string]string) error {
	if err := checkKeys("proxy", d, option.Names(proxy.Keys()), nil); err != nil {
		return err
	}
	_, err := proxy.Parse(d)
	return err
}

func (proxyDevice) start(context.Context, *guest, *box.Spec) (later bool, err error) {
	return true, nil
}

func (proxyDevice) add(ctx context.Context, in *guest) error {
	d, err := proxy.Parse(in.keys)
	if err != nil {
		return err
	}
	if in.set.Proxies == nil {
		return kiln.Errorf(kiln.Unsupported, "devices of type proxy are not served here")
	}
	return in.set.Proxies.Open(ctx, in.Instance, in.device, d, in.set.boxDir(db.Instance{Config: in.Options}))
}

func (proxyDevice) remove(ctx context.Context, in *guest) error {
	if in.set.Proxies == nil {
		return nil
	}
	return in.set.Proxies.Close(ctx, in.Instance, in.device)
}

func (p proxyDevice) ended(ctx context.Context, in *guest) error { return p.remove(ctx, in) }
