package db

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-containers/kiln"
)

// What became of a warning: nobody has said that they know of it; somebody has; what
// failed works again.
const (
	WarningNew          = "new"
	WarningAcknowledged = "acknowledged"
	WarningResolved     = "resolved"
)

// A Subject is what a warning is about: one of these, or, if none is set, the daemon.
type Subject struct {
	Instance Name
	Network  string
	Image    Image
}

// A Warning is a row of warnings: what failed of what the daemon does unasked, as often
// as it did.
type Warning struct {
	ID                  string // a UUID
	Type                string
	About               Subject
	Status              string
	Count               int64
	FirstSeen, LastSeen time.Time
	Message             string // of the last time
	Damage              string // what of the row can't be read; "": nothing
}

const selectWarnings = `SELECT w.uuid, w.type, w.status, w.count, w.first_seen_at, w.last_seen_at, w.message,
	COALESCE(ip.name, ''), COALESCE(i.name, ''), COALESCE(n.name, ''), COALESCE(mp.name, ''), COALESCE(m.fingerprint, '')
	FROM warnings w
	LEFT JOIN instances i ON i.id = w.instance_id LEFT JOIN projects ip ON ip.id = i.project_id
	LEFT JOIN images m ON m.id = w.image_id LEFT JOIN projects mp ON mp.id = m.project_id
	LEFT JOIN networks n ON n.id = w.network_id`

func (w *Warning) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(noted{"uuid", &w.ID, &w.Damage},
		noted{"type", &w.Type, &w.Damage},
		noted{"status", wordColumn{&w.Status, []string{WarningNew, WarningAcknowledged, WarningResolved}}, &w.Damage},
		noted{"count", countColumn[int64]{&w.Count}, &w.Damage},
		noted{"first_seen_at", timeColumn{&w.FirstSeen}, &w.Damage},
		noted{"last_seen_at", timeColumn{&w.LastSeen}, &w.Damage},
		noted{"message", &w.Message, &w.Damage},
		noted{"instance_id", &w.About.Instance.Project, &w.Damage},
		noted{"instance_id", &w.About.Instance.Name, &w.Damage},
		noted{"network_id", &w.About.Network, &w.Damage},
		noted{"image_id", &w.About.Image.Project, &w.Damage},
		noted{"image_id", hashColumn{&w.About.Image.Fingerprint}, &w.Damage})
}

// Warnings gives every warning, the one that was seen last first.
func (d *DB) Warnings(ctx context.Context) ([]Warning, error) {
	var list []Warning
	err := each(ctx, d.read, selectWarnings+` ORDER BY w.last_seen_at DESC, w.id DESC`, nil, func(rows *sql.Rows) error {
		var w Warning
		err := w.scan(rows)
		list = append(list, w)
		return err
	})
	return list, err
}

// Warning gives one warning. The error is NotFound.
func (d *DB) Warning(ctx context.Context, id string) (Warning, error) {
	return getWarning(ctx, d.read, id)
}

func getWarning(ctx context.Context, q queryer, id string) (Warning, error) {
	var w Warning
	err := w.scan(q.QueryRowContext(ctx, selectWarnings+` WHERE w.uuid = ?`, id))
	return w, found(err, "Warning", id)
}

// Warn notes that something failed now. If it did before, that warning counts one more,
// and is new again if it was resolved. What it is about may be gone: NotFound.
func (d *DB) Warn(ctx context.Context, kind string, about Subject, message string) error {
	now := timeText(time.Now())
	return d.Tx(ctx, func(tx *Tx) error {
		ids, err := about.ids(ctx, tx.tx)
		if err != nil {
			return err
		}
		r, err := tx.tx.ExecContext(ctx, `UPDATE warnings SET count = count + 1, last_seen_at = ?, message = ?,
			status = CASE status WHEN ? THEN status ELSE ? END WHERE `+aboutIDs,
			append([]any{now, message, WarningAcknowledged, WarningNew, kind}, ids...)...)
		if err = changed(r, err, "Warning", kind); !errors.Is(err, kiln.NotFound) {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `INSERT INTO warnings (uuid, type, status, count, first_seen_at, last_seen_at, message,
			instance_id, network_id, image_id) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?)`,
			append([]any{uuid.NewString(), kind, WarningNew, now, now, message}, ids...)...)
		return err
	})
}

