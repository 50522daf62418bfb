package daemon

import (
	"bytes"
	"encoding/json"
	"path/filepath"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/disk"
)

// rowsVersion is that of the files with what all rows of a kind say.
const rowsVersion = 1

// maxRowsFile bounds such a file, in bytes.
const maxRowsFile = 16 << 20

// saveRows writes what all rows of a kind say into a file of a daemon's directory, if that
// says something else.
func saveRows(path string, record any) error {
	b, err := json.MarshalIndent(record, "", " ")
	if err != nil {
		return err
	}
	if has, err := disk.ReadSealed(path, maxRowsFile); err == nil && bytes.Equal(bytes.TrimSpace(has), b) {
		return nil
	}
	return disk.WriteSealed(path, 0o600, b)
}

// readRows reads what saveRows has written into a record, of which version is a part.
// Errors: fs.ErrNotExist, Integrity, TooLarge, Unsupported.
func readRows(path string, record any, version *int) error {
	b, err := disk.ReadSealed(path, maxRowsFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, record); err != nil {
		return kiln.Errorf(kiln.Integrity, "%s can't be read: %w", filepath.Base(path), err)
	}
	if *version != rowsVersion {
		return kiln.Errorf(kiln.Unsupported, "%s has version %d, this kiln knows %d", filepath.Base(path), *version,
			rowsVersion)
	}
	return nil
}
