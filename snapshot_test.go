package kiln

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCheckSnapshotName(t *testing.T) {
	for name, ok := range map[string]bool{
		"snap0": true, "before.upgrade": true, "2024-01-02_03:04": true, "größe": true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "-x": false, "a\n": false, "50%": false,
		strings.Repeat("x", 64): false,
	} {
		if err := CheckSnapshotName(name); (err == nil) != ok || err != nil && !errors.Is(err, Invalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestParseExpiry(t *testing.T) {
	from := time.Date(2024, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":         {},
		"  ":       {},
		"30M":      from.Add(30 * time.Minute),
		"12h":      from.Add(12 * time.Hour),
		"12H":      from.Add(12 * time.Hour),
		"30d":      time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC),
		"1w 3d":    from.AddDate(0, 0, 10),
		"2m":       time.Date(2024, 3, 31, 12, 0, 0, 0, time.UTC),
		"1y 1d 1M": time.Date(2025, 2, 1, 12, 1, 0, 0, time.UTC),
	} {
		if got, err := ParseExpiry(text, from); !got.Equal(want) || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"30", "d", "-1d", "1D", "1d,2d", "99999d", "1.5d", "soon"} {
		if _, err := ParseExpiry(bad, from); !errors.Is(err, Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
