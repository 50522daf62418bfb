package instance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// cloudKey reports whether an option is for cloud-init, which gets it by templates of the
// image, those of the datasource NoCloud, or asks for it, in its datasource LXD.
func cloudKey(key string) bool {
	switch key {
	case "user.user-data", "user.vendor-data", "user.network-config", "user.meta-data":
		return true
	}
	return strings.HasPrefix(key, "cloud-init.")
}

// Unread gives the options of an instance that are for cloud-init and that nothing in it
// reads, neither a template nor a cloud-init that may ask for it: nothing will come of
// them. The instance doesn't run. The error is NotFound.
func (s *Set) Unread(ctx context.Context, name string) ([]string, error) {
	i, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	keys := slices.DeleteFunc(slices.Sorted(maps.Keys(i.ExpandedConfig)), func(k string) bool { return !cloudKey(k) })
	if len(keys) == 0 {
		return nil, nil
	}
	files, err := s.Templates(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := s.Template(ctx, name, file)
		if err != nil {
			return nil, err
		}
		keys = slices.DeleteFunc(keys, func(k string) bool { return bytes.Contains(text, []byte(k)) })
	}
	if len(keys) == 0 || !hasGuest(i.ExpandedConfig) {
		return keys, nil
	}
	if has, err := s.hasCloudInit(ctx, i); has || err != nil {
		return nil, err
	}
	return keys, nil
}

// hasCloudInit looks for cloud-init in the files of an instance that doesn't run.
func (s *Set) hasCloudInit(ctx context.Context, i Instance) (bool, error) {
	vol, err := s.pool.Get(i.Options[UUIDKey])
	if err != nil {
		return false, err
	}
	mount, err := vol.Mount(ctx, nil)
	if err != nil {
		return false, err
	}
	defer mount.Close()
	rootfs, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", mount.Fd()))
	if err != nil {
		return false, err
	}
	defer rootfs.Close()
	_, err = rootfs.Stat("usr/bin/cloud-init")
	return err == nil, nil
}
