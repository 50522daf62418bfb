package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/kiln-containers/kiln/internal/db"
	"github.com/kiln-containers/kiln/internal/signing"
)

// pinsFile has what the rows of pinned keys say: what was seen of their owners, so that nothing
// older is taken for new after a recovery either.
const pinsFile = "pins.json"

// pinsRecord is its format.
type pinsRecord struct {
	Version int         `json:"version"`
	Pins    []db.PinRow `json:"pins"`
}

// maxPinsKept bounds the record, in bytes: what was learned longest ago isn't in it.
const maxPinsKept = maxRowsFile / 2

// savePins writes the record of pinned keys if it isn't as the rows say. Where a row is damaged it
// stays, as the better copy.
func (d *Daemon) savePins(ctx context.Context) error {
	rows, whole, err := d.db.Pins(ctx)
	if err != nil || !whole {
		return err
	}
	size := 0
	for i, r := range rows {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if size += 2 * len(b); size > maxPinsKept { // it is indented
			rows = rows[:i]
			break
		}
	}
	return saveRows(filepath.Join(d.cfg.Dir, pinsFile), pinsRecord{rowsVersion, rows})
}

// recordedPins reads it. Errors: fs.ErrNotExist, Integrity, TooLarge, Unsupported.
func recordedPins(dir string) ([]db.PinRow, error) {
	var f pinsRecord
	err := readRows(filepath.Join(dir, pinsFile), &f, &f.Version)
	return f.Pins, err
}

// recoverPins adds what the record has seen of the owners of pinned keys to what the rows have: it
// only ever grows.
func (v *recoverer) recoverPins(ctx context.Context, dir string) error {
	list, err := recordedPins(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			v.remark("what was seen of the owners of pinned keys is lost, so that older keys and indexes could be taken for "+
				"new ones: %v", err)
		}
		return nil
	}
	for _, r := range list {
		if len(r.State.Roots) == 0 {
			continue
		}
		if _, err := v.db.LearnPin(ctx, r.State.Roots[0], func(p *signing.Pin) error {
			p.Recall(r.State)
			return nil
		}); err != nil {
			v.remark("what was seen of the owner of the pinned key %s can't be brought back: %v", r.State.Root().ID(), err)
		}
	}
	return nil
}
