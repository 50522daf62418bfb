package daemon

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-containers/kiln"
	"github.com/kiln-containers/kiln/internal/volume"
)

// TestExpireVolumeSnapshots has snapshots whose time is over, or comes, or never does.
func TestExpireVolumeSnapshots(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	ctx, now := t.Context(), time.Now()
	config := map[string]string{"snapshots.expiry": "1d"}
	if err := d.CreateVolume(ctx, "data", volume.CustomState{Config: config}); err != nil {
		t.Fatal(err)
	}
	soon, never := now.Add(time.Hour), time.Time{}
	for name, at := range map[string]*time.Time{"": nil, "soon": &soon, "never": &never} {
		o, err := d.CreateVolumeSnapshot(ctx, "data", NewVolumeSnapshot{Name: name, ExpiresAt: at})
		wait(t, o, err)
	}
	left := func(at time.Time) string {
		if err := d.expireVolumeSnapshots(ctx, at); err != nil {
			t.Error(err)
		}
		list, err := d.VolumeSnapshots(ctx, "data")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		return strings.Join(names, " ")
	}
	if got := left(now); len(strings.Fields(got)) != 3 {
		t.Error(got)
	}
	if got := left(now.Add(2 * time.Hour)); strings.Contains(got, "soon") || !strings.Contains(got, "snap0") {
		t.Error(got)
	}
	if got := left(now.Add(25 * time.Hour)); got != "never" {
		t.Error(got)
	}
}

// TestVolumeBounds: what is said of a volume doesn't grow without end.
func TestVolumeBounds(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "kiln"))
	defer end(t, d)
	for what, c := range map[string]struct {
		s    volume.CustomState
		kind kiln.Kind
	}{
		"text":    {volume.CustomState{Description: strings.Repeat("x", mostVolumeText+1)}, kiln.TooLarge},
		"value":   {volume.CustomState{Config: map[string]string{"user.a": "\x1b[31m"}}, kiln.Invalid},
		"key":     {volume.CustomState{Config: map[string]string{"user.a\nb": "c"}}, kiln.Invalid},
		"unknown": {volume.CustomState{Config: map[string]string{"bogus": "c"}}, kiln.Invalid},
		"expiry":  {volume.CustomState{Config: map[string]string{"snapshots.expiry": "soon"}}, kiln.Invalid},
		"size":    {volume.CustomState{Config: map[string]string{"size": "1GiB"}}, kiln.Unsupported},
	} {
		if err := d.CreateVolume(t.Context(), "data", c.s); kiln.KindOf(err) != c.kind {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := d.Volumes(t.Context()); len(list) > 0 || err != nil {
		t.Errorf("%+v %v", list, err)
	}
}
