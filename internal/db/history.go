package db

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// A Version is an image that an alias points, or pointed, to.
type Version struct {
	Fingerprint  kiln.Fingerprint // zero when the row is damaged
	At           time.Time        // when the alias began to
	RolledBackAt time.Time        // when the alias was rolled back from it; zero: it wasn't

	// Of the image, if it is here still.
	Here       bool
	Size       int64 // bytes as stored
	Properties map[string]string
}

// History gives the images that an alias pointed to, the newest version first. The
// alias, if it is there, points to the first that it wasn't rolled back from.
func (d *DB) History(ctx context.Context, name string) ([]Version, error) {
	return history(ctx, d.read, name)
}

// History is the same within a transaction.
func (tx *Tx) History(ctx context.Context, name string) ([]Version, error) {
	return history(ctx, tx.tx, name)
}

func history(ctx context.Context, q queryer, name string) ([]Version, error) {
	list := []Version{}
	in, err := projectID(ctx, q, project.Images)
	if err != nil {
		return nil, err
	}
	err = each(ctx, q, `SELECT h.fingerprint, h.at, h.rolled_back_at, i.id IS NOT NULL, coalesce(i.size, 0),
		coalesce(i.properties, '{}') FROM alias_history h LEFT JOIN images i ON i.project_id = h.project_id
		AND i.fingerprint = h.fingerprint WHERE h.project_id = ? AND h.name = ? ORDER BY h.id DESC`, []any{in, name}, func(rows *sql.Rows) error {
		var v Version
		var damage string // one that can't be read is a version that isn't here
		var rolledBack string
		err := rows.Scan(noted{"fingerprint", hashColumn{&v.Fingerprint}, &damage}, noted{"at", timeColumn{&v.At}, &damage},
			noted{"rolled_back_at", &rolledBack, &damage}, &v.Here, noted{"size", countColumn[int64]{&v.Size}, &damage},
			noted{"properties", jsonColumn{&v.Properties}, &damage})
		if rolledBack != "" { // whenever that was
			v.RolledBackAt = time.Unix(0, 0)
			_ = timeColumn{&v.RolledBackAt}.Scan(rolledBack)
		}
		list = append(list, v)
		return err
	})
	return list, err
}

// maxHistory is how many versions of an alias are remembered.
const maxHistory = 50

// note remembers where an alias points to, if that is news.
func (tx *Tx) note(ctx context.Context, name string, fp kiln.Fingerprint) error {
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	var current kiln.Fingerprint
	err = tx.tx.QueryRowContext(ctx, `SELECT fingerprint FROM alias_history
		WHERE project_id = ? AND name = ? AND rolled_back_at = '' ORDER BY id DESC LIMIT 1`, in, name).Scan(noted{"fingerprint", hashColumn{&current}, new(string)})
	if err != nil && !errors.Is(err, sql.ErrNoRows) || current == fp {
		return err
	}
	if _, err := tx.tx.ExecContext(ctx, `INSERT INTO alias_history (project_id, name, fingerprint, at) VALUES (?, ?, ?, ?)`, in, name,
		fp.String(), timeText(time.Now())); err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `DELETE FROM alias_history WHERE project_id = ? AND name = ? AND id NOT IN
		(SELECT id FROM alias_history WHERE project_id = ? AND name = ? ORDER BY id DESC LIMIT ?)`, in, name, in, name,
		maxHistory)
	return err
}

// RollBack marks the n newest versions of an alias that it wasn't rolled back from
// yet. Where the alias points is for the caller to change, with SetAlias.
func (tx *Tx) RollBack(ctx context.Context, name string, n int) error {
	if err := tx.aliasChanged(ctx, name); err != nil {
		return err
	}
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `UPDATE alias_history SET rolled_back_at = ? WHERE id IN (SELECT id FROM
		alias_history WHERE project_id = ? AND name = ? AND rolled_back_at = '' ORDER BY id DESC LIMIT ?)`,
		timeText(time.Now()), in, name, n)
	return err
}

// withdrawn selects the images, by the ids of their projects and their fingerprints, that
// an alias was rolled back from and did not point to again. One that has an alias is
// somebody's present version all the same.
const withdrawn = `SELECT h.project_id, h.fingerprint FROM alias_history h WHERE h.rolled_back_at <> '' AND NOT EXISTS
	(SELECT 1 FROM alias_history c WHERE c.project_id = h.project_id AND c.name = h.name AND c.id > h.id
	AND c.fingerprint = h.fingerprint AND c.rolled_back_at = '')`

// RolledBackFrom gives the images that the aliases of one were rolled back from to it:
// those that no newer version came after.
func (d *DB) RolledBackFrom(ctx context.Context, to kiln.Fingerprint) ([]kiln.Fingerprint, error) {
	var list []kiln.Fingerprint
	in, err := projectID(ctx, d.read, project.Images)
	if err != nil {
		return nil, err
	}
	err = each(ctx, d.read, `SELECT h.fingerprint FROM alias_history h
		JOIN image_aliases a ON a.project_id = h.project_id AND a.name = h.name JOIN images i ON i.id = a.image_id
		WHERE i.project_id = ? AND i.fingerprint = ? AND h.rolled_back_at <> '' AND h.id > (SELECT max(id)
		FROM alias_history c WHERE c.project_id = h.project_id AND c.name = h.name AND c.rolled_back_at = '')
		ORDER BY h.id DESC`, []any{in, to.String()}, func(rows *sql.Rows) error {
		var fp kiln.Fingerprint
		err := rows.Scan(noted{"fingerprint", hashColumn{&fp}, new(string)})
		if !fp.IsZero() {
			list = append(list, fp)
		}
		return err
	})
	return list, err
}

// Followed gives an alias that once pointed to an image, here or not, and where it points
// now; of several, the one that did last. The error is NotFound if there is none.
func (d *DB) Followed(ctx context.Context, fp kiln.Fingerprint) (a kiln.Alias, err error) {
	in, err := projectID(ctx, d.read, project.Images)
	if err != nil {
		return a, err
	}
	err = d.read.QueryRowContext(ctx, `SELECT a.name, i.fingerprint FROM alias_history h
		JOIN image_aliases a ON a.project_id = h.project_id AND a.name = h.name JOIN images i ON i.id = a.image_id
		WHERE h.project_id = ? AND h.fingerprint = ? ORDER BY h.id DESC LIMIT 1`, in, fp.String()).Scan(noted{"name", &a.Name, &a.Damage},
		noted{"fingerprint", hashColumn{&a.Target}, &a.Damage})
	if errors.Is(err, sql.ErrNoRows) || err == nil && a.Damage != "" {
		return a, kiln.Errorf(kiln.NotFound, "no alias pointed to the image %s", fp.Short())
	}
	return a, err
}
