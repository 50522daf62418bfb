package daemon

import (
	"time"

	"github.com/kiln-containers/kiln/internal/hardware"
)

// settleTime is how long after one change of the hardware others are waited for: one device
// often comes as several.
const settleTime = 300 * time.Millisecond

// followHardware gives instances what is plugged in, and takes what is unplugged, as their
// devices say, until the daemon ends.
func (d *Daemon) followHardware() {
	changed := make(chan struct{}, 1)
	d.wg.Go(func() {
		err := hardware.Watch(d.ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if err != nil {
			d.cfg.Log.Warn("devices that come and go are not given to instances that run", "err", err)
		}
	})
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-changed:
		}
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(settleTime):
		}
		select { // what came meanwhile is looked at now
		case <-changed:
		default:
		}
		if err := d.db.WithSome(func() error { return d.instances.HardwareChanged(d.ctx) }); err != nil {
			d.cfg.Log.Warn("give instances the hardware that has come", "err", err)
		}
	}
}
