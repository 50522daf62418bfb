package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/archive"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/option"
	"github.com/kiln-containers/kiln/internal/trust"
)

// The settings that kiln itself reads.
const (
	mountSquashfs    = "images.mount_squashfs"
	unpackedBytes    = "images.unpacked_limit"
	unpackedFiles    = "images.unpacked_files"
	defaultArchKey   = "images.default_architecture"
	httpsAddress     = "core.https_address"
	trustPassword    = "core.trust_password"
	trustCA          = "core.trust_ca_certificates"
	tokenExpiry      = "core.remote_token_expiry"
	updateInterval   = "images.auto_update_interval"
	updateCached     = "images.auto_update_cached"
	cacheExpiry      = "images.remote_cache_expiry"
	keepVersions     = "images.keep_versions"
	allowHTTP        = "images.allow_http"
	requireSignature = "images.require_signature"
	backupFormat     = "backups.compression_algorithm"
	proxyHTTP        = "core.proxy_http"
	proxyHTTPS       = "core.proxy_https"
	proxyIgnore      = "core.proxy_ignore_hosts"
	scrubInterval    = "storage.scrub_interval"
	scrubRate        = "storage.scrub_rate"

	metricsAddress        = "core.metrics_address"
	metricsAuthentication = "core.metrics_authentication"
	metricsNames          = "core.metrics_names"
)

// hidden are the settings whose values nobody is told.
func hidden(key string) bool { return key == trustPassword }

// ServerKeys are the configuration keys of a server.
func ServerKeys() []option.Key {
	yes, count := option.Bool(), option.Number
	checked := func(name string, check func(string) error) option.Type { return option.Type{Name: name, Check: check} }
	compression := "name of an algorithm, with options"
	return []option.Key{
		{Name: backupFormat, Type: checked(compression, checkBackupFormat).Or("gzip"),
			Help: "how backups of instances and storage volumes are compressed: none, gzip, zstd, xz, bzip2 or lz4"},
		{Name: httpsAddress, Type: checked("addresses", checkAddresses),
			Help: "addresses to listen on, such as [::]:8443, with commas between; unset: only on the socket"},
		{Name: metricsAddress, Type: checked("addresses", checkAddresses),
			Help: "addresses where only metrics are served, such as [::]:9100, with commas between"},
		{Name: metricsAuthentication, Type: yes.Or("true"), Help: "false: everybody may read metrics, on every address"},
		{Name: metricsNames, Type: option.OneOf("lxd", "incus").Or("lxd"),
			Help: "by whose names metrics of instances go"},
		{Name: proxyHTTP, Type: checked("URL", checkProxy), Help: "proxy for http, over that of the environment"},
		{Name: proxyHTTPS, Type: checked("URL", checkProxy), Help: "proxy for https, over that of the environment"},
		{Name: proxyIgnore, Type: option.Text("hosts"), Help: "hosts that are reached without a proxy, with commas between"},
		{Name: tokenExpiry, Type: checked("time", checkSpan),
			Help: "how long a join token works, such as 1d 12H; unset: until it is used"},
		{Name: "core.shutdown_timeout", Type: count("minutes").Or("5"),
			Help: "accepted for clients of LXD; how long an instance may take to stop is its own boot.host_shutdown_timeout"},
		{Name: trustCA, Type: yes.Or("false"), Help: "trust every client whose certificate server.ca has signed"},
		{Name: trustPassword, Type: option.Text("password"),
			Help: "password by which clients add themselves to the trusted ones; join tokens are better"},
		{Name: allowHTTP, Type: yes.Or("false"), Help: "allow downloads over plain http, which TLS doesn't protect"},
		{Name: updateCached, Type: yes.Or("true"), Help: "update images that a launch fetched"},
		{Name: updateInterval, Type: option.UpTo(maxHours, "hours").Or("6"),
			Help: "time between update checks of images and mirrors; 0: never"},
		{Name: "images.compression_algorithm", Type: checked(compression, checkCompression).Or("zstd"),
			Help: "how published images are compressed: none, gzip, zstd, xz, bzip2, lz4 or squashfs"},
		{Name: defaultArchKey, Type: checked("architecture", checkArch),
			Help: "accepted for clients of LXD"},
		{Name: keepVersions, Type: count("number").Or("1"),
			Help: "older versions of an image to keep when its alias moves or it is updated"},
		{Name: mountSquashfs, Type: option.OneOf("auto", "always", "never").Or("auto"),
			Help: "mount a squashfs as it is; auto: only one that this server made or whose signature is trusted"},
		{Name: cacheExpiry, Type: option.UpTo(maxHours/24, "days").Or("10"),
			Help: "time after which a cached image is deleted that nobody used; 0: never"},
		{Name: requireSignature, Type: option.OneOf("pinned", "always").Or("pinned"),
			Help: "always: take images only from remotes with a pinned key"},
		{Name: unpackedFiles, Type: option.UpTo(maxFiles, "number").Or("1000000"),
			Help: "the most files that an image may have; 0: any number"},
		{Name: unpackedBytes, Type: option.Size().Or("1TiB"), Help: "the most that an image may unpack to"},
		{Name: scrubInterval, Type: checked("time", orOff(checkInterval)).Or("30d"),
			Help: "how often all images are read and compared with what they were, such as 1d 12H, or off"},
		{Name: scrubRate, Type: checked("size", orOff(checkRate)).Or("32MiB"),
			Help: "the most that a scrub reads a second, or off"},
		{Name: "user.", Type: option.Text("text"), Help: "your own; kiln doesn't read it"},
	}
}

