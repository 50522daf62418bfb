package db

import (
	"context"
	"database/sql"
	"time"

	"github.com/kiln-containers/kiln"
)

// A Mirror is a set of images of another server that is kept here too.
type Mirror struct {
	Name        string
	Remote      kiln.Remote
	Filters     []string
	Keep        int  // versions besides the current one
	PullThrough bool // fetch what somebody asks for, not all
	Public      bool // what comes from it
	LastRunAt   time.Time
	LastError   string
	Damage      string // what of the row can't be read; "": nothing
}

// Mirrors gives every mirror, by name.
func (d *DB) Mirrors(ctx context.Context) ([]Mirror, error) {
	list := []Mirror{}
	err := each(ctx, d.read,
		`SELECT name, remote, filters, keep, pull_through, public, last_run_at, last_error FROM mirrors ORDER BY name`, nil,
		func(rows *sql.Rows) error {
			var m Mirror
			err := rows.Scan(noted{"name", &m.Name, &m.Damage},
				noted{"remote", jsonColumn{&m.Remote}, &m.Damage},
				noted{"filters", jsonColumn{&m.Filters}, &m.Damage},
				noted{"keep", countColumn[int]{&m.Keep}, &m.Damage},
				noted{"pull_through", &m.PullThrough, &m.Damage},
				noted{"public", &m.Public, &m.Damage},
				noted{"last_run_at", timeColumn{&m.LastRunAt}, &m.Damage},
				noted{"last_error", &m.LastError, &m.Damage})
			list = append(list, m)
			return err
		})
	return list, err
}

// CreateMirror adds a mirror. The error is Conflict.
func (d *DB) CreateMirror(ctx context.Context, m Mirror) error {
	return d.Tx(ctx, func(tx *Tx) error {
		_, err := tx.tx.ExecContext(ctx,
			`INSERT INTO mirrors (name, remote, filters, keep, pull_through, public, last_run_at, last_error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			m.Name, toJSON(m.Remote), toJSON(orNone(m.Filters)), m.Keep, m.PullThrough, m.Public, timeText(m.LastRunAt),
			m.LastError)
		return conflict(err, "Mirror", m.Name)
	})
}

// FinishMirror remembers how the last run of a mirror went. The error is NotFound.
func (d *DB) FinishMirror(ctx context.Context, name string, at time.Time, problem string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		r, err := tx.tx.ExecContext(ctx, `UPDATE mirrors SET last_run_at = ?, last_error = ? WHERE name = ?`, timeText(at),
			problem, name)
		return changed(r, err, "Mirror", name)
	})
}

// DeleteMirror removes a mirror; its images stay. The error is NotFound.
func (d *DB) DeleteMirror(ctx context.Context, name string) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM mirrors WHERE name = ?`, name)
		return changed(r, err, "Mirror", name)
	})
}
