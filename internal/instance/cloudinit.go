package instance

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
)

// cloudKey reports whether an option is for cloud-init, which gets it by templates of the
// image: those of the datasource NoCloud.
func cloudKey(key string) bool {
	switch key {
	case "user.user-data", "user.vendor-data", "user.network-config", "user.meta-data":
		return true
	}
	return strings.HasPrefix(key, "cloud-init.")
}

// Unread gives the options of an instance that are for cloud-init and that no template
// of it mentions: nothing will come of them. The error is NotFound.
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
	return keys, nil
}