// ResolveWarning notes that what failed works again. Without such a warning it writes nothing.
func (d *DB) ResolveWarning(ctx context.Context, kind string, about Subject) error {
	ids, err := about.ids(ctx, d.read)
	if err != nil {
		return err
	}
	const open = ` FROM warnings WHERE ` + aboutIDs + ` AND status <> '` + WarningResolved + `'`
	args := append([]any{kind}, ids...)
	var there int
	if err := d.read.QueryRowContext(ctx, `SELECT count(*)`+open, args...).Scan(&there); err != nil || there == 0 {
		return known(err)
	}
	return d.Tx(ctx, func(tx *Tx) error {
		_, err := tx.tx.ExecContext(ctx, `UPDATE warnings SET status = '`+WarningResolved+`', last_seen_at = ?
			WHERE id IN (SELECT id`+open+`)`, append([]any{timeText(time.Now())}, args...)...)
		return err
	})
}

// aboutIDs is the condition that a warning is of a type and about the ids of a Subject.
const aboutIDs = `type = ? AND instance_id IS NOT DISTINCT FROM ? AND network_id IS NOT DISTINCT FROM ?
	AND image_id IS NOT DISTINCT FROM ?`

// ids gives the rows of an instance, a network and an image; nil for those that it isn't
// about. The error is NotFound.
func (s Subject) ids(ctx context.Context, q queryer) ([]any, error) {
	ids := []any{nil, nil, nil}
	var err error
	one := func(i int, what, name, query string, args ...any) {
		var id int64
		err = errors.Join(err, found(q.QueryRowContext(ctx, query, args...).Scan(&id), what, name))
		ids[i] = id
	}
	if s.Instance.Name != "" {
		one(0, "Instance", s.Instance.Name, `SELECT i.id FROM instances i JOIN projects p ON p.id = i.project_id
			WHERE p.name = ? AND i.name = ?`, s.Instance.Project, s.Instance.Name)
	}
	if s.Network != "" {
		one(1, "Network", s.Network, `SELECT id FROM networks WHERE name = ?`, s.Network)
	}
	if fp := s.Image.Fingerprint; !fp.IsZero() {
		one(2, "Image", fp.Short(), `SELECT m.id FROM images m JOIN projects p ON p.id = m.project_id
			WHERE p.name = ? AND m.fingerprint = ?`, s.Image.Project, fp.String())
	}
	return ids, err
}

// EditWarning changes the status of a warning to what f gives, in one transaction.
// Errors: NotFound, those of f.
func (d *DB) EditWarning(ctx context.Context, id string, f func(Warning) (status string, err error)) error {
	return d.Tx(ctx, func(tx *Tx) error {
		w, err := getWarning(ctx, tx.tx, id)
		if err != nil {
			return err
		}
		status, err := f(w)
		if err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `UPDATE warnings SET status = ? WHERE uuid = ?`, status, id)
		return err
	})
}

// DeleteWarning removes a warning. The error is NotFound.
func (d *DB) DeleteWarning(ctx context.Context, id string) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM warnings WHERE uuid = ?`, id)
		return changed(r, err, "Warning", id)
	})
}

// DropWarnings removes the warnings that were resolved before a time.
func (d *DB) DropWarnings(ctx context.Context, before time.Time) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		_, err := tx.tx.ExecContext(ctx, `DELETE FROM warnings WHERE status = ? AND last_seen_at < ?`, WarningResolved,
			timeText(before))
		return err
	})
}