// serverKey gives one of ServerKeys that isn't the users' own.
func serverKey(name string) (option.Key, bool) {
	k, ok := option.Find(ServerKeys(), name)
	return k, ok && !k.Family()
}

// Settings gives the configuration keys that are set; "true" in the place of values
// that nobody is told.
func (d *Daemon) Settings(ctx context.Context) (map[string]string, error) {
	set, err := d.db.Config(ctx)
	return shown(set), err
}

// shown is a copy of what is set without the values that nobody is told.
func shown(set map[string]string) map[string]string {
	out := maps.Clone(set)
	for key := range out {
		if hidden(key) {
			out[key] = "true"
		}
	}
	return out
}

// setting gives the value of one key, set or default. The error is Integrity for a
// value that can't have been set: nothing is done by it.
func (d *Daemon) setting(ctx context.Context, key string) (string, error) {
	set, err := d.db.Config(ctx)
	if err != nil {
		return "", err
	}
	return settingOf(set, key)
}

// settingOf is setting with what is set.
func settingOf(set map[string]string, key string) (string, error) {
	v := set[key]
	k, _ := serverKey(key)
	if v == "" {
		return k.Type.Default, nil
	}
	if err := k.Check(v); err != nil {
		return "", kiln.Errorf(kiln.Integrity, "the setting %s is damaged: %w; set it again, or unset it: "+
			"kiln config unset %s", key, err, key)
	}
	return v, nil
}

// SetSettings changes configuration keys; an empty value unsets one. With
// replace, the keys that are left out are unset too. Nothing is changed when one
// of them is wrong. Errors: Invalid, Unsupported.
func (d *Daemon) SetSettings(ctx context.Context, change map[string]string, replace bool) error {
	return d.SetSettingsIf(ctx, func(map[string]string) error { return nil }, change, replace)
}

