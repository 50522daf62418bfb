package daemon

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/audit"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/project"
	"github.com/kiln-containers/kiln/internal/signing"
)

// SecurityEvents is the type of the events that the record of security has, too.
const SecurityEvents = "security"

// auditDir is where that record is.
const auditDir = "audit"

// Actions of the record that are no requests of their own.
const (
	serverStarted    = "server-started"
	serverStopped    = "server-stopped"
	imagePublic      = "image-made-public"
	imagePrivate     = "image-made-private"
	imageKeyPinned   = "image-key-pinned"
	imageKeyUnpinned = "image-key-unpinned"
	signatureRefused = "image-signature-refused"
	joinToken        = "join-token"
)

// AuditActions are those.
func AuditActions() []string {
	return []string{serverStarted, serverStopped, imagePublic, imagePrivate, imageKeyPinned, imageKeyUnpinned,
		signatureRefused, joinToken}
}

func (d *Daemon) openAudit() *audit.Log {
	return audit.Open(filepath.Join(d.cfg.Dir, auditDir), audit.Options{
		Tell: func(e audit.Event) { d.Events.Send(SecurityEvents, e) },
		Failed: func(err error) {
			if err != nil {
				d.cfg.Log.Error("write the record of what matters for security", "err", err)
			}
			d.outcome(auditFailed, db.Subject{}, err)
		},
	})
}

// Audit adds to the record of what matters for security. It never fails, and waits for nothing.
func (d *Daemon) Audit(e audit.Event) { d.audit.Add(e) }

// accessChanged adds to the record who may have an image now, and which key vouches for it.
func (d *Daemon) accessChanged(ctx context.Context, a db.Access) {
	add := func(action string, details map[string]any) {
		d.Audit(audit.Event{Action: action, Result: audit.OK, Source: imageURL(a.Fingerprint), Project: a.Project,
			Who: audit.WhoOf(ctx), Context: details})
	}
	switch {
	case a.Public && !a.WasPublic:
		add(imagePublic, nil)
	case !a.Public && a.WasPublic:
		add(imagePrivate, nil)
	}
	switch {
	case a.Key == a.HadKey:
	case a.Key == "":
		add(imageKeyUnpinned, map[string]any{"key": keyID(a.HadKey)})
	default:
		add(imageKeyPinned, map[string]any{"key": keyID(a.Key)})
	}
}

// settled is what of the configuration of an instance or a profile is in the record.
type settled struct {
	options  map[string]string
	devices  map[string]map[string]string
	profiles []string // of an instance
}

// noteChange adds to the record what a request changes of a configuration: the names of keys and
// devices, never their values, which may be secrets, and the profiles.
func noteChange(ctx context.Context, before, after settled) {
	keys := keysChanged(before.options, after.options)
	keys = slices.DeleteFunc(keys, func(key string) bool { // those the daemon keeps
		return strings.HasPrefix(key, "volatile.") && after.options[key] == ""
	})
	audit.Note(ctx, "keys", append([]string{}, keys...))
	var devices []string
	for name, was := range before.devices {
		if now, ok := after.devices[name]; !ok || !maps.Equal(was, now) {
			devices = append(devices, name)
		}
	}
	for name := range after.devices {
		if _, had := before.devices[name]; !had {
			devices = append(devices, name)
		}
	}
	if len(devices) > 0 {
		slices.Sort(devices)
		audit.Note(ctx, "devices", devices)
	}
	if after.profiles != nil && !slices.Equal(before.profiles, after.profiles) {
		audit.Note(ctx, "profiles", slices.Clone(after.profiles))
	}
}

// keyID is how people tell keys apart; "" for what is none.
func keyID(key string) string {
	k, err := signing.ParseKey(key)
	if err != nil {
		return ""
	}
	return k.ID()
}

// refused adds to the record that an image of a remote was refused for its signature, if that is
// what an error is about, and gives the error.
func (d *Daemon) refused(ctx context.Context, r kiln.Remote, name string, err error) error {
	if kiln.KindOf(err) != kiln.Integrity {
		return err
	}
	details := map[string]any{"image": name}
	if id := keyID(r.ImageKey); id != "" {
		details["key"] = id
	}
	d.Audit(audit.Event{Action: signatureRefused, Result: audit.Refused, Reason: err.Error(), Source: r.Server,
		Project: project.Name(ctx), Who: audit.WhoOf(ctx), Context: details})
	return err
}
