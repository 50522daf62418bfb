package db

import (
	"context"
	"database/sql"
)

// Config gives the settings that are set.
func (d *DB) Config(ctx context.Context) (map[string]string, error) {
	m := map[string]string{}
	err := each(ctx, d.read, `SELECT key, value FROM config`, nil, func(rows *sql.Rows) error {
		var key, value string
		err := rows.Scan(&key, &value)
		m[key] = value
		return err
	})
	return m, err
}

// SetConfig changes settings, all or none. An empty value unsets one.
func (d *DB) SetConfig(ctx context.Context, change map[string]string) error {
	return d.Tx(ctx, func(tx *Tx) error {
		for key, value := range change {
			if _, err := tx.tx.ExecContext(ctx, `DELETE FROM config WHERE key = ?`, key); err != nil {
				return err
			}
			if value == "" {
				continue
			}
			if _, err := tx.tx.ExecContext(ctx, `INSERT INTO config (key, value) VALUES (?, ?)`, key, value); err != nil {
				return err
			}
		}
		return nil
	})
}
