package db

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// An ImageQuery narrows a list of images down. The zero value is all of the projects that
// ctx is about.
type ImageQuery struct {
	Fingerprint kiln.Fingerprint  // this one
	Prefix      string            // hexadecimal digits that the fingerprint begins with
	Public      bool              // only public ones that were not withdrawn by a rollback
	Standing    bool              // only ones that were not withdrawn by a rollback
	Properties  map[string]string // that it has, in whatever case
	Origin      *kiln.Origin      // that it came from there
	Replaced    kiln.Fingerprint  // that it was replaced by this one
	File        kiln.Fingerprint  // that it has a file with this hash
	Files       bool              // fill in Files too
}

const imageColumns = `id, (SELECT name FROM projects WHERE id = project_id), fingerprint, type, architecture, size, filename, public, auto_update, cached, created_at, expires_at, last_used_at, uploaded_at, properties, profiles,
	origin, own_properties, replaced_by, replaced_at`

// where gives the condition of a query on the table images.
func (q ImageQuery) where(ctx context.Context) (string, []any, error) {
	in, args, err := within(ctx, project.Images, "project_id")
	if err != nil {
		return "", nil, err
	}
	terms := []string{in}
	if id, ok := standInFor(q.Fingerprint); ok {
		terms, args = append(terms, `id = ?`), append(args, id)
	} else if !q.Fingerprint.IsZero() {
		terms, args = append(terms, `fingerprint = ?`), append(args, q.Fingerprint.String())
	}
	if q.Prefix != "" && !mayBeStandIn(q.Prefix) { // else fits looks through all of them
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
	if q.Public || q.Standing {
		terms = append(terms, `(id IN (SELECT image_id FROM image_aliases) OR (project_id, fingerprint) NOT IN (`+withdrawn+`))`)
	}
	for key, value := range q.Properties {
		terms = append(terms, `id IN (SELECT image_id FROM image_properties WHERE key = ? AND value = ?)`)
		args = append(args, key, strings.ToLower(value))
	}
	return ` WHERE ` + strings.Join(terms, ` AND `), args, nil
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
	where, args, err := q.where(ctx)
	if err != nil {
		return nil, err
	}
	list := []kiln.Image{}
	at := map[int64]int{}
	row := newImageRow()
	err = each(ctx, db, `SELECT `+imageColumns+` FROM images`+where+` ORDER BY id`, args, func(rows *sql.Rows) error {
		i, err := row.scan(rows)
		if err == nil && q.fits(i) {
			at[row.id] = len(list)
			list = append(list, i)
		}
		return err
	})
	if err != nil || len(list) == 0 {
		return list, err
	}
	some := ` WHERE image_id IN (SELECT id FROM images` + where + `)`
	var id int64
	var a kiln.Alias
	to := []any{&id, noted{"name", &a.Name, &a.Damage}, noted{"description", &a.Description, &a.Damage}}
	err = each(ctx, db, `SELECT image_id, name, description FROM image_aliases`+some+` ORDER BY name`, args,
		func(rows *sql.Rows) error {
			id, a = 0, kiln.Alias{}
			err := rows.Scan(to...)
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
		var damage string
		err := rows.Scan(&id, noted{"role", roleColumn{&f.Role}, &damage}, noted{"hash", hashColumn{&f.Hash}, &damage},
			noted{"size", countColumn[int64]{&f.Size}, &damage}, noted{"name", &f.Name, &damage}, noted{"ext", &f.Ext, &damage})
		if n, ok := at[id]; ok {
			list[n].Files = append(list[n].Files, f)
			if damage != "" && list[n].Damage == "" {
				list[n].Damage = "the row of one of its files can't be read: " + damage
			}
		}
		return err
	})
	for n := range list {
		if len(list[n].Files) == 0 && list[n].Damage == "" {
			list[n].Damage = "it has no files"
		}
	}
	return slices.DeleteFunc(list, func(i kiln.Image) bool { return !q.fits(i) }), err
}

// imageRow reads rows of imageColumns, one after the other. Where the columns go is laid
// out once for all of them: there can be many thousands.
type imageRow struct {
	id    int64 // of the row that was read last
	image kiln.Image
	to    []any
}

func newImageRow() *imageRow {
	r := &imageRow{}
	i := &r.image
	r.to = []any{&r.id, &i.Project, noted{"fingerprint", hashColumn{&i.Fingerprint}, &i.Damage},
		noted{"type", instanceType(&i.Type), &i.Damage},
		noted{"architecture", &i.Architecture, &i.Damage},
		noted{"size", countColumn[int64]{&i.Size}, &i.Damage},
		noted{"filename", &i.Filename, &i.Damage},
		noted{"public", &i.Public, &i.Damage},
		noted{"auto_update", &i.AutoUpdate, &i.Damage},
		noted{"cached", &i.Cached, &i.Damage},
		noted{"created_at", timeColumn{&i.CreatedAt}, &i.Damage},
		noted{"expires_at", timeColumn{&i.ExpiresAt}, &i.Damage},
		noted{"last_used_at", timeColumn{&i.LastUsedAt}, &i.Damage},
		noted{"uploaded_at", timeColumn{&i.UploadedAt}, &i.Damage},
		noted{"properties", jsonColumn{&i.Properties}, &i.Damage},
		noted{"profiles", jsonColumn{&i.Profiles}, &i.Damage},
		noted{"origin", originColumn{&i.Origin}, &i.Damage},
		noted{"own_properties", jsonColumn{&i.Own}, &i.Damage},
		noted{"replaced_by", hashColumn{&i.ReplacedBy}, &i.Damage},
		noted{"replaced_at", timeColumn{&i.ReplacedAt}, &i.Damage}}
	return r
}

// scan gives the image of a row, which shares nothing with the one before it.
func (r *imageRow) scan(rows *sql.Rows) (kiln.Image, error) {
	r.id, r.image = 0, kiln.Image{}
	err := rows.Scan(r.to...)
	i := r.image
	if i.Fingerprint.IsZero() {
		i.Fingerprint = standIn(r.id)
		if i.Damage == "" {
			i.Damage = "its column fingerprint is damaged: it is empty"
		}
	}
	i.Properties, i.Own, i.Profiles = orEmpty(i.Properties), orEmpty(i.Own), orNone(i.Profiles)
	i.TakeSignature() // they are one column
	return i, err
}

// fits reports what a condition can't ask a damaged row: stand-ins are only known when
// the row was read, and who may see a damaged image isn't known.
func (q ImageQuery) fits(i kiln.Image) bool {
	return (q.Fingerprint.IsZero() || i.Fingerprint == q.Fingerprint) &&
		(q.Prefix == "" || strings.HasPrefix(i.Fingerprint.String(), q.Prefix)) && !(q.Public && i.Damage != "")
}

// roleColumn is what a file is to its image.
type roleColumn struct{ r *kiln.Role }

// Scan implements sql.Scanner.
func (c roleColumn) Scan(src any) error { return scanColumn((*string)(c.r), src) }

// CreateImage adds an image with its files and properties, not its aliases. The
// error is Conflict when it is there.
func (tx *Tx) CreateImage(ctx context.Context, i kiln.Image) error {
	tx.imageChanged(ctx, i.Fingerprint)
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	// A statement that fails would end the transaction in PostgreSQL.
	var id int64
	err = tx.tx.QueryRowContext(ctx, `INSERT INTO images (project_id, fingerprint, type, architecture, size, filename, public, auto_update, cached,
		created_at, expires_at, last_used_at, uploaded_at, properties, profiles, origin, origin_key, own_properties)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (project_id, fingerprint) DO NOTHING RETURNING id`,
		in, i.Fingerprint.String(), i.Type, i.Architecture, i.Size, i.Filename, i.Public, i.AutoUpdate, i.Cached,
		timeText(i.CreatedAt), timeText(i.ExpiresAt), timeText(i.LastUsedAt), timeText(i.UploadedAt),
		toJSON(orEmpty(i.WithSignature())), toJSON(orNone(i.Profiles)), originText(i.Origin), originKey(i.Origin),
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
	return errors.Join(tx.accessChanged(ctx, i, Access{}), tx.setProperties(ctx, id, i))
}

func (tx *Tx) setProperties(ctx context.Context, id int64, i kiln.Image) error {
	if _, err := tx.tx.ExecContext(ctx, `DELETE FROM image_properties WHERE image_id = ?`, id); err != nil {
		return err
	}
	for key, value := range i.Properties {
		if _, err := tx.tx.ExecContext(ctx, `INSERT INTO image_properties (image_id, key, value) VALUES (?, ?, ?)`,
			id, key, strings.ToLower(value)); err != nil {
			return err
		}
	}
	return nil
}

// UpdateImage writes what can change of an image. Errors: NotFound, Integrity for one
// whose row could not be read: the rest of it would be overwritten.
func (tx *Tx) UpdateImage(ctx context.Context, i kiln.Image) error {
	if err := i.Whole(); err != nil {
		return err
	}
	tx.imageChanged(ctx, i.Fingerprint)
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	was, err := tx.accessOf(ctx, in, i.Fingerprint)
	if err != nil {
		return err
	}
	var id int64
	err = tx.tx.QueryRowContext(ctx, `UPDATE images SET public = ?, auto_update = ?, cached = ?, expires_at = ?, last_used_at = ?, properties = ?, profiles = ?,
		origin = ?, origin_key = ?, own_properties = ?, replaced_by = ?, replaced_at = ?
		WHERE project_id = ? AND fingerprint = ? RETURNING id`,
		i.Public, i.AutoUpdate, i.Cached, timeText(i.ExpiresAt), timeText(i.LastUsedAt),
		toJSON(orEmpty(i.WithSignature())), toJSON(orNone(i.Profiles)),
		originText(i.Origin), originKey(i.Origin), toJSON(orEmpty(i.Own)), hashText(i.ReplacedBy), timeText(i.ReplacedAt),
		in, i.Fingerprint.String()).Scan(&id)
	if err != nil {
		return found(err, "Image", i.Fingerprint.String())
	}
	return errors.Join(tx.accessChanged(ctx, i, was), tx.setProperties(ctx, id, i))
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
	tx.imageChanged(ctx, from, to)
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	const image = `(SELECT id FROM images WHERE project_id = ? AND fingerprint = ?)`
	var names []string
	err = each(ctx, tx.tx, `SELECT name FROM image_aliases WHERE image_id = `+image, []any{in, from.String()},
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
	_, err = tx.tx.ExecContext(ctx, `UPDATE image_aliases SET image_id = `+image+` WHERE image_id = `+image, in, to.String(),
		in, from.String())
	return err
}

// TouchImage sets when an image was used. The error is NotFound.
func (tx *Tx) TouchImage(ctx context.Context, fp kiln.Fingerprint, t time.Time) error {
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	r, err := tx.tx.ExecContext(ctx, `UPDATE images SET last_used_at = ? WHERE project_id = ? AND fingerprint = ?`,
		timeText(t), in, fp.String())
	return changed(r, err, "Image", fp.String())
}

// DeleteImage removes an image with its aliases. The error is NotFound.
func (tx *Tx) DeleteImage(ctx context.Context, fp kiln.Fingerprint) error {
	tx.imageChanged(ctx, fp)
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	if id, ok := standInFor(fp); ok {
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM images WHERE project_id = ? AND id = ?`, in, id)
		return changed(r, err, "Image", fp.String())
	}
	r, err := tx.tx.ExecContext(ctx, `DELETE FROM images WHERE project_id = ? AND fingerprint = ?`, in, fp.String())
	return changed(r, err, "Image", fp.String())
}

// Aliases gives the aliases of the projects that ctx is about, by name.
func (d *DB) Aliases(ctx context.Context) ([]kiln.Alias, error) {
	list := []kiln.Alias{}
	in, args, err := within(ctx, project.Images, "a.project_id")
	if err != nil {
		return nil, err
	}
	err = each(ctx, d.read, aliasQuery+` WHERE `+in+` ORDER BY a.name, a.project_id`, args, func(rows *sql.Rows) error {
		a, err := scanAlias(rows)
		list = append(list, a)
		return err
	})
	return list, err
}

// aliasQuery also gives an alias whose image has no row.
const aliasQuery = `SELECT a.name, a.description, i.id, coalesce(i.fingerprint, '') FROM image_aliases a
	LEFT JOIN images i ON i.id = a.image_id`

func scanAlias(row interface{ Scan(...any) error }) (a kiln.Alias, err error) {
	var image sql.NullInt64
	err = row.Scan(noted{"name", &a.Name, &a.Damage}, noted{"description", &a.Description, &a.Damage}, &image,
		noted{"target", hashColumn{&a.Target}, &a.Damage})
	switch {
	case err != nil:
	case !image.Valid:
		a.Damage = "its image has no row"
	case a.Target.IsZero():
		a.Target, a.Damage = standIn(image.Int64), "the fingerprint of its image is damaged"
	}
	return a, err
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
	in, err := projectID(ctx, q, project.Images)
	if err != nil {
		return kiln.Alias{Name: name}, err
	}
	a, err := scanAlias(q.QueryRowContext(ctx, aliasQuery+` WHERE a.project_id = ? AND a.name = ?`+and, in, name))
	if err != nil {
		return kiln.Alias{Name: name}, found(err, "Image alias", name)
	}
	return a, nil
}

// SetAlias makes an alias or moves the one of that name. The error is NotFound
// when the image isn't there.
func (tx *Tx) SetAlias(ctx context.Context, a kiln.Alias) error {
	if err := tx.aliasChanged(ctx, a.Name); err != nil {
		return err
	}
	tx.imageChanged(ctx, a.Target)
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	if _, err := tx.tx.ExecContext(ctx, `DELETE FROM image_aliases WHERE project_id = ? AND name = ?`, in,
		a.Name); err != nil {
		return err
	}
	r, err := tx.tx.ExecContext(ctx, `INSERT INTO image_aliases (project_id, name, description, image_id)
		SELECT project_id, ?, ?, id FROM images WHERE project_id = ? AND fingerprint = ?`, a.Name, a.Description, in,
		a.Target.String())
	if err := changed(r, err, "Image", a.Target.String()); err != nil {
		return err
	}
	return tx.note(ctx, a.Name, a.Target)
}

// RenameAlias changes a name. Errors: NotFound, Conflict.
func (tx *Tx) RenameAlias(ctx context.Context, from, to string) error {
	if err := tx.aliasChanged(ctx, from, to); err != nil {
		return err
	}
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	r, err := tx.tx.ExecContext(ctx, `UPDATE image_aliases SET name = ? WHERE project_id = ? AND name = ?`, to, in, from)
	if err != nil {
		return conflict(err, "Alias", to)
	}
	if err := changed(r, err, "Image alias", from); err != nil || from == to {
		return err
	}
	// The new name may have had a history of its own.
	if _, err := tx.tx.ExecContext(ctx, `DELETE FROM alias_history WHERE project_id = ? AND name = ?`, in,
		to); err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `UPDATE alias_history SET name = ? WHERE project_id = ? AND name = ?`, to, in, from)
	return err
}

// DeleteAlias removes an alias. The error is NotFound.
func (tx *Tx) DeleteAlias(ctx context.Context, name string) error {
	if err := tx.aliasChanged(ctx, name); err != nil {
		return err
	}
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	r, err := tx.tx.ExecContext(ctx, `DELETE FROM image_aliases WHERE project_id = ? AND name = ?`, in, name)
	return changed(r, err, "Image alias", name) // its history stays: clients move aliases by making them anew
}

// Blobs gives how many images, of whatever project, each blob belongs to. Under the zero fingerprint is how
// many rows don't say which blob they are of: with one such row, no blob is garbage for
// certain.
func (d *DB) Blobs(ctx context.Context) (map[kiln.Fingerprint]int, error) {
	m := map[kiln.Fingerprint]int{}
	err := each(ctx, d.read, `SELECT hash, count(*) FROM image_files GROUP BY hash`, nil, func(rows *sql.Rows) error {
		var fp kiln.Fingerprint
		var n int
		err := rows.Scan(noted{"hash", hashColumn{&fp}, new(string)}, &n)
		m[fp] += n
		return err
	})
	return m, err
}
