package db

import (
	"context"
	"database/sql"
)

// Config gives the settings that are set. A value that can't be read is one that says
// so, which no setting takes for its own.
func (d *DB) Config(ctx context.Context) (map[string]string, error) { return config(ctx, d.read) }

func config(ctx context.Context, q queryer) (map[string]string, error) {
	m := map[string]string{}
	err := each(ctx, q, `SELECT key, value FROM config`, nil, func(rows *sql.Rows) error {
		var key, value, damage string
		err := rows.Scan(noted{"key", &key, &damage}, noted{"value", &value, &damage})
		if damage != "" {
			value = "damaged: " + damage
		}
		m[key] = value
		return err
	})
	return m, err
}

// EditConfig reads the settings that are set, and changes those that f gives, in one
// transaction. An empty value unsets one. The errors are those of f.
func (d *DB) EditConfig(ctx context.Context, f func(set map[string]string) (map[string]string, error)) error {
	return d.Tx(ctx, func(tx *Tx) error {
		set, err := config(ctx, tx.tx)
		if err != nil {
			return err
		}
		change, err := f(set)
		if err != nil {
			return err
		}
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
