package daemon

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/project"
)

// Types of warnings, as LXD calls those that it has as well.
const (
	autostartFailed = "Instance autostart failure"
	crashLoop       = "Instance crash loop"
	scheduleFailed  = "Instance snapshot failure"
	networkFailed   = "Network unavailable"
	updateFailed    = "Image update failure"
	copyFailed      = "Database copy failure"
	recordDamaged   = "Storage record damaged"
	imageDamaged    = "Image damaged"
	treeDamaged     = "Image tree damaged"
	imageRepaired   = "Image repaired"
	instanceUnknown = "Instance unknown to the database"
	filesForgotten  = "Files unknown to the database"
	devicesLeftOut  = "Instance imported without devices"
	auditFailed     = "Audit log failure"
)

// severities says how bad a warning is, by its type.
var severities = map[string]string{
	autostartFailed: "low", crashLoop: "moderate", scheduleFailed: "moderate", networkFailed: "high", updateFailed: "low",
	copyFailed: "high", recordDamaged: "high", imageDamaged: "moderate", devicesLeftOut: "low",
	instanceUnknown: "high", filesForgotten: "high", treeDamaged: "moderate", imageRepaired: "low",
	auditFailed: "high",
}

// resolvedLife is how long a warning is kept after what failed has worked again.
const resolvedLife = 24 * time.Hour

// A Warning says what failed of what the daemon does unasked.
type Warning struct {
	db.Warning
	Severity string // low, moderate or high
	URL      string // of what it is about; "": the daemon
	Project  string // of that; "": none
}

func warning(w db.Warning) Warning {
	out := Warning{Warning: w, Severity: severities[w.Type]}
	switch about := w.About; {
	case about.Instance.Name != "":
		out.URL, out.Project = instanceURL(about.Instance.Name), about.Instance.Project
	case about.Network != "":
		out.URL, out.Project = networkURL(about.Network), project.Default
	case !about.Image.Fingerprint.IsZero():
		out.URL, out.Project = imageURL(about.Image.Fingerprint), about.Image.Project
	}
	if out.Project != "" && out.Project != project.Default {
		out.URL += "?project=" + url.QueryEscape(out.Project)
	}
	return out
}

// Warnings gives the warnings about things of one project, or, if none is named, all; the
// one that was seen last comes first.
func (d *Daemon) Warnings(ctx context.Context, project string) ([]Warning, error) {
	rows, err := d.db.Warnings(ctx)
	list := []Warning{}
	for _, r := range rows {
		if w := warning(r); project == "" || w.Project == project {
			list = append(list, w)
		}
	}
	return list, err
}

// Warning gives one warning. The error is NotFound.
func (d *Daemon) Warning(ctx context.Context, id string) (Warning, error) {
	w, err := d.db.Warning(ctx, id)
	return warning(w), err
}

// SetWarningStatus changes the status of a warning, which change is given, to
// "acknowledged" or "new". Errors: NotFound, Invalid, those of change.
func (d *Daemon) SetWarningStatus(ctx context.Context, id string, change func(Warning) (string, error)) error {
	var action string
	err := d.db.EditWarning(ctx, id, func(w db.Warning) (string, error) {
		status, err := change(warning(w))
		switch {
		case err != nil:
			return "", err
		case status == db.WarningAcknowledged:
			action = "warning-acknowledged"
		case status == db.WarningNew:
			action = "warning-reset"
		default:
			return "", kiln.Errorf(kiln.Invalid, "the status of a warning can be set to %q or %q, not to %q",
				db.WarningAcknowledged, db.WarningNew, status)
		}
		return status, nil
	})
	if err == nil {
		d.tell(ctx, action, warningURL(id), nil)
	}
	return err
}

// DeleteWarning removes a warning; it comes back if the same fails again. The error is NotFound.
func (d *Daemon) DeleteWarning(ctx context.Context, id string) error {
	err := d.db.DeleteWarning(ctx, id)
	if err == nil {
		d.tell(ctx, "warning-deleted", warningURL(id), nil)
	}
	return err
}

func warningURL(id string) string { return "/1.0/warnings/" + id }

// outcome remembers as a warning that something failed which was done unasked, or, if it
// didn't, that it works. What ends with the daemon hasn't failed.
func (d *Daemon) outcome(kind string, about db.Subject, failure error) {
	var err error
	switch {
	case d.ctx.Err() != nil:
	case failure == nil:
		err = d.db.ResolveWarning(d.ctx, kind, about)
	default:
		err = d.db.Warn(d.ctx, kind, about, failure.Error())
	}
	if err != nil && !errors.Is(err, kiln.NotFound) && d.ctx.Err() == nil { // it was deleted meanwhile
		d.cfg.Log.Error("keep a warning", "type", kind, "err", err)
	}
}

// instanceFailed hears of what went wrong with an instance unasked.
func (d *Daemon) instanceFailed(what instance.Unasked, i instance.Instance, err error) {
	kind := map[instance.Unasked]string{instance.StartWithDaemon: autostartFailed,
		instance.ScheduledSnapshot: scheduleFailed}[what]
	d.outcome(kind, db.Subject{Instance: db.Name{Project: i.Project, Name: i.Name}}, err)
}

// instanceWorks takes from what became of an instance what isn't wrong with it any more,
// or is now.
func (d *Daemon) instanceWorks(ctx context.Context, c instance.Change) {
	about := db.Subject{Instance: db.Name{Project: project.Name(ctx), Name: c.Name}}
	switch c.Action {
	case "started":
		d.outcome(autostartFailed, about, nil)
		d.outcome(crashLoop, about, nil)
	case "snapshot-created":
		d.outcome(scheduleFailed, about, nil)
	case "crash-loop":
		i, err := d.instances.Get(ctx, c.Name)
		if err == nil && i.Problem != "" {
			err = errors.New(i.Problem)
		}
		d.outcome(crashLoop, about, err)
	}
}
