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
		`SELECT fingerprint, name, type, description, restricted, projects, certificate, added_at
		FROM certificates ORDER BY name, fingerprint`, nil, func(rows *sql.Rows) error {
			var c Certificate
			err := rows.Scan(&c.Fingerprint, &c.Name, &c.Type, &c.Description, &c.Restricted, jsonColumn{&c.Projects}, &c.PEM,
				timeColumn{&c.AddedAt})
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
			return kiln.Errorf(kiln.Conflict, "Certificate already in trust store")
		}
		return err
	})
}

// UpdateCertificate changes what is said of a client. The error is NotFound.
func (d *DB) UpdateCertificate(ctx context.Context, c Certificate) error {
	return d.Tx(ctx, func(tx *Tx) error {
		r, err := tx.tx.ExecContext(ctx,
			`UPDATE certificates SET name = ?, type = ?, description = ?, restricted = ?, projects = ? WHERE fingerprint = ?`,
			c.Name, c.Type, c.Description, c.Restricted, toJSON(orNone(c.Projects)), c.Fingerprint)
		return changed(r, err, "Certificate", c.Fingerprint)
	})
}

// DeleteCertificate removes a client. The error is NotFound.
func (d *DB) DeleteCertificate(ctx context.Context, fingerprint string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		r, err := tx.tx.ExecContext(ctx, `DELETE FROM certificates WHERE fingerprint = ?`, fingerprint)
		return changed(r, err, "Certificate", fingerprint)
	})
}
