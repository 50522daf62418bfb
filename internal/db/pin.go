package db

import (
	"context"
	"database/sql"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/signing"
)

// mostPins is of how many keys it is remembered what their owners said: who may pull images
// may name many. What was learned longest ago is forgotten first.
const mostPins = 4096

// Pin gives what is known of the owner of a key: signing.NewPin if nothing is. The error is
// Integrity for a row that is damaged.
func (d *DB) Pin(ctx context.Context, k signing.Key) (signing.Pin, error) {
	_, p, err := getPin(ctx, d.read, k)
	return p, err
}

// getPin gives a pin, and the key that its row is of.
func getPin(ctx context.Context, q queryer, k signing.Key) (string, signing.Pin, error) {
	name, found := k.String(), signing.NewPin(k)
	// Its own row comes first: what follows looks for keys that others had the chain of.
	err := each(ctx, q, `SELECT pinned, state FROM pins ORDER BY pinned <> ?, used_at DESC`, []any{name},
		func(rows *sql.Rows) error {
			var pinned, damage string
			var p signing.Pin
			if err := rows.Scan(&pinned, noted{"state", jsonColumn{&p}, &damage}); err != nil {
				return err
			}
			if pinned == name && (damage != "" || len(p.Roots) == 0) {
				return kiln.Errorf(kiln.Integrity, "what was known of the pinned key %s is damaged: %s; bring a copy of the "+
					"database back: kiln admin restore-database", k.ID(), damage)
			}
			if damage == "" && p.Is(k) && found.Keys == nil && len(found.Indexes) == 0 {
				name, found = pinned, p
			}
			return nil
		})
	return name, found, err
}

// LearnPin changes what is known of the owner of a key to what f makes of it, in one
// transaction. Errors: those of Pin, of f.
func (d *DB) LearnPin(ctx context.Context, k signing.Key, f func(*signing.Pin) error) (signing.Pin, error) {
	var p signing.Pin
	err := d.Tx(ctx, func(tx *Tx) error {
		name, now, err := getPin(ctx, tx.tx, k)
		if err != nil {
			return err
		}
		if err := f(&now); err != nil {
			return err
		}
		p = now
		tx.changes.Pins = true
		if _, err := tx.tx.ExecContext(ctx, `INSERT INTO pins (pinned, state, used_at) VALUES (?, ?, ?)
			ON CONFLICT (pinned) DO UPDATE SET state = excluded.state, used_at = excluded.used_at`, name, toJSON(now),
			timeText(time.Now())); err != nil {
			return err
		}
		_, err = tx.tx.ExecContext(ctx, `DELETE FROM pins WHERE pinned IN (SELECT pinned FROM pins ORDER BY used_at DESC
			LIMIT -1 OFFSET ?)`, mostPins)
		return err
	})
	return p, err
}

// A PinRow is what is known of the owner of a key, and the key that it is kept under.
type PinRow struct {
	Pinned string      `json:"pinned"`
	State  signing.Pin `json:"state"`
}

// Pins gives all that is known of owners of keys, what was learned last first. Rows that are damaged
// are left out, and whole is false then.
func (d *DB) Pins(ctx context.Context) (list []PinRow, whole bool, err error) {
	whole = true
	err = each(ctx, d.read, `SELECT pinned, state FROM pins ORDER BY used_at DESC, pinned`, nil, func(rows *sql.Rows) error {
		var r PinRow
		var damage string
		if err := rows.Scan(&r.Pinned, noted{"state", jsonColumn{&r.State}, &damage}); err != nil {
			return err
		}
		if damage != "" || len(r.State.Roots) == 0 {
			whole = false
			return nil
		}
		list = append(list, r)
		return nil
	})
	return list, whole, err
}
