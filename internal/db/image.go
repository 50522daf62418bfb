package db

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
)

// An ImageQuery narrows a list of images down. The zero value is all of them.
type ImageQuery struct {
	Fingerprint kiln.Fingerprint  // this one
	Prefix      string            // hexadecimal digits that the fingerprint begins with
	Public      bool              // only public ones
	Properties  map[string]string // that it has, in whatever case
	Origin      *kiln.Origin      // that it came from there
	Replaced    kiln.Fingerprint  // that it was replaced by this one
	File        kiln.Fingerprint  // that it has a file with this hash
	Files       bool              // fill in Files too
}

const imageColumns = `id, fingerprint, type, architecture, size, filename, public, auto_update, cached, created_at, expires_at, last_used_at, uploaded_at, properties, profiles,
	origin, own_properties, replaced_by, replaced_at`

// where gives the condition of a query on the table images.
func (q ImageQuery) where() (string, []any) {
	var terms []string
	var args []any
	if !q.Fingerprint.IsZero() {
		terms, args = append(terms, `fingerprint = ?`), append(args, q.Fingerprint.String())
	}
	if q.Prefix != "" {
		// "g" comes after every digit: a range, which every database
		// answers from its index.
		terms, args = append(terms, `fingerprint >= ? AND fingerprint < ?`), append(args, q.Prefix, q.Prefix+"g")
	}
	if q.Origin != nil {
		terms, args = append(terms, `origin_key = ?`), append(args, q.Origin.Key())
	}
	if !q.Replaced.IsZero() {
		terms, args = append(terms, `replaced_by = ?`), append(args, q.Replaced.String())
	}
	if !q.File.IsZero() {
		terms, args = append(terms, `id IN (SELECT image_id FROM image_files WHERE hash = ?)`), append(args, q.File.String())
	}
	if q.Public {
		terms = append(terms, `public`)
	}
	for key, value := range q.Properties {
		terms = append(terms, `id IN (SELECT image_id FROM image_properties WHERE key = ? AND value = ?)`)
		args = append(args, key, strings.ToLower(value))
	}
	if len(terms) == 0 {
		return "", nil
	}
	return ` WHERE ` + strings.Join(terms, ` AND `), args
}

// Images gives the images that a query asks for, in the order they were added, in
// two statements, or three with their files. They are from one moment: an image
// comes with all of its files and aliases.
func (d *DB) Images(ctx context.Context, q ImageQuery) (list []kiln.Image, err error) {
	err = d.view(ctx, func(v queryer) error {
		list, err = images(ctx, v, q)
		return err
	})
	return list, err
}

// Images is the same within a transaction.
func (tx *Tx) Images(ctx context.Context, q ImageQuery) ([]kiln.Image, error) {
	return images(ctx, tx.tx, q)
}

func images(ctx context.Context, db queryer, q ImageQuery) ([]kiln.Image, error) {
	where, args := q.where()
	list := []kiln.Image{}
	at := map[int64]int{}
	err := each(ctx, db, `SELECT `+imageColumns+` FROM images`+where+` ORDER BY id`, args, func(rows *sql.Rows) error {
		var id int64
		var i kiln.Image
		err := rows.Scan(&id, hashColumn{&i.Fingerprint}, &i.Type, &i.Architecture, &i.Size, &i.Filename, &i.Public,
			&i.AutoUpdate, &i.Cached,
			timeColumn{&i.CreatedAt}, timeColumn{&i.ExpiresAt}, timeColumn{&i.LastUsedAt}, timeColumn{&i.UploadedAt},
			jsonColumn{&i.Properties}, jsonColumn{&i.Profiles}, originColumn{&i.Origin}, jsonColumn{&i.Own},
			hashColumn{&i.ReplacedBy}, timeColumn{&i.ReplacedAt})
		at[id] = len(list)
		list = append(list, i)
		return err
	})
	if err != nil || len(list) == 0 {
		return list, err
	}
	some := ""
	if where != "" {
		some = ` WHERE image_id IN (SELECT id FROM images` + where + `)`
	}
	err = each(ctx, db, `SELECT image_id, name, description FROM image_aliases`+some+` ORDER BY name`, args,
		func(rows *sql.Rows) error {
			var id int64
			var a kiln.Alias
			err := rows.Scan(&id, &a.Name, &a.Description)
			if n, ok := at[id]; ok {
				a.Target = list[n].Fingerprint
				list[n].Aliases = append(list[n].Aliases, a)
			}
			return err
		})
	if err != nil || !q.Files {
		return list, err
	}
	err = each(ctx, db, `SELECT image_id, role, hash, size, name, ext FROM image_files`+
		some+` ORDER BY image_id, position`, args, func(rows *sql.Rows) error {
		var id int64
		var f kiln.File
		err := rows.Scan(&id, &f.Role, hashColumn{&f.Hash}, &f.Size, &f.Name, &f.Ext)
		if n, ok := at[id]; ok {
			list[n].Files = append(list[n].Files, f)
		}
		return err
	})
	return list, err
}

