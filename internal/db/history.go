package db

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/kiln-containers/kiln"
)

// A Version is an image that an alias points, or pointed, to.
type Version struct {
	Fingerprint kiln.Fingerprint
	At          time.Time // when the alias began to
}

// History gives the images that an alias pointed to, newest first: the first is the
// one it points to now, if it does.
func (d *DB) History(ctx context.Context, name string) ([]Version, error) {
	list := []Version{}
	err := each(ctx, d.read, `SELECT fingerprint, at FROM alias_history WHERE name = ? ORDER BY id DESC`, []any{name},
		func(rows *sql.Rows) error {
			var v Version
			err := rows.Scan(hashColumn{&v.Fingerprint}, timeColumn{&v.At})
			list = append(list, v)
			return err
		})
	return list, err
}

// maxHistory is how many versions of an alias are remembered.
const maxHistory = 50

// note remembers where an alias points to, if that is news.
func (tx *Tx) note(ctx context.Context, name string, fp kiln.Fingerprint) error {
	var last kiln.Fingerprint
	err := tx.tx.QueryRowContext(ctx, `SELECT fingerprint FROM alias_history WHERE name = ? ORDER BY id DESC LIMIT 1`,
		name).Scan(hashColumn{&last})
	if err != nil && !errors.Is(err, sql.ErrNoRows) || last == fp {
		return err
	}
	if _, err := tx.tx.ExecContext(ctx, `INSERT INTO alias_history (name, fingerprint, at) VALUES (?, ?, ?)`, name,
		fp.String(), timeText(time.Now())); err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `DELETE FROM alias_history WHERE name = ? AND id NOT IN
		(SELECT id FROM alias_history WHERE name = ? ORDER BY id DESC LIMIT ?)`, name, name, maxHistory)
	return err
}