// SetSettingsIf is SetSettings, unless check finds that what is set, as Settings gives
// it, isn't what the change was made for; nobody else changes it meanwhile.
// Errors: Invalid, Unsupported, those of check.
func (d *Daemon) SetSettingsIf(ctx context.Context, check func(set map[string]string) error, change map[string]string,
	replace bool) error {
	if err := checkSettings(change); err != nil {
		return err
	}
	given := change
	change = map[string]string{}
	maps.Copy(change, given)
	_, named := given[trustPassword]
	if err := hashPassword(change); err != nil {
		return err
	}
	d.settingEdits.Lock()
	defer d.settingEdits.Unlock()
	undo, err := d.moveTo(ctx, check, change, replace)
	if err != nil {
		return err
	}
	err = d.db.EditConfig(ctx, func(set map[string]string) (map[string]string, error) {
		for key := range set {
			if _, ok := change[key]; !ok && replace && !(named && key == trustPassword) {
				change[key] = ""
			}
		}
		next := maps.Clone(set)
		maps.Copy(next, change)
		audit.Note(ctx, "keys", keysChanged(set, next))
		return change, check(shown(set))
	})
	if err != nil {
		return errors.Join(err, undo())
	}
	d.tell(ctx, "config-updated", "/1.0", nil)
	d.clientsChanged(ctx) // certificates of an authority may count no more
	d.wake()
	return nil
}

// keysChanged names the keys whose values change, and tells none of these.
func keysChanged(before, after map[string]string) []string {
	all := map[string]string{}
	maps.Copy(all, before)
	maps.Copy(all, after)
	maps.DeleteFunc(all, func(key, _ string) bool { return before[key] == after[key] })
	return slices.Sorted(maps.Keys(all))
}

// moveTo has the daemon listen where it is told to before that is written down, and
// outside of the transaction, since names of hosts are looked up: an address that can't
// be had is an error, and changes nothing. undo has it listen where it did before.
func (d *Daemon) moveTo(ctx context.Context, check func(set map[string]string) error, change map[string]string,
	replace bool) (undo func() error, err error) {
	nothing := func() error { return nil }
	set, err := d.db.Config(ctx)
	if err == nil {
		err = check(shown(set))
	}
	if err != nil {
		return nothing, err
	}
	undo = nothing
	for _, at := range []struct {
		key  string
		move func(addresses string) error
	}{{httpsAddress, d.listenOn}, {metricsAddress, d.scrapedOn}} {
		before := set[at.key]
		addresses, moves := change[at.key]
		if !moves && !replace || addresses == before {
			continue
		}
		if err := at.move(addresses); err != nil {
			return nothing, errors.Join(kiln.Errorf(kiln.KindOf(err), "cannot set '%s' to '%s': %w; the daemon listens where "+
				"it did before", at.key, addresses, err), undo())
		}
		earlier := undo
		undo = func() error { return errors.Join(at.move(before), earlier()) }
	}
	return undo, nil
}

// foreignSetting says why kiln doesn't have a setting of LXD's and Incus's manuals; "":
// it is none of them.
func foreignSetting(key string) string {
	for prefix, reason := range map[string]string{
		"acme.":                         "kiln asks nobody for certificates; put yours at server.crt and server.key",
		"backups.compression_algorithm": "say it with each backup: --compression",
		"candid.":                       "clients are known by their certificates only",
		"cluster.":                      "kiln has no clusters",
		"core.bgp_":                     "kiln announces no routes",
		"core.debug_address":            "kiln serves no profiles of itself",
		"core.dns_address":              "names of instances are answered on their own networks only",
		"core.remote_address":           "use core.https_address",
		"core.storage_":                 "kiln shares no pools",
		"core.syslog_socket":            "kiln reads no log of others",
		"images.sign_with": "secret keys stay with clients, so each says with which of its own it signs what it makes " +
			"here: kiln remote set-signer <remote> <key-name>",
		"instances.lxcfs.":        "kiln uses no lxcfs",
		"instances.migration.":    "kiln doesn't move instances that run",
		"instances.nic.host_name": "kiln names interfaces of the host by itself; a nic can have host_name",
		"instances.placement.":    "kiln has no clusters",
		"linstor.":                "kiln has one pool, on files",
		"logging.":                "the log is the daemon's standard error",
		"loki.":                   "the log is the daemon's standard error",
		"maas.":                   "kiln doesn't know of MAAS",
		"network.":                "kiln has bridged networks",
		"oidc.":                   "clients are known by their certificates only",
		"openfga.":                "clients are known by their certificates only",
		"authorization.":          "clients are known by their certificates only",
		"rbac.":                   "clients are known by their certificates only",
		"storage.":                "images and backups are in $KILN_DIR",
		"images.cache_volume":     "images are in $KILN_DIR",
		"volatile.":               "kiln keeps it for itself",
	} {
		if strings.HasPrefix(key, prefix) {
			return reason
		}
	}
	return ""
}

