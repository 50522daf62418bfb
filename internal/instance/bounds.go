package instance

import (
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
