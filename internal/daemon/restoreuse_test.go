package daemon

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/instance"
	"github.com/kiln-containers/kiln/internal/volume"
)

// inTheMiddle calls f once, when half of what it reads has come.
type inTheMiddle struct {
	*bytes.Reader
	f func()
}

func (r *inTheMiddle) Read(b []byte) (int, error) {
	if r.f != nil && r.Len() < int(r.Size())/2 {
		r.f()
		r.f = nil
	}
	return r.Reader.Read(b[:min(len(b), 4096)])
}

// TestVolumeOfArrivingBackup deletes a storage volume while the backup of an instance that has
// it is imported.
func TestVolumeOfArrivingBackup(t *testing.T) {
	d, ctx := fresh(t), t.Context()
	if err := d.CreateVolume(ctx, "data", volume.CustomState{}); err != nil {
		t.Fatal(err)
	}
	devices := map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"},
		"data": {"type": "disk", "pool": "default", "source": "data", "path": "/data"}}
	o, err := d.CreateInstance(ctx, CreateSpec{Name: "c1", Source: Source{Type: "none"},
		Config: instance.Config{Devices: devices}})
	wait(t, o, err)
	row, err := d.db.Instance(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(d.cfg.Dir, "volumes/volumes", row.Config[instance.UUIDKey], "upper/big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("x"), 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := backedUp(t, d, "c1", "none")
	o, err = d.DeleteInstance(ctx, "c1")
	wait(t, o, err)
	var deleted error
	r := &inTheMiddle{bytes.NewReader(whole), func() { deleted = d.DeleteVolume(ctx, "data") }}
	if s := d.RestoreBackup(ctx, CreateSpec{Name: "c2"}, r).Wait(ctx); s.Err != nil {
		t.Error(s.Err)
	}
	if !errors.Is(deleted, kiln.Conflict) || r.f != nil {
		t.Errorf("the deletion: %v", deleted)
	}
	if err := d.DeleteVolume(ctx, "data"); !errors.Is(err, kiln.Conflict) {
		t.Errorf("the deletion afterwards: %v", err)
	}
}
