package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-containers/kiln"
)

// A setting is a configuration key of the daemon.
type setting struct {
	value string // when unset
	check func(string) error
}

// The settings that kiln itself reads.
const (
	mountSquashfs  = "images.mount_squashfs"
	unpackedBytes  = "images.unpacked_limit"
	defaultArchKey = "images.default_architecture"
)

func settings() map[string]setting {
	return map[string]setting{
		"core.shutdown_timeout":        {"5", checkNumber},
		"images.auto_update_cached":    {"true", checkBool},
		"images.auto_update_interval":  {"6", checkNumber},
		"images.compression_algorithm": {"gzip", checkCompression},
		defaultArchKey:                 {"", checkArch},
		mountSquashfs:                  {"auto", oneOf("auto", "always", "never")},
		"images.remote_cache_expiry":   {"10", checkNumber},
		unpackedBytes:                  {"1TiB", checkSize},
	}
}

// Settings gives the configuration keys that are set.
func (d *Daemon) Settings(ctx context.Context) (map[string]string, error) {
	return d.db.Config(ctx)
}

// setting gives the value of one key, set or default.
func (d *Daemon) setting(ctx context.Context, key string) (string, error) {
	set, err := d.Settings(ctx)
	if v := set[key]; v != "" {
		return v, err
	}
	return settings()[key].value, err
}

// SetSettings changes configuration keys; an empty value unsets one. With
// replace, the keys that are left out are unset too. Nothing is changed when one
// of them is wrong. Errors: Invalid, Unsupported.
func (d *Daemon) SetSettings(ctx context.Context, change map[string]string, replace bool) error {
	known := settings()
	for _, key := range slices.Sorted(maps.Keys(change)) {
		if strings.HasPrefix(key, "user.") {
			continue
		}
		s, ok := known[key]
		switch {
		case !ok && (strings.HasPrefix(key, "core.https_") || key == "core.trust_password" || strings.HasPrefix(key, "core.proxy_")):
			return kiln.Errorf(kiln.Unsupported, "cannot set '%s' to '%s': this version of kiln doesn't listen on the network", key, change[key])
		case !ok:
			return kiln.Errorf(kiln.Invalid, "cannot set '%s' to '%s': unknown key%s", key, change[key], kiln.DidYouMean(key, slices.Collect(maps.Keys(known))))
		case change[key] == "":
			continue
		}
		if err := s.check(change[key]); err != nil {
			return kiln.Errorf(kiln.Invalid, "cannot set '%s' to '%s': %w", key, change[key], err)
		}
	}
	all := maps.Clone(change)
	if replace {
		old, err := d.Settings(ctx)
		if err != nil {
			return err
		}
		for key := range old {
			if _, ok := all[key]; !ok {
				all[key] = ""
			}
		}
	}
	if err := d.db.SetConfig(ctx, all); err != nil {
		return err
	}
	d.tell("config-updated", "/1.0", nil)
	return nil
}

func checkBool(v string) error {
	if _, err := strconv.ParseBool(v); err != nil {
		return fmt.Errorf("%q is neither true nor false", v)
	}
	return nil
}

func checkNumber(v string) error {
	if _, err := strconv.ParseUint(v, 10, 31); err != nil {
		return fmt.Errorf("%q is not a whole number of at least 0", v)
	}
	return nil
}

func checkSize(v string) error {
	_, err := kiln.ParseSize(v)
	return err
}

func checkArch(v string) error {
	_, err := kiln.ParseArch(v)
	return err
}

func checkCompression(v string) error {
	if err := oneOf("none", "gzip", "bzip2", "xz", "zstd", "lz4", "squashfs")(v); err != nil {
		return fmt.Errorf("Invalid compression algorithm %q: %w", v, err)
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%q is none of %s", v, strings.Join(values, ", "))
		}
		return nil
	}
}
