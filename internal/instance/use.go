package instance

import (
	"context"
	"maps"
	"slices"

	"github.com/kiln-containers/kiln"
)

// Use keeps what devices of an instance name that is going to have them, storage volumes and
// networks, until the function is called that it gives: none is deleted before a row names
// it, however long that takes. All of it is there then. Errors: Conflict while something is
// being deleted, NotFound, Invalid, Timeout.
func (s *Set) Use(ctx context.Context, devices map[string]map[string]string) (release func(), err error) {
	volumes, err := s.useVolumes(ctx, devices)
	if err != nil {
		return nil, err
	}
	networks, err := s.useNetworks(ctx, devices)
	if err != nil {
		volumes()
		return nil, err
	}
	release = func() {
		networks()
		volumes()
	}
	if err := s.checkSources(ctx, devices); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// keepEach keeps what each device names, by keep, which gives nil for none, until the
// function is called that it gives.
func keepEach(devices map[string]map[string]string, keep func(d map[string]string) (release func(), err error)) (
	release func(), err error) {
	var all []func()
	release = func() {
		for _, f := range all {
			f()
		}
	}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		one, err := keep(devices[name])
		if err != nil {
			release()
			return nil, kiln.Errorf(kiln.KindOf(err), "Device %q: %w", name, err)
		}
		if one != nil {
			all = append(all, one)
		}
	}
	return release, nil
}