// CreateImage adds an image with its files and properties, not its aliases. The
// error is Conflict when it is there.
func (tx *Tx) CreateImage(ctx context.Context, i kiln.Image) error {
	// A statement that fails would end the transaction in PostgreSQL.
	var id int64
	err := tx.tx.QueryRowContext(ctx, `INSERT INTO images (fingerprint, type, architecture, size, filename, public, auto_update, cached,
		created_at, expires_at, last_used_at, uploaded_at, properties, profiles, origin, origin_key, own_properties)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (project_id, fingerprint) DO NOTHING RETURNING id`,
		i.Fingerprint.String(), i.Type, i.Architecture, i.Size, i.Filename, i.Public, i.AutoUpdate, i.Cached,
		timeText(i.CreatedAt), timeText(i.ExpiresAt), timeText(i.LastUsedAt), timeText(i.UploadedAt),
		toJSON(orEmpty(i.Properties)), toJSON(orNone(i.Profiles)), originText(i.Origin), originKey(i.Origin),
		toJSON(orEmpty(i.Own))).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return kiln.Errorf(kiln.Conflict, "Image %q already exists", i.Fingerprint)
	}
	if err != nil {
		return err
	}
	for n, f := range i.Files {
		if _, err := tx.tx.ExecContext(ctx,
			`INSERT INTO image_files (image_id, position, role, hash, size, name, ext) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			id, n, f.Role, f.Hash.String(), f.Size, f.Name, f.Ext); err != nil {
			return err
		}
	}
	return tx.setProperties(ctx, i)
}

func (tx *Tx) setProperties(ctx context.Context, i kiln.Image) error {
	const image = `(SELECT id FROM images WHERE fingerprint = ?)`
	if _, err := tx.tx.ExecContext(ctx, `DELETE FROM image_properties WHERE image_id = `+image, i.Fingerprint.String()); err != nil {
		return err
	}
	for key, value := range i.Properties {
		if _, err := tx.tx.ExecContext(ctx, `INSERT INTO image_properties (image_id, key, value) VALUES (`+image+`, ?, ?)`,
			i.Fingerprint.String(), key, strings.ToLower(value)); err != nil {
			return err
		}
	}
	return nil
}

// UpdateImage writes what can change of an image. The error is NotFound.
func (tx *Tx) UpdateImage(ctx context.Context, i kiln.Image) error {
	r, err := tx.tx.ExecContext(ctx, `UPDATE images SET public = ?, auto_update = ?, cached = ?, expires_at = ?, last_used_at = ?, properties = ?, profiles = ?,
		origin = ?, origin_key = ?, own_properties = ?, replaced_by = ?, replaced_at = ? WHERE fingerprint = ?`,
		i.Public, i.AutoUpdate, i.Cached, timeText(i.ExpiresAt), timeText(i.LastUsedAt),
		toJSON(orEmpty(i.Properties)), toJSON(orNone(i.Profiles)),
		originText(i.Origin), originKey(i.Origin), toJSON(orEmpty(i.Own)), hashText(i.ReplacedBy), timeText(i.ReplacedAt),
		i.Fingerprint.String())
	if err := changed(r, err, "Image", i.Fingerprint.String()); err != nil {
		return err
	}
	return tx.setProperties(ctx, i)
}

func originText(o *kiln.Origin) string {
	if o == nil {
		return ""
	}
	return toJSON(o)
}

func originKey(o *kiln.Origin) string {
	if o == nil {
		return ""
	}
	return o.Key()
}

// MoveAliases points the aliases of one image to another. The error is NotFound.
func (tx *Tx) MoveAliases(ctx context.Context, from, to kiln.Fingerprint) error {
	var names []string
	err := each(ctx, tx.tx,
		`SELECT name FROM image_aliases WHERE image_id = (SELECT id FROM images WHERE fingerprint = ?)`, []any{from.String()},
		func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			names = append(names, name)
			return err
		})
	for _, n := range names {
		err = errors.Join(err, tx.note(ctx, n, to))
	}
	if err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `UPDATE image_aliases SET image_id = (SELECT id FROM images WHERE fingerprint = ?)
		WHERE image_id = (SELECT id FROM images WHERE fingerprint = ?)`, to.String(), from.String())
	return err
}

// TouchImage sets when an image was used. The error is NotFound.
func (tx *Tx) TouchImage(ctx context.Context, fp kiln.Fingerprint, t time.Time) error {
	r, err := tx.tx.ExecContext(ctx, `UPDATE images SET last_used_at = ? WHERE fingerprint = ?`, timeText(t), fp.String())
	return changed(r, err, "Image", fp.String())
}

// DeleteImage removes an image with its aliases. The error is NotFound.
func (tx *Tx) DeleteImage(ctx context.Context, fp kiln.Fingerprint) error {
	r, err := tx.tx.ExecContext(ctx, `DELETE FROM images WHERE fingerprint = ?`, fp.String())
	return changed(r, err, "Image", fp.String())
}

// Aliases gives every alias, by name.
func (d *DB) Aliases(ctx context.Context) ([]kiln.Alias, error) {
	list := []kiln.Alias{}
	err := each(ctx, d.read,
		`SELECT name, a.description, fingerprint FROM image_aliases a JOIN images i ON i.id = a.image_id ORDER BY name`, nil,
		func(rows *sql.Rows) error {
			var a kiln.Alias
			err := rows.Scan(&a.Name, &a.Description, hashColumn{&a.Target})
			list = append(list, a)
			return err
		})
	return list, err
}

// Alias gives one alias. The error is NotFound.
func (d *DB) Alias(ctx context.Context, name string) (kiln.Alias, error) {
	return alias(ctx, d.read, name, "")
}

// PublicAlias gives one alias of a public image. That of another is NotFound as
// if there were none.
func (d *DB) PublicAlias(ctx context.Context, name string) (kiln.Alias, error) {
	return alias(ctx, d.read, name, ` AND public`)
}

// Alias is the same within a transaction.
func (tx *Tx) Alias(ctx context.Context, name string) (kiln.Alias, error) {
	return alias(ctx, tx.tx, name, "")
}

func alias(ctx context.Context, q queryer, name, and string) (kiln.Alias, error) {
	a := kiln.Alias{Name: name}
	err := q.QueryRowContext(ctx,
		`SELECT a.description, fingerprint FROM image_aliases a JOIN images i ON i.id = a.image_id WHERE name = ?`+and, name).
		Scan(&a.Description, hashColumn{&a.Target})
	return a, found(err, "Image alias", name)
}

// SetAlias makes an alias or moves the one of that name. The error is NotFound
// when the image isn't there.
func (tx *Tx) SetAlias(ctx context.Context, a kiln.Alias) error {
	if _, err := tx.tx.ExecContext(ctx, `DELETE FROM image_aliases WHERE name = ?`, a.Name); err != nil {
		return err
	}
	r, err := tx.tx.ExecContext(ctx,
		`INSERT INTO image_aliases (name, description, image_id) SELECT ?, ?, id FROM images WHERE fingerprint = ?`,
		a.Name, a.Description, a.Target.String())
	if err := changed(r, err, "Image", a.Target.String()); err != nil {
		return err
	}
	return tx.note(ctx, a.Name, a.Target)
}

// RenameAlias changes a name. Errors: NotFound, Conflict.
func (tx *Tx) RenameAlias(ctx context.Context, from, to string) error {
	r, err := tx.tx.ExecContext(ctx, `UPDATE image_aliases SET name = ? WHERE name = ?`, to, from)
	if err != nil {
		return conflict(err, "Alias", to)
	}
	if err := changed(r, err, "Image alias", from); err != nil || from == to {
		return err
	}
	// The new name may have had a history of its own.
	if _, err := tx.tx.ExecContext(ctx, `DELETE FROM alias_history WHERE name = ?`, to); err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `UPDATE alias_history SET name = ? WHERE name = ?`, to, from)
	return err
}

// DeleteAlias removes an alias. The error is NotFound.
func (tx *Tx) DeleteAlias(ctx context.Context, name string) error {
	r, err := tx.tx.ExecContext(ctx, `DELETE FROM image_aliases WHERE name = ?`, name)
	return changed(r, err, "Image alias", name) // its history stays: clients move aliases by making them anew
}

// Blobs gives how many images each blob belongs to.
func (d *DB) Blobs(ctx context.Context) (map[kiln.Fingerprint]int, error) {
	m := map[kiln.Fingerprint]int{}
	err := each(ctx, d.read, `SELECT hash, count(*) FROM image_files GROUP BY hash`, nil, func(rows *sql.Rows) error {
		var fp kiln.Fingerprint
		var n int
		err := rows.Scan(hashColumn{&fp}, &n)
		m[fp] = n
		return err
	})
	return m, err
}
