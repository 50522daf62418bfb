package db

import (
	"context"
	"database/sql"
	"time"

	"github.com/kiln-containers/kiln"
)

// A Certificate is a client that is trusted.
type Certificate struct {
	Fingerprint string // SHA-256 of the DER form, hexadecimal
	Name        string
	Type        string // ClientCertificate or MetricsCertificate
	Description string
	Restricted  bool     // to Projects
	Projects    []string // nil: none
	PEM         string
	AddedAt     time.Time
	Damage      string // what of the row can't be read, which makes nobody trusted; "": nothing
}

const certificateColumns = `fingerprint, name, type, description, restricted, projects, certificate, added_at`

func (c *Certificate) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(noted{"fingerprint", &c.Fingerprint, &c.Damage},
		noted{"name", &c.Name, &c.Damage},
		noted{"type", wordColumn{&c.Type, []string{ClientCertificate, MetricsCertificate}}, &c.Damage},
		noted{"description", &c.Description, &c.Damage},
		noted{"restricted", &c.Restricted, &c.Damage},
		noted{"projects", jsonColumn{&c.Projects}, &c.Damage},
		noted{"certificate", &c.PEM, &c.Damage},
		noted{"added_at", timeColumn{&c.AddedAt}, &c.Damage})
}

// The types of certificates.
const (
	ClientCertificate  = "client"
	MetricsCertificate = "metrics" // may read metrics, and is an untrusted client for all else
)

// Certificates gives every trusted client, by name.
func (d *DB) Certificates(ctx context.Context) ([]Certificate, error) {
	list := []Certificate{}
	err := each(ctx, d.read,
		`SELECT `+certificateColumns+` FROM certificates ORDER BY name, fingerprint`, nil, func(rows *sql.Rows) error {
			var c Certificate
			err := c.scan(rows)
			list = append(list, c)
			return err
		})
	return list, err
}

// CreateCertificate adds a client. The error is Conflict.
func (d *DB) CreateCertificate(ctx context.Context, c Certificate) error {
	return d.Tx(ctx, func(tx *Tx) error {
		_, err := tx.tx.ExecContext(ctx,
			`INSERT INTO certificates (fingerprint, name, type, description, restricted, projects, certificate,
			added_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			c.Fingerprint, c.Name, c.Type, c.Description, c.Restricted, toJSON(orNone(c.Projects)), c.PEM, timeText(c.AddedAt))
		if kiln.KindOf(conflict(err, "", "")) == kiln.Conflict {
			var was string
			_ = tx.tx.QueryRowContext(ctx, `SELECT name FROM certificates WHERE fingerprint = ?`, c.Fingerprint).Scan(
				noted{"name", &was, new(string)})
			return kiln.Errorf(kiln.Conflict, "Certificate already in trust store: under the name %q, fingerprint %.12s; to "+
				"change what it may do: kiln config trust edit %.12s", was, c.Fingerprint, c.Fingerprint)
		}
		return err
	})
}

// EditCertificate reads a client's row, lets f change what is said of the client, and
// writes it back, in one transaction.
// Errors: NotFound, Integrity when the row is damaged, those of f.
func (d *DB) EditCertificate(ctx context.Context, fingerprint string, f func(*Certificate) error) error {
	return d.Tx(ctx, func(tx *Tx) error {
		var c Certificate
		err := c.scan(tx.tx.QueryRowContext(ctx,
			`SELECT `+certificateColumns+` FROM certificates WHERE fingerprint = ?`, fingerprint))
		if err != nil {
			return found(err, "Certificate", fingerprint)
		}
		if c.Damage != "" { // what can't be read would be overwritten
			return kiln.Errorf(kiln.Integrity, "certificate %q can't be changed: %s; remove it (kiln config trust remove %s) "+
				"and add it again", c.Name, c.Damage, fingerprint)
		}
		if err := f(&c); err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx,
			`UPDATE certificates SET name = ?, type = ?, description = ?, restricted = ?, projects = ? WHERE fingerprint = ?`,
			c.Name, c.Type, c.Description, c.Restricted, toJSON(orNone(c.Projects)), fingerprint)
		return err
	})
}

// DeleteCertificate removes a client. The error is NotFound.
func (d *DB) DeleteCertificate(ctx context.Context, fingerprint string) error {
	return d.Tx(Freeing(ctx), func(tx *Tx) error {
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM certificates WHERE fingerprint = ?`, fingerprint)
		return changed(r, err, "Certificate", fingerprint)
	})
}
