package db

import (
	"context"
	"database/sql"
	"time"

	"github.com/kiln-containers/kiln"
)

// Changes names what a transaction has written rows of, so that copies of them can be
// brought up to date.
type Changes struct {
	Instances map[string]bool           // by name, with their snapshots; also names that they had
	Images    map[kiln.Fingerprint]bool // with their aliases, and when these began to point to them
	Profiles  bool                      // any of them
}

// OnChange has f told after each transaction what it changed. When an image was used is
// not worth telling. f may not block; it is set before others use the database.
func (d *DB) OnChange(f func(Changes)) { d.changed = f }

func (tx *Tx) instanceChanged(names ...string) {
	if tx.changes.Instances == nil {
		tx.changes.Instances = map[string]bool{}
	}
	for _, n := range names {
		tx.changes.Instances[n] = true
	}
}

func (tx *Tx) imageChanged(list ...kiln.Fingerprint) {
	if tx.changes.Images == nil {
		tx.changes.Images = map[kiln.Fingerprint]bool{}
	}
	for _, fp := range list {
		tx.changes.Images[fp] = true
	}
}

// aliasChanged is imageChanged for all that some aliases point, or pointed, to.
func (tx *Tx) aliasChanged(ctx context.Context, names ...string) error {
	for _, name := range names {
		err := each(ctx, tx.tx, `SELECT i.fingerprint FROM images i JOIN image_aliases a ON a.image_id = i.id WHERE a.name = ?
			UNION SELECT fingerprint FROM alias_history WHERE name = ?`, []any{name, name}, func(rows *sql.Rows) error {
			var fp kiln.Fingerprint
			err := rows.Scan(noted{"fingerprint", hashColumn{&fp}, new(string)})
			if !fp.IsZero() {
				tx.imageChanged(fp)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// An Event of an image is that an alias began to point to it.
type Event struct {
	Alias            string
	At, RolledBackAt time.Time // RolledBackAt: zero, unless the alias was rolled back from it
}

// EventsOf gives when aliases began to point to each image, oldest first. A damaged row
// is left out.
func (d *DB) EventsOf(ctx context.Context, only kiln.Fingerprint) (map[kiln.Fingerprint][]Event, error) {
	where, args := "", []any(nil)
	if !only.IsZero() {
		where, args = ` WHERE fingerprint = ?`, []any{only.String()}
	}
	m := map[kiln.Fingerprint][]Event{}
	err := each(ctx, d.read, `SELECT name, fingerprint, at, rolled_back_at FROM alias_history`+where+` ORDER BY id`, args,
		func(rows *sql.Rows) error {
			var fp kiln.Fingerprint
			var e Event
			var damage string
			err := rows.Scan(noted{"name", &e.Alias, &damage}, noted{"fingerprint", hashColumn{&fp}, &damage},
				noted{"at", timeColumn{&e.At}, &damage}, noted{"rolled_back_at", timeColumn{&e.RolledBackAt}, &damage})
			if damage == "" {
				m[fp] = append(m[fp], e)
			}
			return err
		})
	return m, err
}

// AddEvent writes into the history of an alias what was, after all that is in it.
func (tx *Tx) AddEvent(ctx context.Context, fp kiln.Fingerprint, e Event) error {
	tx.imageChanged(fp)
	_, err := tx.tx.ExecContext(ctx, `INSERT INTO alias_history (name, fingerprint, at, rolled_back_at) VALUES (?, ?, ?, ?)`,
		e.Alias, fp.String(), timeText(e.At), timeText(e.RolledBackAt))
	return err
}

// DropHistory forgets where an alias pointed.
func (tx *Tx) DropHistory(ctx context.Context, name string) error {
	if err := tx.aliasChanged(ctx, name); err != nil {
		return err
	}
	_, err := tx.tx.ExecContext(ctx, `DELETE FROM alias_history WHERE name = ?`, name)
	return err
}