// checkSettings says which of some keys can't be set, or not to its value.
// Errors: Invalid, Unsupported.
func checkSettings(change map[string]string) error {
	known := option.Names(ServerKeys())
	for _, key := range slices.Sorted(maps.Keys(change)) {
		if strings.HasPrefix(key, "user.") {
			continue
		}
		k, ok := serverKey(key)
		switch {
		case !ok && change[key] != "" && !strings.HasPrefix(key, "storage.scrub_") && foreignSetting(key) != "":
			return kiln.Errorf(kiln.Unsupported, "cannot set '%s' to '%s': %s", key, change[key], foreignSetting(key))
		case !ok && strings.HasPrefix(key, "core.https_"):
			hint := kiln.DidYouMean(key, known)
			return kiln.Errorf(kiln.Invalid, "cannot set '%s' to '%s': this version of kiln has no such setting%s", key,
				change[key], hint)
		case !ok && change[key] == "":
			continue // what a damaged row may have
		case !ok:
			return kiln.Errorf(kiln.Invalid, "cannot set '%s' to '%s': unknown key%s", key, change[key],
				cmp.Or(kiln.DidYouMean(key, known), "; the keys of a server begin with core., "+
					"images., storage. or backups.; for a key of an instance, name the instance before it"))
		case change[key] == "":
			continue
		}
		if err := k.Check(change[key]); err != nil {
			return kiln.Errorf(kiln.Invalid, "cannot set '%s' to '%s': %w", key, change[key], err)
		}
	}
	return nil
}

// hashPassword puts what can be kept in the place of a password. "true" is what
// Settings shows of one, so it stands for no change.
func hashPassword(change map[string]string) error {
	switch v := change[trustPassword]; v {
	case "":
	case "true":
		delete(change, trustPassword)
	default:
		hashed, err := trust.HashPassword(v)
		change[trustPassword] = hashed
		return err
	}
	return nil
}

// maxHours is the longest time that a setting may say: a century.
const maxHours = 100 * 365 * 24

// maxFiles is the most files of an image that a setting may allow.
const maxFiles = 1_000_000_000

func checkSpan(v string) error {
	_, err := kiln.ParseExpiry(v, time.Time{})
	return err
}

// off is the value of a setting by which nothing is done.
const off = "off"

// orOff allows that value, too.
func orOff(check func(string) error) func(string) error {
	return func(v string) error {
		if v == off {
			return nil
		}
		if err := check(v); err != nil {
			return fmt.Errorf("%w, nor is it %s", err, off)
		}
		return nil
	}
}

// shortestInterval is how often at most what reads everything is begun.
const shortestInterval = time.Hour

func checkInterval(v string) error {
	from := time.Unix(0, 0)
	switch at, err := kiln.ParseExpiry(v, from); {
	case err != nil:
		return err
	case at.Sub(from) < shortestInterval:
		return fmt.Errorf("%q is not a time of an hour or more", v)
	}
	return nil
}

func checkRate(v string) error {
	switch n, err := kiln.ParseSize(v); {
	case err != nil:
		return err
	case n < 1:
		return fmt.Errorf("%q is not a number of bytes a second", v)
	}
	return nil
}

func checkAddresses(v string) error {
	_, err := parseAddresses(v, DefaultPort)
	return err
}

func checkProxy(v string) error {
	u, err := url.Parse(v)
	if err != nil {
		return err
	}
	if u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
		return fmt.Errorf("%q is not the URL of a proxy, as http://proxy:3128 is", v)
	}
	return nil
}

func checkArch(v string) error {
	_, err := kiln.ParseArch(v)
	return err
}

func checkCompression(v string) error {
	_, err := archive.ParseCompression(v)
	return err
}
