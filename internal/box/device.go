package box

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/kiln-containers/kiln"
)

// A Device is one of the kernel's, by its numbers.
type Device struct {
	Block        bool
	Major, Minor uint32
}

// String is the device as cgroups name it, with every right to it.
func (d Device) String() string {
	kind := "c"
	if d.Block {
		kind = "b"
	}
	return fmt.Sprintf("%s %d:%d rwm", kind, d.Major, d.Minor)
}

// ParseDevice reads what String gives. The error is Invalid.
func ParseDevice(s string) (Device, error) {
	var d Device
	var kind string
	if n, err := fmt.Sscanf(s, "%1s %d:%d rwm", &kind, &d.Major, &d.Minor); n != 3 || err != nil {
		return Device{}, kiln.Errorf(kiln.Invalid, "%q is not a device", s)
	}
	d.Block = kind == "b"
	return d, nil
}

// AllowDevice lets the container use a device from now on, until it ends or reboots.
func (b *Box) AllowDevice(ctx context.Context, d Device) error {
	return b.setDevice(ctx, "devices.allow", d)
}

// DenyDevice takes that back. What every container may use it may still.
func (b *Box) DenyDevice(ctx context.Context, d Device) error {
	if slices.Contains(devices, d.String()) {
		return nil
	}
	return b.setDevice(ctx, "devices.deny", d)
}

func (b *Box) setDevice(ctx context.Context, key string, d Device) error {
	if onV1("devices") {
		// A cgroup can't give what it hasn't got, and takes from those below as well.
		for _, dir := range below(controllerDir("devices", b.state.ID)) {
			if err := os.WriteFile(filepath.Join(dir, key), []byte(d.String()), 0); err != nil {
				return fmt.Errorf("%s %s: %w", key, d, err)
			}
		}
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mountTime, kiln.Errorf(kiln.Timeout, "the container's monitor didn't "+
		"answer within %v", mountTime))
	defer cancel()
	h, err := runHelper(ctx, "kiln-cgroup", nil, nil, runDir, b.state.ID, filepath.Join(b.dir, configFile), key,
		d.String())
	if err != nil {
		return err
	}
	answer, err := h.line(ctx)
	if ctx.Err() != nil {
		go h.Close()
		return err
	}
	if err := errors.Join(err, h.Close()); err != nil {
		return err
	}
	if answer != "ok" {
		return kiln.Errorf(kiln.Unsupported, "%s %s: %s", key, d, orElse(answer, "the helper died"))
	}
	return nil
}
