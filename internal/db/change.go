package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/project"
)

// Changes names what a transaction has written rows of, so that copies of them can be
// brought up to date.
type Changes struct {
	Pins      bool           // any of them
	Instances map[Name]bool  // with their snapshots; also names that they had
	Images    map[Image]bool // with their aliases, and when these began to point to them
	Profiles  bool           // any of them
	Projects  bool           // any of them
	Networks  bool           // any of them, without leases
}

// A Name is that of an instance or a profile, within its project.
type Name struct{ Project, Name string }

// String is the name, with the project if that isn't the default one.
func (n Name) String() string {
	if n.Project == project.Default {
		return n.Name
	}
	return n.Name + " (project " + n.Project + ")"
}

// An Image is one of a project: others may have one with the same fingerprint.
type Image struct {
	Project     string
	Fingerprint kiln.Fingerprint
}

// OnChange has f told after each transaction what it changed. When an image was used is
// not worth telling. f may not block; it is set before others use the database.
func (d *DB) OnChange(f func(Changes)) { d.changed = f }

// An Access says who may have an image, or whose signatures it takes, other than before.
type Access struct {
	Image
	Public, WasPublic bool
	Key, HadKey       string // that newer versions have to be signed with; "": none
}

// OnAccess has f told of each Access that a transaction has brought, once that is committed, with
// the transaction's context. f may not block; it is set before others use the database.
func (d *DB) OnAccess(f func(context.Context, Access)) { d.accessed = f }

// accessChanged notes who may have an image now, whose row was written.
func (tx *Tx) accessChanged(ctx context.Context, i kiln.Image, was Access) error {
	a := Access{Image: Image{Fingerprint: i.Fingerprint}, Public: i.Public, WasPublic: was.Public, HadKey: was.Key}
	if i.Origin != nil {
		a.Key = i.Origin.ImageKey
	}
	if a.Public == a.WasPublic && a.Key == a.HadKey {
		return nil
	}
	var err error
	a.Project, err = project.One(ctx, project.Images)
	tx.accesses = append(tx.accesses, a)
	return err
}

// accessOf tells who may have an image of a project.
func (tx *Tx) accessOf(ctx context.Context, projectID int64, fp kiln.Fingerprint) (a Access, err error) {
	var text, damage string
	err = tx.tx.QueryRowContext(ctx, `SELECT public, origin FROM images WHERE project_id = ? AND fingerprint = ?`,
		projectID, fp.String()).Scan(noted{"public", &a.Public, &damage}, noted{"origin", &text, &damage})
	var origin kiln.Origin
	if err == nil && text != "" && json.Unmarshal([]byte(text), &origin) == nil {
		a.Key = origin.ImageKey
	}
	return a, found(err, "Image", fp.String())
}

func (tx *Tx) instanceChanged(ctx context.Context, names ...string) {
	if tx.changes.Instances == nil {
		tx.changes.Instances = map[Name]bool{}
	}
	for _, n := range names {
		tx.changes.Instances[Name{project.Name(ctx), n}] = true
	}
}

func (tx *Tx) imageChanged(ctx context.Context, list ...kiln.Fingerprint) {
	if tx.changes.Images == nil {
		tx.changes.Images = map[Image]bool{}
	}
	in, _ := project.One(ctx, project.Images) // without one, nothing can be changed
	for _, fp := range list {
		tx.changes.Images[Image{in, fp}] = true
	}
}

// aliasChanged is imageChanged for all that some aliases point, or pointed, to.
func (tx *Tx) aliasChanged(ctx context.Context, names ...string) error {
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := each(ctx, tx.tx, `SELECT i.fingerprint FROM images i JOIN image_aliases a ON a.image_id = i.id
			WHERE a.project_id = ? AND a.name = ? UNION SELECT fingerprint FROM alias_history WHERE project_id = ? AND name = ?`,
			[]any{in, name, in, name}, func(rows *sql.Rows) error {
				var fp kiln.Fingerprint
				err := rows.Scan(noted{"fingerprint", hashColumn{&fp}, new(string)})
				if !fp.IsZero() {
					tx.imageChanged(ctx, fp)
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

// EventsOf gives when aliases of the projects that ctx is about began to point to each
// image, oldest first; with a fingerprint, only to that one. A damaged row is left out.
func (d *DB) EventsOf(ctx context.Context, only kiln.Fingerprint) (map[Image][]Event, error) {
	in, args, err := within(ctx, project.Images, "project_id")
	if err != nil {
		return nil, err
	}
	where := ` WHERE ` + in
	if !only.IsZero() {
		where, args = where+` AND fingerprint = ?`, append(args, only.String())
	}
	m := map[Image][]Event{}
	err = each(ctx, d.read, `SELECT (SELECT name FROM projects WHERE id = project_id), name, fingerprint, at, rolled_back_at FROM alias_history`+where+` ORDER BY id`, args,
		func(rows *sql.Rows) error {
			var of Image
			var e Event
			var damage string
			err := rows.Scan(&of.Project, noted{"name", &e.Alias, &damage},
				noted{"fingerprint", hashColumn{&of.Fingerprint}, &damage},
				noted{"at", timeColumn{&e.At}, &damage}, noted{"rolled_back_at", timeColumn{&e.RolledBackAt}, &damage})
			if damage == "" {
				m[of] = append(m[of], e)
			}
			return err
		})
	return m, err
}

// AddEvent writes into the history of an alias what was, after all that is in it.
func (tx *Tx) AddEvent(ctx context.Context, fp kiln.Fingerprint, e Event) error {
	tx.imageChanged(ctx, fp)
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `INSERT INTO alias_history (project_id, name, fingerprint, at, rolled_back_at)
		VALUES (?, ?, ?, ?, ?)`, in, e.Alias, fp.String(), timeText(e.At), timeText(e.RolledBackAt))
	return err
}

// DropHistory forgets where an alias pointed.
func (tx *Tx) DropHistory(ctx context.Context, name string) error {
	if err := tx.aliasChanged(ctx, name); err != nil {
		return err
	}
	in, err := projectID(ctx, tx.tx, project.Images)
	if err != nil {
		return err
	}
	_, err = tx.tx.ExecContext(ctx, `DELETE FROM alias_history WHERE project_id = ? AND name = ?`, in, name)
	return err
}
