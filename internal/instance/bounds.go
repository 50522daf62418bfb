package instance

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/kiln-containers/kiln"
)

// Bounds on what one instance or profile is configured with. Each change of it may be
// small; every list has all of it.
const (
	mostOptions = 10_000
	mostDevices = 500
	mostText    = 2 << 20 // bytes of keys and values: of options, and of devices
)

// mostSnapshotText bounds what the snapshots of an instance are configured with together,
// in bytes of the JSON that its record has of them, with snapshotText for what else each
// has there. 10,000 snapshots have room for 2,700 each. A record has room for it beside
// twice mostText of the instance, of which each byte may be written as six.
const (
	mostSnapshotText = 32 << 20
	snapshotText     = 640
)

// textOf gives the bytes of JSON that a snapshot is configured with.
func textOf(c Config) int64 {
	n := snapshotText
	for _, v := range []any{c.Description, c.Options, c.Devices} {
		b, _ := json.Marshal(v) // texts and maps of texts
		n += len(b)
	}
	for _, p := range c.Profiles {
		n += 6*len(p) + 3
	}
	return int64(n)
}

// checkSnapshotText refuses a snapshot with which an instance's would be configured with too
// much together. The error is TooLarge.
func (s *Set) checkSnapshotText(ctx context.Context, i Instance) error {
	n, text, err := s.db.SnapshotText(ctx, i.Name)
	if err != nil {
		return err
	}
	if text += int64(n)*snapshotText + textOf(i.Config); text > mostSnapshotText {
		return kiln.Errorf(kiln.TooLarge, "instance %q has %d snapshots, and with another one they would be configured with "+
			"more than %s together; delete some (kiln delete %[1]s/SNAPSHOT), or make the configuration smaller: kiln config "+
			"edit %[1]s", i.Name, n, kiln.FormatSize(mostSnapshotText))
	}
	return nil
}

// checkArrivingText is checkSnapshotText for the snapshots of an instance that arrives.
func checkArrivingText(list []kiln.InstanceState) error {
	var text int64
	for _, m := range list {
		text += textOf(Config{Description: m.Description, Options: m.Config, Devices: m.Devices, Profiles: m.Profiles})
		if text > mostSnapshotText {
			return kiln.Errorf(kiln.TooLarge, "the %d snapshots of the instance are configured with more than %s together; "+
				"delete some of them where it is, or bring it without them: --instance-only", len(list),
				kiln.FormatSize(mostSnapshotText))
		}
	}
	return nil
}

// mostHold is how long an instance may have others wait for it, when the host starts or
// goes down.
const mostHold = time.Hour

// holdKeys say how long others wait, in seconds.
func holdKeys() []string { return []string{"boot.autostart.delay", "boot.host_shutdown_timeout"} }

// checkOptionBounds refuses a configuration that is too large, or that holds up others for
// too long. The errors are TooLarge and Invalid.
func checkOptionBounds(config map[string]string) error {
	if len(config) > mostOptions {
		return kiln.Errorf(kiln.TooLarge, "a configuration has at most %d keys; these are %d", mostOptions, len(config))
	}
	text := 0
	for k, v := range config {
		text += len(k) + len(v)
	}
	if text > mostText {
		return kiln.Errorf(kiln.TooLarge, "a configuration has at most %s of keys and values; this one has %s",
			kiln.FormatSize(mostText), kiln.FormatSize(int64(text)))
	}
	for _, key := range holdKeys() {
		if n, err := strconv.Atoi(config[key]); err == nil && time.Duration(n) > mostHold/time.Second {
			return kiln.Errorf(kiln.Invalid, "Invalid value for %q: other instances wait at most %d seconds for one", key,
				mostHold/time.Second)
		}
	}
	return nil
}

// checkDeviceBounds refuses devices that are too many or too large. The error is TooLarge.
func checkDeviceBounds(devices map[string]map[string]string) error {
	if len(devices) > mostDevices {
		return kiln.Errorf(kiln.TooLarge, "there are at most %d devices; these are %d", mostDevices, len(devices))
	}
	text := 0
	for name, d := range devices {
		text += len(name)
		for k, v := range d {
			text += len(k) + len(v)
		}
	}
	if text > mostText {
		return kiln.Errorf(kiln.TooLarge, "devices have at most %s of keys and values; these have %s",
			kiln.FormatSize(mostText), kiln.FormatSize(int64(text)))
	}
	return nil
}

// hold reads how long others wait for an instance: no longer than they may, whatever was
// let through before there was a bound.
func hold(v string) time.Duration {
	return min(time.Duration(number(v))*time.Second, mostHold)
}
